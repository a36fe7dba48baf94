"""Gemma Scope: `params.npz`, in a folder whose name tells its L0 (arXiv 2408.05147)."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
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
    of_zeros,
    refused,
    thresholds,
    unsubtracted,
)
from feature_lineage.errors import InputError

CONTEXT = 1024  # tokens, BOS first


def read(folder: Path) -> Release:
    """A JumpReLU autoencoder whose encoder reads the activations as they are. A pickle inside is not opened."""
    file = folder / "params.npz"
    refuse_transcoder(folder)
    autoencoder, changes = jumprelu(file, _arrays(file), "W_enc", "W_dec")
    model, hook = place_of_folder(folder)
    return Release(
        autoencoder=autoencoder,
        hook=hook,
        model=model,
        context=CONTEXT,
        window_start=True,
        claims=l0_of_folder(folder),
        changes=changes,
    )


def jumprelu(
    file: Path, tensors: Mapping[str, torch.Tensor], encoder: str, decoder: str
) -> tuple[SparseAutoencoder, tuple[str, ...]]:
    """The autoencoder that both releases have, and what was folded; `encoder` and `decoder` are the names of its matrices."""
    n, m = decoder_shape(file, tensors, decoder)
    shapes = {encoder: (n, m), "b_enc": (m,), decoder: (m, n), "b_dec": (n,), "threshold": (m,)}
    found = chosen(file, tensors, shapes)
    W_enc, W_dec, b_dec = found[encoder], found[decoder], found["b_dec"]
    check_square(file, W_enc, W_dec, (encoder, decoder))
    threshold = thresholds(found["threshold"], m)
    b_enc = unsubtracted(found["b_enc"], b_dec, W_enc)
    return SparseAutoencoder(W_enc, b_enc, W_dec, b_dec, threshold, source=str(file)), (
        UNSUBTRACTED,
        *of_zeros(threshold),
    )


def _arrays(file: Path) -> dict[str, torch.Tensor]:
    check_file(file)
    found = {}
    try:
        with np.load(file, allow_pickle=False) as arrays:
            for name in arrays.files:
                try:
                    found[name] = arrays[name]
                except ValueError:
                    raise InputError(
                        f"{file}: {name!r} is no plain array; a pickle can run code when it is opened, so that it is not; {GET_ANOTHER}"
                    ) from None
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in found.items()}
    except (
        ValueError,
        TypeError,
        OSError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        AttributeError,
        KeyError,
    ) as error:
        raise InputError(f"{file}: cannot be read as plain arrays ({error}); {GET_ANOTHER}") from None


def decoder_shape(file: Path, tensors: Mapping[str, torch.Tensor], name: str) -> tuple[int, int]:
    """Elements and features, by the decoder: of the two the features are more."""
    if name not in tensors:
        raise InputError(f"{file}: has no tensor {name!r}, only {', '.join(sorted(tensors)) or 'none'}; {GET_ANOTHER}")
    shape = list(tensors[name].shape)
    if len(shape) != 2 or not all(shape):
        raise InputError(f"{file}: tensor {name!r} is {shape} where [features, elements] is meant; {GET_ANOTHER}")
    m, n = shape
    if m < n:
        raise InputError(
            f"{file}: tensor {name!r} is {shape}, fewer features than elements: it is transposed; {GET_ANOTHER}"
        )
    return n, m


def refuse_transcoder(folder: Path) -> None:
    """Raise for what is stored as an autoencoder is and gives back something else than it reads, which only its path tells."""
    place = folder.absolute()
    names = [part for part in place.parts if re.match(r"gemma-scope.*-(transcoder|crosscoder)", part)]
    names += [name for name in (place.name, place.parent.name) if re.match(r"(transcoder|crosscoder|clt)(_|$)", name)]
    if names:
        raise refused(folder, "the path", names[0], "autoencoders, which give back what they read")


def l0_of_folder(folder: Path) -> dict[str, float]:
    """The L0 that a folder's name states: `average_l0_71`, or `…_l0_71`."""
    found = re.search(r"l0_(\d+)$", folder.name)
    return {"l0": float(found[1])} if found else {}


_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


def place_of_folder(folder: Path) -> tuple[str | None, str | None]:
    """Model and hook point that a path states: the release's name, `gemma-scope-2b-pt-res`, and `layer_12` below it; None where it does not."""
    path = folder.absolute().as_posix()
    release = re.search(r"gemma-scope-(\d+b)-(pt|it)-(res|mlp|att)(?![a-z])", path)
    if release is None:
        return None, None
    layer = re.search(r"/layer_(\d+)/", f"{path}/")
    model = f"google/gemma-2-{release[1]}" + ("-it" if release[2] == "it" else "")
    return model, f"blocks.{int(layer[1])}.{_SITES[release[3]]}" if layer else None


FORMAT = Format("gemma_scope", read)
