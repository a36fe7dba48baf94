"""SAELens, from version 6 on and before: `cfg.json` and `sae_weights.safetensors`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from feature_lineage.autoencoders.autoencoder import SCALINGS, SparseAutoencoder
from feature_lineage.autoencoders.formats.release import (
    GET_ANOTHER,
    UNSUBTRACTED,
    Release,
    chosen,
    read_config,
    read_safetensors,
    refused,
    thresholds,
    unsubtracted,
    whole,
)
from feature_lineage.errors import InputError

ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu")
_OLD = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}  # names of keys before version 6


def read(folder: Path) -> Release:
    """An autoencoder as SAELens saves it.

    A `batchtopk` one is a jumprelu when it is used: SAELens saves it so, and one that is not has a `topk_threshold`. Thresholds that are
    missing are never taken for 0.
    """
    file, weights = folder / "cfg.json", folder / "sae_weights.safetensors"
    config = _config(read_config(file))
    architecture = config["architecture"]
    if architecture not in ARCHITECTURES:
        raise refused(file, "architecture", architecture, ", ".join(ARCHITECTURES))
    if architecture != "topk" and config.get("activation_fn", "relu") != "relu":
        raise refused(file, "activation_fn", config["activation_fn"], "relu and topk")
    n, m = (whole(file, key, config.get(key)) for key in ("d_in", "d_sae"))
    k = whole(file, "k", config.get("k"), m) if architecture == "topk" else None
    tensors = _tensors(weights, read_safetensors(weights), architecture, n, m)
    W_enc, b_enc, W_dec, b_dec = (tensors[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    changes = []
    if "finetuning_scaling_factor" in tensors:
        W_dec = tensors["finetuning_scaling_factor"][:, None] * W_dec
        changes.append("A scaling factor of fine-tuning multiplies each feature's decoder vector.")
    if architecture == "topk" and config.get("rescale_acts_by_decoder_norm"):
        norm = W_dec.double().norm(dim=1)
        if not (norm > 0).all():
            raise InputError(
                f"{weights}: tensor 'W_dec' has rows of zeros, which rescale_acts_by_decoder_norm divides by; {GET_ANOTHER}"
            )
        W_enc, b_enc = (W_enc * norm).float(), (b_enc * norm).float()
        W_dec = (W_dec / norm[:, None]).float()
        changes.append(
            "Features are multiplied by the norm of their decoder vectors (rescale_acts_by_decoder_norm), which are of norm 1."
        )
    if not config.get("apply_b_dec_to_input", True):
        b_enc = unsubtracted(b_enc, b_dec, W_enc)
        changes.append(UNSUBTRACTED)
    scaling = config.get("normalize_activations") or "none"
    if scaling == "expected_average_only_in":
        scaling = "none"
        changes.append(
            "normalize_activations is expected_average_only_in: as in SAELens, what is saved is taken to have the factor in it."
        )
    if scaling not in SCALINGS:
        raise refused(file, "normalize_activations", scaling, ", ".join(SCALINGS))
    threshold = thresholds(weights, tensors["threshold"], m) if "threshold" in tensors else None
    metadata = config["metadata"]
    return Release(
        autoencoder=SparseAutoencoder(W_enc, b_enc, W_dec, b_dec, threshold, k, str(weights), scaling),
        hook=metadata.get("hook_name"),
        model=metadata.get("model_name"),
        context=metadata.get("context_size"),
        window_start=metadata.get("prepend_bos"),
        claims={} if k is None else {"l0": float(k)},
        changes=tuple(changes),
    )


def _config(config: dict[str, Any]) -> dict[str, Any]:
    """Settings of any version under the names of version 6."""
    metadata = config.get("metadata")
    if isinstance(metadata, dict) and "sae_lens_version" in metadata and not _before_6(metadata["sae_lens_version"]):
        return {"architecture": None} | config
    if isinstance(metadata, dict) and "architecture" in config:
        config = metadata | config
    flat = {_OLD.get(key, key): value for key, value in config.items() if key != "metadata"}
    kwargs = flat.get("activation_fn_kwargs") or {}
    flat.setdefault("architecture", "standard")
    if flat.get("activation_fn") == "topk":
        flat |= {"architecture": "topk", "k": kwargs.get("k", flat.get("k"))}
    if isinstance(flat.get("normalize_activations"), bool):
        flat["normalize_activations"] = "expected_average_only_in" if flat["normalize_activations"] else "none"
    flat.setdefault("prepend_bos", True)  # as it was before version 6
    return flat | {"metadata": flat}


def _before_6(version: Any) -> bool:
    found = re.match(r"\d+", str(version))
    return found is None or int(found[0]) < 6


def _tensors(
    file: Path, tensors: Mapping[str, torch.Tensor], architecture: str, n: int, m: int
) -> dict[str, torch.Tensor]:
    """The tensors, checked, those of older versions under their names of today."""
    tensors = dict(tensors)
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").float().exp()
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not torch.allclose(factor.float(), torch.ones(())):
        tensors["finetuning_scaling_factor"] = factor
    shapes = {"W_enc": (n, m), "b_enc": (m,), "W_dec": (m, n), "b_dec": (n,)}
    optional = {"finetuning_scaling_factor": (m,)}
    if architecture == "batchtopk" and "topk_threshold" in tensors:
        tensors["threshold"] = tensors.pop("topk_threshold").reshape(-1).expand(m)
    if architecture in ("jumprelu", "batchtopk"):
        shapes["threshold"] = (m,)
    return chosen(file, tensors, shapes, optional)
