"""An import is a link to weights that lie elsewhere, with a record of what they were."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch
from checkpoint_zoo import VOCABULARY, ZOO, publish
from safetensors.torch import load_file, save_file

from feature_lineage.errors import InputError
from feature_lineage.models.checkpoint import evaluate_model, import_model, load_model, published_model, save_model
from feature_lineage.models.hooks import activations, load_hooked, next_token_losses
from feature_lineage.models.linked import read_weights, tensor_types
from feature_lineage.store.checksums import sha256
from feature_lineage.store.formats import read_json, read_provenance
from feature_lineage.store.provenance import provenance
from feature_lineage.text.windows import Windows

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (3, 12))
HOOK = "blocks.0.mlp.hook_post"


@pytest.fixture
def taken(tmp_path, tokenizer_dir):
    """A function that publishes a checkpoint and imports it: the two folders."""

    def get(name, **options):
        folder, model = publish(name, tmp_path / name), tmp_path / f"{name}-model"
        import_model(str(folder), tokenizer_dir, model, {"parameters": {"a": 1}}, **options)
        return folder, model

    return get


def logits(folder, **options):
    load = load_model if (folder / "import.json").exists() else published_model
    with torch.no_grad():
        return load(folder, **options)(torch.from_numpy(TOKENS)).logits


@pytest.mark.parametrize("name", [name for name, animal in ZOO.items() if animal.shard == "1GB"])
def test_weights_in_one_file_are_a_link(taken, name):
    folder, model = taken(name)
    weights = model / "model.safetensors"
    assert weights.is_symlink() and weights.readlink() == folder / "model.safetensors"
    assert read_weights(weights).keys() == tensor_types(folder / "model.safetensors").keys()


def test_the_record_says_what_was_imported(taken):
    folder, model = taken("llama")
    found = read_json(model / "import.json")
    weights = folder / "model.safetensors"
    assert found["files"]["model.safetensors"] == {
        "source": str(weights),
        "bytes": weights.stat().st_size,
        "sha256": sha256(weights),
    }
    assert {file.name for file in model.iterdir()} == {*found["files"], "import.json"}
    assert found["files"]["config.json"] == {
        "bytes": (model / "config.json").stat().st_size,
        "sha256": sha256(model / "config.json"),
    }
    assert (found["pretrained"], found["revision"], found["dtype"]) == (str(folder), None, "float32")
    assert read_provenance(model / "import.json")["parameters"] == {"a": 1}


def test_a_file_of_the_hubs_cache_is_linked_itself(tmp_path, tokenizer_dir):
    folder = publish("llama", tmp_path / "snapshot")
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to("../blob")
    import_model(str(folder), tokenizer_dir, tmp_path / "model", {})
    assert (tmp_path / "model" / "model.safetensors").readlink() == tmp_path / "blob"
    assert torch.equal(logits(tmp_path / "model"), logits(folder))


@pytest.mark.parametrize(("dtype", "stored"), [("float32", {"F32"}), ("bfloat16", {"BF16"})])
def test_shards_become_one_file_that_is_no_larger(taken, dtype, stored):
    folder, model = taken("llama-sharded", dtype=dtype)
    assert not (model / "model.safetensors").is_symlink()
    assert set(tensor_types(model / "model.safetensors").values()) == stored
    expected = logits(folder, dtype=getattr(torch, dtype))
    assert torch.equal(logits(model), expected)


def test_shards_in_bfloat16_are_not_made_float32_on_disk(tmp_path, tokenizer_dir, monkeypatch):
    monkeypatch.setitem(ZOO, "llama", ZOO["llama"]._replace(dtype=torch.bfloat16, shard="6KB"))
    folder = publish("llama", tmp_path / "published")
    import_model(str(folder), tokenizer_dir, tmp_path / "model", {})
    assert set(tensor_types(tmp_path / "model" / "model.safetensors").values()) == {"BF16"}
    found = load_model(tmp_path / "model")
    assert found.dtype == torch.float32 and torch.equal(logits(tmp_path / "model"), logits(folder))


def test_a_file_of_another_name_is_read(tmp_path, tokenizer_dir):
    folder = publish("llama", tmp_path / "published")
    expected = logits(folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"transformers_weights": "other.safetensors"}
    (folder / "config.json").write_text(json.dumps(config))
    import_model(str(folder), tokenizer_dir, tmp_path / "model", {})
    assert torch.equal(logits(tmp_path / "model"), expected)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json", "import.json"])
def test_every_file_is_verified(taken, name):
    _, model = taken("llama")
    whole = (model / name).read_bytes()
    (model / name).write_bytes(whole[:-1] + b" ")
    with pytest.raises(InputError, match=rf"{model}/{name}: cannot be read, it is truncated or damaged"):
        load_model(model)
    (model / name).write_bytes(whole)
    load_model(model)
    if name != "import.json":
        (model / name).unlink()
        with pytest.raises(
            InputError, match=rf"{model}/{name}: this input file is missing; delete {model}/import.json"
        ):
            load_model(model)


def test_weights_that_are_replaced_are_known(taken):
    """Of the same size and shape, and with its time stamps."""
    folder, model = taken("llama")
    weights = folder / "model.safetensors"
    before, tensors = weights.stat(), load_file(weights)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    said = rf"{weights}: is no longer what was imported as {model}/model\.safetensors, .*; put that file back, or delete {model}/import"
    for reader in (lambda: load_model(model), lambda: read_weights(model / "model.safetensors")):
        with pytest.raises(InputError, match=said):
            reader()


def test_weights_that_are_gone_are_named_with_their_place(taken):
    folder, model = taken("llama")
    weights, link = folder / "model.safetensors", model / "model.safetensors"
    weights.unlink()
    with pytest.raises(InputError, match=rf"{weights}: these weights of {link} are gone; put them back, or name"):
        load_model(model)
    with pytest.raises(
        InputError, match=rf"{link}: this input file is a link to {weights}, which is gone; put that back"
    ):
        provenance({"model": [str(link)]}, {})


def test_what_is_written_over_a_link_leaves_the_source(taken, tokenizer_dir):
    folder, model = taken("llama")
    before = sha256(folder / "model.safetensors")
    save_model(load_model(model), tokenizer_dir, model, {})
    assert not (model / "model.safetensors").is_symlink() and sha256(folder / "model.safetensors") == before
    import_model(str(folder), tokenizer_dir, model, {})
    shutil.rmtree(model)
    assert sha256(folder / "model.safetensors") == before


# --- dtype -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "llama-bf16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_config_says_what_is_computed_with(taken, tokenizer_dir, tmp_path, name, dtype):
    """Whatever is stored. What the study makes of it is float32."""
    _, model = taken(name, dtype=dtype)
    assert json.loads((model / "config.json").read_text())["dtype"] == dtype
    assert (model / "model.safetensors").is_symlink()
    found = load_model(model)
    assert {parameter.dtype for parameter in found.parameters()} == {getattr(torch, dtype)}
    whole = load_model(model, torch.float32)
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}
    save_model(whole, tokenizer_dir, tmp_path / "child", {})
    assert load_model(tmp_path / "child").dtype == torch.float32
    assert json.loads((tmp_path / "child" / "config.json").read_text())["dtype"] == "float32"
    assert all(array.dtype == np.float32 for array in read_weights(model / "model.safetensors").values())


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt-neox", "qwen3", "mistral", "gemma3", "qwen2"])
def test_bfloat16_leaves_as_float32_near_to_the_truth(taken, tmp_path, write_tokens, name):
    folder, model = taken(name, dtype="bfloat16")
    windows = Windows({"c": write_tokens(tmp_path / "c", TOKENS.flatten())}, TOKENS.shape[1])
    bridge = load_hooked(model, HOOK)
    assert {parameter.dtype for parameter in bridge.original_model.parameters()} == {torch.bfloat16}
    plain = load_model(folder)
    expected = evaluate_model(plain, windows, np.arange(len(windows)))["loss"]
    losses = next_token_losses(bridge, HOOK, TOKENS)
    spliced = next_token_losses(bridge, HOOK, TOKENS, lambda x: x.float())
    vectors = activations(bridge, HOOK, TOKENS)
    assert losses.dtype == vectors.dtype == torch.float32
    assert float(losses.mean()) == pytest.approx(expected, rel=2e-2)
    assert float(spliced.mean()) == pytest.approx(float(losses.mean()), rel=1e-6)
    assert evaluate_model(load_model(model), windows, np.arange(len(windows)))["loss"] == pytest.approx(
        float(losses.mean()), rel=1e-2
    )
    expected = activations(load_hooked(folder, HOOK), HOOK, TOKENS) if (folder / "tokenizer.json").exists() else None
    assert expected is None or float((vectors - expected).abs().max()) < 0.1 * float(expected.abs().max())
