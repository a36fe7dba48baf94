"""Checkpoints that exist are compared by the command line alone: children, a sequence, adapters and merges, and the shipped examples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from dictionaries import exact, release_gemma_scope, release_gemma_scope_2
from filelock import FileLock
from tiny_study import CHECKOUT, Workplace, shared

from feature_lineage.models.checkpoint import build_model, load_model
from feature_lineage.store.formats import read_json, read_table

EXAMPLES = sorted((CHECKOUT / "config" / "examples").glob("*.yaml"))
MODELS = {
    "base": {"pretrained": "published/base", "train": ["prose"]},
    "code": {"pretrained": "published/code", "parent": "base", "train": ["code"]},
    "run": {"pretrained": "published/run", "revisions": ["checkpoint-10", "checkpoint-20"], "parent": "base"},
    "adapted": {"parent": "base", "adapter": "published/adapter", "train": ["code"]},
    "merged": {"parents": ["code", "run-checkpoint-20"], "merge": {"method": "ties"}},
    "three": {"parents": ["code", "run-checkpoint-20", "adapted"], "merge": {"method": "linear", "weights": [1, 1, 2]}},
}
JOBS = ("import_model", "import_adapter", "check_hook", "merge_models", "train_model")


def publish(folder: Path, tokenizer: Path, architecture: dict) -> None:
    """A base of two layers, a fine-tune, two checkpoints of another, an adapter, each as its maker would leave it."""
    from peft import LoraConfig, get_peft_model

    def save(model, name):
        model.save_pretrained(folder / name)
        for file in tokenizer.iterdir():
            if file.suffix == ".json":
                shutil.copyfile(file, folder / name / file.name)

    def built():
        return build_model(architecture | {"num_hidden_layers": 2}, tokenizer, 0)

    def moved(seed, scale):
        model, noise = built(), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += scale * torch.randn(parameter.shape, generator=noise) * parameter.std(correction=0)
        return model

    save(built(), "base")
    save(moved(1, 0.1), "code")
    save(moved(2, 0.05), "run/checkpoint-10")
    save(moved(2, 0.1), "run/checkpoint-20")
    torch.manual_seed(3)
    options = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(built(), options).save_pretrained(folder / "adapter")


@pytest.fixture(scope="module")
def lineage(tmp_path_factory, bare, tokenizer_dir, architecture) -> Workplace:
    """The lineage of `MODELS`, run to its report."""
    root = shared(tmp_path_factory, "own")
    config = bare.config | {
        "tokenizer": {"pretrained": "published/base"},
        "models": MODELS,
        "controls": {"transfer": False, "neurons": False, "alignment_null": False},
        "cases": {},
    }
    config["autoencoder"] = config["autoencoder"] | {"hook": "blocks.1.hook_resid_post", "seeds": [0]}
    place = Workplace(root, config)
    with FileLock(f"{root}.lock"):
        if not root.exists():
            bare.copy(root)
            publish(root / "published", tokenizer_dir, architecture)
            run = place.snakemake("-c2")
            (root / "run.txt").write_text(run.output)
            (root / "exit_status").write_text(str(run.code))
        assert (root / "exit_status").read_text() == "0", (root / "run.txt").read_text()
    return place


def test_nothing_is_trained_but_autoencoders(lineage):
    names = {
        path.parent.name if path.parent.name in JOBS else path.name for path in lineage.results.glob("logs/**/*.log")
    }
    assert {"import_model", "import_adapter", "merge_models"} <= names and "train_model" not in names
    assert lineage.plan() == {}


def test_each_edge_has_its_answer(lineage):
    rows = read_json(lineage.results / "flows" / "summary.json")["verdicts"]
    edges = {(row["parent"], row["child"]) for row in rows}
    assert edges == {
        ("base", "code"),
        ("base", "run-checkpoint-10"),
        ("run-checkpoint-10", "run-checkpoint-20"),
        ("base", "run-checkpoint-20"),
        ("base", "adapted"),
        ("code", "merged"),
        ("run-checkpoint-20", "merged"),
        ("code", "three"),
        ("run-checkpoint-20", "three"),
        ("adapted", "three"),
    }
    reasons = {row["reason"] for row in read_json(lineage.results / "flows" / "summary.json")["no_placebo"]}
    assert reasons == {"it was made elsewhere", "a merge is no training"}
    drift = read_table(lineage.results / "flows" / "drift.parquet").to_pandas()
    assert {tuple(edge) for edge in drift[["parent", "child"]].drop_duplicates().to_numpy()} >= edges
    assert (lineage.results / "report" / "index.html").is_file()


def test_the_adapter_is_in_its_model(lineage):
    from peft import PeftModel

    base = load_model(lineage.results / "models" / "base")
    ids = torch.arange(1, 25)[None]
    with torch.no_grad():
        plain = base(ids).logits
        expected = PeftModel.from_pretrained(base, lineage.root / "published" / "adapter").eval()(ids).logits
        found = load_model(lineage.results / "models" / "adapted")(ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_an_added_child_reruns_nothing(lineage, tmp_path):
    place = lineage.copy(tmp_path / "place")
    place.config["models"] = {**MODELS, "late": {"pretrained": "published/run/checkpoint-20", "parent": "base"}}
    made = {rule.split()[0] for rule in place.plan("saes", "models")}
    steps = {"import_model", "check_hook", "evaluate_model", "train_autoencoder", "evaluate_autoencoder"}
    assert made == steps | {"saes", "models"}


def test_steps_of_a_training_are_models(bare, tmp_path):
    place = bare.copy(tmp_path / "place")
    base = place.config["models"]["base"]
    place.config["models"] = {"base": base | {"training": base["training"] | {"keep": [4, 12]}}}
    place.config["cases"] = {}
    run = place.snakemake("-c2", "models")
    assert run.code == 0, run
    folder = place.results / "models"
    assert sorted(path.parent.name for path in folder.glob("*/evaluation.json")) == [
        "base",
        "base-step12",
        "base-step4",
    ]
    losses = [
        read_json(folder / name / "evaluation.json")["corpora"]["prose"]["loss"]
        for name in ("base-step4", "base-step12", "base")
    ]
    assert losses == sorted(losses, reverse=True)
    assert place.plan("models") == {}


# --- the shipped examples ----------------------------------------------------------------------------------


def small(example: dict, published: str) -> dict:
    """An example with local stand-ins and small sizes; the rest of it as it is written."""
    models = {}
    for name, block in example["models"].items():
        block = dict(block)
        if "revisions" in block:
            block |= {"pretrained": f"{published}/run", "revisions": ["checkpoint-10", "checkpoint-20"]}
        elif "pretrained" in block:
            block |= {"pretrained": f"{published}/{'code' if {'parent', 'parents'} & block.keys() else 'base'}"}
        elif "adapter" in block:
            block |= {"adapter": f"{published}/adapter"}
        models[name] = block
    autoencoders = {
        name: block | {"pretrained": f"{published}/{block['pretrained']}"} if isinstance(block, dict) else block
        for name, block in example.get("autoencoders", {}).items()
    }
    return example | {
        "autoencoders": autoencoders,
        "corpora": {name: {"files": "data/prose.jsonl", "validation": 0.2} for name in example["corpora"]},
        "tokenizer": {"pretrained": f"{published}/base"},
        "models": models,
        "autoencoder": example["autoencoder"] | {"hook": "blocks.1.hook_resid_post", "tokens": 100_000, "l0": 5},
        "flow": {"tokens": 2000},
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_planned_and_reads_its_models(path, lineage, tmp_path):
    """Dry run with local models of the same form; the one run above has every kind of model that they have."""
    place = lineage.copy(tmp_path / "place")
    shutil.rmtree(place.results)
    place.config = small(yaml.safe_load(path.read_text(encoding="utf-8")), "published")
    for block in place.config["autoencoders"].values():
        if isinstance(block, dict):
            release = release_gemma_scope_2 if "gemma-scope-2-" in block["pretrained"] else release_gemma_scope
            options = (1,) if release is release_gemma_scope_2 else ()
            release(place.root / block["pretrained"] / block["folder"], exact(16, 64), *options)
    planned = place.plan()
    made = {rule.split()[0] for rule in planned}
    assert "write_report" in made and "collect_readings" in made, json.dumps(sorted(planned))
    assert "train_model" not in made and "train_placebo" not in made
    assert ("train_autoencoder" in made) == (not place.config["autoencoders"])
