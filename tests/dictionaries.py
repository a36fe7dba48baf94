"""Dictionaries that need no training: a random rotation and its opposite, which give back exactly what they read."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder


def exact(n, m, seed=0):
    """An autoencoder of which one half of 2n features fires on every token, and the others never; m is at least 2n."""
    random = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(n, n, generator=random, dtype=torch.float64))
    W_dec = torch.cat(
        [rotation, -rotation, torch.nn.functional.normalize(torch.randn(m - 2 * n, n, generator=random).double())]
    )
    W_enc = W_dec.T.contiguous()
    b_enc = torch.zeros(m)
    b_enc[2 * n :] = -1e6
    return SparseAutoencoder(W_enc.float().contiguous(), b_enc, W_dec.float(), torch.zeros(n))


def release_saelens(folder, autoencoder, hook, **changes):
    """As SAELens saves a `standard` one."""
    folder.mkdir(parents=True)
    n, m = autoencoder.W_enc.shape
    metadata = {
        "sae_lens_version": "6.54.12",
        "hook_name": hook,
        "model_name": "its model",
        "context_size": 64,
        "prepend_bos": False,
    }
    config = {"architecture": "standard", "d_in": n, "d_sae": m, "dtype": "float32", "apply_b_dec_to_input": True}
    config |= {"normalize_activations": "none", "reshape_activations": "none", "metadata": metadata} | changes
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(autoencoder.tensors(), folder / "sae_weights.safetensors")


def release_sparsify(folder, autoencoder, k):
    """As sparsify saves one; the folder is named after the module."""
    folder.mkdir(parents=True)
    n, m = autoencoder.W_enc.shape
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "num_latents": m, "k": k, "d_in": n}))
    tensors = {"encoder.weight": autoencoder.W_enc.T.contiguous(), "encoder.bias": autoencoder.b_enc}
    save_file(tensors | {"W_dec": autoencoder.W_dec, "b_dec": autoencoder.b_dec}, folder / "sae.safetensors")


def release_gemma_scope(folder, autoencoder):
    """As Gemma Scope is released; the encoder does not subtract b_dec, and thresholds of 0 are a ReLU."""
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in _jumprelu(autoencoder).items()})


def release_gemma_scope_2(folder, autoencoder, layer):
    """As Gemma Scope 2 is released, by its real names of files, keys and tensors."""
    folder.mkdir(parents=True)
    config = {
        "architecture": "jump_relu",
        "model_name": "google/gemma-3-270m",
        "hf_hook_point_in": f"model.layers.{layer}.output",
    }
    (folder / "config.json").write_text(json.dumps(config))
    names = {"W_enc": "w_enc", "W_dec": "w_dec"}
    save_file(
        {names.get(name, name): tensor for name, tensor in _jumprelu(autoencoder).items()},
        folder / "params.safetensors",
    )


def _jumprelu(autoencoder):
    b_enc = autoencoder.b_enc - autoencoder.b_dec @ autoencoder.W_enc
    return autoencoder.tensors() | {"b_enc": b_enc, "threshold": torch.zeros(len(b_enc))}
