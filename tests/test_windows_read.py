"""Models are evaluated on windows that they can read, and told in the keys that they have."""

import numpy as np
import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MptConfig,
    MptForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from feature_lineage.errors import InputError
from feature_lineage.models.checkpoint import load_model, save_model
from feature_lineage.models.evaluation import check_windows, evaluate_model, longest_window, readable
from feature_lineage.models.hooks import activations, check_hook, load_hooked
from feature_lineage.models.merge import sweep_merge
from feature_lineage.text.windows import Windows

SMALL = {"vocab_size": 400, "bos_token_id": 0, "eos_token_id": 0}


def gpt2(positions=64):
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=positions, **SMALL)).eval()


MODELS = {
    "gpt2": (gpt2, "n_positions", 64),
    "neox": (
        lambda: GPTNeoXForCausalLM(
            GPTNeoXConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=48, **SMALL
            )
        ),
        "max_position_embeddings", 48,
    ),
    "opt": (
        lambda: OPTForCausalLM(
            OPTConfig(
                hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32, max_position_embeddings=32, word_embed_proj_dim=16,
                **SMALL,
            )
        ),
        "max_position_embeddings", 32,
    ),
    "mpt": (lambda: MptForCausalLM(MptConfig(d_model=16, n_heads=2, n_layers=1, max_seq_len=40, **SMALL)), "max_seq_len", 40),
    "bloom": (lambda: BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=1, n_head=2, **SMALL)), None, None),
}  # fmt: skip


@pytest.fixture
def windows(tmp_path, write_tokens):
    ids = np.random.default_rng(0).integers(0, 400, 4096)
    folder = write_tokens(tmp_path / "tokens", ids)
    return lambda length: Windows({"c": folder}, length)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_evaluated_at_what_it_can_read(windows, name):
    """Positions under the names that families give them; one without a bound reads any window. The number is plain transformers'."""
    make, key, most = MODELS[name]
    model = make().eval()
    assert longest_window(model) == ((key, most) if key else None)
    assert [readable(model, block) for block in (8, 256)] == [8, most or 256]
    block = readable(model, 256)
    found = evaluate_model(model, windows(block), np.arange(4))
    with torch.no_grad():
        ids = torch.from_numpy(windows(block)[np.arange(4)])
        expected = float(model(ids, labels=ids).loss)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    if key:
        with pytest.raises(
            InputError, match=rf"at most {most} tokens at once \({key} in its config\.json\), not 256; set my\.key to"
        ):
            check_windows(model, windows(256)[np.arange(2)], "my.key")


def test_a_merge_is_measured_at_what_its_parents_can_read(windows):
    table = sweep_merge(
        gpt2(), gpt2(), "linear", 2, windows(64).directories, block=256, evaluation_tokens=640
    )  # fmt: skip
    assert table["loss"].to_pylist() == pytest.approx(
        [evaluate_model(gpt2(), windows(64), windows(64).spread(0, 640))["loss"]] * 2
    )


def test_a_context_that_is_too_long_is_told_by_its_own_key(tmp_path, windows, tokenizer_dir):
    save_model(gpt2(), tokenizer_dir, tmp_path / "model", {})
    bridge = load_hooked(tmp_path / "model", "blocks.0.mlp.hook_post")
    assert len(activations(bridge, "blocks.0.mlp.hook_post", windows(64)[np.arange(2)])) == 128
    with pytest.raises(InputError, match=r"not 128; set autoencoder\.context to at most 64$"):
        activations(bridge, "blocks.0.mlp.hook_post", windows(128)[np.arange(2)])
    with pytest.raises(InputError, match=r"not 65; set autoencoder\.context to at most 64$"):
        check_hook(tmp_path / "model", "blocks.0.mlp.hook_post", 65)  # before corpora are built for it
    check_hook(tmp_path / "model", "blocks.0.mlp.hook_post", 64)


ARCHITECTURES = [
    {"sliding_window": None}, {"tie_word_embeddings": True}, {"head_dim": 16}, {"head_dim": 6, "tie_word_embeddings": True, "sliding_window": None},
]  # fmt: skip


@pytest.mark.parametrize("changes", ARCHITECTURES)
def test_an_architecture_is_built_saved_and_read_as_it_was_asked_for(
    tmp_path, tiny_model, tokenizer_dir, windows, changes
):
    model = tiny_model(1, **changes).eval()
    for key, value in changes.items():
        assert getattr(model.config, key) == value
    save_model(model, tokenizer_dir, tmp_path / "model", {})
    again = load_model(tmp_path / "model")
    tokens = windows(16)[np.arange(3)]
    hooked = load_hooked(tmp_path / "model", "blocks.0.mlp.hook_post")
    with torch.no_grad():
        expected = model(torch.from_numpy(tokens)).logits
        assert torch.equal(again(torch.from_numpy(tokens)).logits, expected)
        torch.testing.assert_close(hooked(torch.from_numpy(tokens)), expected)
    tied = again.get_input_embeddings().weight.data_ptr() == again.get_output_embeddings().weight.data_ptr()
    assert tied == changes.get("tie_word_embeddings", False)
