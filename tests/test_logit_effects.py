import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from feature_lineage.meaning import logit_effects as module
from feature_lineage.meaning.logit_effects import EFFECTS, TOP, path_to_logits, weigh_logits

VOCABULARY = 40


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY + 3, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    torch.nn.init.uniform_(model.model.norm.weight, 0.5, 2)
    return model


def decoder(width, features=30):
    return torch.randn(features, width, generator=torch.Generator().manual_seed(1))


def reference(model, hook, vectors):
    """Dense float64: [features, vocabulary]."""
    down, scale, head = (
        tensor.detach().double().numpy()
        for tensor in (model.model.layers[1].mlp.down_proj.weight, model.model.norm.weight, model.lm_head.weight)
    )
    vectors = vectors.double().numpy()
    if hook.endswith("mlp.hook_post"):
        vectors = vectors @ down.T
    logits = (vectors * scale) @ head.T
    return (logits - logits.mean(1, keepdims=True))[:, :VOCABULARY]


@pytest.mark.parametrize(
    ("hook", "width"), [("blocks.1.mlp.hook_post", 24), ("blocks.1.hook_mlp_out", 16), ("blocks.0.hook_resid_post", 16)]
)
@pytest.mark.parametrize("block", [1 << 24, 100])
def test_effects_are_those_of_a_dense_product(model, monkeypatch, hook, width, block):
    monkeypatch.setattr(module, "_BLOCK", block)
    vectors = decoder(width)
    expected = reference(model, hook, vectors)
    table, reason = weigh_logits(model, hook, vectors, VOCABULARY)
    assert table.schema == EFFECTS and reason is None
    assert table["feature"].to_pylist() == list(range(30))
    for name, order in (("promoted", np.argsort(-expected, 1)), ("suppressed", np.argsort(expected, 1))):
        found = table[name].to_pylist()
        tokens = np.array([[entry["token"] for entry in row] for row in found])
        np.testing.assert_array_equal(tokens, order[:, :TOP])
        effects = np.array([[entry["effect"] for entry in row] for row in found])
        np.testing.assert_allclose(effects, np.take_along_axis(expected, tokens, 1), atol=1e-6)


def test_the_norms_scale_held_fixed_is_its_derivative_across_the_residual(model):
    # A step at right angles to the residual leaves its root mean square as it is, so there the convention is exact.
    torch.manual_seed(2)
    residual, step = torch.randn(16, dtype=torch.float64), torch.randn(16, dtype=torch.float64)
    step -= residual * (step @ residual) / (residual @ residual)
    end = model.double()
    _, slope = torch.func.jvp(lambda x: end.lm_head(end.model.norm(x)).double(), (residual,), (step,))
    exact = (slope - slope.mean()) * residual.square().mean().sqrt()
    _, out = path_to_logits(end, "blocks.1.hook_resid_post")
    torch.testing.assert_close(step @ out, exact, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_pre", "blocks.0.mlp.hook_pre", "blocks.0.attn.hook_z"])
def test_a_hook_point_without_a_linear_way_has_no_effects_and_a_reason(model, hook):
    table, reason = weigh_logits(model, hook, decoder(16, features=3), VOCABULARY)
    assert hook in reason
    assert table.to_pylist() == [{"feature": k, "promoted": None, "suppressed": None} for k in range(3)]


def test_an_architecture_without_an_rms_norm_has_a_reason():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=1))
    table, reason = weigh_logits(model, "blocks.0.mlp.hook_post", decoder(32, features=2), 10)
    assert "GPT2LMHeadModel" in reason and table["promoted"].null_count == 2
