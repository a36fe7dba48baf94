"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors`, in a folder named after the module."""

from __future__ import annotations

import re
from pathlib import Path

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.formats.release import (
    Format,
    Release,
    check_square,
    chosen,
    hook_of_module,
    read_config,
    read_safetensors,
    refused,
    whole,
)


def read(folder: Path) -> Release:
    """A top-k autoencoder: ReLU, then the k largest; it subtracts `b_dec`. Transcoders, skip connections and groupmax are refused.

    Its decoder is left as it is: with another norm of its rows, other features would be among the k largest.
    """
    file, weights = folder / "cfg.json", folder / "sae.safetensors"
    config = read_config(file)
    if (activation := config.get("activation", "topk")) != "topk":
        raise refused(file, "activation", activation, "topk")
    if config.get("signed"):  # of early versions: the k largest by size, of either sign
        raise refused(file, "signed", True, "autoencoders whose features are not negative")
    for key in ("transcode", "skip_connection"):
        if config.get(key):
            raise refused(file, key, True, "autoencoders, which give back what they read")
    n = whole(file, "d_in", config.get("d_in"))
    m = config.get("num_latents") or n * whole(file, "expansion_factor", config.get("expansion_factor", 32))
    m = whole(file, "num_latents", m)
    k = whole(file, "k", config.get("k", 32), m)
    shapes = {"encoder.weight": (m, n), "encoder.bias": (m,), "W_dec": (m, n), "b_dec": (n,)}
    found = chosen(weights, read_safetensors(weights), shapes)
    W_enc = found["encoder.weight"].T.contiguous()
    check_square(weights, W_enc, found["W_dec"], ("encoder.weight", "W_dec"))
    return Release(
        autoencoder=SparseAutoencoder(
            W_enc,
            found["encoder.bias"],
            found["W_dec"],
            found["b_dec"],
            k=k,
            source=str(weights),
        ),
        hook=hook_of_module(_module(folder)),
        claims={"l0": float(k)},
    )


def _module(folder: Path) -> str:
    """The module that a folder is named after; one of several seeds is a folder below."""
    folder = folder.absolute()
    return folder.parent.name if re.fullmatch(r"seed\d+", folder.name) else folder.name


FORMAT = Format("sparsify", read)
