"""A whole study of a checkpoint that was really trained, as it met its text: `<s>` before each document and nothing after."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from tiny_study import TRAINING, Workplace, shared

from feature_lineage.autoencoders.autoencoder import load_autoencoder
from feature_lineage.features.activations import read_activations
from feature_lineage.models.hooks import activations, load_hooked
from feature_lineage.store.formats import read_json, read_table, read_tensors

HOOK = "blocks.2.mlp.hook_post"
CONTROLS = ("alignment_null", "neurons", "as_published", "transfer")


@pytest.fixture(scope="module")
def stories(tmp_path_factory, bare, trained_checkpoints) -> Workplace:
    """The checkpoint, imported, and a fine-tune of it by the study; finished."""
    texts = trained_checkpoints.parent / "corpora" / "tinystories.parquet"
    if not texts.exists():
        pytest.skip(f"no {texts.name} beside the checkpoints")
    root = shared(tmp_path_factory, "stories")
    path = str(trained_checkpoints / "stories260k")
    options = {key: value for key, value in bare.config["autoencoder"].items() if key != "context"}
    config = bare.config | {
        "study": "stories",
        "evaluation_tokens": 20_000,
        "corpora": bare.config["corpora"] | {"stories": {"files": "data/stories.jsonl", "validation": 0.2}},
        "tokenizer": {"pretrained": path},
        "models": {
            "base": {"pretrained": path, "train": ["stories"]},
            "coder": {"parent": "base", "train": ["code"], "training": TRAINING | {"tokens": 3000}},
        },
        "autoencoder": options | {"hook": HOOK, "tokens": 20_000, "batch": 8},
        "flow": bare.config["flow"] | {"corpora": ["stories", "code"], "tokens": 6000},
        "controls": bare.config["controls"] | dict.fromkeys(CONTROLS, True),
    }
    place = Workplace(root, config)
    with FileLock(f"{root}.lock"):
        if not root.exists():
            bare.copy(root)
            with (root / "data" / "stories.jsonl").open("w") as file:
                for text in pq.read_table(texts)["text"].to_pylist()[:400]:
                    file.write(json.dumps({"text": text}) + "\n")
            run = place.snakemake("-c2")
            assert run.code == 0, run
    return place


def test_the_choice_follows_the_tokenizer_and_is_shown(stories):
    config = read_json(stories.results / "models" / "coder" / "tokenizer_config.json")
    assert config["feature_lineage"] == {"document_start": [1], "document_end": [], "window_start": None}
    found = read_json(stories.results / "models" / "base" / "evaluation.json")
    assert found["corpora"]["stories"]["loss"] < found["plain"]["stories"]["loss"] - 0.1
    page = (stories.results / "report" / "index.html").read_text()
    assert "before each document &lt;s&gt;, after it nothing; before every window nothing." in page
    assert 'id="readings"' in page


def test_features_equal_a_plain_computation_over_what_is_read(stories):
    sample = read_tensors(stories.results / "samples" / "validation.safetensors")
    kept = sample["kept"]
    assert sample["tokens"].shape[1] == 128  # what suits a deeper model
    np.testing.assert_array_equal(kept, sample["tokens"] != 1)
    assert (~kept).sum() > 0
    for model in ("base", "coder"):
        bridge = load_hooked(stories.results / "models" / model, HOOK)
        weights = load_autoencoder(stories.results / "saes" / model / "seed0", "cpu")
        x = activations(bridge, HOOK, sample["tokens"].astype(np.int64))[torch.from_numpy(kept.ravel())].double()
        encoder, b_enc, b_dec = (one.double() for one in (weights.W_enc, weights.b_enc, weights.b_dec))
        dense = torch.relu((x - b_dec) @ encoder + b_enc).numpy()
        folder = stories.results / "features" / model / "seed0" / "validation"
        found = read_activations(folder / "activations.parquet").matrix.toarray()
        np.testing.assert_allclose(found, dense, atol=1e-6 * max(1, dense.max()))
        table = read_table(folder / "statistics.parquet")
        np.testing.assert_array_equal(table["active"].to_numpy(), (found > 0).sum(0))
        np.testing.assert_allclose(table["density"].to_numpy(), (found > 0).mean(0))
        rows = read_table(folder / "activations.parquet")
        assert kept.ravel()[rows["token"].to_numpy()].all()
