"""A whole study of what people write: names with dots, a merge's corpora apart from the comparison's, a merge by a straight line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from filelock import FileLock
from tiny_study import TRAINING, Workplace, shared

from feature_lineage.models.merge import angles, merge_states
from feature_lineage.store.formats import read_json, read_provenance, read_table, read_tensors

BASE, CODER, WRITER, BOTH = MODELS = ["Llama-3.2-1B", "code.v2", "prose_0.5", "Llama-3.2.merge"]


@pytest.fixture(scope="module")
def unusual(tmp_path_factory, bare) -> Workplace:
    """The tiny study with other names; only one corpus of the merge is in the sample. Finished."""
    root = shared(tmp_path_factory, "unusual")
    config = bare.config | {
        "study": "v1.0",
        "corpora": {
            "c4.en": {"files": "data/prose.jsonl", "validation": 0.2},
            "starcoder.py-1.0": {"files": "data/code/*.py", "validation": 0.2},
            "left-over": {"files": "data/prose.jsonl"},
        },
        "tokenizer": {"train": ["c4.en", "starcoder.py-1.0"], "vocab_size": 400},
        "models": {
            BASE: bare.config["models"]["base"] | {"train": ["c4.en", "starcoder.py-1.0"]},
            CODER: {"parent": BASE, "train": ["starcoder.py-1.0"], "training": TRAINING | {"tokens": 3000}},
            WRITER: {"parent": BASE, "train": ["c4.en"], "training": TRAINING | {"tokens": 3000}},
            BOTH: {"parents": [CODER, WRITER], "merge": "linear"},
        },
        "flow": bare.config["flow"] | {"corpora": ["c4.en"], "bootstrap": 0},
        "controls": bare.config["controls"] | {"linear_merge": True},
        "cases": {"the.article": {"tokens": [" the", "the"]}},
    }
    config["models"][BASE]["architecture"] |= {"sliding_window": None, "tie_word_embeddings": True, "head_dim": 8}
    place = Workplace(root, config)
    with FileLock(f"{root}.lock"):
        if not root.exists():
            bare.copy(root)
            run = place.snakemake("-c2")
            (root / "run.txt").write_text(run.output)
            assert run.code == 0, run
    return place


def test_a_corpus_that_nothing_uses_is_mentioned_and_not_built(unusual):
    """Neither trained on, by models or tokenizer, nor compared on."""
    said = (unusual.root / "run.txt").read_text()
    (line,) = {line for line in said.splitlines() if "left-over" in line}
    assert (
        line == "corpora.left-over is not read: no model or tokenizer is trained on it, and flow.corpora leaves it out"
    )
    assert not (unusual.results / "corpora" / "left-over").exists()


@pytest.mark.parametrize(
    ("used", "mentioned"),
    [
        ({}, True),
        ({"flow": {"corpora": None}}, False),
        ({"flow": {"corpora": ["prose", "left-over"]}}, False),
        ({"tokenizer": {"train": ["prose", "code", "left-over"]}}, False),
        ({"models": {"more": {"parent": "base", "train": ["left-over"], "training": TRAINING}}}, False),
    ],
)
def test_a_dry_run_mentions_a_corpus_that_nothing_uses(bare, tmp_path, used, mentioned):
    config = bare.config | {"corpora": bare.config["corpora"] | {"left-over": {"files": "data/prose.jsonl"}}}
    config |= {block: bare.config[block] | keys for block, keys in used.items()}
    bare.copy(tmp_path / "place")
    run = Workplace(tmp_path / "place", config).snakemake("-n", "results/tiny/report/index.html")
    assert run.code == 0, run
    assert ("corpora.left-over is not read" in run.output) == mentioned
    assert ("corpora/left-over" in run.output) != mentioned


def test_the_sweep_is_drawn_for_the_corpora_that_the_root_was_measured_on(unusual):
    """Its own corpora are two, the sample's one of them: one dashed line. None, all and others were tried too."""
    figure = read_json(unusual.results / "figures" / f"sweep-{BOTH}.json")
    assert [trace["name"] for trace in figure["data"]] == ["starcoder.py-1.0", "c4.en", f"c4.en, {BASE}"]


@pytest.mark.parametrize("corpora", [["starcoder.py-1.0"], ["c4.en", "starcoder.py-1.0"], ["left-over"], None])
def test_a_study_is_planned_whatever_the_samples_corpora(unusual, tmp_path, corpora):
    place = Workplace(unusual.root, unusual.config | {"flow": unusual.config["flow"] | {"corpora": corpora}})
    planned = place.plan("results/v1.0/report/index.html")
    assert f"plot_sweep {BOTH}" in planned or corpora is None


def test_every_file_has_the_models_names(unusual):
    for model in MODELS:
        assert (unusual.results / "models" / model / "evaluation.json").is_file()
        assert (unusual.results / "logs" / "train_autoencoder" / f"{model}.seed0.log").is_file()
        assert (unusual.results / "report" / "data" / f"{model}.seed0.js").is_file()
    page = (unusual.results / "report" / "index.html").read_text()
    for link in set(re.findall(r'(?:href|src)="((?!#|data:|https?:)[^"#?]+)', page)):
        assert (unusual.results / "report" / link).is_file(), link
    assert {path.name for path in (unusual.results / "report" / "figures").glob("case-*")} == {"case-the.article.csv"}
    assert f"sweep-{BOTH}.csv" in page


def test_names_with_dots_leave_nothing_to_do(unusual):
    assert unusual.plan() == {}


def test_the_control_of_a_linear_merge_is_by_slerp_and_lies_under_that_name(unusual):
    controls = unusual.results / "controls"
    assert not (controls / "linear").exists()
    assert read_provenance(controls / "slerp" / BOTH / "tensors.parquet")["parameters"]["method"] == "slerp"
    t = read_provenance(unusual.results / "models" / BOTH / "tensors.parquet")["t"]
    parents = [state(unusual.results / "models" / model) for model in (CODER, WRITER)]
    for folder, method in ((controls / "slerp" / BOTH, "slerp"), (unusual.results / "models" / BOTH, "linear")):
        expected = merge_states(*parents, t, angles(*parents, method))
        for name, tensor in state(folder).items():
            assert (tensor - expected[name]).abs().max() < 1e-6, (method, name)
    (row,) = read_table(controls / "linear_merge.parquet").to_pylist()
    assert (row["corpus"], row["method"]) == ("c4.en", "linear")
    assert (
        row["linear_loss"]
        == read_json(unusual.results / "models" / BOTH / "evaluation.json")["corpora"]["c4.en"]["loss"]
    )
    assert row["slerp_loss"] == read_json(controls / "slerp" / BOTH / "evaluation.json")["corpora"]["c4.en"]["loss"]
    assert (unusual.results / "logs" / "merge_otherwise" / f"slerp.{BOTH}.log").is_file()


def state(folder: Path):
    import torch

    return {name: torch.from_numpy(array) for name, array in read_tensors(folder / "model.safetensors").items()}


def test_the_architecture_is_the_one_asked_for(unusual):
    config = json.loads((unusual.results / "models" / BASE / "config.json").read_text())
    assert (config["sliding_window"], config["head_dim"], config["tie_word_embeddings"]) == (None, 8, True)
    for model in MODELS:
        names = set(state(unusual.results / "models" / model))
        assert "lm_head.weight" not in names and "model.embed_tokens.weight" in names
