"""dictionary_learning: `config.json` and `ae.pt`, a pickle of which plain tensors alone are accepted."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.formats.release import (
    GET_ANOTHER,
    UNSUBTRACTED,
    Format,
    Release,
    check_file,
    check_square,
    chosen,
    claimed,
    hook_of_module,
    number,
    of_zeros,
    read_config,
    refused,
    text,
    thresholds,
    unsubtracted,
    whole,
)
from feature_lineage.errors import InputError

CLASSES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
)


def read(folder: Path) -> Release:
    """An autoencoder of one of `CLASSES`, as it is when it is loaded and used.

    `AutoEncoder` gets a decoder of unit norm, as its own library gives it. The batch top-k classes are a JumpReLU with one threshold for
    all features; one whose threshold was never set is refused.
    """
    file, weights = folder / "config.json", folder / "ae.pt"
    config = read_config(file)
    trainer = config.get("trainer")
    if not isinstance(trainer, dict):
        raise InputError(f"{file}: has no block 'trainer', which tells the class of the autoencoder; {GET_ANOTHER}")
    kind = trainer.get("dict_class")
    if kind not in CLASSES:
        raise refused(file, "trainer.dict_class", kind, ", ".join(CLASSES))
    tensors = plain_tensors(weights)
    n, m = (
        whole(file, f"trainer.{key}", trainer[key]) if key in trainer else None
        for key in ("activation_dim", "dict_size")
    )
    n, m = _size(weights, tensors, n, m)
    autoencoder, changes = _KINDS[kind](weights, file, tensors, trainer, n, m)
    encoder = "encoder.weight" if "encoder.weight" in tensors else "W_enc"
    decoder = "decoder.weight" if "decoder.weight" in tensors else "W_dec"
    check_square(weights, autoencoder.W_enc, autoencoder.W_dec, (encoder, decoder))
    buffer = config.get("buffer")
    return Release(
        autoencoder=autoencoder,
        hook=_hook(trainer),
        model=text(trainer.get("lm_name")),
        context=number(buffer.get("ctx_len")) if isinstance(buffer, dict) else None,
        claims=claimed({"l0": trainer.get("k")}) | _claims(folder),
        changes=changes,
    )


def plain_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file that torch saved by pickling: it must hold a flat dict of plain tensors and nothing else, and no code is run.

    Raises:
        InputError: it is missing, cannot be read, or holds anything else.
    """
    check_file(file)
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{file}: cannot be read as a file of torch ({str(error).splitlines()[0]}); {GET_ANOTHER}"
        ) from None
    except Exception:  # the unpickler's own, when it is asked for more than tensors
        raise InputError(
            f"{file}: holds more than tensors, or is no file of torch; a pickle can run code when it is opened, so that it is not: save "
            "`{name: tensor}` alone, the autoencoder's state_dict"
        ) from None
    if type(found) not in (dict, OrderedDict):
        raise InputError(
            f"{file}: holds a {type(found).__name__} where tensors by name are meant; save the autoencoder's state_dict alone"
        )
    for name, value in found.items():
        if (
            not isinstance(name, str)
            or type(value) not in (torch.Tensor, torch.nn.Parameter)
            or value.layout != torch.strided
            or value.device.type != "cpu"
        ):
            raise InputError(
                f"{file}: {name!r} is a {type(value).__name__} where a plain tensor is meant; save the autoencoder's state_dict alone"
            )
    return found


def _size(file: Path, tensors: Mapping[str, torch.Tensor], n: int | None, m: int | None) -> tuple[int, int]:
    """Elements and features: what the configuration says, else what the encoder has."""
    if n is not None and m is not None:
        return n, m
    for name, turned in (("encoder.weight", True), ("W_enc", False)):
        if name in tensors and tensors[name].dim() == 2:
            shape = tuple(tensors[name].shape)
            return (shape[1], shape[0]) if turned else (shape[0], shape[1])
    there = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items()) or "nothing"
    raise InputError(f"{file}: has neither a matrix 'encoder.weight' nor 'W_enc', but {there}; {GET_ANOTHER}")


Built = tuple[SparseAutoencoder, tuple[str, ...]]
_Tensors = Mapping[str, torch.Tensor]


def _linear(n: int, m: int) -> dict[str, tuple[int, ...]]:
    return {"encoder.weight": (m, n), "encoder.bias": (m,), "decoder.weight": (n, m)}


def _turned(found: _Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    return found["encoder.weight"].T.contiguous(), found["decoder.weight"].T.contiguous()


def _relu(file: Path, config: Path, tensors: _Tensors, trainer: Mapping[str, Any], n: int, m: int) -> Built:
    found = chosen(file, tensors, _linear(n, m) | {"bias": (n,)})
    W_enc, W_dec = _turned(found)
    norm = W_dec.norm(dim=1)
    if torch.allclose(norm, torch.ones_like(norm)):  # as its own library, which leaves those as they are
        return SparseAutoencoder(W_enc, found["encoder.bias"], W_dec, found["bias"], source=str(file)), ()
    norm = W_dec.double().norm(dim=1)
    if not (norm > 0).all():
        raise InputError(
            f"{file}: tensor 'decoder.weight' has columns of zeros, which its own library divides by; {GET_ANOTHER}"
        )
    W_enc, b_enc = (W_enc * norm).float(), (found["encoder.bias"] * norm).float()
    said = "Decoder vectors are divided by their norm and features multiplied by it, as its own library does."
    return SparseAutoencoder(W_enc, b_enc, (W_dec / norm[:, None]).float(), found["bias"], source=str(file)), (said,)


def _relu_new(file: Path, config: Path, tensors: _Tensors, trainer: Mapping[str, Any], n: int, m: int) -> Built:
    found = chosen(file, tensors, _linear(n, m) | {"decoder.bias": (n,)})
    W_enc, W_dec = _turned(found)
    b_enc = unsubtracted(found["encoder.bias"], found["decoder.bias"], W_enc)
    return SparseAutoencoder(W_enc, b_enc, W_dec, found["decoder.bias"], source=str(file)), (UNSUBTRACTED,)


def _buffers(
    file: Path, config: Path, tensors: _Tensors, trainer: Mapping[str, Any], m: int
) -> tuple[int, torch.Tensor | None]:
    """k, of the file and of the configuration, and the threshold if it was set."""
    stored = tensors["k"].item() if "k" in tensors and tensors["k"].numel() == 1 else None
    said = trainer.get("k", stored)
    if stored is not None and said != stored:
        raise InputError(f"{config}: trainer.k is {said!r}, and {file} has {stored!r}; {GET_ANOTHER}")
    k = whole(config, "trainer.k", said, m)
    threshold = tensors.get("threshold")
    if threshold is not None and (threshold.numel() != 1 or not torch.isfinite(threshold.float()).all()):
        raise InputError(f"{file}: tensor 'threshold' is no finite number; {GET_ANOTHER}")
    return k, threshold


def _without(tensors: _Tensors, *names: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def _topk(file: Path, config: Path, tensors: _Tensors, trainer: Mapping[str, Any], n: int, m: int) -> Built:
    k, _ = _buffers(file, config, tensors, trainer, m)
    found = chosen(file, _without(tensors, "k", "threshold"), _linear(n, m) | {"b_dec": (n,)})
    W_enc, W_dec = _turned(found)
    return SparseAutoencoder(W_enc, found["encoder.bias"], W_dec, found["b_dec"], k=k, source=str(file)), ()


def _batch_topk(file: Path, config: Path, tensors: _Tensors, trainer: Mapping[str, Any], n: int, m: int) -> Built:
    _, threshold = _buffers(file, config, tensors, trainer, m)
    if threshold is None or float(threshold) < 0:
        there = (
            "has no tensor 'threshold'"
            if threshold is None
            else f"tensor 'threshold' is {float(threshold):g}, which means that it was never set"
        )
        raise InputError(f"{file}: {there}: without it all positive features would be active; {GET_ANOTHER}")
    rest = _without(tensors, "k", "threshold", "group_sizes")
    if "W_enc" in tensors:
        found = chosen(file, rest, {"W_enc": (n, m), "b_enc": (m,), "W_dec": (m, n), "b_dec": (n,)})
        W_enc, b_enc, W_dec = found["W_enc"], found["b_enc"], found["W_dec"]
    else:
        found = chosen(file, rest, _linear(n, m) | {"b_dec": (n,)})
        (W_enc, W_dec), b_enc = _turned(found), found["encoder.bias"]
    at = thresholds(threshold.float(), m)
    said = "The threshold of batch top-k is every feature's."
    return SparseAutoencoder(W_enc, b_enc, W_dec, found["b_dec"], at, source=str(file)), (said,)


def _jumprelu(file: Path, config: Path, tensors: _Tensors, trainer: Mapping[str, Any], n: int, m: int) -> Built:
    shapes = {"W_enc": (n, m), "b_enc": (m,), "W_dec": (m, n), "b_dec": (n,), "threshold": (m,)}
    found = chosen(file, tensors, shapes)
    W_enc, b_dec = found["W_enc"], found["b_dec"]
    b_enc = unsubtracted(found["b_enc"], b_dec, W_enc)
    at = thresholds(found["threshold"], m)
    return SparseAutoencoder(W_enc, b_enc, found["W_dec"], b_dec, at, source=str(file)), (UNSUBTRACTED, *of_zeros(at))


_KINDS = dict(zip(CLASSES, (_relu, _relu_new, _topk, _batch_topk, _batch_topk, _jumprelu), strict=True))


def _hook(trainer: Mapping[str, Any]) -> str | None:
    """The hook point of `submodule_name`, where that says one: a module's name, or `resid_post_layer_12`."""
    name = str(trainer.get("submodule_name") or "")
    if found := re.fullmatch(r"(resid_post|mlp_out|attn_out|attention_out)_layer_(\d+)", name):
        point = {"attention_out": "attn_out"}.get(found[1], found[1])
        return f"blocks.{int(found[2])}.hook_{point}"
    return hook_of_module(name)


CLAIMS_FILE = "eval_results.json"
_CLAIMS = {"l0": "l0", "frac_variance_explained": "variance_explained", "frac_recovered": "loss_recovered"}


def _claims(folder: Path) -> dict[str, float]:
    """What `eval_results.json` beside it says, if it is there."""
    file = folder / CLAIMS_FILE
    found = read_config(file) if file.is_file() else {}
    return claimed({ours: found.get(theirs) for theirs, ours in _CLAIMS.items()})


FORMAT = Format("dictionary_learning", read, (CLAIMS_FILE,))
