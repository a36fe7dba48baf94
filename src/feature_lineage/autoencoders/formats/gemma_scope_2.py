"""Gemma Scope 2: `config.json` and `params.safetensors`, under `<site>/layer_<N>_width_<M>_l0_<size>`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.formats.gemma_scope import CONTEXT, l0_of_folder
from feature_lineage.autoencoders.formats.release import (
    GET_ANOTHER,
    UNSUBTRACTED,
    Release,
    chosen,
    hook_of_module,
    read_config,
    read_safetensors,
    refused,
    thresholds,
    unsubtracted,
)
from feature_lineage.errors import InputError


def read(folder: Path) -> Release:
    """A JumpReLU autoencoder whose encoder reads the activations as they are; transcoders and their skip connections are refused."""
    file, weights = folder / "config.json", folder / "params.safetensors"
    config = read_config(file)
    if (architecture := config.get("architecture")) != "jump_relu":
        raise refused(file, "architecture", architecture, "jump_relu")
    if (out := config.get("hf_hook_point_out")) not in (None, config.get("hf_hook_point_in")):
        raise refused(file, "hf_hook_point_out", out, "autoencoders, which give back what they read")
    if config.get("affine_connection"):
        raise refused(file, "affine_connection", config["affine_connection"], "autoencoders without one")
    tensors = {name.lower(): tensor for name, tensor in read_safetensors(weights).items()}
    if "affine_skip_connection" in tensors:
        raise refused(weights, "tensor", "affine_skip_connection", "autoencoders without one")
    decoder = tensors.get("w_dec")
    m, n = decoder.shape if decoder is not None and decoder.dim() == 2 else (0, 0)
    if m < n:
        raise InputError(
            f"{weights}: tensor 'w_dec' is {[m, n]}, fewer features than elements: it is transposed; {GET_ANOTHER}"
        )
    shapes = {"w_enc": (n, m), "b_enc": (m,), "w_dec": (m, n), "b_dec": (n,), "threshold": (m,)}
    found = chosen(weights, tensors, shapes)
    W_enc, b_dec = found["w_enc"], found["b_dec"]
    return Release(
        autoencoder=SparseAutoencoder(
            W_enc,
            unsubtracted(found["b_enc"], b_dec, W_enc),
            found["w_dec"],
            b_dec,
            thresholds(weights, found["threshold"], m),
            source=str(weights),
        ),
        hook=hook_point(config.get("hf_hook_point_in")),
        model=config.get("model_name"),
        context=CONTEXT,
        window_start=True,
        claims=_claims(config, folder),
        changes=(UNSUBTRACTED,),
    )


_POINTS = {
    "output": "blocks.{}.hook_resid_post",
    "post_feedforward_layernorm.output": "blocks.{}.hook_mlp_out",
    "self_attn.o_proj.input": "blocks.{}.attn.hook_z",
}


def hook_point(name: Any) -> str | None:
    """Hook point of a place in a Gemma 3, as the release names it; None where it is not known."""
    found = re.match(r"^model\.(?:language_model\.)?layers\.(\d+)\.(.+)$", str(name or ""))
    if found is None:
        return None
    if (point := _POINTS.get(found[2])) is not None:
        return point.format(int(found[1]))
    return (
        hook_of_module(f"layers.{found[1]}.{found[2].removesuffix('.output')}")
        if found[2].endswith("mlp.output")
        else None
    )


def _claims(config: dict[str, Any], folder: Path) -> dict[str, float]:
    said = config.get("l0")
    return {"l0": float(said)} if isinstance(said, int | float) and not isinstance(said, bool) else l0_of_folder(folder)
