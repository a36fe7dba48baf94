"""A disk that fills up, a small one of its own: the error names the file, nothing half-written stays, the next run goes on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pytest

from feature_lineage import artifacts, corpora, figures, language_model, tokens
from feature_lineage.logs import InputError
from feature_lineage.training import train_model

MEGABYTE = 1 << 20


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


def writers(results: Path):
    """By name: what writes to a given path, and needs more than 64 kB for it."""
    numbers = np.random.default_rng(0).random(200_000).astype(np.float32)
    model = results / "models" / "base"
    training = {"seed": 0, "balance": False, "tokens": 3000, "epochs": 1, "block": 32, "batch": 8, "lr": 1e-3}
    training |= {"weight_decay": 0, "warmup_steps": 0, "evaluations": 2, "evaluation_tokens": 500}
    split = {name: {"code": results / "tokens" / "code" / name} for name in ("train", "validation")}
    return {
        "corpus": lambda path: corpora.build_corpus(
            documents(), path / "train.parquet", path / "validation.parquet", {}, name="c", validation_share=0.2
        ),
        "tokenizer": lambda path: tokens.save_tokenizer(tokens.load_tokenizer(model), path, {"note": "x" * 100_000}),
        "shards": lambda path: tokens.encode_corpus(
            results / "corpora" / "code" / "train.parquet", results / "tokenizer", path, {}
        ),
        "model": lambda path: language_model.save_model(
            language_model.load_model(model), results / "tokenizer", path, {}
        ),
        "training": lambda path: train_model(
            language_model.load_model(model), *split.values(), path / ".checkpoints", label="tiny", **training
        ),
        "tensors": lambda path: artifacts.write_tensors(path / "a.safetensors", {"x": numbers}, {}),
        "table": lambda path: artifacts.write_table(
            path / "a.parquet", pa.table({"x": numbers}), pa.schema([("x", pa.float32())]), {}
        ),
        "json": lambda path: artifacts.write_json(path / "a.json", {"x": numbers.tolist()}, {}),
        "figure": lambda path: figures.write_figure(
            go.Figure(go.Scatter(y=numbers)), path / "a.json", path / "a.html", {}
        ),
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
