"""A disk that fills up, a small one of its own: the error names the file, nothing half-written stays, the next run goes on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kaleido
import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pytest
from reports import content, write
from tiny_study import STUDY
from trainings import train_autoencoder, train_model

from feature_lineage.autoencoders import autoencoder
from feature_lineage.errors import InputError
from feature_lineage.explanations.ledger import Ledger
from feature_lineage.features import activations as activations_module
from feature_lineage.flow import correlation
from feature_lineage.meaning import contexts
from feature_lineage.models import checkpoint as language_model
from feature_lineage.models.hooks import load_hooked
from feature_lineage.report import export, figures
from feature_lineage.store import formats as artifacts
from feature_lineage.study.loading import load_study
from feature_lineage.text import corpora, tokenizer
from feature_lineage.text import shards as shards_module

pytestmark = pytest.mark.usefixtures("one_thread")
MEGABYTE = 1 << 20
HOOK = "blocks.0.mlp.hook_post"


class Disk:
    """A file system in memory of a few megabytes."""

    def __init__(self, root: Path, size: int) -> None:
        self.root, self.ballast = root, root / "ballast"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root], check=True, capture_output=True)

    def leave(self, free: int) -> None:
        """Fill it up to `free` bytes."""
        self.ballast.write_bytes(b"")
        with self.ballast.open("wb") as file:
            file.write(bytes(shutil.disk_usage(self.root).free - free))

    def clear(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(tmp_path):
    if os.getuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    root = tmp_path / "disk"
    root.mkdir()
    try:
        disk = Disk(root, 120 * MEGABYTE)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"mounting a small disk is refused: {error.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", root], check=True)


def documents():
    generator = np.random.default_rng(0)
    return (corpora.Document(generator.bytes(300).hex(), f"document {i}", None) for i in range(3000))


class DrawnAtOnce:
    """In place of the browser that draws images."""

    def __init__(self, **options) -> None: ...

    async def __aenter__(self):
        return self

    async def __aexit__(self, *error) -> None: ...

    async def calc_fig(self, figure, opts) -> bytes:
        return bytes(MEGABYTE)


def write_images(results: Path, path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kaleido, "Kaleido", DrawnAtOnce)
        patch.setattr(export, "find_browser", lambda: "browser")
        export.export_figures([results / "figures" / "curves.json"], [[path / "a.svg", path / "a.png"]])


def autoencoder_training(results: Path, path: Path, split: dict) -> None:
    block = {key: value for key, value in STUDY["autoencoder"].items() if key != "resampling"}
    options = load_study(STUDY | {"autoencoder": block | {"expansion": 16, "tokens": 1500}}).autoencoder.model_dump(
        exclude={"seeds"}
    )
    bridge = load_hooked(results / "models" / "base", HOOK)
    checkpoint = path / ".checkpoints" / "a.safetensors"
    train_autoencoder(bridge, *split.values(), checkpoint, seed=0, checkpoint_seconds=0, **options)


def writers(results: Path):
    """By name: what writes to a given path, and needs more than 64 kB for it."""
    activations, sae = results / "features/base/seed0/validation/activations.parquet", results / "saes/base/seed0"
    sample = results / "samples/validation.safetensors"
    note = {"note": np.random.default_rng(1).bytes(100_000).hex()}
    numbers = np.random.default_rng(0).random(200_000).astype(np.float32)
    model = results / "models" / "base"
    training = {"seed": 0, "balance": False, "tokens": 3000, "epochs": 1, "block": 32, "batch": 8, "lr": 1e-3}
    training |= {"weight_decay": 0, "warmup_steps": 0, "evaluations": 2, "evaluation_tokens": 500}
    split = {name: {"code": results / "tokens" / "code" / name} for name in ("train", "validation")}
    return {
        "corpus": lambda path: corpora.build_corpus(
            documents(), path / "train.parquet", path / "validation.parquet", {}, "c", corpora.CorpusOptions(0.2)
        ),
        "tokenizer": lambda path: tokenizer.save_tokenizer(
            tokenizer.load_tokenizer(model), path, {"note": "x" * 100_000}
        ),
        "shards": lambda path: shards_module.encode_corpus(
            results / "corpora" / "code" / "train.parquet", results / "tokenizer", path, {}
        ),
        "model": lambda path: language_model.save_model(
            language_model.load_model(model), results / "tokenizer", path, {}
        ),
        "training": lambda path: train_model(
            language_model.load_model(model), *split.values(), path / ".checkpoints", **training
        ),
        "autoencoder": lambda path: autoencoder.save_autoencoder(
            autoencoder.load_autoencoder(sae), path, HOOK, 8, note
        ),
        "training of an autoencoder": lambda path: autoencoder_training(results, path, split),
        "activations": lambda path: artifacts.write_table(
            path / "a.parquet",
            artifacts.read_batches(activations, ["token", "feature", "activation"]),
            artifacts.read_table(activations).schema,
            note,
        ),
        "contexts": lambda path: artifacts.write_table(
            path / "a.parquet",
            contexts.collect_contexts(activations, artifacts.read_tensors(sample)["tokens"].shape),
            contexts.CONTEXTS,
            note,
        ),
        "tensors": lambda path: artifacts.write_tensors(path / "a.safetensors", {"x": numbers}, {}),
        "table": lambda path: artifacts.write_table(
            path / "a.parquet", pa.table({"x": numbers}), pa.schema([("x", pa.float32())]), {}
        ),
        "json": lambda path: artifacts.write_json(path / "a.json", {"x": numbers.tolist()}, {}),
        "figure": lambda path: figures.write_figure(
            go.Figure(go.Scatter(y=numbers)), path / "a.json", path / "a.html", {}
        ),
        "numbers of a figure": lambda path: export.tabulate_figures(
            {"data": [{"type": "scatter", "x": numbers.tolist(), "y": numbers.tolist()}], "layout": {}}, path / "a.csv"
        ),
        "images": lambda path: write_images(results, path),
        "report": lambda path: write(path, **content()),
    }


@pytest.mark.parametrize(("name", "free"), [*((name, 64) for name in writers(Path())), ("training", 300)])
def test_each_writer_names_the_file_and_leaves_nothing_half_written(study, disk, name, free):
    path = disk.root / "results" / name
    path.parent.mkdir()
    write = writers(study.results)[name]
    disk.leave(free * 1024)
    with pytest.raises(InputError, match=rf"{path}.*disk is full.*free some space") as error:
        write(path)
    assert "start again" in str(error.value)
    left = [file for file in disk.root.rglob("*") if file.is_file() and file != disk.ballast]
    assert not [file for file in left if ".checkpoints" not in file.parts]

    disk.clear()
    write(path)


def test_correlations_name_the_full_folder_of_temporary_files(study, disk, monkeypatch):
    def sides():
        return [
            activations_module.ActivationFile(study.results / f"features/{name}/seed0/validation/activations.parquet")
            for name in ("base", "coder")
        ]

    expected = correlation.correlate(*sides(), 0.5, 1)
    monkeypatch.setattr(tempfile, "tempdir", str(disk.root))
    disk.leave(8 * 1024)
    with pytest.raises(InputError, match=rf"{disk.root}: the disk is full; free some space there"):
        correlation.correlate(*sides(), 0.5, 1)
    assert list(disk.root.iterdir()) == [disk.ballast]
    disk.clear()
    assert correlation.correlate(*sides(), 0.5, 1).equals(expected)


def test_no_paid_reply_is_lost_on_a_full_disk(disk):
    path = disk.root / "replies" / "a.jsonl"
    ledger = Ledger(path)
    disk.leave(64 * 1024)
    written = 0
    with pytest.raises(InputError, match=rf"{path}: the disk is full; free some space there"):
        for number in range(1000):
            ledger.write({"asked": str(number), "usd": 1.0})
            ledger.write({"reply": str(number), "usd": 0.5, "text": "x" * 1000})
            written += 1
    disk.clear()
    ledger.write({"asked": "more", "usd": 1.0})  # what was refused must not come before it
    spent = ledger.spent
    ledger.close()
    again = Ledger(path)
    assert again.spent == spent
    assert written > 10
    assert all(again.reply(str(number))["text"] == "x" * 1000 for number in range(written))
    again.close()


def test_a_ledger_that_cannot_be_begun_names_itself(disk):
    path = disk.root / "replies" / "a.jsonl"
    disk.leave(0)
    with pytest.raises(InputError, match=rf"{path}: the disk is full"):
        Ledger(path).write({"asked": "a", "usd": 1.0})


JOB = """
import sys
from feature_lineage.store.formats import write_json
from feature_lineage.jobs.job import job
from feature_lineage.progress import logger
with job(sys.argv[1]):
    for number in range(100):
        logger.info("line %d: %s", number, "x" * 1000)
    write_json(sys.argv[2], {"numbers": list(range(100_000))}, {})
"""


@pytest.mark.parametrize("free", [0, 64])
def test_a_job_whose_log_cannot_be_written_says_so_in_a_line(disk, free):
    log, output = disk.root / "logs" / "step" / "a.log", disk.root / "a.json"
    disk.leave(free * 1024)
    command = [sys.executable, "-c", JOB, log, output]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1, run
    assert "Traceback" not in run.stderr, run.stderr
    assert "Logging error" not in run.stderr, run.stderr
    error = run.stderr.splitlines()[-3]
    assert f"{output}: the disk is full; free some space there" in error, run.stderr
    assert not output.exists()

    disk.clear()
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run
    assert "line 99: x" in log.read_text()


def test_snakemake_without_any_space_loses_nothing_and_goes_on(study, disk):
    place = study.copy(disk.root / "place")
    target = "results/tiny/models/both/evaluation.json"
    before = {path: path.read_bytes() for path in (place.results / "models").rglob("*.*") if path.is_file()}
    (place.root / target).unlink()
    place.command()  # writes the configuration
    disk.leave(0)
    run = place.snakemake("-c1", target)
    assert run.code != 0, run
    assert "No space left on device" in run.output or "disk is full" in run.output, run
    assert not (place.root / target).exists()
    assert all(path.read_bytes() == content for path, content in before.items() if path != place.root / target)

    disk.clear()
    run = place.snakemake("-c1", target)
    assert run.code == 0, run
    assert (place.root / target).read_bytes() == before[place.root / target]


def test_snakemake_on_a_full_disk_fails_with_the_file_s_name_and_goes_on_once_there_is_space(study, disk):
    place = study.copy(disk.root / "place")
    place.config["autoencoder"]["expansion"] = 64
    targets = ["results/tiny/models/coder/model.safetensors", "results/tiny/saes/writer/seed0/sae_weights.safetensors"]
    for target in targets:
        shutil.rmtree((place.root / target).parent)
    disk.leave(450 * 1024)

    run = place.snakemake("-c1", "--keep-going", *targets)
    assert run.refused(), run
    errors = re.findall(r"\d\d:\d\d:\d\d ERROR (.*)", run.output)
    assert len(errors) == len(targets), run
    assert all("disk is full" in error and "free some space" in error for error in errors), run
    for place_of in ("results/tiny/models/.coder.checkpoints", "results/tiny/saes/writer"):
        assert [error for error in errors if place_of in error], run
    for target in targets:
        folder = (place.root / target).parent
        assert not folder.exists() or not [path.name for path in folder.iterdir() if path.name[0] != "."]

    disk.clear()
    run = place.snakemake("-c1", targets[0])
    assert run.code == 0, run
