"""SAELens, from version 6 on and before: `cfg.json` and `sae_weights.safetensors`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from feature_lineage.autoencoders.autoencoder import SCALINGS, SparseAutoencoder
from feature_lineage.autoencoders.formats.release import (
    GET_ANOTHER,
    UNSUBTRACTED,
    Format,
    Release,
    check_square,
    chosen,
    hook_point,
    number,
    of_zeros,
    read_config,
    read_safetensors,
    refused,
    text,
    thresholds,
    unsubtracted,
    whole,
)
from feature_lineage.errors import InputError

ARCHITECTURES = ("standard", "topk", "batchtopk", "jumprelu")
SCALER = "activation_scaler.json"  # beside a checkpoint that was saved while it trained, whose weights have not got the factor yet
_BATCH = ("batchtopk", "matryoshka_batchtopk")  # of a checkpoint; of both SAELens makes a jumprelu when training ends
_OLD = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}  # before version 6
FOLDED = "normalize_activations is expected_average_only_in: activations are multiplied by {:g} ({}), which is folded into the weights."
UNFOLDED = "normalize_activations is expected_average_only_in and no factor is stored: as in SAELens, the weights are taken to have it in them."


def read(folder: Path) -> Release:
    """An autoencoder as SAELens saves it, when training has ended or as a checkpoint.

    Batch top-k becomes a JumpReLU with one threshold, as when SAELens saves it at the end. Thresholds that are missing are never 0.
    """
    file, weights = folder / "cfg.json", folder / "sae_weights.safetensors"
    config = _config(file, read_config(file))
    architecture = config["architecture"]
    if architecture not in (*ARCHITECTURES, *_BATCH):
        raise refused(file, "architecture", architecture, ", ".join(ARCHITECTURES))
    if architecture != "topk" and config.get("activation_fn", "relu") != "relu":
        raise refused(file, "activation_fn", config["activation_fn"], "relu and topk")
    metadata = config["metadata"]
    if metadata.get("hook_head_index") is not None:
        raise refused(file, "hook_head_index", metadata["hook_head_index"], "autoencoders of all heads")
    n, m = (whole(file, key, config.get(key)) for key in ("d_in", "d_sae"))
    k = whole(file, "k", config.get("k"), m) if architecture == "topk" else None
    scaling = config.get("normalize_activations") or "none"
    if scaling not in (*SCALINGS, "expected_average_only_in"):
        raise refused(file, "normalize_activations", scaling, ", ".join((*SCALINGS, "expected_average_only_in")))
    tensors = _tensors(weights, read_safetensors(weights), config, n, m)
    check_square(weights, tensors["W_enc"], tensors["W_dec"])
    changes = _fold(folder, weights, config, tensors)
    threshold = thresholds(tensors["threshold"], m) if "threshold" in tensors else None
    W_enc, b_enc, W_dec, b_dec = (tensors[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec"))
    prepend = metadata.get("prepend_bos")
    return Release(
        autoencoder=SparseAutoencoder(
            W_enc, b_enc, W_dec, b_dec, threshold, k, str(weights), scaling if scaling in SCALINGS else "none"
        ),
        hook=hook_point(metadata.get("hook_name")),
        model=text(metadata.get("model_name")),
        context=number(metadata.get("context_size")),
        window_start=prepend if isinstance(prepend, bool) else None,
        claims={} if k is None else {"l0": float(k)},
        changes=(*changes, *(() if threshold is None else of_zeros(threshold))),
    )


def _fold(folder: Path, weights: Path, config: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> list[str]:
    """Put into the tensors what SAELens does beside them, in its order; a sentence for each."""
    changes = []
    if (factor := tensors.pop("finetuning_scaling_factor", None)) is not None:
        tensors["W_dec"] = factor[:, None] * tensors["W_dec"]
        changes.append("A scaling factor of fine-tuning multiplies each feature's decoder vector.")
    if config.get("normalize_activations") == "expected_average_only_in":
        scale = _factor(folder / SCALER)
        changes.append(UNFOLDED if scale is None else FOLDED.format(scale, SCALER))
        if scale is not None:
            tensors |= {
                "W_enc": tensors["W_enc"] * scale,
                "W_dec": tensors["W_dec"] / scale,
                "b_dec": tensors["b_dec"] / scale,
            }
            if config["architecture"] in _BATCH and config.get("rescale_acts_by_decoder_norm"):
                tensors["threshold"] = tensors["threshold"] / scale  # it is of pre-activations times the decoder's norm
    if config["architecture"] in ("topk", *_BATCH) and config.get("rescale_acts_by_decoder_norm"):
        norm = tensors["W_dec"].double().norm(dim=1)
        if not (norm > 0).all():
            raise InputError(
                f"{weights}: tensor 'W_dec' has rows of zeros, which rescale_acts_by_decoder_norm divides by; {GET_ANOTHER}"
            )
        tensors |= {
            "W_enc": (tensors["W_enc"] * norm).float(),
            "b_enc": (tensors["b_enc"] * norm).float(),
            "W_dec": (tensors["W_dec"] / norm[:, None]).float(),
        }
        changes.append(
            "Features are multiplied by the norm of their decoder vectors (rescale_acts_by_decoder_norm), which are of norm 1."
        )
    if not config.get("apply_b_dec_to_input", True):
        tensors["b_enc"] = unsubtracted(tensors["b_enc"], tensors["b_dec"], tensors["W_enc"])
        changes.append(UNSUBTRACTED)
    return changes


def _factor(file: Path) -> float | None:
    """What activations are multiplied by while a checkpoint trains; None where it is not stored."""
    if not file.is_file():
        return None
    found = read_config(file).get("scaling_factor")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
        raise InputError(f"{file}: scaling_factor is {found!r} where a number above 0 is meant; {GET_ANOTHER}")
    return float(found)


def _config(file: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Settings of any version under the names of version 6."""
    metadata = config.get("metadata")
    if isinstance(metadata, dict) and "sae_lens_version" in metadata and not _before_6(metadata["sae_lens_version"]):
        return {"architecture": None} | config
    if isinstance(metadata, dict):
        config = {"prepend_bos": None} | metadata | config
    flat = {_OLD.get(key, key): value for key, value in config.items() if key != "metadata"}
    kwargs = flat.get("activation_fn_kwargs") or {}
    flat.setdefault("architecture", "standard")
    if flat.get("activation_fn") == "topk":
        if not isinstance(kwargs, dict):
            raise InputError(f"{file}: activation_fn_kwargs is {kwargs!r} where a block with k is meant; {GET_ANOTHER}")
        flat |= {"architecture": "topk", "k": kwargs.get("k", flat.get("k"))}
    if isinstance(flat.get("normalize_activations"), bool):
        flat["normalize_activations"] = "expected_average_only_in" if flat["normalize_activations"] else "none"
    flat.setdefault("prepend_bos", True)  # as it was before version 6
    return flat | {"metadata": flat}


def _before_6(version: Any) -> bool:
    found = re.match(r"\d+", str(version))
    return found is None or int(found[0]) < 6


def _tensors(
    file: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], n: int, m: int
) -> dict[str, torch.Tensor]:
    """The tensors, checked, those of older versions and of checkpoints under their names of today."""
    tensors, architecture = dict(tensors), config["architecture"]
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").float().exp()
    factor = tensors.pop("scaling_factor", None)
    if factor is not None and not torch.allclose(factor.float(), torch.ones(())):
        if not config.get("finetuning_scaling_factor"):
            raise InputError(
                f"{file}: tensor 'scaling_factor' is not 1, and finetuning_scaling_factor of cfg.json is not true: whether it is meant to be "
                f"used is not known; {GET_ANOTHER}"
            )
        tensors["finetuning_scaling_factor"] = factor
    shapes = {"W_enc": (n, m), "b_enc": (m,), "W_dec": (m, n), "b_dec": (n,)}
    if architecture in _BATCH and "topk_threshold" in tensors and tensors["topk_threshold"].numel() == 1:
        tensors["threshold"] = tensors.pop("topk_threshold").reshape(1).expand(m)
    if architecture not in ("standard", "topk"):
        shapes["threshold"] = (m,)
    return chosen(file, tensors, shapes, {"finetuning_scaling_factor": (m,)})


FORMAT = Format("saelens", read, (SCALER,))
