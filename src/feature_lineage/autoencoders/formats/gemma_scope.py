"""Gemma Scope: `params.npz`, in a folder whose name tells its L0 (arXiv 2408.05147)."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import numpy as np
import torch

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.formats.release import (
    GET_ANOTHER,
    UNSUBTRACTED,
    Release,
    chosen,
    thresholds,
    unsubtracted,
)
from feature_lineage.errors import InputError

CONTEXT = 1024  # tokens, BOS first


def read(folder: Path) -> Release:
    """A JumpReLU autoencoder whose encoder reads the activations as they are. A pickle inside is not opened."""
    file = folder / "params.npz"
    tensors = _arrays(file)
    n, m = _shape(file, tensors.get("W_dec"))
    shapes = {"W_enc": (n, m), "b_enc": (m,), "W_dec": (m, n), "b_dec": (n,), "threshold": (m,)}
    found = chosen(file, tensors, shapes)
    W_enc, b_dec = found["W_enc"], found["b_dec"]
    return Release(
        autoencoder=SparseAutoencoder(
            W_enc,
            unsubtracted(found["b_enc"], b_dec, W_enc),
            found["W_dec"],
            b_dec,
            thresholds(file, found["threshold"], m),
            source=str(file),
        ),
        hook=hook_of_folder(folder),
        context=CONTEXT,
        window_start=True,
        claims=l0_of_folder(folder),
        changes=(UNSUBTRACTED,),
    )


def _arrays(file: Path) -> dict[str, torch.Tensor]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        return {name: torch.from_numpy(array) for name, array in found.items()}
    except FileNotFoundError:
        raise InputError(f"{file}: this file of the autoencoder is missing; {GET_ANOTHER}") from None
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(f"{file}: cannot be read as plain arrays ({error}); {GET_ANOTHER}") from None


def _shape(file: Path, decoder: torch.Tensor | None) -> tuple[int, int]:
    """Elements and features, by the decoder: of the two the features are more."""
    if decoder is None or decoder.dim() != 2:
        return 0, 0  # `chosen` says what is missing
    m, n = decoder.shape
    if m < n:
        raise InputError(
            f"{file}: tensor 'W_dec' is {[m, n]}, fewer features than elements: it is transposed; {GET_ANOTHER}"
        )
    return n, m


def l0_of_folder(folder: Path) -> dict[str, float]:
    """The L0 that a folder's name states: `average_l0_71`, or `…_l0_71`."""
    found = re.search(r"l0_(\d+)$", folder.name)
    return {"l0": float(found[1])} if found else {}


_SITES = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}


def hook_of_folder(folder: Path) -> str | None:
    """The hook point that a path states: the site in the name of the release, `gemma-scope-2b-pt-res`, and `layer_12` below it."""
    path = folder.resolve().as_posix()
    site = re.search(r"gemma-scope-[\w.]+-(?:pt|it)-(res|mlp|att)(?:-|/|$)", path)
    layer = re.search(r"/layer_(\d+)/", f"{path}/")
    return f"blocks.{int(layer[1])}.{_SITES[site[1]]}" if site and layer else None
