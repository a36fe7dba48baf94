"""What `feature-lineage cost` counts is what Snakemake plans, rule by rule."""

from __future__ import annotations

import os
import re
import subprocess
from collections import Counter

import pytest
from tiny_study import CHECKOUT, SNAKEMAKE, environment

from feature_lineage.commands.cost import laid_over
from feature_lineage.jobs.job_list import jobs
from feature_lineage.study.loading import load_study
from feature_lineage.study.plan import Plan

STUDIES = [
    "config.yaml",
    "config.yaml controls.yaml",
    "paper.yaml",
    "examples/base-to-instruct.yaml",
    "examples/checkpoint-sequence.yaml",
    "examples/ties-of-three.yaml",
]
SPARSE = """
models:
  base: {training: {keep: [300, 900]}}
flow: {bootstrap: 0, parts: 4}
autoencoder: {seeds: [0, 1, 2]}
controls: {ceiling: false, neurons: false, placebo: false, transfer: false, linear_merge: false}
"""


@pytest.mark.parametrize("names", [*STUDIES, "config.yaml sparse"])
def test_as_many_jobs_as_a_dry_run_plans(bare, tmp_path, names):
    files = [str(CHECKOUT / "config" / name) for name in names.split()]
    if names.endswith("sparse"):
        files[1] = str(tmp_path / "sparse.yaml")
        (tmp_path / "sparse.yaml").write_text(SPARSE)
    place = bare.copy(tmp_path / "copy")
    run = subprocess.run(
        [str(SNAKEMAKE), "-n", "--quiet", "rules", "--configfile", *files],
        cwd=place.root,
        env=environment() | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join([])},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    planned = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", run.stdout + run.stderr, re.MULTILINE)}
    assert planned.pop("total") == sum(planned.values())
    planned.pop("all")
    assert Counter(job.rule for job in jobs(Plan(load_study(laid_over(files))))) == planned
