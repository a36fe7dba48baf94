"""Gemma Scope 2: `config.json` and `params.safetensors`, under `<site>/layer_<N>_width_<M>_l0_<size>`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from feature_lineage.autoencoders.formats.gemma_scope import CONTEXT, jumprelu, l0_of_folder, refuse_transcoder
from feature_lineage.autoencoders.formats.release import (
    Format,
    Release,
    claimed,
    read_config,
    read_safetensors,
    refused,
    text,
)


def read(folder: Path) -> Release:
    """A JumpReLU autoencoder whose encoder reads the activations as they are; transcoders and their skip connections are refused."""
    file, weights = folder / "config.json", folder / "params.safetensors"
    config = read_config(file)
    if (architecture := config.get("architecture")) != "jump_relu":
        raise refused(file, "architecture", architecture, "jump_relu")
    if (out := config.get("hf_hook_point_out")) not in (None, config.get("hf_hook_point_in")):
        raise refused(file, "hf_hook_point_out", out, "autoencoders, which give back what they read")
    for key in ("affine_connection", "affine_skip_connection"):
        if config.get(key):
            raise refused(file, key, config[key], "autoencoders without one")
    refuse_transcoder(folder)
    tensors = read_safetensors(weights)
    if "affine_skip_connection" in tensors:
        raise refused(weights, "a tensor", "affine_skip_connection", "autoencoders without one")
    autoencoder, changes = jumprelu(weights, tensors, "w_enc", "w_dec")
    return Release(
        autoencoder=autoencoder,
        hook=hook_point(config.get("hf_hook_point_in")),
        model=text(config.get("model_name")),
        context=CONTEXT,
        window_start=True,
        claims=l0_of_folder(folder) | claimed({"l0": config.get("l0")}),
        changes=changes,
    )


# Gemma 3 normalises what its attention and its MLP give before it adds them, and TransformerLens's hook_mlp_out is behind that.
_POINTS = {
    "output": "blocks.{}.hook_resid_post",
    "post_feedforward_layernorm.output": "blocks.{}.hook_mlp_out",
    "self_attn.o_proj.input": "blocks.{}.attn.hook_z",
}


def hook_point(name: Any) -> str | None:
    """Hook point of a place in a Gemma 3, as the release names it; None where it is not known."""
    found = re.fullmatch(r"model\.(?:language_model\.)?layers\.(\d+)\.(.+)", str(name or ""))
    point = _POINTS.get(found[2]) if found else None
    return point.format(int(found[1])) if found and point else None


FORMAT = Format("gemma_scope_2", read)
