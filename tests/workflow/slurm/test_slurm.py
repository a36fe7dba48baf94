"""Two studies at once on a real SLURM, in one folder, on a bad night: each trouble in one job of theirs.

`tiny` goes from corpora to its report. Of `night`, one training reaches its time limit, one is cancelled, one job needs more memory
than it asks for, one always fails; and for some seconds, in the middle, there is no controller.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml
from tiny_study import MINUTES, SNAKEMAKE, TRAINING, Run, Workplace, environment, read_plan

# Only what this SLURM lacks: accounting, and time to spare.
HERE = ("--slurm-status-command=squeue", "--slurm-init-seconds-before-status-checks=3", "--latency-wait=15")
LONG = TRAINING | {"tokens": 90_000, "epochs": 2, "evaluations": 40}
TRAININGS = ("unbroken", "late", "cancelled")
OUTAGE = 12.0  # seconds; a command gives up after 9
FIRST_MEMORY = 350  # MB: less than Snakemake and torch
TARGETS = (
    *(f"results/night/models/{model}/model.safetensors" for model in TRAININGS),
    "results/night/saes/base/seed0/sae_weights.safetensors",
    "results/night/corpora/broken/train.parquet",
)



@dataclass
class Night:
    """What was seen of the two runs."""

    place: Workplace
    tiny: Run
    night: Run
    jobs: list[dict[str, str]]
    controller: str
    tried: dict[str, float] = field(default_factory=dict)

    def of(self, comment: str) -> list[dict[str, str]]:
        return [job for job in self.jobs if job["comment"] == comment]

    def log(self, path: str) -> str:
        return (self.place.root / "results" / "night" / "logs" / path).read_text()


def write_night(place: Workplace) -> None:
    """The second study, and the profile with two requests that are too small at first."""
    models = {"base": place.config["models"]["base"] | {"train": ["code"]}}
    models |= {name: {"parent": "base", "train": ["code"], "training": LONG} for name in TRAININGS}
    corpora = {"code": place.config["corpora"]["code"], "broken": {"files": "data/broken.jsonl"}}
    changes = {"study": "night", "corpora": corpora, "tokenizer": {"train": ["code"], "vocab_size": 400}, "models": models}
    changes |= {"flow": place.config["flow"] | {"corpora": ["code"]}, "cases": {}}
    (place.root / "night.yaml").write_text(yaml.safe_dump(place.config | changes))
    (place.root / "data" / "broken.jsonl").write_text('{"text": "whole"}\n{"text": "not who\n')

    profile = yaml.safe_load((place.root / "profiles" / "slurm" / "config.yaml").read_text())
    requests = {
        "train_model": {"runtime": "1 if wildcards.model == 'late' and attempt == 1 else 30"},
        "train_autoencoder": {"mem_mb": f"{FIRST_MEMORY} if attempt == 1 else 4000"},
    }
    for rule, request in requests.items():
        profile["set-resources"][rule] = profile["set-resources"].get(rule, {}) | request
    (place.root / "profiles" / "night").mkdir()
    (place.root / "profiles" / "night" / "config.yaml").write_text(yaml.safe_dump(profile))


def submit(place: Workplace, study: str, profile: str, *targets: str) -> subprocess.Popen:
    with (place.root / f"{study}.txt").open("w") as output:
        return subprocess.Popen(
            [SNAKEMAKE, "--profile", f"profiles/{profile}", *HERE, *targets, "--configfile", f"{study}.yaml"],
            cwd=place.root,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def checkpoint(place: Workplace, model: str) -> bool:
    return any((place.root / "results/night/models").glob(f".{model}.checkpoints/*/*/whole"))


def suspend(place: Workplace, model: str) -> None:
    """Halt the process that trains a model; it will reach no limit but that of its time."""
    log = str(place.root / "results/night/logs/train_model" / f"{model}.log")
    for process in psutil.process_iter():
        try:
            if any(file.path == log for file in process.open_files()):
                return process.suspend()
        except psutil.Error:
            continue
    raise AssertionError(f"no process writes {log}")


def cancel(slurm, comment: str) -> None:
    (job,) = (job for job in slurm.jobs() if job["comment"] == comment)
    subprocess.run(["scancel", job["jobarrayid"]], check=True)


@pytest.fixture(scope="module")
def night(slurm, bare, tmp_path_factory) -> Night:
    place = bare.copy(tmp_path_factory.mktemp("night") / "place")
    for model in ("writer", "both"):  # fewer jobs; those of the other models are what they are beside them
        del place.config["models"][model]
    (place.root / "tiny.yaml").write_text(yaml.safe_dump(place.config))
    write_night(place)
    began = time.monotonic()
    tried: dict[str, float] = {}
    troubles: dict[str, tuple[Callable[[], bool], Callable[[], None]]] = {
        "halt": (lambda: checkpoint(place, "late"), lambda: suspend(place, "late")),
        "cancel": (
            lambda: checkpoint(place, "cancelled"),
            lambda: cancel(slurm, "rule_train_model_wildcards_cancelled"),
        ),
        "stop the controller": (
            lambda: "halt" in tried and "cancel" in tried and (place.results / "models/base/training.parquet").exists(),
            lambda: slurm.tell("stop slurmctld"),
        ),
        "start the controller": (
            lambda: time.monotonic() - began > tried.get("stop the controller", 1e9) + OUTAGE,
            lambda: slurm.tell("start slurmctld"),
        ),
    }
    runs = {"tiny": submit(place, "tiny", "slurm"), "night": submit(place, "night", "night", *TARGETS)}
    try:
        while any(run.poll() is None for run in runs.values()):
            for name, (due, act) in troubles.items():
                if name not in tried and due():
                    act()
                    tried[name] = time.monotonic() - began
            if time.monotonic() - began > 9 * MINUTES:
                break
            time.sleep(0.1)
    finally:
        for run in runs.values():
            if run.poll() is None:
                run.kill()
    print(f"{time.monotonic() - began:.0f} s, of which at", json.dumps(tried))
    found = {name: Run(run.wait(), (place.root / f"{name}.txt").read_text()) for name, run in runs.items()}
    controller = (slurm.folder / "slurmctld.log").read_text()
    assert len(tried) == len(troubles), f"{tried}\n{found['tiny']}\n{found['night']}\n{slurm.jobs()}"
    return Night(place, **found, jobs=slurm.jobs(), controller=controller, tried=tried)


# --- a study from corpora to report --------------------------------------------------------------------------


def test_a_study_runs_from_corpora_to_its_report_through_sbatch(night):
    assert night.tiny.code == 0, night.tiny
    assert (night.place.results / "report" / "index.html").stat().st_size > 10_000
    plan = night.place.snakemake("-n", "--profile", "profiles/slurm")
    assert "Nothing to be done" in plan.output, plan
