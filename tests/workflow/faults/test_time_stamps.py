"""Time stamps and places that change while contents stay: nothing is made again. Contents that change: what hangs on them is."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time

import yaml
from tiny_study import Workplace, environment

DAY = 86_400


def visible(run):
    return [line for line in run.output.splitlines() if " ERROR " in line]


def test_new_time_stamps_in_a_random_order_rerun_nothing(copy):
    """A touched document, a touched artefact, a tree copied without its time stamps: all at once."""
    seed = random.randrange(1 << 32)
    numbers = random.Random(seed)
    files = [path for part in ("data", "results") for path in (copy.root / part).rglob("*") if path.is_file()]
    for path in files:
        stamp = time.time() - numbers.uniform(0, 100 * DAY)
        os.utime(path, (stamp, stamp))
    assert len(files) > 100
    assert copy.plan() == {}, f"seed {seed}"


def test_what_has_changed_under_an_artefact_s_name_is_noticed(copy):
    for file in ("corpora/code/train.parquet", "tokens/prose/validation/index.json", "models/coder/model.safetensors"):
        with (copy.results / file).open("ab") as artefact:
            artefact.write(b" ")
    reasons = copy.plan()
    assert "Updated input files: results/tiny/corpora/code/train.parquet" in reasons["train_tokenizer"]
    assert "train_autoencoder coder 0" in reasons
    targets = ["results/tiny/models/base/evaluation.json", "results/tiny/saes/writer/seed0/evaluation.json"]
    assert {"train_model base", "evaluate_model base", "train_autoencoder writer 0"} <= set(copy.plan(*targets))


def test_of_documents_of_some_megabytes_contents_count_and_a_stamp_from_the_future_is_named(bare, tmp_path):
    place = bare.copy(tmp_path / "place")
    documents = place.root / "data" / "prose.jsonl"
    documents.write_text("".join(f'{{"text": "{number} {"many words " * 300}"}}\n' for number in range(1500)))
    assert documents.stat().st_size > 4_000_000
    target = "results/tiny/corpora/prose/train.parquet"

    os.utime(documents, (time.time() + 3600,) * 2)
    run = place.snakemake("-c1", target)
    assert run.refused(), run
    (error,) = visible(run)
    assert "data/prose.jsonl: its time stamp lies 3," in error and "`touch data/prose.jsonl`" in error
    documents.touch()
    run = place.snakemake("-c1", target)
    assert run.code == 0, run

    time.sleep(1.1)
    documents.touch()
    assert place.plan(target) == {}
    os.utime(documents, (time.time() + 3600,) * 2)
    assert place.plan(target) == {}
    with documents.open("a") as file:
        file.write('{"text": "One more."}\n')
    assert set(place.plan(target)) == {"build_corpus prose"}


# --- moved ----------------------------------------------------------------------------------------------------


def test_a_project_moved_as_a_whole_reruns_nothing_and_holds_no_path_of_its_old_place(study, tmp_path):
    old = study.copy(tmp_path / "old-place").root
    (tmp_path / "elsewhere").mkdir()
    new = Workplace(old.rename(tmp_path / "elsewhere" / "new"), study.config)
    assert new.plan() == {}
    logs = new.results / "logs"
    files = [path for path in new.results.rglob("*") if path.is_file() and logs not in path.parents]
    assert [path for path in files if str(study.root).encode() in path.read_bytes()] == []


def test_results_moved_into_another_checkout_take_snakemake_s_records_along(study, bare, tmp_path):
    new = bare.copy(tmp_path / "new")
    new.config = study.config
    shutil.copytree(study.root / "results", new.root / "results")  # a copy: with time stamps of its own, in no order
    shutil.copytree(study.root / ".snakemake" / "metadata", new.root / ".snakemake" / "metadata")
    assert new.plan() == {}


# --- two at once ----------------------------------------------------------------------------------------------


def test_two_studies_run_at_once_in_one_folder(bare, tmp_path):
    place = bare.copy(tmp_path / "place")
    other = place.config | {"study": "other"}
    (place.root / "other.yaml").write_text(yaml.safe_dump(other, sort_keys=False))
    one = place.start("-c1", "results/tiny/tokens/prose/train/index.json")
    command = [*place.command("-c1", "results/other/tokens/prose/train/index.json")[:-1], "other.yaml"]
    two = subprocess.run(
        command,
        cwd=place.root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=480,
    )
    assert one.wait(480) == 0, (place.root / "killed.txt").read_text()
    assert two.returncode == 0, two.stdout
    for study in ("tiny", "other"):
        assert (place.root / "results" / study / "tokens" / "prose" / "validation" / "index.json").exists()
