"""Jobs of a finished study, each run again in a process of its own without Snakemake: so cheap that many can be interrupted."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feature_lineage.store.checksums import sha256

# Imported once, by the process that all jobs are forked from.
HEAVY = ["numpy", "pandas", "scipy.sparse", "pyarrow.parquet", "torch", "transformers", "transformer_lens.model_bridge", "openai",
         "snakemake.iocontainers", "snakemake.logging", *(f"feature_lineage.{name}" for name in (
             "autoencoders.training", "explanations.client", "explanations.scores", "features.collect", "flow.bootstrap",
             "flow.correlation", "meaning.contexts", "models.merge", "models.training", "report.browser", "report.page",
             "text.corpora", "text.shards"))]  # fmt: skip
END = "######## snakemake preamble end #########"
SECONDS = 240


def forked() -> Any:
    """What starts processes that have imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    first = context.Process(target=int)
    first.start()
    first.join()
    return context


@dataclass
class Job:
    """One job of a study: its script, and what Snakemake gave it."""

    root: Path
    script: str
    given: Any  # the object that a script calls `snakemake`
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def outputs(self) -> list[Path]:
        return [self.root / path for path in self.given.output]

    @property
    def log(self) -> Path:
        return self.root / self.given.log[0]

    def clear(self) -> None:
        """Remove outputs and log, as Snakemake does before it starts a job."""
        for path in (*self.outputs, self.log):
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)

    def start(self, context: Any, after: tuple[float, signal.Signals] | None = None) -> Any:
        """Start it; if asked to, it sends itself a signal after some seconds."""
        self.clear()
        for path in (*self.outputs, self.log):
            path.parent.mkdir(parents=True, exist_ok=True)
        process = context.Process(target=_run, args=(self.root, self.script, self.given, self.environment, after))
        process.start()
        return process

    def run(self, context: Any) -> float:
        """Run to the end; the seconds that it took."""
        process = self.start(context)
        process.join(SECONDS)
        assert process.exitcode == 0, f"{self.script}: {process.exitcode}\n{self.said()}"
        return self.seconds()

    def interrupt(self, context: Any, delay: float, number: signal.Signals) -> int | None:
        """Run, with a signal after a while; the exit status, None if the job was done by then."""
        process = self.start(context, (delay, number))
        process.join(SECONDS)
        assert process.exitcode is not None, f"{self.script} goes on after {number.name}\n{self.said()}"
        return process.exitcode or None

    def seconds(self) -> float:
        """What the last run that came to its end took."""
        return float(_seconds(self.root).read_text())

    def said(self) -> str:
        """Its log, and all that it wrote to the terminal."""
        texts = [path.read_text(errors="replace") for path in (self.log, _terminal(self.root)) if path.exists()]
        return "\n".join(texts)

    def made(self) -> dict[str, str]:
        """Hashes of the outputs that there are."""
        return {path: sha256(self.root / path) for path in self.given.output if (self.root / path).exists()}

    def beside(self) -> set[str]:
        """Everything in the folders that it writes to and in those above, hidden files too."""
        folders = {folder for path in self.outputs for folder in (path.parent, path.parent.parent)}
        return {str(path.relative_to(self.root)) for folder in folders for path in folder.iterdir()}


def _terminal(root: Path) -> Path:
    return root / "terminal.txt"


def _seconds(root: Path) -> Path:
    return root / "seconds.txt"


def _run(
    root: Path, script: str, given: Any, environment: dict[str, str], after: tuple[float, signal.Signals] | None
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell has started in the background
    os.environ.update(environment)
    os.chdir(root)
    with _terminal(root).open("w") as terminal:
        for stream in (1, 2):
            os.dup2(terminal.fileno(), stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    began = time.monotonic()
    if after:
        timer = threading.Timer(after[0], os.kill, (os.getpid(), after[1]))
        timer.daemon = True
        timer.start()
    runpy.run_path(str(root / "workflow" / "scripts" / f"{script}.py"), run_name="job")["main"](given)
    if after:
        timer.cancel()
    _seconds(root).write_text(str(time.monotonic() - began))


def jobs(root: Path) -> dict[str, Job]:
    """The jobs of a study whose scripts Snakemake has kept, by rule and wildcards."""
    found = {}
    for path in sorted((root / ".snakemake" / "scripts").glob("*.py")):
        preamble, end, _ = path.read_text().partition(END)
        assert end, path
        names: dict[str, Any] = {"__file__": str(path)}
        exec(preamble, names)
        given = names["snakemake"]
        found[" ".join([given.rule, *given.wildcards])] = Job(root, path.name.split(".")[1], given)
    return found


def change(given: Any, **values: Any) -> None:
    """Give a job other parameters."""
    for name, value in values.items():
        given._params_store[given.params._names[name][0]] = value  # `params` is a copy
