"""Each kind of long job ended at random points, and files removed under it: nothing half-written is left, and the bytes are the same."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
import zlib
from collections import Counter

import pytest
from job_processes import SECONDS, Job, change, forked, jobs
from scripted_endpoint import KEY, KEY_ENV, completion, serve
from snakemake.iocontainers import Log, OutputFiles, Params, Snakemake
from test_interpretation import oracle

CORRELATE = "correlate validation base 0 coder 0"
INTERPRET = "interpret_features base 0"
POINTS = {
    "build_corpus code": 2,
    "encode_corpus code": 2,
    "train_tokenizer": 2,
    "train_model base": 3,
    "train_model coder": 3,  # fine-tuning
    "sweep_merge both": 2,
    "train_autoencoder base 0": 3,
    "collect_features base 0 validation": 2,
    CORRELATE: 2,
    "correlate_part": 2,
    "bootstrap_flow validation base 0 coder 0": 2,
    "collect_contexts base 0 validation": 2,
    INTERPRET: 3,
    "write_report": 2,
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TRIES = 20  # for each point: a job may be done before its signal comes
SEED = random.randrange(1 << 32)


@pytest.fixture(scope="module")
def context():
    return forked()


@pytest.fixture(scope="module")
def endpoint():
    """A language model that takes its time."""

    def script(body, number):
        user = body["messages"][1]["content"]
        if "What does the feature respond to?" in user:
            return completion(f"The token t{zlib.crc32(user.encode())}.") | {"wait": 0.02}
        text = oracle(body, number)["choices"][0]["message"]["content"]
        return completion(text.replace("\t0", "\t3", 1)) | {"wait": 0.02}

    with serve(script) as server:
        yield server


@pytest.fixture(scope="module")
def all_jobs(study, tmp_path_factory, endpoint) -> dict[str, Job]:
    """The jobs of a copy of the study, the long ones longer."""
    place = study.copy(tmp_path_factory.mktemp("interrupted") / "study")
    place.edit("workflow/scripts/train_autoencoder.py", "Watch(stop=stop)", "Watch(stop=stop, checkpoint_seconds=0.0)")
    found = jobs(place.root)
    for name in ("train_model base", "train_model coder"):
        found[name].given.params.training.update(tokens=12_000, evaluations=8)
    found["train_autoencoder base 0"].given.params.autoencoder.update(tokens=8000)
    change(found["bootstrap_flow validation base 0 coder 0"].given, replicates=200)
    whole = found[CORRELATE].given
    part = Snakemake(
        whole.input,
        OutputFiles(fromdict={"sums": "results/tiny/correlations/validation/a--b.part0.parquet"}),
        Params(fromdict={"part": 0, "parts": 2}),
        whole.wildcards,
        whole.threads,
        whole.resources,
        Log(["results/tiny/logs/correlate_part/a--b.part0.log"]),
        whole.config,
        "correlate_part",
        None,
    )
    found["correlate_part"] = Job(found[CORRELATE].root, "correlate_part", part)
    model = {
        "model": "scripted",
        "base_url": endpoint.url,
        "key_env": KEY_ENV,
        "prompt_price": 1.0,
        "completion_price": 1.0,
    }
    model |= {"budget": 2.0, "jobs": 1, "parallel": 4, "timeout": 10.0}
    change(found[INTERPRET].given, language_model=model, features=4)
    found[INTERPRET].environment[KEY_ENV] = KEY
    return found


def stamps(job: Job) -> dict[str, tuple[int, int]]:
    """Size and time of everything in the results but what the job writes."""
    own = {*job.outputs, job.log, *(path for output in job.outputs for path in output.parent.glob(".*"))}
    own |= {output.with_name("generation_config.json") for output in job.outputs}  # which others do not read
    folders = {output.parent if output.name == "index.json" else output for output in job.outputs}
    files = (path for path in (job.root / "results").rglob("*") if path.is_file() and path not in own)
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in files
        if path.parent not in folders and not any(part.startswith(".") for part in path.parts)
    }


@pytest.mark.parametrize("name", POINTS)
def test_a_job_ended_at_random_points_leaves_nothing_half_written_and_ends_in_the_same_bytes(
    all_jobs, context, endpoint, name
):
    job, random_numbers = all_jobs[name], random.Random(f"{SEED} {name}")
    ledger = job.root / "results/tiny/interpretations/.replies/base.seed0.jsonl"
    seconds = job.run(context)
    expected, beside, others = job.made(), job.beside(), stamps(job)
    assert len(expected) == len(job.outputs)
    if name == INTERPRET:
        ledger.unlink()
        endpoint.paid.clear()

    order = random_numbers.sample(SIGNALS, len(SIGNALS))
    points = 0
    for _ in range(TRIES * POINTS[name]):
        number, delay = order[points % len(order)], random_numbers.uniform(0, seconds)
        status = job.interrupt(context, delay, number)
        if status is None:
            seconds = job.seconds()
            continue
        points += 1
        told = f"seed {SEED}, {name}: {number.name} after {delay:.3f} of {seconds:.3f} s, exit status {status}"
        print(told)
        made = job.made()
        assert made.items() <= expected.items(), told
        assert stamps(job) == others, told
        if job.log.exists() and made != expected:
            assert "Traceback" not in job.log.read_text(), f"{told}\n{job.said()}"
        if points == POINTS[name]:
            break
    assert points == POINTS[name], f"seed {SEED}: {name} was done before its signal {TRIES} times for each point"

    job.run(context)
    assert job.made() == expected, f"seed {SEED}"
    assert job.beside() == beside, f"seed {SEED}"
    if name == INTERPRET:
        replies = Counter(
            entry["reply"] for entry in map(json.loads, ledger.read_text().splitlines()) if "reply" in entry
        )
        assert set(replies.values()) == {1}, f"seed {SEED}: a reply that was on disk was asked for again"
        under_way = sum(endpoint.paid.values()) - len(endpoint.paid)
        assert under_way <= 4 * points, f"seed {SEED}"


def test_there_are_at_least_twenty_random_points():
    assert sum(POINTS.values()) >= 20


# --- files removed under a running job ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["encode_corpus code", "train_model coder", "train_autoencoder base 0", CORRELATE, "write_report"]
)
def test_an_input_removed_under_a_running_job_is_named_or_was_no_longer_needed(all_jobs, context, name):
    job, random_numbers = all_jobs[name], random.Random(f"{SEED} {name} removed")
    seconds = job.run(context)
    expected, beside = job.made(), job.beside()
    for file in random_numbers.sample(list(job.given.input), 2):
        delay = random_numbers.uniform(0, seconds)
        told = f"seed {SEED}, {name}: {file} removed after {delay:.3f} of {seconds:.3f} s"
        print(told)
        process = job.start(context)
        time.sleep(delay)
        aside = (job.root / file).rename(job.root / "aside")
        process.join(SECONDS)
        aside.rename(job.root / file)
        if process.exitcode:
            assert job.made().items() <= expected.items() and "Traceback" not in job.said(), f"{told}\n{job.said()}"
            error = job.log.read_text().splitlines()[-3]
            assert " ERROR " in error and file.rsplit("/", 1)[0] in error, f"{told}\n{job.said()}"
        else:
            assert job.made() == expected, told
    job.run(context)
    assert job.made() == expected and job.beside() == beside, f"seed {SEED}"


@pytest.mark.parametrize("name", ["train_model coder", "train_autoencoder base 0"])
def test_checkpoints_removed_under_a_running_training_are_made_anew_or_named(all_jobs, context, name):
    job, random_numbers = all_jobs[name], random.Random(f"{SEED} {name} checkpoints")
    seconds = job.run(context)
    expected = job.made()
    process = job.start(context)
    folder = job.outputs[0].parent
    checkpoints = folder.with_name(f".{folder.name}.checkpoints")
    time.sleep(random_numbers.uniform(0.3, 0.9) * seconds)
    shutil.rmtree(checkpoints, ignore_errors=True)
    process.join(SECONDS)
    if process.exitcode:
        assert "was removed while" in job.log.read_text().splitlines()[-3], f"seed {SEED}\n{job.said()}"
        job.run(context)
    assert job.made() == expected, f"seed {SEED}"
