"""Drift: one dictionary reads two models. What a feature of it does on the other model, beside what it does on its own.

Matching asks whether a feature of one dictionary has a partner in another one, and two dictionaries of one model share few features. Drift
needs no second dictionary: token by token, a feature's activations on the two models are compared with each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import sparse

from feature_lineage.features.activations import ActivationFile, activation_blocks
from feature_lineage.flow.moments import moments
from feature_lineage.progress import progress

DRIFT = pa.schema(
    [
        ("feature", pa.int32()),
        ("active", pa.int64()),  # tokens on which it fires on its own model,
        ("active_other", pa.int64()),  # on the other,
        ("active_both", pa.int64()),  # and on both
        ("r", pa.float64()),
        ("density_ratio", pa.float64()),
        ("mean_ratio", pa.float64()),
        ("jaccard", pa.float64()),
    ]
)
L0_OFF = 0.5  # a reading is poor where its L0 is off by more than this share of the own model's,
EXPLAINED = 0.8  # or where it explains less than this share of the variance that it explains there


class Quality(NamedTuple):
    """How a dictionary reads a model: mean number of active features per token, share of the activations' variance explained."""

    l0: float
    variance_explained: float | None  # None where the activations never change


def poor(own: Quality, other: Quality) -> list[str]:
    """Why a dictionary reads the other model poorly, in phrases; none if it reads it about as well as its own.

    Under a poor reading a high r is still evidence that a feature was kept. A low one may be the feature's doing or the reading's.
    """
    found = []
    if abs(other.l0 - own.l0) > L0_OFF * own.l0:
        found.append(f"L0 is {other.l0:.1f} where it is {own.l0:.1f} on its own model")
    known = own.variance_explained is not None and other.variance_explained is not None
    if known and other.variance_explained < EXPLAINED * own.variance_explained:
        found.append(
            f"it explains {other.variance_explained:.0%} of the variance where it explains {own.variance_explained:.0%} of its own "
            "model's"
        )
    return found


def drift(own: str | Path, other: str | Path) -> pa.Table:
    """What each feature of a dictionary does on another model.

    Args:
        own: its activations on its own model over the sample, a file of `collect.collect_features`.
        other: its activations on the other model, over the same tokens.

    Returns:
        A row for each feature, schema `DRIFT`. `r`: Pearson correlation over all tokens between the two; None
        where the feature never changes on one of them. `density_ratio` and `mean_ratio`: share of tokens on which it fires, and mean
        activation where it does, on the other model over its own; None where it never fires on its own, `mean_ratio` also where it
        never fires on the other. `jaccard`: tokens on which it fires on both over those on which it fires on either.

    Raises:
        InputError: a file is missing or damaged, or the two are not of one sample.
    """
    files = ActivationFile(own), ActivationFile(other)
    a, b = map(moments, files)
    tokens = files[0].tokens
    both, covariance = _shared(own, other, tokens, a.mean, b.mean)
    either = a.active + b.active - both
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {
            "feature": np.arange(len(both)),
            "active": a.active,
            "active_other": b.active,
            "active_both": both,
            "r": np.clip(covariance / (a.deviation * b.deviation), -1, 1),
            "density_ratio": b.active / a.active,
            "mean_ratio": (b.mean / b.active) / (a.mean / a.active),
            "jaccard": both / either,
        }
    missing = {name: ~np.isfinite(column) for name, column in columns.items()}
    return pa.table(
        [pa.array(column, DRIFT.field(name).type, mask=missing[name]) for name, column in columns.items()],
        schema=DRIFT,
    )


def _shared(
    own: str | Path, other: str | Path, tokens: int, mean_a: np.ndarray, mean_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens on which each feature fires on both models, int64, and the covariance of the two, float64; both [features].

    Of values taken less their means, so that a feature that is nearly constant loses no digits: where it fires on both, on one and
    on neither.
    """
    count = len(mean_a)
    both, sums = np.zeros(count, np.int64), np.zeros(count)
    fires = np.zeros(count, np.int64)
    blocks = zip(activation_blocks(own, tokens), activation_blocks(other, tokens), strict=True)
    with progress(tokens, "tok", "drift") as bar:
        for (_, a), (_, b) in blocks:
            on_a, on_b = _ones(a), _ones(b)
            less_a, less_b = _less(a, mean_a), _less(b, mean_b)
            here = _total(on_a.multiply(on_b))
            both += here.astype(np.int64)
            fires += (_total(on_a) + _total(on_b) - here).astype(np.int64)
            alone_a = _total(less_a) - _total(less_a.multiply(on_b))
            alone_b = _total(less_b) - _total(less_b.multiply(on_a))
            sums += _total(less_a.multiply(less_b)) - mean_b * alone_a - mean_a * alone_b
            bar.update(a.shape[0])
    return both, (sums + (tokens - fires) * mean_a * mean_b) / tokens


def _ones(matrix: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(matrix.data)), matrix.indices, matrix.indptr), shape=matrix.shape)


def _less(matrix: sparse.csr_array, mean: np.ndarray) -> sparse.csr_array:
    """The entries less their column's mean; those that are 0 then stay entries."""
    return sparse.csr_array((matrix.data - mean[matrix.indices], matrix.indices, matrix.indptr), shape=matrix.shape)


def _total(matrix: sparse.sparray) -> np.ndarray:
    return np.asarray(matrix.sum(0)).ravel()
