"""A tiny study of real text, and the means to run Snakemake on copies of it as a user would."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "workflow", "src", "config", "envs", "profiles")
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
MINUTES = 60

TRAINING = {"epochs": 1, "block": 32, "batch": 8, "lr": 1e-3, "warmup_steps": 0, "evaluations": 2}
STUDY = {
    "study": "tiny",
    "threads": 1,
    "evaluation_tokens": 800,
    "corpora": {
        "prose": {"files": "data/prose.jsonl", "validation": 0.2},
        "code": {"files": "data/code/*.py", "validation": 0.2},
    },
    "tokenizer": {"train": ["prose", "code"], "vocab_size": 400},
    "models": {
        "base": {
            "train": ["prose", "code"],
            "balance": "tokens",
            "architecture": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
            },
            "training": TRAINING | {"tokens": 6000, "lr": 1e-2},
        },
        "coder": {"parent": "base", "train": ["code"], "training": TRAINING | {"tokens": 3000}},
        "writer": {"parent": "base", "train": ["prose"], "training": TRAINING | {"tokens": 3000}},
        "both": {"parents": ["coder", "writer"], "merge": {"points": 3}},
    },
    "autoencoder": {
        "expansion": 2,
        "tokens": 4000,
        "context": 8,
        "batch": 16,
        "lr": 1e-3,
        "l1": 1e-3,
        "resampling": {"at": [0.32], "silent": 0.16, "pool_tokens": 1000},
    },
    "flow": {"corpora": ["prose", "code"], "tokens": 1000, "min_active": 1, "bootstrap": 20},
    "controls": {
        "ceiling": False,
        "placebo": False,
        "alignment_null": False,
        "neurons": False,
        "as_published": False,
        "transfer": False,
        "linear_merge": False,
    },
    "cases": {"article": {"tokens": [" the", "the"]}},
}


@dataclass
class Run:
    """What a run of Snakemake came to."""

    code: int
    output: str

    def __str__(self) -> str:
        return f"exit status {self.code}\n{self.output}"

    def refused(self) -> bool:
        """Whether it failed as an expected error should: without a traceback."""
        return self.code != 0 and "Traceback" not in self.output


def environment() -> dict[str, str]:
    """A user's environment: nothing points at the checkout that the tests are in, and there is no browser that draws images."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"BROWSER_PATH": "none"}


@dataclass
class Workplace:
    """A copy of the checkout with a study in it."""

    root: Path
    config: dict = field(default_factory=lambda: json.loads(json.dumps(STUDY)))

    @property
    def results(self) -> Path:
        return self.root / "results" / self.config["study"]

    def copy(self, root: Path) -> Workplace:
        """The same, time stamps and Snakemake's records of finished jobs included."""
        shutil.copytree(self.root, root, symlinks=True)
        return Workplace(root, json.loads(json.dumps(self.config)))

    def command(self, *arguments: str) -> list[str]:
        path = self.root / "study.yaml"
        text = yaml.safe_dump(self.config, sort_keys=False)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        return [str(SNAKEMAKE), *arguments, "--configfile", "study.yaml"]

    def snakemake(self, *arguments: str) -> Run:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=20 * MINUTES,
        )
        return Run(done.returncode, done.stdout)

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start Snakemake in a process group of its own; its output goes to `killed.txt`."""
        with (self.root / "killed.txt").open("w") as output:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.root,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def plan(self, *arguments: str) -> dict[str, str]:
        """The jobs that a dry run announces, as `rule wildcard wildcard`, with the reason of each; `all` left out."""
        run = self.snakemake("-n", *arguments)
        assert run.code == 0, run
        jobs = read_plan(run.output)
        assert bool(jobs) != ("Nothing to be done" in run.output), run
        assert all(jobs.values()), f"a job without a reason: {jobs}"
        return jobs

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.root / file).read_text()
        assert old in text, f"{file} has no {old!r}"
        (self.root / file).write_text(text.replace(old, new, 1))

    def add_statement(self, file: str, function: str) -> None:
        """Give a function another first statement, one that does nothing."""
        path = self.root / file
        tree = ast.parse(path.read_text())
        (node,) = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == function)
        first = node.body[1] if ast.get_docstring(node) else node.body[0]
        lines = path.read_text().splitlines(keepends=True)
        lines.insert(first.lineno - 1, " " * first.col_offset + "del ()\n")
        path.write_text("".join(lines))


def read_plan(output: str) -> dict[str, str]:
    jobs = {}
    for rule, body in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)+)", output, re.MULTILINE):
        fields = dict(re.findall(r"^    (\w+): (.*)$", body, re.MULTILINE))
        values = [part.split("=")[1] for part in fields.get("wildcards", "").split(", ") if part]
        if rule != "all":
            jobs[" ".join([rule, *values])] = fields.get("reason", "")
    return jobs


def lay_out(root: Path) -> Workplace:
    """A copy of the checkout with the tiny study's documents: Python's reference as prose, its modules as code."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        source = CHECKOUT / part
        if source.is_dir():
            shutil.copytree(source, root / part, ignore=ignore)
        else:
            root.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, root / part)
    (root / "data" / "code").mkdir(parents=True)
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*library.glob("json/*.py"), *library.glob("email/*.py")]):
        (root / "data" / "code" / f"{path.parent.name}-{path.name}").write_bytes(path.read_bytes())
    with (root / "data" / "prose.jsonl").open("w") as file:
        for topic in sorted(topics)[:60]:
            file.write(json.dumps({"text": topics[topic], "topic": topic}) + "\n")
    return Workplace(root)


def shared(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all workers of this test session share."""
    base = factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
