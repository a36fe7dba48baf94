"""Published autoencoders: each format against an independent computation in float64, and each known trap.

A trap's test fails when the trap is fallen into, as its docstring says. Against the formats' own libraries: `test_peers_autoencoders.py`.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder, load_autoencoder, save_autoencoder
from feature_lineage.autoencoders.formats.reading import FORMATS, read_release, release_files, wanted_files
from feature_lineage.study.dictionaries import FILES

N, M, K, TOKENS = 24, 60, 7, 200


def tensors(seed=0, m=M):
    """W_enc [n, m], W_dec [m, n] of rows of other norms than 1, biases that are not 0, thresholds."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    found = {"W_enc": draw(N, m) / N**0.5, "b_enc": 0.3 * draw(m), "W_dec": draw(m, N), "b_dec": 2 * draw(N)}
    return found | {"threshold": torch.rand(m, generator=random) + 0.2}


def sample():
    return 2 * torch.randn(TOKENS, N, generator=torch.Generator().manual_seed(9)) + 1


def expected(found, x, *, subtracts, threshold=None, k=None):
    """Features and reconstructions in float64, in the format's own equations."""
    W_enc, b_enc, W_dec, b_dec = (found[name].double().numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    pre = (x.double().numpy() - (b_dec if subtracts else 0)) @ W_enc + b_enc
    features = np.maximum(pre, 0)
    if threshold is not None:
        features = np.where(pre > threshold.double().numpy(), features, 0)
    if k is not None:
        rank = np.argsort(np.argsort(-pre, axis=1, kind="stable"), axis=1)
        features = np.where(rank < k, features, 0)
    return features, features @ W_dec + b_dec


def assert_is(release, x, wanted):
    features = release.autoencoder.encode(x)
    np.testing.assert_allclose(features.numpy(), wanted[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(release.autoencoder.decode(features, x).numpy(), wanted[1], rtol=0, atol=1e-4)
    assert all(
        tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in release.autoencoder.tensors().values()
    )


# --- what each format writes ------------------------------------------------------------------------------------------------


def gemma_scope(folder, found):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in found.items()})
    return folder


def gemma_scope_2(folder, found, **config):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name.lower(): tensor for name, tensor in found.items()}, folder / "params.safetensors")
    said = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-270m-pt",
        "hf_hook_point_in": "model.layers.12.output",
    }
    (folder / "config.json").write_text(json.dumps(said | {"hf_hook_point_out": "model.layers.12.output"} | config))
    return folder


def sparsify(folder, found, **config):
    folder.mkdir(parents=True, exist_ok=True)
    named = {
        "encoder.weight": found["W_enc"].T,
        "encoder.bias": found["b_enc"],
        "W_dec": found["W_dec"],
        "b_dec": found["b_dec"],
    }
    save_file({name: tensor.contiguous() for name, tensor in named.items()}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"d_in": N, "num_latents": M, "k": K} | config))
    return folder


def saelens(folder, found, architecture="standard", **config):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, folder / "sae_weights.safetensors")
    metadata = {"sae_lens_version": "6.54.12", "hook_name": "blocks.9.hook_resid_post", "prepend_bos": True}
    said = {"architecture": architecture, "d_in": N, "d_sae": M, "dtype": "float32", "apply_b_dec_to_input": True}
    (folder / "cfg.json").write_text(
        json.dumps(said | {"normalize_activations": "none", "metadata": metadata} | config)
    )
    return folder


def dictionary_learning(folder, found, kind="BatchTopKSAE", trainer=(), **state):
    folder.mkdir(parents=True, exist_ok=True)
    named = {"encoder.weight": found["W_enc"].T, "encoder.bias": found["b_enc"], "decoder.weight": found["W_dec"].T}
    named |= {"b_dec": found["b_dec"], "k": torch.tensor(K), "threshold": torch.tensor(0.6)} | state
    torch.save({name: value for name, value in named.items() if value is not None}, folder / "ae.pt")
    said = {"dict_class": kind, "activation_dim": N, "dict_size": M, "k": K, "lm_name": "gpt2", "layer": 3} | dict(
        trainer
    )
    (folder / "config.json").write_text(json.dumps({"trainer": said, "buffer": {"ctx_len": 128}}))
    return folder


def without(found, *names):
    return {name: tensor for name, tensor in found.items() if name not in names}


# --- each format -------------------------------------------------------------------------------------------------------------


def test_gemma_scope(tmp_path):
    """Trap: `b_dec` subtracted. It is not; here it is of size 2."""
    found, x = tensors(), sample()
    folder = gemma_scope(tmp_path / "gemma-scope-9b-it-att" / "layer_9" / "width_16k" / "average_l0_71", found)
    release = read_release(folder)
    assert_is(release, x, expected(found, x, subtracts=False, threshold=found["threshold"]))
    assert (release.format, release.hook, release.model) == (
        "gemma_scope",
        "blocks.9.attn.hook_z",
        "google/gemma-2-9b-it",
    )
    assert (release.context, release.window_start, dict(release.claims)) == (1024, True, {"l0": 71})
    assert any("b_dec" in said for said in release.changes)


def test_gemma_scope_2(tmp_path):
    """Trap: `b_dec` subtracted, names in capitals, which they are not."""
    found, x = tensors(), sample()
    release = read_release(gemma_scope_2(tmp_path / "resid_post" / "layer_12_width_16k_l0_small", found, l0=12))
    assert_is(release, x, expected(found, x, subtracts=False, threshold=found["threshold"]))
    assert (release.format, release.hook, release.model) == (
        "gemma_scope_2",
        "blocks.12.hook_resid_post",
        "google/gemma-3-270m-pt",
    )
    assert (release.context, release.window_start, dict(release.claims)) == (1024, True, {"l0": 12})


def test_sparsify_subtracts_b_dec_and_leaves_its_decoder(tmp_path):
    """Trap: a decoder renormalised under top-k, or `b_dec` not subtracted: other features would be the largest."""
    found, x = without(tensors(), "threshold"), sample()
    release = read_release(sparsify(tmp_path / "layers.9", found))
    assert_is(release, x, expected(found, x, subtracts=True, k=K))
    assert torch.equal(release.autoencoder.W_dec, found["W_dec"])


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_saelens(tmp_path, architecture, subtracts):
    """Trap: `apply_b_dec_to_input: false` not read."""
    found, x = tensors(), sample()
    options = (
        {"threshold": found["threshold"]} if architecture == "jumprelu" else {"k": K} if architecture == "topk" else {}
    )
    given = found if architecture == "jumprelu" else without(found, "threshold")
    said = {"k": K} if architecture == "topk" else {}
    release = read_release(saelens(tmp_path, given, architecture, apply_b_dec_to_input=subtracts, **said))
    assert_is(release, x, expected(found, x, subtracts=subtracts, **options))
    assert (release.hook, release.window_start) == ("blocks.9.hook_resid_post", True)


def test_saelens_rescaled_by_the_decoders_norms(tmp_path):
    """Trap: `rescale_acts_by_decoder_norm` not read: other features would be the k largest."""
    found, x = without(tensors(), "threshold"), sample()
    norm = found["W_dec"].double().norm(dim=1)
    folded = {
        "W_enc": found["W_enc"] * norm,
        "b_enc": found["b_enc"] * norm,
        "W_dec": found["W_dec"] / norm[:, None],
        "b_dec": found["b_dec"],
    }
    release = read_release(saelens(tmp_path, found, "topk", k=K, rescale_acts_by_decoder_norm=True))
    assert_is(release, x, expected(folded, x, subtracts=True, k=K))


def test_saelens_checkpoint_of_batch_topk_has_its_threshold_and_scale(tmp_path):
    """Traps: a threshold dropped, and a factor of the activations that is stored beside the weights not folded."""
    found, x = without(tensors(), "threshold"), sample()
    scale = 0.4
    folder = saelens(
        tmp_path, found | {"topk_threshold": torch.tensor(0.5, dtype=torch.float64)}, "batchtopk", normalize_activations="expected_average_only_in"
    )  # fmt: skip
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": scale}))
    features, reconstruction = expected(found, x * scale, subtracts=True, threshold=torch.full((M,), 0.5))
    assert_is(read_release(folder), x, (features, reconstruction / scale))
    assert folder / "activation_scaler.json" in release_files(folder)


@pytest.mark.parametrize("scaling", ["constant_norm_rescale", "layer_norm"])
def test_scaling_of_each_token_is_applied_undone_and_saved(tmp_path, scaling):
    """Trap: `normalize_activations` not read."""
    found, x = without(tensors(), "threshold"), sample()
    release = read_release(saelens(tmp_path / "a", found, normalize_activations=scaling))
    double = x.double()
    shift = double.mean(1, keepdim=True) if scaling == "layer_norm" else torch.zeros(len(x), 1).double()
    size = (
        (double - shift).std(1, keepdim=True) if scaling == "layer_norm" else double.norm(dim=1, keepdim=True) / N**0.5
    )
    features, back = expected(
        found, (double - shift) / (size + (1e-5 if scaling == "layer_norm" else 0)), subtracts=True
    )
    wanted = features, back * size.numpy() + shift.numpy()
    assert_is(release, x, wanted)
    save_autoencoder(release.autoencoder, tmp_path / "b", "blocks.9.hook_resid_post", 128, {})
    again = load_autoencoder(tmp_path / "b")
    assert again.scaling == scaling and torch.equal(again.encode(x), release.autoencoder.encode(x))
    assert torch.isfinite(again.decode(again.encode(0 * x), 0 * x)).all(), "a token of zeros"


def test_saelens_negative_thresholds_come_after_the_relu(tmp_path):
    """Trap: with a threshold below 0, features below 0."""
    found, x = tensors(), sample()
    found["threshold"] -= 0.7
    assert (found["threshold"] < 0).any()
    release = read_release(saelens(tmp_path, found, "jumprelu"))
    assert_is(release, x, expected(found, x, subtracts=True, threshold=found["threshold"]))
    assert (release.autoencoder.encode(x) >= 0).all()


def test_saelens_flat_files_of_before_version_6(tmp_path):
    """Trap: `activation_fn_str` and its k under their old names not read: a ReLU would come out."""
    found, x = without(tensors(), "threshold"), sample()
    folder = saelens(tmp_path, found | {"scaling_factor": torch.ones(M)})
    flat = {
        "d_in": N,
        "d_sae": M,
        "hook_point": "blocks.8.hook_resid_pre",
        "hook_point_layer": 8,
        "model_name": "gpt2-small",
    }
    flat |= {
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": K},
        "context_size": 128,
        "normalize_activations": False,
    }
    (folder / "cfg.json").write_text(json.dumps(flat))
    release = read_release(folder)
    assert_is(release, x, expected(found, x, subtracts=True, k=K))
    said = (release.hook, release.model, release.context, release.window_start, dict(release.claims))
    assert said == ("blocks.8.hook_resid_pre", "gpt2-small", 128, True, {"l0": K})


def test_dictionary_learning_batch_topk_is_a_jumprelu_at_its_threshold(tmp_path):
    """Trap: k for each token, or none, in place of the threshold."""
    found, x = tensors(), sample()
    folder = dictionary_learning(tmp_path, found, trainer={"submodule_name": "resid_post_layer_3"})
    (folder / "eval_results.json").write_text(
        json.dumps({"l0": 6.5, "frac_variance_explained": 0.8, "frac_recovered": float("nan")})
    )
    release = read_release(folder)
    assert_is(release, x, expected(found, x, subtracts=True, threshold=torch.full((M,), 0.6)))
    assert (release.hook, release.context) == ("blocks.3.hook_resid_post", 128)
    assert dict(release.claims) == {"l0": 6.5, "variance_explained": 0.8}
    assert [file.name for file in release_files(folder)] == ["config.json", "ae.pt", "eval_results.json"]


def test_dictionary_learning_topk_keeps_its_decoder_and_not_its_threshold(tmp_path):
    """Traps: a decoder renormalised under top-k; the threshold, which this class does not use unless asked, in place of k."""
    found, x = tensors(), sample()
    release = read_release(dictionary_learning(tmp_path, found, "AutoEncoderTopK"))
    assert_is(release, x, expected(found, x, subtracts=True, k=K))
    assert release.hook is None, "the layer alone tells no hook point"


def test_dictionary_learning_jumprelu_does_not_subtract(tmp_path):
    """Trap: `b_dec` subtracted, as the other classes do."""
    found, x = tensors(), sample()
    folder = dictionary_learning(tmp_path, found, "JumpReluAutoEncoder")
    torch.save(found, folder / "ae.pt")
    assert_is(read_release(folder), x, expected(found, x, subtracts=False, threshold=found["threshold"]))


def test_dictionary_learning_relu_is_renormalised_as_when_its_library_loads_it(tmp_path):
    """Trap: features in other units than its library's: it divides the decoder by its norms."""
    found, x = tensors(), sample()
    state = {"b_dec": None, "k": None, "threshold": None, "bias": found["b_dec"]}
    release = read_release(dictionary_learning(tmp_path, found, "AutoEncoder", **state))
    norm = found["W_dec"].double().norm(dim=1)
    features, reconstruction = expected(found, x, subtracts=True)
    assert_is(release, x, (features * norm.numpy(), reconstruction))
    assert any("norm" in said for said in release.changes)


def test_weights_in_half_precision_become_float32(tmp_path):
    found, x = tensors(), sample()
    half = {name: tensor.bfloat16() for name, tensor in found.items()}
    release = read_release(gemma_scope_2(tmp_path / "layer_1_width_16k_l0_medium", half))
    rounded = {name: tensor.float() for name, tensor in half.items()}
    assert_is(release, x, expected(rounded, x, subtracts=False, threshold=rounded["threshold"]))


# --- hook points and files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("layers.9", "blocks.9.hook_resid_post"),
        ("layers.9.mlp", "blocks.9.hook_mlp_out"),
        ("layers.9.attn", "blocks.9.hook_attn_out"),
        ("model.layers.9.self_attn", "blocks.9.hook_attn_out"),
        ("h.3", "blocks.3.hook_resid_post"),
        ("gpt_neox.layers.3.attention", "blocks.3.hook_attn_out"),
        ("embed_tokens", None),
        ("layers.9.mlp.act", None),
        ("my_best_run", None),
    ],
)
def test_sparsify_hook_point_of_the_folders_name(tmp_path, name, hook):
    """Trap: SAELens takes `layers.9.mlp` for the residual stream. What is not known is None, never a guess."""
    folder = sparsify(tmp_path / name, without(tensors(), "threshold"))
    assert read_release(folder).hook == hook
    assert read_release(sparsify(folder / "seed1", without(tensors(), "threshold"))).hook == hook


@pytest.mark.parametrize(
    ("name", "hook"),
    [
        ("model.layers.5.output", "blocks.5.hook_resid_post"),
        ("model.layers.5.post_feedforward_layernorm.output", "blocks.5.hook_mlp_out"),
        ("model.layers.5.self_attn.o_proj.input", "blocks.5.attn.hook_z"),
        ("model.layers.5.mlp.output", None),  # before the norm that hook_mlp_out is behind
        ("model.norm.output", None),
    ],
)
def test_gemma_scope_2_hook_point(tmp_path, name, hook):
    folder = gemma_scope_2(tmp_path, tensors(), hf_hook_point_in=name, hf_hook_point_out=None)
    assert read_release(folder).hook == hook


def test_gemma_scope_outside_of_its_folders_says_no_hook_point(tmp_path):
    release = read_release(gemma_scope(tmp_path / "mine", tensors()))
    assert (release.hook, release.model, dict(release.claims)) == (None, None, {})


def test_every_format_says_which_files_it_needs():
    assert tuple(FILES) == FORMATS
    for name in FORMATS:
        assert set(FILES[name]) <= set(wanted_files(name)) <= set(wanted_files())


def test_an_autoencoder_that_scales_needs_the_activations():
    found = without(tensors(), "threshold")
    with pytest.raises(ValueError, match="needs the activations"):
        SparseAutoencoder(**found, scaling="layer_norm").decode(torch.zeros(2, M))
