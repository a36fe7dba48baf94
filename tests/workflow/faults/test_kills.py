"""Training jobs killed with SIGKILL: nothing half-written is left, the next run goes on, and ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

MODEL = "results/tiny/models/long"
AUTOENCODER = "results/tiny/saes/base/seed0"
FINAL = (f"{MODEL}/model.safetensors", f"{MODEL}/training.parquet",
         f"{AUTOENCODER}/sae_weights.safetensors", f"{AUTOENCODER}/training.parquet")  # fmt: skip
TARGETS = (FINAL[0], FINAL[2])
OUTPUTS = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.parquet",
           "sae_weights.safetensors", "cfg.json")  # fmt: skip


def checkpoints(root: Path) -> dict[str, int]:
    """The newest whole checkpoint of each job: its step, and for the autoencoder the time of the file."""
    models = [
        int(path.parent.name.split("-")[1]) for path in root.glob("results/tiny/models/.long.checkpoints/*/*/whole")
    ]
    saes = [path.stat().st_mtime_ns for path in root.glob("results/tiny/saes/base/.seed0.checkpoints/*/*.safetensors")]
    return {"train_model": max(models, default=0), "train_autoencoder": max(saes, default=0)}


def scripts(snakemake: subprocess.Popen) -> list[psutil.Process]:
    """The Python processes that run the scripts of Snakemake's jobs."""
    found = []
    for process in psutil.Process(snakemake.pid).children(recursive=True):
        try:
            if "python" in process.name() and any("/.snakemake/scripts/" in part for part in process.cmdline()[1:2]):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for_new_checkpoints(place, before: dict[str, int], snakemake: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while any(now <= before[job] for job, now in checkpoints(place.root).items()):
        assert snakemake.poll() is None, (place.root / "killed.txt").read_text()
        assert time.monotonic() < deadline, (place.root / "killed.txt").read_text()
        time.sleep(0.01)


def under_final_names(root: Path) -> list[str]:
    folders = (root / MODEL, root / AUTOENCODER)
    return [path.name for folder in folders if folder.exists() for path in folder.iterdir() if path.name in OUTPUTS]


@pytest.fixture(scope="module")
def long(study, tmp_path_factory):
    """A fine-tune and an autoencoder long enough to be killed; the autoencoder's checkpoints are as frequent as can be."""
    place = study.copy(tmp_path_factory.mktemp("kills") / "unbroken")
    place.edit("src/feature_lineage/autoencoder_training.py", "CHECKPOINT_SECONDS = 120.0", "CHECKPOINT_SECONDS = 0.0")
    training = place.config["models"]["coder"]["training"] | {"tokens": 90_000, "epochs": 2, "evaluations": 40}
    place.config["models"]["long"] = {"parent": "base", "train": ["code"], "training": training}
    place.config["autoencoder"] |= {"tokens": 300_000}
    return place


@pytest.fixture(scope="module")
def killed(long):
    """Killed twice, first the jobs, then Snakemake and all, and then let run to its end."""
    place = long.copy(long.root.with_name("killed"))
    story = {"place": place}

    snakemake = place.start("-c2", *TARGETS)
    wait_for_new_checkpoints(place, {"train_model": 0, "train_autoencoder": 0}, snakemake)
    jobs = scripts(snakemake)
    for job in jobs:
        job.kill()
    story |= {"jobs killed": len(jobs), "exit status": snakemake.wait(120)}
    story |= {"first output": (place.root / "killed.txt").read_text(), "left by jobs": under_final_names(place.root)}
    story["checkpoints"] = before = checkpoints(place.root)

    snakemake = place.start("-c2", *TARGETS)
    wait_for_new_checkpoints(place, before, snakemake)
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.wait(120)
    story |= {"second output": (place.root / "killed.txt").read_text(), "left by all": under_final_names(place.root)}

    story["plain"] = place.snakemake("-c2", *TARGETS)
    story["unlock"] = place.snakemake("--unlock")
    story["plan"] = place.plan(*TARGETS)
    story["last"] = place.snakemake("-c2", *TARGETS)
    return story


def test_a_killed_job_fails_the_run_and_leaves_no_file_under_a_final_name(killed):
    assert killed["jobs killed"] == 2
    assert killed["exit status"] != 0
    for rule in ("train_model", "train_autoencoder"):
        assert f"Error in rule {rule}" in killed["first output"]
    assert killed["left by jobs"] == []
    assert all(killed["checkpoints"].values())


def test_snakemake_killed_with_its_jobs_leaves_no_file_under_a_final_name(killed):
    assert killed["left by all"] == []


def test_after_snakemake_itself_was_killed_the_next_run_names_the_way_out(killed):
    assert killed["plain"].code != 0
    assert "--unlock" in killed["plain"].output, killed["plain"]
    assert killed["unlock"].code == 0, killed["unlock"]
    assert set(killed["plan"]) == {"train_model long", "train_autoencoder base 0"}


def test_the_next_run_goes_on_from_the_last_checkpoint(killed):
    last = killed["last"]
    assert last.code == 0, last
    for output in (killed["second output"], last.output):
        assert "long: going on from" in output
        assert "autoencoder base seed0: going on from step" in output
    logs = killed["place"].results / "logs"
    assert "going on from" in (logs / "train_model" / "long.log").read_text()
    assert "going on from" in (logs / "train_autoencoder" / "base.seed0.log").read_text()


def test_a_run_killed_twice_ends_in_the_bytes_of_an_unbroken_one(long, killed):
    unbroken = long.snakemake("-c2", *TARGETS)
    assert unbroken.code == 0, unbroken
    assert "going on from" not in unbroken.output
    for file in FINAL:
        assert (killed["place"].root / file).read_bytes() == (long.root / file).read_bytes(), file


def test_nothing_but_the_results_is_left_when_a_killed_run_has_ended(long, killed):
    for folder in (MODEL, AUTOENCODER):
        left, expected = ({p.name for p in (place.root / folder).parent.iterdir()} for place in (killed["place"], long))
        assert left == expected
        assert not [name for name in left if name.endswith((".partial", ".checkpoints"))]
