"""A SLURM for the tests of this folder."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import one_node
import pytest

# What squeue calls them, and we.
FIELDS = {
    "jobarrayid": "id",
    "name": "run",
    "state": "state",
    "partition": "partition",
    "tres-per-job": "gpu",
    "minmemory": "memory",
    "timelimit": "limit",
    "comment": "comment",
}


@dataclass
class Slurm:
    """A running SLURM of one node."""

    folder: Path
    process: subprocess.Popen[str]

    def tell(self, order: str) -> None:
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n", self.words()

    def words(self) -> str:
        return (self.folder / "one_node.txt").read_text()

    def jobs(self) -> list[dict[str, str]]:
        """All jobs so far, as the controller knows them, in the order of their submission."""
        done = subprocess.run(
            ["squeue", "--noheader", "--states=all", f"--Format={','.join(f'{f}:|' for f in FIELDS)}"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        rows = [[value.strip() for value in line.split("|")] for line in done.stdout.splitlines()]
        jobs = [dict(zip(FIELDS.values(), row, strict=False)) for row in rows]
        for job in jobs:
            # `rule_train_model_wildcards_base`; the jobs of a group have no wildcards
            job["step"], _, job["wildcards"] = job["comment"].removeprefix("rule_").partition("_wildcards_")
        return sorted(jobs, key=lambda job: int(job["id"]))


@pytest.fixture(scope="session")
def start_slurm(tmp_path_factory) -> Callable[[], Slurm]:
    """A function that starts a SLURM, or skips where none can be had."""
    reason = one_node.missing()
    if reason:
        pytest.skip(reason)

    def start() -> Slurm:
        folder = tmp_path_factory.mktemp("slurm")
        with (folder / "one_node.txt").open("w") as words:
            process = subprocess.Popen(
                [sys.executable, one_node.__file__, folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
                start_new_session=True,
            )
        slurm = Slurm(folder, process)
        assert process.stdout.readline() == "ready\n", slurm.words()
        return slurm

    return start


@pytest.fixture(scope="module")
def slurm(start_slurm) -> Iterator[Slurm]:
    """A SLURM for the tests of a file. It ends with its standard input, so also when the tests are killed."""
    slurm = start_slurm()
    yield slurm
    slurm.process.stdin.close()
    assert slurm.process.wait(120) == 0, slurm.words()
