"""What a GPU gives, in numbers and in seconds: everything here that has to be measured or checked on a real one.

    python benchmarks/gpu.py                               all parts, 19 minutes of a GPU if each takes all of its time
    python benchmarks/gpu.py --parts probe exact           one group of parts; each of these takes less than nine minutes:
    python benchmarks/gpu.py --parts lm                    ... results of earlier groups in --out are kept, and the table holds them
    python benchmarks/gpu.py --parts sae chain project
    python benchmarks/gpu.py --tiny --device cpu           everything small, without a GPU: does it run?

Each part is a process with a time limit of its own. What it measures it appends at once to `results.jsonl` in `--out`, so that nothing
is lost if it ends early. The table of all of it, `table.md`, is printed at the end. The exit status is 0 if every check has passed.

It runs on a bare machine without a network. The wheels to carry there: `transformer-lens`, `datasets`, `dill`, `multiprocess`, `zstandard`,
`sniffio`, `truststore`, `httpx`, `httpcore`, `googleapis-common-protos`, and whatever else `--check` names; Python 3.11 and torch 2.11
or newer are taken as they are. Install with

    python -m pip install --no-index --find-links wheels --no-deps wheels/*.whl

The peer is SAELens: `sae-lens`, `wandb`, `pydantic`, `pydantic-core`, `simple-parsing`, `better-abc` and a `transformer-lens` below 4, which does
not fit beside ours. So it has an environment of its own (`python -m venv --system-site-packages peers`); `--peer peers/bin/python` names it.
Without it the peer's rows say so, and nothing is compared.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {"probe": 40, "exact": 240, "lm": 360, "sae": 240, "chain": 240, "project": 1}  # seconds
MODULES = {"exact": "gpu_exact", "project": "gpu_project"}  # the other parts are in gpu_rates
GROUP = 9 * 60
# What the library's parts that compute need; the workflow and the report are not run here.
NEEDED = (
    "torch>=2.11", "transformers>=5.9", "accelerate>=1.15", "transformer_lens>=4.3", "tokenizers>=0.23", "datasets>=5.2",
    "safetensors>=0.8", "numpy>=2", "pandas>=2.3", "pyarrow>=20", "scipy>=1.15", "tqdm>=4.67", "packaging",
)  # fmt: skip


def missing(requirements: tuple[str, ...] = NEEDED) -> list[str]:
    """What is not installed of some requirements and of all that these require, each with what asks for it."""
    found, seen, queue = [], set(), [(Requirement(text), "the benchmark") for text in requirements]
    while queue:
        requirement, asker = queue.pop(0)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{requirement.name}{requirement.specifier} (for {asker})")
            continue
        if asker == "the benchmark" and not requirement.specifier.contains(Version(version).base_version):
            found.append(f"{requirement.name}{requirement.specifier}, not {version}")
        if requirement.name == "torch":  # taken as it is: a build of the machine's own has its libraries elsewhere
            continue
        if requirement.name.lower() not in seen:
            seen.add(requirement.name.lower())
            queue += [
                (Requirement(text), requirement.name) for text in importlib.metadata.requires(requirement.name) or []
            ]
    return sorted(set(found))


def imports() -> bool:
    """Whether what the parts use can be imported, whatever is missing."""
    modules = (
        "autoencoders.training",
        "controls.neurons",
        "autoencoders.evaluation",
        "features.collect",
        "meaning.logit_effects",
        "models.merge",
    )
    wanted = ", ".join(f"feature_lineage.{module}" for module in (*modules, "models.training"))
    command = [sys.executable, "-c", f"import {wanted}"]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}).returncode == 0


def run(part: str, options: argparse.Namespace) -> None:
    """Run a part in a process of its own, which is ended when its time is over."""
    module = MODULES.get(part, "gpu_rates")
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / f"{module}.py"),
        part,
        str(options.out),
        options.device,
        options.peer,
    ]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_OFFLINE": "1",
        "GPU_BENCHMARK_TINY": str(int(options.tiny)),
    }
    if options.tiny:
        environment["OMP_NUM_THREADS"] = "1"  # what is tiny is slower on several
    print(f"{part}: at most {LIMITS[part]} s", flush=True)
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = process.wait(LIMITS[part] * (10 if options.device == "cpu" else 1))
        problem = None if status == 0 else f"ended with status {status}"
    except subprocess.TimeoutExpired:
        problem = f"ended at its limit of {LIMITS[part]} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    line = {"part": part, "what": "whole part", "value": round(time.monotonic() - began, 1), "unit": "s"}
    with (options.out / "results.jsonl").open("a", encoding="utf-8") as file:
        print(json.dumps(line | ({"passes": False, "note": problem} if problem else {})), file=file)


def read(out: Path) -> list[dict[str, object]]:
    """All lines so far, part by part; of a part that was run again, those of the last time."""
    path = out / "results.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [line for part in LIMITS for line in lines if line["part"] == part]


def forget(out: Path, parts: list[str]) -> None:
    """Remove what earlier runs of some parts have measured."""
    kept = [line for line in read(out) if line["part"] not in parts]
    (out / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in kept), encoding="utf-8")


def table(lines: list[dict[str, object]]) -> str:
    """The lines as a Markdown table."""

    def number(value: object) -> str:
        if not isinstance(value, float):
            return f"{value:,}" if isinstance(value, int) else str(value)
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

    verdicts = {True: "yes", False: "**no**", None: ""}
    rows = [
        f"| {line['part']} | {line['what']} | {number(line['value'])} | {line.get('unit', '')} | {verdicts[line.get('passes')]} | {line.get('note', '')} |"
        for line in lines
    ]
    return "\n".join(["| part | what | value | unit | passes | |", "| --- | --- | --- | --- | --- | --- |", *rows])


def main() -> None:
    """Check what is installed, run the parts, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", choices=LIMITS, default=list(LIMITS), metavar="PART", help=", ".join(LIMITS)
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "results" / "gpu", help="folder of results.jsonl and table.md"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="everything small, to see that it runs")
    parser.add_argument("--peer", default="", help="a Python with SAELens; .venv-peers if there is one")
    parser.add_argument("--check", action="store_true", help="only say which packages are missing")
    options = parser.parse_args()
    if lacking := missing():
        print("missing here, carry their wheels along:\n" + "\n".join(f"  {one}" for one in lacking), flush=True)
        if options.check or not imports():
            sys.exit(1)
        print("the library can be imported all the same", flush=True)
    elif options.check:
        return print("nothing is missing")
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            sys.exit(
                f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no GPU; without one: --tiny --device cpu"
            )
    if options.parts != list(LIMITS) and sum(LIMITS[part] for part in options.parts) > GROUP:
        sys.exit(f"--parts {' '.join(options.parts)} may take more than {GROUP // 60} minutes; name fewer")
    local = ROOT / ".venv-peers" / "bin" / "python"
    options.peer = options.peer or (str(local) if local.exists() else "")
    options.out.mkdir(parents=True, exist_ok=True)
    forget(options.out, options.parts)
    for part in options.parts:
        run(part, options)
    lines = read(options.out)
    (options.out / "table.md").write_text(table(lines) + "\n", encoding="utf-8")
    print(f"\n{table(lines)}")
    if failed := [f"{line['part']}: {line['what']}" for line in lines if line.get("passes") is False]:
        sys.exit("not passed:\n" + "\n".join(f"  {one}" for one in failed))


if __name__ == "__main__":
    main()
