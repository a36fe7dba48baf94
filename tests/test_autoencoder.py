"""Autoencoders as they are saved: what they compute, what is written, what is found damaged."""

import json

import pytest
import torch

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder, load_autoencoder, save_autoencoder
from feature_lineage.errors import InputError
from feature_lineage.store.formats import read_json, write_json

N, M = 12, 40
ARCHITECTURES = ("standard", "jumprelu", "topk")


def random_autoencoder(architecture):
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    random = torch.Generator().manual_seed(0)
    return SparseAutoencoder(
        draw(N, M), draw(M), torch.nn.functional.normalize(draw(M, N), dim=1), draw(N),
        threshold=draw(M).abs() if architecture == "jumprelu" else None,
        k=4 if architecture == "topk" else None,
    )  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_features_are_those_of_the_formula(architecture):
    found = random_autoencoder(architecture)
    x = torch.randn(50, N, generator=torch.Generator().manual_seed(1))
    pre = (x.double() - found.b_dec) @ found.W_enc.double() + found.b_enc
    expected = torch.relu(pre)
    if architecture == "jumprelu":
        expected = torch.where(pre > found.threshold, pre, 0.0)
    elif architecture == "topk":
        expected = expected * (pre >= pre.topk(4).values[:, -1:])
    torch.testing.assert_close(found.encode(x), expected.float(), rtol=1e-4, atol=1e-5)
    assert (found.encode(x) >= 0).all()
    x_hat = expected @ found.W_dec.double() + found.b_dec
    torch.testing.assert_close(found.decode(found.encode(x)), x_hat.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_and_loaded_autoencoders_are_equal(tmp_path, architecture):
    found = random_autoencoder(architecture)
    save_autoencoder(found, tmp_path / "sae", "blocks.0.mlp.hook_post", 24, {"seed": 0})
    loaded = load_autoencoder(tmp_path / "sae")
    assert loaded.k == found.k
    assert set(loaded.tensors()) == set(found.tensors())
    for name, tensor in found.tensors().items():
        assert torch.equal(tensor, loaded.tensors()[name])
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert (config["d_in"], config["d_sae"], config["architecture"]) == (N, M, architecture)
    assert config["metadata"]["hook_name"] == "blocks.0.mlp.hook_post"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("damage", ["truncated", "missing", "misshapen"])
def test_a_damaged_autoencoder_is_named(tmp_path, damage, architecture):
    found = random_autoencoder(architecture)
    save_autoencoder(found, tmp_path / "sae", "blocks.0.mlp.hook_post", 24, {})
    weights = tmp_path / "sae" / "sae_weights.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "missing":
        weights.unlink()
    else:
        config = tmp_path / "sae" / "cfg.json"
        write_json(config, read_json(config) | {"d_sae": 39}, {})
    with pytest.raises(InputError, match=r"sae_weights\.safetensors"):
        load_autoencoder(tmp_path / "sae")
