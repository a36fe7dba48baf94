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
from dataclasses import dataclass
from pathlib import Path

import one_node
import psutil
import pytest
import yaml
from tiny_study import MINUTES, SNAKEMAKE, TRAINING, Run, Workplace, environment

from feature_lineage.jobs.resources import LONGEST

# Only what this SLURM lacks: accounting, and time to spare.
HERE = ("--slurm-status-command=squeue", "--slurm-init-seconds-before-status-checks=3", "--latency-wait=15")
GROUPS = {  # several small jobs in one of SLURM's, as each of these starts Snakemake twice
    "documents": ("build_corpus", "train_tokenizer", "encode_corpus", "sample_windows"),
    "facets": ("weigh_tokens", "collect_contexts", "categorise_features"),
    "flow": ("correlate", "bootstrap_flow"),
    "verdicts": ("judge_features", "bootstrap_verdicts"),
}
GROUPED = ("--groups", *(f"{rule}={group}" for group, rules in GROUPS.items() for rule in rules),
           "--group-components", *(f"{group}=6" for group in GROUPS))  # fmt: skip
LONG = TRAINING | {"tokens": 90_000, "epochs": 2, "evaluations": 40}
TRAININGS = ("unbroken", "late", "cancelled")
OUTAGE = 4.0  # seconds; SLURM's commands wait for it for 9, and without accounting the plugin does not survive one that fails
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

    def of(self, step: str, wildcards: str) -> list[dict[str, str]]:
        """The jobs of a step of the second study."""
        return [job for job in self.jobs if (job["study"], job["step"], job["wildcards"]) == ("night", step, wildcards)]

    def log(self, path: str) -> str:
        return (self.place.root / "results" / "night" / "logs" / path).read_text()


def write_night(place: Workplace) -> None:
    """The second study, and the profile with two requests that are too small at first."""
    models = {"base": place.config["models"]["base"] | {"train": ["code"]}}
    models |= {name: {"parent": "base", "train": ["code"], "training": LONG} for name in TRAININGS}
    corpora = {"code": place.config["corpora"]["code"], "broken": {"files": "data/broken.jsonl"}}
    changes = {
        "study": "night",
        "corpora": corpora,
        "tokenizer": {"train": ["code"], "vocab_size": 400},
        "models": models,
    }
    changes |= {"flow": place.config["flow"] | {"corpora": ["code"]}, "cases": {}}
    (place.root / "night.yaml").write_text(yaml.safe_dump(place.config | changes, sort_keys=False))
    (place.root / "data" / "broken.jsonl").write_text('{"text": "whole"}\n{"text": "not who\n')

    profile = yaml.safe_load((place.root / "profiles" / "slurm" / "config.yaml").read_text())
    requests = {
        "train_model": {"runtime": "2 if wildcards.model == 'late' and attempt == 1 else 30"},
        "train_autoencoder": {"mem_mb": f"{FIRST_MEMORY} if attempt == 1 else 4000"},
    }
    for rule, request in requests.items():
        profile["set-resources"][rule] = profile["set-resources"].get(rule, {}) | request
    (place.root / "profiles" / "night").mkdir()
    (place.root / "profiles" / "night" / "config.yaml").write_text(yaml.safe_dump(profile))


def output_of(place: Workplace, study: str, profile: str) -> Path:
    return place.root / f"{study}.{profile}.txt"


def submit(place: Workplace, study: str, profile: str, *arguments: str) -> subprocess.Popen:
    with output_of(place, study, profile).open("w") as output:
        return subprocess.Popen(
            [SNAKEMAKE, "--profile", f"profiles/{profile}", *HERE, "--configfile", f"{study}.yaml", *arguments],
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
    subprocess.run(["scancel", job["id"]], check=True)


@pytest.fixture(scope="module")
def night(slurm, bare, tmp_path_factory) -> Night:
    place = bare.copy(tmp_path_factory.mktemp("night") / "place")
    for model in ("writer", "both"):  # fewer jobs; those of the other models are what they are beside them
        del place.config["models"][model]
    (place.root / "tiny.yaml").write_text(yaml.safe_dump(place.config, sort_keys=False))
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
    runs = {
        "tiny": submit(place, "tiny", "slurm", *GROUPED),
        "night": submit(place, "night", "night", "--", *TARGETS),
    }
    try:
        while any(run.poll() is None for run in runs.values()):
            for name, (due, act) in troubles.items():
                if name not in tried and due():
                    act()
                    tried[name] = time.monotonic() - began
            if time.monotonic() - began > 20 * MINUTES:
                break
            time.sleep(0.1)
    finally:
        for run in runs.values():
            if run.poll() is None:
                run.kill()
    print(f"{time.monotonic() - began:.0f} s, of which at", json.dumps(tried))
    texts = {"tiny": output_of(place, "tiny", "slurm"), "night": output_of(place, "night", "night")}
    found = {name: Run(run.wait(), texts[name].read_text()) for name, run in runs.items()}
    controller = (slurm.folder / "slurmctld.log").read_text()
    assert len(tried) == len(troubles), f"{tried}\n{found['tiny']}\n{found['night']}\n{slurm.jobs()}"
    jobs = slurm.jobs()
    for job in jobs:
        (job["study"],) = (name for name, run in found.items() if f"SLURM run ID: {job['run']}\n" in run.output)
    return Night(place, **found, jobs=jobs, controller=controller)


# --- the SLURM itself --------------------------------------------------------------------------------------

DAEMONS = ("slurmctld", "slurmd")


def alive(slurm) -> set[str]:
    return {process.name() for process in one_node.processes(slurm.folder, *DAEMONS, "slurmstepd")}


def test_what_was_started_for_the_tests_is_gone_when_they_end_or_are_killed(start_slurm):
    for end in ("their end", "killed", "their end"):
        slurm = start_slurm()
        assert alive(slurm) == set(DAEMONS)
        if end == "killed":
            slurm.process.kill()
            slurm.process.wait()
            one_node.wait_until(lambda slurm=slurm: not alive(slurm), "the daemons to follow")
            assert all(path.exists() for path in one_node.configuration())
            assert one_node.missing() is None, "what a killed test left stands in the way of the next"
        else:
            subprocess.run(
                ["sbatch", "--output=/dev/null", "--wrap", "sleep 600"], check=True, stdout=subprocess.DEVNULL
            )
            one_node.wait_until(lambda slurm=slurm: "slurmstepd" in alive(slurm), "the job")
            slurm.process.stdin.close()
            assert slurm.process.wait(60) == 0, slurm.words()
            assert alive(slurm) == set()
            assert not any(path.exists() for path in one_node.configuration())


def test_a_configuration_that_was_there_is_not_touched(start_slurm, monkeypatch, tmp_path):
    monkeypatch.setattr(one_node, "ETC", tmp_path)
    (tmp_path / "slurm.conf").write_text("ClusterName=theirs\n")
    assert str(tmp_path / "slurm.conf") in one_node.missing()
    assert (tmp_path / "slurm.conf").read_text() == "ClusterName=theirs\n"


# --- a study from corpora to report --------------------------------------------------------------------------


def test_a_study_runs_from_corpora_to_its_report_through_sbatch(night):
    assert night.tiny.code == 0, night.tiny
    assert (night.place.results / "report" / "index.html").stat().st_size > 10_000
    assert "Nothing to be done" in night.place.snakemake("-n").output


def test_all_but_the_smallest_jobs_are_submitted(night):
    announced = re.findall(r"^ *(local)?rule (\w+):$", night.tiny.output, re.MULTILINE)
    local, submitted = ({rule for where, rule in announced if bool(where) == here} for here in (True, False))
    assert {"all", "plot_sankey", "tabulate_figures"} <= local
    assert {"build_corpus", "train_model", "train_autoencoder", "correlate", "write_report"} <= submitted
    assert not local & submitted
    steps = {job["step"] for job in night.jobs if job["study"] == "tiny"}
    ran = {next((group for group in GROUPS if step.startswith(f"{group}_")), step) for step in steps}
    grouped = {rule for rules in GROUPS.values() for rule in rules}
    assert ran == submitted - grouped | set(GROUPS)
    states: dict[
        tuple[str, str], set[str]
    ] = {}  # one that starts while there is no controller fails, and is tried again
    for job in night.jobs:
        if job["study"] == "tiny":
            states.setdefault((job["step"], job["wildcards"]), set()).add(job["state"])
    assert all("COMPLETED" in found for found in states.values()), states


def test_jobs_that_compute_on_a_gpu_ask_for_one_and_the_others_do_not(night):
    profile = yaml.safe_load((night.place.root / "profiles" / "slurm" / "config.yaml").read_text())
    steps = profile["set-resources"]
    asked = {job["step"]: (job["gpu"], job["partition"]) for job in night.jobs}
    assert {"train_model", "train_autoencoder", "collect_features", "build_corpus", "write_report"} <= set(asked)
    for step, (gpu, partition) in asked.items():
        assert (gpu, partition) == (("gres:gpu:1", "gpu") if "gpu" in steps.get(step, {}) else ("N/A", "cpu")), step
    assert {asked[step][1] for step in ("train_model", "train_autoencoder")} == {"gpu"}


FILES = (
    "corpora/*/*.parquet", "tokenizer/*.json", "tokens/*/*/*", "samples/*", "models/*/*", "saes/*/*/*",
    "features/*/*/*/*", "correlations/*/base.seed0--coder.seed0.parquet",
)  # fmt: skip


def test_the_results_are_those_of_a_run_on_one_machine(night, study):
    here = night.place.results
    made = [path.relative_to(here) for pattern in FILES for path in here.glob(pattern) if path.is_file()]
    made = [path for path in made if not path.name.startswith(".")]
    assert {path.parts[0] for path in made} == {pattern.split("/")[0] for pattern in FILES}
    assert [str(path) for path in made if (here / path).read_bytes() != (study.results / path).read_bytes()] == []


# --- what went wrong -----------------------------------------------------------------------------------------


def test_a_training_that_reaches_its_time_limit_goes_on_in_a_longer_job(night):
    first, second = night.of("train_model", "late")
    assert (first["state"], first["limit"]) == ("TIMEOUT", "2:00")
    assert (second["state"], second["limit"]) == ("COMPLETED", "30:00")
    assert "going on from" in night.log("train_model/late.log")
    assert "SLURM status is: 'TIMEOUT'" in night.night.output


def test_a_job_killed_for_its_memory_gets_more(night):
    first, second = night.of("train_autoencoder", "base_0")
    assert first["state"] in ("FAILED", "OUT_OF_MEMORY") and first["memory"] == f"{FIRST_MEMORY}M"
    assert second["state"] == "COMPLETED" and second["memory"] == "4000M"
    (log,) = (night.place.root / ".snakemake/slurm_logs/rule_train_autoencoder/base_0").glob(f"{first['id']}.log")
    assert "exceeded memory limit" in log.read_text()
    assert str(log) in night.night.output


def test_each_retry_asks_for_twice_as_much(night):
    jobs = night.of("build_corpus", "broken")  # of which the profile says nothing: what the study's size asks for
    memory = [int(job["memory"].removesuffix("M")) for job in jobs]
    assert memory == [memory[0], 2 * memory[0], 4 * memory[0]]
    limits = [seconds(job["limit"]) for job in jobs]
    assert limits == [min(limits[0] * 2**attempt, LONGEST * 60) for attempt in range(3)] and limits[1] > limits[0]


def seconds(limit: str) -> int:
    """Of SLURM's `[days-][hours:]minutes:seconds`."""
    return sum(
        int(part) * unit for part, unit in zip(re.split("[-:]", limit)[::-1], (1, 60, 3600, 86400), strict=False)
    )


def test_a_cancelled_training_goes_on_from_its_checkpoint(night):
    first, second = night.of("train_model", "cancelled")
    assert (first["state"], second["state"]) == ("CANCELLED", "COMPLETED")
    assert "going on from" in night.log("train_model/cancelled.log")
    assert "SLURM status is: 'CANCELLED'" in night.night.output


@pytest.mark.parametrize("model", ["late", "cancelled"])
@pytest.mark.parametrize("file", ["model.safetensors", "training.parquet"])
def test_what_was_broken_off_ends_in_the_bytes_of_the_unbroken(night, model, file):
    models = night.place.root / "results" / "night" / "models"
    (whole,) = night.of("train_model", "unbroken")
    assert whole["state"] == "COMPLETED" and "going on from" not in night.log("train_model/unbroken.log")
    assert (models / model / file).read_bytes() == (models / "unbroken" / file).read_bytes()


def test_a_controller_that_is_away_for_a_while_is_waited_for(night):
    assert night.controller.count("Running as primary controller") == 2
    assert night.tiny.code == 0, night.tiny


def test_two_studies_run_at_once_in_one_folder(night):
    ids = {name: [int(job["id"]) for job in night.jobs if job["study"] == name] for name in ("tiny", "night")}
    assert min(ids["tiny"]) < max(ids["night"]) and min(ids["night"]) < max(ids["tiny"]), "one after the other"
    assert "LockException" not in night.tiny.output + night.night.output


def test_a_job_that_fails_is_named_with_its_log_and_cause_and_the_others_go_on(night):
    assert night.night.code != 0
    assert [job["state"] for job in night.of("build_corpus", "broken")] == ["FAILED"] * 3
    log = "results/night/logs/build_corpus/broken.log"
    cause = "data/broken.jsonl"
    assert log in night.night.output and cause in (night.place.root / log).read_text()
    assert re.search(rf"ERROR .*{cause}", night.night.output), night.night
    assert "Traceback" not in night.night.output
    for target in TARGETS[:-1]:
        assert (night.place.root / target).exists(), target
    place = Workplace(night.place.root, yaml.safe_load((night.place.root / "night.yaml").read_text()))
    assert set(place.plan(*TARGETS)) == {"build_corpus broken"}
