"""What every format is read into, and the checks that all of them share."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.errors import InputError

GET_ANOTHER = "download it again, or name another autoencoder"
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True)
class Release:
    """A published autoencoder in this project's form, and what its release says of itself.

    Attributes:
        autoencoder: float32, on the CPU.
        hook: TransformerLens hook point that it says it reads; None if it says nothing, or nothing that is known here.
        model: language model that it says it was trained on.
        context: tokens of the windows that it was trained on.
        window_start: whether a BOS token stood at the head of each.
        claims: of `l0`, `variance_explained` and `loss_recovered` what it states.
        changes: what was folded into the weights, a sentence each.
        format: its name.
    """

    autoencoder: SparseAutoencoder
    hook: str | None = None
    model: str | None = None
    context: int | None = None
    window_start: bool | None = None
    claims: Mapping[str, float] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    format: str = ""


@dataclass(frozen=True)
class Format:
    """How published autoencoders are stored: a module of this folder each.

    Attributes:
        name: in the configuration.
        read: what the folder of one holds; raises `InputError`.
        optional: files that it may have besides those of `study.dictionaries.FILES`, and that change what is read.
    """

    name: str
    read: Callable[[Path], Release]
    optional: tuple[str, ...] = ()


Shapes = Mapping[str, tuple[int, ...]]


def read_config(file: Path) -> dict[str, Any]:
    """A configuration in JSON.

    Raises:
        InputError: it is missing, or no object in JSON.
    """
    check_file(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: is no JSON ({error}); {GET_ANOTHER}") from None
    if not isinstance(found, dict):
        raise InputError(
            f"{file}: holds no object with an autoencoder's settings, but {str(found)[:60]!r}; {GET_ANOTHER}"
        )
    return found


def check_file(file: Path) -> None:
    """Look at the head of a file that is to be read.

    Raises:
        InputError: it is missing or empty, or something that was downloaded in its place.
    """
    try:
        with file.open("rb") as stream:
            head = stream.read(256).lstrip().lower()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"{file}: this file of the autoencoder is missing; {GET_ANOTHER}") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be opened ({error.strerror}); mend its permissions") from None
    if not head:
        raise InputError(f"{file}: is empty; {GET_ANOTHER}")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{file}: is a pointer of Git LFS, not the file itself; run `git lfs pull` where it was cloned"
        )
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise InputError(
            f"{file}: is a web page, not the file itself; download it with `hf download`, or by its link `resolve`"
        )


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name, as they are stored.

    Raises:
        InputError: it is missing, or cannot be read.
    """
    check_file(file)
    try:
        with safe_open(file, "pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read as safetensors ({error}); {GET_ANOTHER}") from None


def chosen(
    file: Path, tensors: Mapping[str, torch.Tensor], shapes: Shapes, optional: Shapes | None = None
) -> dict[str, Any]:
    """Those tensors of a file that a format has, in float32, checked.

    Args:
        file: where they are from, for messages.
        tensors: by name.
        shapes: of those that must be there, and of those that may.
        optional: of those that may be there.

    Raises:
        InputError: a tensor is missing, of another shape, of a type that holds no real numbers, or not finite; or there is another one,
            which may change what the autoencoder computes.
    """
    optional = optional or {}
    if missing := [name for name in shapes if name not in tensors]:
        there = ", ".join(sorted(tensors)) or "none"
        raise InputError(f"{file}: has no tensor {missing[0]!r}, only {there}; {GET_ANOTHER}")
    if others := sorted(set(tensors) - set(shapes) - set(optional)):
        raise InputError(
            f"{file}: has a tensor {others[0]!r}, which no autoencoder of this kind has: what it would change is not known; {GET_ANOTHER}"
        )
    found = {}
    for name, shape in {**shapes, **optional}.items():
        if name not in tensors:
            continue
        tensor = tensors[name]
        if tuple(tensor.shape) != tuple(shape):
            turned = tuple(tensor.shape) == tuple(shape)[::-1] and len(shape) == 2
            why = "it is transposed" if turned else "the configuration means another"
            raise InputError(
                f"{file}: tensor {name!r} is {list(tensor.shape)} where {list(shape)} is meant: {why}; {GET_ANOTHER}"
            )
        if tensor.dtype not in _FLOATS:
            raise InputError(
                f"{file}: tensor {name!r} is of {tensor.dtype}, and weights are of float32, float16, bfloat16 or float64; {GET_ANOTHER}"
            )
        value = tensor.detach().float().contiguous()
        if not torch.isfinite(value).all():
            raise InputError(f"{file}: tensor {name!r} holds NaN or infinity (as float32); {GET_ANOTHER}")
        found[name] = value
    return found


def whole(file: Path, key: str, value: Any, most: int | None = None) -> int:
    """A whole number above 0 of a configuration.

    Raises:
        InputError: it is none, or above `most`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or (most is not None and value > most):
        bound = "" if most is None else f" of at most {most}"
        raise InputError(f"{file}: {key} is {value!r} where a whole number above 0{bound} is meant; {GET_ANOTHER}")
    return value


def unsubtracted(b_enc: torch.Tensor, b_dec: torch.Tensor, W_enc: torch.Tensor) -> torch.Tensor:
    """The encoder bias [m] that gives the features of an encoder that does not subtract `b_dec` [n]: b_enc + b_dec W_enc, in float64."""
    return (b_enc.double() + b_dec.double() @ W_enc.double()).float()


UNSUBTRACTED = "The encoder does not subtract b_dec: b_dec W_enc is added to b_enc."


def thresholds(found: torch.Tensor, features: int) -> torch.Tensor:
    """Thresholds [m] of features: one for each, or one for all. Below 0 they bind nothing, as activations are not negative."""
    return found.reshape(-1).expand(features).clamp_min(0).contiguous()


def of_zeros(threshold: torch.Tensor) -> tuple[str, ...]:
    """A remark where all thresholds are 0: as if they had been lost on the way, which has happened to published ones."""
    return (
        ()
        if threshold.any()
        else ("All thresholds are 0, as if they had been lost: every positive feature is active.",)
    )


def check_square(
    file: Path, W_enc: torch.Tensor, W_dec: torch.Tensor, names: tuple[str, str] = ("W_enc", "W_dec")
) -> None:
    """Look whether one of two square matrices is transposed, which their shapes cannot tell.

    A feature's encoder and decoder vectors point the same way in every autoencoder that was trained; beside a transposed matrix they do not.

    Args:
        file: where they are from, for messages.
        W_enc: [n, m], as it would be used.
        W_dec: [m, n], as it would be used.
        names: of the two in the file.

    Raises:
        InputError: as many features as elements, and the vectors agree only with one of the matrices transposed.
    """
    if W_enc.shape[0] != W_enc.shape[1]:
        return
    agree, turned = (
        float(torch.nn.functional.cosine_similarity(W_enc, other, dim=0).mean()) for other in (W_dec.T, W_dec)
    )
    if turned > 0.3 and agree < turned / 3:
        raise InputError(
            f"{file}: tensor {names[0]!r} or {names[1]!r} is transposed: a feature's two vectors have a mean cosine of {agree:.2f}, and of "
            f"{turned:.2f} with one of them transposed; {GET_ANOTHER}"
        )


def text(value: Any) -> str | None:
    """What a configuration says, if it is a text."""
    return value if isinstance(value, str) and value else None


def number(value: Any) -> int | None:
    """What a configuration says, if it is a whole number above 0."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def claimed(said: Mapping[str, Any]) -> dict[str, float]:
    """Those of what a release states that are numbers."""
    known = {
        name: value for name, value in said.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {name: float(value) for name, value in known.items() if math.isfinite(value)}


def refused(file: Path, key: str, value: Any, known: str) -> InputError:
    """What is raised for a kind of autoencoder that is not read here."""
    return InputError(f"{file}: {key} is {value!r}, which is not read here, only {known}; name another autoencoder")


# Names of modules as the Hugging Face library has them, and the hook point of what comes out; `{}` is the layer.
_MODULES = {
    "": "blocks.{}.hook_resid_post",
    "mlp": "blocks.{}.hook_mlp_out",
    "self_attn": "blocks.{}.hook_attn_out",
    "attn": "blocks.{}.hook_attn_out",
    "attention": "blocks.{}.hook_attn_out",
}
_LAYER = re.compile(
    r"^(?:(?:model|transformer|gpt_neox|language_model|model\.language_model)\.)?(?:layers|h|blocks)\.(\d+)(?:\.(.+))?$"
)


_HOOK = re.compile(r"blocks\.\d+\.[\w.]*hook_\w+|[\w.]*hook_\w+")


def hook_point(name: Any) -> str | None:
    """Hook point that a name stands for: its own, or the module's of the Hugging Face library; None where it is not known."""
    if not isinstance(name, str):
        return None
    return name if _HOOK.fullmatch(name) else hook_of_module(name)


def hook_of_module(name: str) -> str | None:
    """Hook point of the output of a module, by its name in the Hugging Face library; None where it is not known."""
    found = _LAYER.match(name)
    if found is None:
        return None
    module = _MODULES.get(found[2] or "")
    return module.format(int(found[1])) if module else None
