"""Models and autoencoders that exist are compared by the command line alone, without training; a broken one is stopped by its numbers."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from checkpoint_zoo import ZOO, build
from dictionaries import exact, release_gemma_scope_2, release_saelens, release_sparsify
from filelock import FileLock
from safetensors.torch import load_file, save_file
from test_own_models import publish
from tiny_study import CHECKOUT, Workplace, shared

from feature_lineage.store.formats import read_json, read_table, read_tensors

HOOK = "blocks.1.hook_resid_post"
MODELS = {
    "base": {"pretrained": "published/base", "train": ["prose"]},
    "chat": {"pretrained": "published/code", "parent": "base"},
    "later": {"pretrained": "published/run/checkpoint-20", "parent": "chat"},
    "other": {"pretrained": "published/run/checkpoint-10", "parent": "base"},
}
ONE = {"pretrained": "released/one"}
TWO = {"pretrained": "released/gemma-scope-2-270m-pt", "folder": "resid_post/layer_1_width_80_l0_medium"}
AUTOENCODERS = {
    "base": [ONE, TWO],
    "chat": "none",
    "later": "none",
    "other": {"pretrained": "released", "folder": "layers.1"},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory, bare, tokenizer_dir, architecture) -> Workplace:
    """A base with two dictionaries, a child and a grandchild without, and a child with one of another width and format; run to its report."""
    root = shared(tmp_path_factory, "dictionaries")
    config = bare.config | {
        "tokenizer": {"pretrained": "published/base"},
        "models": MODELS,
        "autoencoders": AUTOENCODERS,
        "controls": {"neurons": False, "alignment_null": False},
        "cases": {},
    }
    config["autoencoder"] = {"hook": HOOK, "context": 24}
    place = Workplace(root, config)
    with FileLock(f"{root}.lock"):
        if not root.exists():
            bare.copy(root)
            publish(root / "published", tokenizer_dir, architecture)
            n = architecture["hidden_size"]
            release_saelens(root / "released" / "one", exact(n, 5 * n, 0), HOOK)
            release_gemma_scope_2(root / TWO["pretrained"] / TWO["folder"], exact(n, 5 * n, 1), 1)
            release_sparsify(root / "released" / "layers.1", exact(n, 4 * n, 2), n)
            run = place.snakemake("-c2")
            (root / "run.txt").write_text(run.output)
            (root / "exit_status").write_text(str(run.code))
        assert (root / "exit_status").read_text() == "0", (root / "run.txt").read_text()
    return place


@pytest.fixture
def results(study):
    return study.root / "results" / study.config["study"]


def test_nothing_is_trained(study, results):
    planned = study.snakemake("-n", "--forceall").output
    assert "train_autoencoder" not in planned and "train_model" not in planned
    assert "import_autoencoder" in planned and "check_autoencoder" in planned
    assert sorted(path.parent.name for path in results.glob("saes/*/seed*")) == ["base", "base", "other"]


def test_each_has_its_gate_and_its_hashes(results):
    for model, seed in (("base", 0), ("base", 1), ("other", 0)):
        folder = results / "saes" / model / f"seed{seed}"
        gate, record = read_json(folder / "gate.json"), read_json(folder / "import.json")
        assert gate["problems"] == [] and gate["measured"]["variance_explained"] > 0.999
        assert len(record["files"]) == 2 and all(len(digest) == 64 for digest in record["files"].values())
    assert read_json(results / "saes" / "other" / "seed0" / "gate.json")["claimed"] == {"l0": 16.0}


def test_an_edge_is_read_from_the_side_that_has_a_dictionary(results):
    verdicts = read_table(results / "flows" / "verdicts.parquet").to_pandas()
    sides = {
        (edge, side)
        for (*edge, side), _ in verdicts.groupby(["parent", "child", "seed", "side"])
        for edge in [tuple(edge)]
    }
    assert {(("base", "chat", seed), "parent") for seed in (0, 1)} <= sides and (
        ("base", "chat", 0),
        "child",
    ) not in sides
    assert (("base", "other", 0), "child") in sides and (("base", "other", 1), "child") not in sides
    assert not any(edge[0] == "chat" for edge, _ in sides)
    found = verdicts[(verdicts["child"] == "chat") & (verdicts["verdict"] == "found")]
    assert found["share"].isna().all(), "there is no dictionary to find it in"
    flow = read_table(results / "flows" / "features.parquet").to_pandas()
    assert set(flow[(flow["child"] == "chat")]["fate"]) == {"unmatched", "dead"}
    assert set(flow[(flow["child"] == "other") & (flow["seed"] == 0)]["fate"]) >= {"disappearing", "emerging"}
    traced = read_table(results / "flows" / "lineages.parquet").to_pandas()
    steps = [step["model"] for found in traced[traced["model"] == "base"]["traced"] for step in found]
    assert {"chat", "later", "other"} <= set(steps), "the root's own dictionary reads the grandchild, too"


def test_the_report_says_what_was_read_and_what_could_not_be(results):
    page = (results / "report" / "index.html").read_text()
    assert "features keep firing the same way in chat" in page and "chat has no dictionary of its own" in page
    assert "not measured: neither model has a dictionary" in page
    assert 'id="gates"' in page and "released/one" in page and "sparsify" in page and "gemma_scope_2" in page
    transfer = read_table(results / "controls" / "transfer.parquet").to_pylist()
    own = {(row["parent"], row["child"]): row["own_l0"] for row in transfer}
    assert own["base", "chat"] is None and own["base", "other"] > 0


def test_a_replaced_dictionary_is_imported_again_and_one_that_moved_is_not(study, tmp_path):
    place = Workplace(tmp_path / "place", json.loads(json.dumps(study.config)))
    shutil.copytree(study.root, place.root, symlinks=True)
    (place.root / "released" / "one").rename(place.root / "moved")
    place.config["autoencoders"]["base"][0] = {"pretrained": "moved"}
    assert "Nothing to be done" in place.snakemake("-n").output
    file = place.root / "moved" / "sae_weights.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"b_dec": tensors["b_dec"] + 1}, file)
    planned = place.snakemake("-n").output
    assert (
        "import_autoencoder" in planned and "saes/base/seed1" not in planned.split("rule import_autoencoder")[1][:300]
    )


@pytest.mark.parametrize("accept", [False, True])
def test_a_broken_one_is_stopped_by_its_numbers_unless_it_is_accepted(study, tmp_path, accept):
    """As one whose activations were scaled otherwise in its training: of the features that fire, the reconstruction is ten times too small."""
    place = Workplace(tmp_path / "place", json.loads(json.dumps(study.config)))
    shutil.copytree(study.root, place.root, symlinks=True)
    file = place.root / "released" / "one" / "sae_weights.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"W_dec": tensors["W_dec"] / 10, "b_dec": torch.ones_like(tensors["b_dec"])}, file)
    place.config["autoencoders"]["base"][0]["accept"] = accept
    name = place.config["study"]
    run = place.snakemake("-c2", f"results/{name}/features/base/seed0/validation/statistics.parquet")
    if accept:
        assert run.code == 0, run.output
        assert read_json(place.root / "results" / name / "saes" / "base" / "seed0" / "gate.json")["accepted"]
    else:
        assert run.code != 0 and "does not read this model as a dictionary should" in run.output, run.output
        assert "Variance explained" in run.output and "autoencoders.base.accept" in run.output
        assert not (place.root / "results" / name / "saes" / "base" / "seed0" / "gate.json").exists()


def test_a_trained_child_of_an_imported_dictionary_starts_from_it_with_as_many_features(study, tmp_path):
    place = Workplace(tmp_path / "place", json.loads(json.dumps(study.config)))
    shutil.copytree(study.root, place.root, symlinks=True)
    del place.config["autoencoders"]["other"]
    place.config["autoencoder"] |= {"init": "parent", "mean": "data", "tokens": 4096, "batch": 4}
    run = place.snakemake("-c2", f"results/{place.config['study']}/saes/other/seed0/evaluation.json")
    assert run.code == 0, run.output
    folder = place.root / "results" / place.config["study"] / "saes" / "other" / "seed0"
    assert (
        read_json(folder / "cfg.json")["d_sae"] == 5 * 16
        and read_json(folder / "evaluation.json")["variance_explained"] > 0.5
    )


# --- the shipped example of Gemma Scope 2 --------------------------------------------------------------------


def publish_gemma(folder, tokenizer):
    """A Gemma 3 of two layers and a fine-tune of it, whose tokenizer puts <bos> before a text, as Gemma's does."""
    text = json.loads((tokenizer / "tokenizer.json").read_text())
    (end,) = [token["content"] for token in text["added_tokens"] if token["id"] == 0]
    text = json.loads(json.dumps(text).replace(json.dumps(end), '"<bos>"'))
    piece = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    special = {"<bos>": {"id": "<bos>", "ids": [0], "tokens": ["<bos>"]}}
    text["post_processor"] = {
        "type": "TemplateProcessing", "single": [piece, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [piece, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": special,
    }  # fmt: skip
    for place, noise in ((folder / "google/gemma-3-270m", 0.0), (folder / "google/gemma-3-270m-it", 0.05)):
        model = build("gemma3", ZOO["gemma3"])
        with torch.no_grad():
            for number, parameter in enumerate(model.parameters()):
                drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
                parameter += noise * drawn * parameter.std(correction=0)
        model.save_pretrained(place)
        (place / "tokenizer.json").write_text(json.dumps(text))
        (place / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>"})
        )


def test_the_example_of_gemma_scope_2_runs_to_its_verdicts(bare, tokenizer_dir, tmp_path):
    """By the real names of files, keys and tensors, with <bos> at the head of each window; sizes, text and the layer are the stand-in's."""
    example = yaml.safe_load((CHECKOUT / "config" / "examples" / "gemma-scope-2.yaml").read_text(encoding="utf-8"))
    place = Workplace(tmp_path / "place", example)
    bare.copy(place.root)
    publish_gemma(place.root, tokenizer_dir)
    for seed, block in enumerate(example["autoencoders"].values()):
        block["folder"] = block["folder"].replace("layer_12", "layer_1")
        release_gemma_scope_2(place.root / block["pretrained"] / block["folder"], exact(16, 64, seed), 1)
    example["corpora"] = {"web": {"files": "data/prose.jsonl", "validation": 0.2}}
    example["autoencoder"]["hook"] = "blocks.1.hook_resid_post"
    example |= {"threads": 1, "evaluation_tokens": 2000, "flow": {"tokens": 2000, "bootstrap": 5}}
    results = place.root / "results" / "gemma-scope-2"
    run = place.snakemake("-c2", "results/gemma-scope-2/flows/summary.json")
    assert run.code == 0, run.output
    settings = json.loads((results / "tokenizer" / "tokenizer_config.json").read_text())
    assert "<bos>" in json.dumps(settings) and read_tensors(results / "samples" / "validation.safetensors")["kept"].size
    for model in ("base", "instruct"):
        gate, record = (read_json(results / "saes" / model / "seed0" / f"{name}.json") for name in ("gate", "import"))
        assert gate["problems"] == [] and gate["measured"]["variance_explained"] > 0.999
        assert (
            record["format"] == "gemma_scope_2"
            and record["window_start"]
            and record["hook"] == "blocks.1.hook_resid_post"
        )
    assert not list(results.glob("saes/*/*/training.parquet"))
    assert {row["side"] for row in read_json(results / "flows" / "summary.json")["verdicts"]} == {"parent", "child"}
