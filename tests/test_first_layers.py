"""Models of which only the layers up to the hook point are loaded: the same activations, bit for bit, and no other weights read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from checkpoint_zoo import VOCABULARY, ZOO, publish
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from feature_lineage.models.checkpoint import import_model
from feature_lineage.models.hooks import activations, load_hooked
from feature_lineage.models.layers import _BY_LAYER, _FAMILIES, layers_below

pytestmark = pytest.mark.usefixtures("one_thread")
DEEP = {"num_hidden_layers": 5, "n_layer": 5}
NAMES = [
    "gpt2", "gpt2-scaled", "gpt-neox", "gpt-neox-serial", "llama", "llama-3", "mistral", "mixtral", "qwen2", "qwen2-window", "qwen3",
    "gemma", "gemma2", "gemma3", "phi3", "olmo2", "granite",
]  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (3, 12))


@pytest.fixture
def deep(monkeypatch, tmp_path, tokenizer_dir):
    """A function that publishes a checkpoint of five layers and imports it."""

    def get(name, dtype="float32"):
        animal = ZOO[name]
        monkeypatch.setitem(ZOO, name, animal._replace(changes=animal.changes | DEEP))
        import_model(str(publish(name, tmp_path / "published")), tokenizer_dir, tmp_path / "model", {}, dtype=dtype)
        return tmp_path / "model"

    return get


@pytest.mark.parametrize("name", NAMES)
def test_the_first_layers_give_the_activations_of_the_whole_model(deep, name):
    model = deep(name)
    for hook in (
        "blocks.1.hook_resid_post",
        "blocks.2.mlp.hook_post" if name != "mixtral" else "blocks.2.hook_mlp_out",
    ):
        whole, part = (load_hooked(model, hook, activations_only=only) for only in (False, True))
        assert len(whole.blocks) == 5 and len(part.blocks) == int(hook.split(".")[1]) + 1
        assert torch.equal(activations(whole, hook, TOKENS), activations(part, hook, TOKENS))


def test_every_family_is_compared():
    assert {ZOO[name].kind for name in NAMES} == _FAMILIES


@pytest.mark.parametrize("name", NAMES)
def test_every_list_of_layers_in_a_config_is_known(deep, name):
    config = AutoConfig.from_pretrained(deep(name))
    lists = {key for key, value in vars(config).items() if isinstance(value, list | tuple) and len(value) == 5}
    assert lists <= set(_BY_LAYER)


def test_weights_above_the_hook_point_are_not_read(deep):
    """Once they were loaded and thrown away."""
    model = deep("llama")
    weights = load_file(model / "model.safetensors")
    for name, tensor in weights.items():
        if ".layers.3." in name or ".layers.4." in name:
            tensor.fill_(float("nan"))
    (model / "model.safetensors").unlink()
    (model / "import.json").unlink()
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    bridge = load_hooked(model, "blocks.2.hook_resid_post", activations_only=True)
    assert sum(parameter.numel() for parameter in bridge.original_model.parameters()) < 0.85 * sum(
        tensor.numel() for tensor in weights.values()
    )


@pytest.mark.parametrize(
    ("hook", "expected"),
    [
        ("blocks.4.hook_resid_post", None),
        ("ln_final.hook_out", None),
        ("hook_embed", None),
        ("blocks.3.hook_resid_pre", 4),
    ],
)
def test_where_nothing_is_above_the_whole_model_is_loaded(deep, hook, expected):
    assert layers_below(AutoConfig.from_pretrained(deep("llama")), hook) == expected


def test_a_family_that_was_not_compared_is_loaded_whole(deep):
    assert layers_below(AutoConfig.from_pretrained(deep("bloom")), "blocks.0.hook_resid_post") is None


def test_a_bfloat16_import_leaves_float32(deep):
    model, hook = deep("llama", "bfloat16"), "blocks.1.mlp.hook_post"
    whole, part = (load_hooked(model, hook, activations_only=only) for only in (False, True))
    assert part.original_model.dtype == torch.bfloat16
    found = activations(part, hook, TOKENS)
    assert found.dtype == torch.float32 and torch.equal(found, activations(whole, hook, TOKENS))
