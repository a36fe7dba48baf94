"""Published autoencoders that cannot be used: one sentence each, with the file, the tensor or key, what was found, and a remedy."""

import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_formats import K, M, N, dictionary_learning, gemma_scope, gemma_scope_2, saelens, sparsify, tensors, without

from feature_lineage.autoencoders.autoencoder import load_autoencoder
from feature_lineage.autoencoders.formats.reading import read_release, release_files, wanted_files
from feature_lineage.errors import InputError

PLAIN = without(tensors(), "threshold")
RAN = []


def refused(folder, *words, format="auto"):
    """The message: one sentence, ending in what to do, with these words in it."""
    with pytest.raises(InputError) as raised:
        read_release(folder, format)
    message = str(raised.value)
    assert "\n" not in message and ";" in message, message
    for word in words:
        assert word in message, message
    return message


class Runs:
    """What a pickle would call when it is opened."""

    def __reduce__(self):
        return (RAN.append, ("a pickle ran",))


@pytest.fixture(autouse=True)
def nothing_ran():
    RAN.clear()
    yield
    assert not RAN, "a pickle was run"


# --- tensors -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["W_enc", "b_enc", "W_dec", "b_dec", "threshold"])
def test_a_tensor_is_missing(tmp_path, name):
    refused(saelens(tmp_path / "a", without(tensors(), name), "jumprelu"), "sae_weights.safetensors", repr(name))
    refused(gemma_scope(tmp_path / "b", without(tensors(), name)), "params.npz", repr(name))
    refused(gemma_scope_2(tmp_path / "c", without(tensors(), name)), "params.safetensors", repr(name.lower()))


@pytest.mark.parametrize("name", ["W_enc", "W_dec"])
def test_weights_are_transposed(tmp_path, name):
    given = tensors() | {name: tensors()[name].T.contiguous()}
    refused(
        saelens(tmp_path / "a", given, "jumprelu"),
        "sae_weights.safetensors",
        name,
        "transposed",
        str(list(given[name].shape)),
    )
    refused(gemma_scope(tmp_path / "b", given), "params.npz", name, "transposed")


@pytest.mark.parametrize("name", ["W_enc", "W_dec"])
def test_square_weights_are_transposed(tmp_path, name):
    """Shapes cannot tell; a feature's encoder and decoder vectors can, as they point the same way after training."""
    square = without(tensors(m=N), "threshold")
    square["W_dec"] = square["W_enc"].T + 0.1 * torch.randn(N, N, generator=torch.Generator().manual_seed(1)) / N**0.5
    read_release(saelens(tmp_path / "right", square, d_sae=N))
    turned = square | {name: square[name].T.contiguous()}
    refused(saelens(tmp_path / "turned", turned, d_sae=N), "sae_weights.safetensors", name, "transposed")


def test_a_threshold_was_dropped(tmp_path):
    """SAELens's #608: taken as 0, every positive feature would be active."""
    refused(saelens(tmp_path / "a", PLAIN, "jumprelu"), "'threshold'")
    refused(dictionary_learning(tmp_path / "b", PLAIN, threshold=None), "ae.pt", "'threshold'")
    refused(dictionary_learning(tmp_path / "c", PLAIN, threshold=torch.tensor(-1.0)), "ae.pt", "'threshold' is -1")


def test_thresholds_of_zeros_are_told(tmp_path):
    release = read_release(saelens(tmp_path, tensors() | {"threshold": torch.zeros(M)}, "jumprelu"))
    assert any("thresholds are 0" in said for said in release.changes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_tensor_is_not_finite(tmp_path, bad):
    given = {name: tensor.clone() for name, tensor in PLAIN.items()}
    given["b_enc"][3] = bad
    refused(saelens(tmp_path / "a", given), "sae_weights.safetensors", "'b_enc'", "NaN or infinity")
    refused(sparsify(tmp_path / "layers.1", given), "sae.safetensors", "'encoder.bias'", "NaN or infinity")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_a_tensor_is_of_whole_numbers(tmp_path, dtype):
    refused(saelens(tmp_path, PLAIN | {"W_enc": PLAIN["W_enc"].to(dtype)}), "'W_enc'", str(dtype), "float32")


def test_float64_is_read_unless_it_is_too_large_for_float32(tmp_path):
    double = {name: tensor.double() for name, tensor in PLAIN.items()}
    assert torch.equal(read_release(saelens(tmp_path / "a", double)).autoencoder.W_enc, PLAIN["W_enc"])
    refused(saelens(tmp_path / "b", double | {"b_dec": double["b_dec"] * 1e300}), "'b_dec'", "infinity")


def test_the_width_is_not_d_in(tmp_path):
    refused(saelens(tmp_path / "a", PLAIN, d_in=N + 1), "'W_enc'", str([N, M]), str([N + 1, M]))
    refused(sparsify(tmp_path / "layers.1", PLAIN, d_in=N - 1), "'encoder.weight'", str([M, N]))


def test_a_tensor_that_no_autoencoder_has(tmp_path):
    refused(saelens(tmp_path / "a", PLAIN | {"W_skip": torch.zeros(N, N)}), "'W_skip'")
    refused(
        gemma_scope_2(tmp_path / "b", tensors() | {"affine_skip_connection": torch.zeros(N, N)}),
        "affine_skip_connection",
    )
    refused(
        saelens(tmp_path / "c", PLAIN | {"scaling_factor": torch.full((M,), 2.0)}),
        "'scaling_factor'",
        "finetuning_scaling_factor",
    )


# --- settings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, M + 1, 6.5, "7", None, True])
def test_k_is_wrong(tmp_path, k):
    refused(saelens(tmp_path / "a", PLAIN, "topk", k=k), "cfg.json", f"k is {k!r}", "whole number")
    refused(sparsify(tmp_path / "layers.1", PLAIN, k=k), "cfg.json", f"k is {k!r}")
    refused(
        dictionary_learning(tmp_path / "c", PLAIN, "AutoEncoderTopK", {"k": k}), "config.json", f"trainer.k is {k!r}"
    )


def test_k_differs_between_the_two_files(tmp_path):
    refused(
        dictionary_learning(tmp_path, PLAIN, k=torch.tensor(K + 1)),
        "config.json",
        f"trainer.k is {K}",
        "ae.pt",
        str(K + 1),
    )


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda at: saelens(at, PLAIN, "temporal"), ("cfg.json", "architecture is 'temporal'", "jumprelu")),
        (lambda at: saelens(at, PLAIN, None), ("cfg.json", "architecture is None")),
        (
            lambda at: saelens(at, PLAIN, normalize_activations="whitened"),
            ("cfg.json", "normalize_activations is 'whitened'"),
        ),
        (lambda at: sparsify(at, PLAIN, activation="groupmax"), ("cfg.json", "activation is 'groupmax'", "topk")),
        (lambda at: sparsify(at, PLAIN, transcode=True), ("cfg.json", "transcode is True")),
        (lambda at: sparsify(at, PLAIN, signed=True), ("cfg.json", "signed is True")),
        (
            lambda at: dictionary_learning(at, PLAIN, "CrossCoder"),
            ("config.json", "trainer.dict_class is 'CrossCoder'", "BatchTopKSAE"),
        ),
        (lambda at: gemma_scope_2(at, tensors(), architecture="topk"), ("config.json", "architecture is 'topk'")),
        (lambda at: gemma_scope_2(at, tensors(), affine_connection=True), ("config.json", "affine_connection is True")),
        (
            lambda at: gemma_scope_2(
                at, tensors(), hf_hook_point_out="model.layers.12.post_feedforward_layernorm.output"
            ),
            ("config.json", "hf_hook_point_out"),
        ),
    ],
)
def test_an_unknown_kind_is_refused_by_name(tmp_path, build, words):
    refused(build(tmp_path), *words)


def test_a_transcoder_of_gemma_scope_is_told_by_its_path(tmp_path):
    at = tmp_path / "gemma-scope-2b-pt-transcoders" / "layer_1" / "width_16k" / "average_l0_8"
    refused(gemma_scope(at, tensors()), "transcoder")


# --- files -------------------------------------------------------------------------------------------------------------------


def test_an_object_in_a_pickle_is_not_opened(tmp_path):
    folder = dictionary_learning(tmp_path, PLAIN)
    torch.save({"encoder.weight": torch.zeros(M, N), "extra": Runs()}, folder / "ae.pt")
    refused(folder, "ae.pt", "more than tensors", "state_dict")
    (folder / "ae.pt").write_bytes(pickle.dumps(Runs()))
    refused(folder, "ae.pt", "state_dict")


@pytest.mark.parametrize(
    "content",
    [
        torch.nn.Linear(N, M),
        {"state": {"encoder.weight": torch.zeros(M, N)}},
        {"encoder.weight": torch.zeros(M, N), "config": {"k": 3}},
        {"encoder.weight": torch.zeros(M, N), "k": 3},
        [torch.zeros(M, N)],
        torch.zeros(M, N),
        {"encoder.weight": torch.zeros(M, N).to_sparse()},
        {"encoder.weight": torch.zeros(M, N, device="meta")},
    ],
)
def test_a_pickle_holds_more_than_a_flat_dict_of_tensors(tmp_path, content):
    folder = dictionary_learning(tmp_path, PLAIN)
    torch.save(content, folder / "ae.pt")
    refused(folder, "ae.pt", "state_dict")


def test_a_pickle_inside_npz_is_not_opened(tmp_path):
    folder = gemma_scope(tmp_path, tensors())
    arrays = {name: tensor.numpy() for name, tensor in tensors().items()}
    np.savez(folder / "params.npz", **(arrays | {"threshold": np.array([Runs()], dtype=object)}))
    refused(folder, "params.npz", "'threshold'", "pickle")
    (folder / "params.npz").write_bytes(pickle.dumps(Runs()))
    refused(folder, "params.npz")


def weights_of_each(tmp_path):
    return [
        (saelens(tmp_path / "a", PLAIN), "sae_weights.safetensors"),
        (gemma_scope(tmp_path / "b", tensors()), "params.npz"),
        (gemma_scope_2(tmp_path / "c", tensors()), "params.safetensors"),
        (sparsify(tmp_path / "layers.4", PLAIN), "sae.safetensors"),
        (dictionary_learning(tmp_path / "e", PLAIN), "ae.pt"),
    ]


@pytest.mark.parametrize("keep", [0, 5, 300, -20])
def test_weights_are_cut_off(tmp_path, keep):
    for folder, name in weights_of_each(tmp_path):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:keep])
        refused(folder, str(folder / name))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"<!DOCTYPE html>\n<html>Not found</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
def test_something_else_lies_in_the_place_of_the_weights(tmp_path, content, word):
    for folder, name in weights_of_each(tmp_path):
        (folder / name).write_bytes(content)
        refused(folder, str(folder / name), word)


@pytest.mark.parametrize("content", ["{", "", "[1, 2]", "3", "[" * 100_000])
def test_settings_are_no_object_in_json(tmp_path, content):
    for folder, _ in weights_of_each(tmp_path):
        for name in ("cfg.json", "config.json"):
            if (folder / name).exists():
                (folder / name).write_text(content)
                refused(folder, str(folder / name))


def test_a_file_is_missing(tmp_path):
    folder = saelens(tmp_path, PLAIN)
    (folder / "cfg.json").unlink()
    refused(folder, "cfg.json", format="saelens")
    assert "sae_weights.safetensors" in refused(folder)


def test_a_folder_of_several_formats_an_empty_one_and_none(tmp_path):
    sparsify(saelens(tmp_path / "two", PLAIN), PLAIN)
    refused(tmp_path / "two", "several formats", "saelens", "sparsify")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "nothing")
    refused(tmp_path / "none", "no such folder")
    refused(saelens(tmp_path / "file", PLAIN) / "cfg.json", "is a file")


def test_a_language_model_in_its_place(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    refused(tmp_path, "language model", "models")


@pytest.mark.parametrize("name", ["SAELens", "sae_lens", "gemma-scope", ""])
def test_an_unknown_format(tmp_path, name):
    refused(saelens(tmp_path, PLAIN), repr(name), "saelens, gemma_scope", format=name)
    for function in (lambda: release_files(tmp_path, name), lambda: wanted_files(name)):
        with pytest.raises(InputError, match="not known"):
            function()


def test_what_was_made_elsewhere_is_not_called_damaged(tmp_path):
    """Its owner was told to delete it."""
    with pytest.raises(InputError) as raised:
        load_autoencoder(saelens(tmp_path, PLAIN))
    assert "made elsewhere" in str(raised.value) and "delete" not in str(raised.value)
