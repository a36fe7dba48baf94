"""The tiny study, run once through every rule and shared by all tests of this folder."""

from __future__ import annotations

import pytest
from filelock import FileLock
from tiny_study import Workplace, lay_out, shared


@pytest.fixture(scope="session")
def bare(tmp_path_factory) -> Workplace:
    """The checkout and the study's documents; nothing has run. Copy it, don't write to it."""
    root = shared(tmp_path_factory, "bare")
    with FileLock(f"{root}.lock"):
        return Workplace(root) if root.exists() else lay_out(root)


@pytest.fixture(scope="session")
def study(tmp_path_factory, bare) -> Workplace:
    """The tiny study, finished, its jobs' scripts kept. Copy it before anything else than a dry run."""
    root = shared(tmp_path_factory, "study")
    with FileLock(f"{root}.lock"):
        if not root.exists():
            run = bare.copy(root).snakemake("-c2", "--skip-script-cleanup")
            (root / "run.txt").write_text(run.output)
            (root / "exit_status").write_text(str(run.code))
        assert (root / "exit_status").read_text() == "0", (root / "run.txt").read_text()
        return Workplace(root)


@pytest.fixture
def copy(study, tmp_path) -> Workplace:
    """A copy of the finished study to do anything with."""
    return study.copy(tmp_path / "copy")
