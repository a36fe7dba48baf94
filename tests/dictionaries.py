"""Dictionaries that need no training: a random rotation and its opposite, which give back exactly what they read."""

import json

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
