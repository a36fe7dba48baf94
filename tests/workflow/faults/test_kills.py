"""Snakemake and its jobs killed, stopped and interrupted: what the user sees, and that the next run goes on and ends in the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
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
RULES = ("train_model", "train_autoencoder")
LOCKED = "Directory cannot be locked"


def checkpoints(root: Path) -> dict[str, int]:
    """The newest whole checkpoint of each job: its step, and for the autoencoder the time of the file."""
    models = [
        int(path.parent.name.split("-")[1]) for path in root.glob("results/tiny/models/.long.checkpoints/*/*/whole")
    ]
    saes = []
    for path in root.glob("results/tiny/saes/base/.seed0.checkpoints/*/*.safetensors"):
        with suppress(FileNotFoundError):  # between two checkpoints there is a moment without one
            saes.append(path.stat().st_mtime_ns)
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


def go_on(place) -> subprocess.Popen:
    """Start Snakemake, and wait until each job has written a checkpoint of its own."""
    before = checkpoints(place.root)
    snakemake = place.start("-c2", *TARGETS)
    deadline = time.monotonic() + 300
    while any(now <= before[job] for job, now in checkpoints(place.root).items()):
        assert snakemake.poll() is None, said(place)
        assert time.monotonic() < deadline, said(place)
        time.sleep(0.01)
    return snakemake


def said(place) -> str:
    return (place.root / "killed.txt").read_text()


def logs(place) -> str:
    return "".join(path.read_text() for path in sorted((place.results / "logs").glob("train_*/*.log")))


def under_final_names(place) -> list[str]:
    folders = (place.root / MODEL, place.root / AUTOENCODER)
    return [path.name for folder in folders if folder.exists() for path in folder.iterdir() if path.name in OUTPUTS]


@pytest.fixture(scope="module")
def long(study, tmp_path_factory):
    """A fine-tune and an autoencoder long enough to be killed; the autoencoder's checkpoints are as frequent as can be."""
    place = study.copy(tmp_path_factory.mktemp("kills") / "unbroken")
    place.edit("src/feature_lineage/autoencoders/training.py", "CHECKPOINT_SECONDS = 120.0", "CHECKPOINT_SECONDS = 0.0")
    training = place.config["models"]["coder"]["training"] | {"tokens": 90_000, "epochs": 2, "evaluations": 40}
    place.config["models"]["long"] = {"parent": "base", "train": ["code"], "training": training}
    place.config["autoencoder"] |= {"tokens": 300_000}
    return place


@pytest.fixture(scope="module")
def story(long):
    """Interrupted in five ways, one after the other, and then let run to its end."""
    place = long.copy(long.root.with_name("killed"))
    told = {"place": place}

    def note(name: str, code: int | None) -> None:
        told[name] = {"code": code, "output": said(place), "logs": logs(place), "left": under_final_names(place)}

    snakemake = go_on(place)
    jobs = scripts(snakemake)
    for job in jobs:
        job.kill()
    note("jobs killed", snakemake.wait(300))
    told["jobs"] = len(jobs)

    snakemake = go_on(place)
    told["second at once"] = place.snakemake("-c2", *TARGETS)
    os.killpg(snakemake.pid, signal.SIGINT)  # as a terminal does
    note("Ctrl-C", snakemake.wait(300))

    snakemake = go_on(place)
    os.killpg(snakemake.pid, signal.SIGKILL)
    note("all killed", snakemake.wait(300))
    told["plain"] = place.snakemake("-c2", *TARGETS)
    told["unlock"] = place.snakemake("--unlock")
    told["plan"] = place.plan(*TARGETS)

    snakemake = go_on(place)
    orphans = scripts(snakemake)
    snakemake.kill()
    snakemake.wait(300)
    told["live on"] = psutil.wait_procs(orphans, timeout=60)[1]
    note("Snakemake killed", snakemake.returncode)
    assert place.snakemake("--unlock").code == 0

    snakemake = go_on(place)
    snakemake.terminate()
    note("SIGTERM", snakemake.wait(300))
    told["last"] = place.snakemake("-c2", *TARGETS)
    return told


def test_killed_jobs_fail_the_run_which_names_them(story):
    found = story["jobs killed"]
    assert story["jobs"] == 2 and found["code"] == 1
    assert all(f"Error in rule {rule}" in found["output"] for rule in RULES), found["output"]


@pytest.mark.parametrize("how", ["jobs killed", "Ctrl-C", "all killed", "Snakemake killed"])
def test_nothing_half_written_is_left_under_a_final_name(story, how):
    assert story[how]["left"] == []


def test_at_ctrl_c_jobs_save_what_they_have_and_snakemake_unlocks(story):
    found = story["Ctrl-C"]
    assert found["code"] not in (0, None), found["output"]
    assert found["logs"].count("ERROR stopped after step") == 2, found
    assert found["logs"].count("started again it goes on from") == 2
    assert "Traceback" not in found["output"]
    assert LOCKED not in story["all killed"]["output"]


def test_at_sigterm_snakemake_lets_the_jobs_that_run_end(story):
    assert sorted(story["SIGTERM"]["left"]) == sorted([*OUTPUTS, "training.parquet"]), story["SIGTERM"]["output"]
    assert "Nothing to be done" in story["last"].output, story["last"]


def test_a_second_snakemake_at_once_is_refused_and_disturbs_nothing(story):
    second = story["second at once"]
    assert second.refused() and LOCKED in second.output and "no other Snakemake process" in second.output, second


def test_after_snakemake_itself_was_killed_the_next_run_names_the_way_out(story):
    assert story["plain"].refused() and LOCKED in story["plain"].output
    assert "--unlock" in story["plain"].output, story["plain"]
    assert story["unlock"].code == 0, story["unlock"]
    assert set(story["plan"]) == {"train_model long", "train_autoencoder base 0"}


def test_trainings_whose_snakemake_was_killed_save_what_they_have_and_end(story):
    assert story["live on"] == []
    assert story["Snakemake killed"]["logs"].count("started again it goes on from") == 2, story["Snakemake killed"]


def test_each_run_goes_on_from_the_last_checkpoint(story):
    for how in ("Ctrl-C", "all killed", "Snakemake killed", "SIGTERM"):
        assert "INFO train_model long: going on from" in story[how]["output"], how
        assert "INFO train_autoencoder base.seed0: going on from step" in story[how]["output"], how


def test_a_run_interrupted_five_times_ends_in_the_bytes_of_an_unbroken_one(long, story):
    assert story["last"].code == 0, story["last"]
    unbroken = long.snakemake("-c2", *TARGETS)
    assert unbroken.code == 0, unbroken
    assert "going on from" not in unbroken.output
    for file in FINAL:
        assert (story["place"].root / file).read_bytes() == (long.root / file).read_bytes(), file


def test_nothing_but_the_results_is_left_when_an_interrupted_run_has_ended(long, story):
    for folder in (MODEL, AUTOENCODER, "results/tiny/logs/train_model/long.log"):
        left, expected = ({p.name for p in (place.root / folder).parent.iterdir()} for place in (story["place"], long))
        assert left == expected
        assert not [name for name in left if name.endswith((".partial", ".checkpoints", ".lock"))]
