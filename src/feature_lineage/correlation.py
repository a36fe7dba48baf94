"""Exact Pearson correlation of every pair of features of two models over one sample of tokens (paper, section 3.4).

Activations are sparse and non-negative, so that Σ_t a(t) b(t) needs only the tokens on which both fire: one sparse product per
block of features. Neither tokens × features nor features × features is ever held densely. Sums are float64.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import sparse

from feature_lineage.artifacts import read_provenance, read_table
from feature_lineage.logs import InputError, progress

CORRELATIONS = pa.schema(
    [
        ("feature_a", pa.int32()),
        ("feature_b", pa.int32()),
        ("r", pa.float64()),
        ("both", pa.int64()),
        ("either", pa.int64()),
    ]
)
BLOCK_BYTES = 1 << 25  # of one dense block of correlations, block × features


class Activations(NamedTuple):
    """Non-zero activations of a model's features: `matrix` is CSR float64 [tokens, features]."""

    matrix: sparse.csr_array

    @property
    def tokens(self) -> int:
        """Tokens in the sample."""
        return self.matrix.shape[0]

    @property
    def features(self) -> int:
        """Features, dead ones counted."""
        return self.matrix.shape[1]


def read_activations(path: str | Path) -> Activations:
    """Read a file of `features.feature_batches`; its provenance gives the numbers of tokens and features.

    Raises:
        InputError: the file is missing, damaged, or holds a token or feature outside of these numbers.
    """
    table = read_table(path)
    record = read_provenance(path)
    token, feature, activation = (table[name].to_numpy() for name in ("token", "feature", "activation"))
    shape = (record["tokens"], record["features"])
    if len(token) and (token.min() < 0 or feature.min() < 0 or token.max() >= shape[0] or feature.max() >= shape[1]):
        raise InputError(f"{path}: holds a token or feature outside of {shape}; delete it and run Snakemake again")
    return Activations(sparse.csr_array((activation.astype(np.float64), (token, feature)), shape=shape))


class Moments(NamedTuple):
    """Per feature: tokens on which it fires (int64), mean and standard deviation over all tokens (float64); all [features].

    The deviation is 0 exactly for a feature that never fires or always with the same value: it correlates with nothing.
    """

    active: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def moments(activations: Activations) -> Moments:
    """Mean and population standard deviation of each feature, in two passes."""
    matrix = activations.matrix
    count = matrix.shape[1]
    active = np.bincount(matrix.indices, minlength=count)
    mean = np.bincount(matrix.indices, matrix.data, minlength=count) / activations.tokens
    squares = np.bincount(matrix.indices, (matrix.data - mean[matrix.indices]) ** 2, minlength=count)
    deviation = np.sqrt((squares + (activations.tokens - active) * mean**2) / activations.tokens)
    high, low = np.zeros(count), np.full(count, np.inf)
    np.maximum.at(high, matrix.indices, matrix.data)
    np.minimum.at(low, matrix.indices, matrix.data)
    deviation[(active == 0) | ((active == activations.tokens) & (high == low))] = 0
    return Moments(active, mean, deviation)


NEARLY_CONSTANT = 100.0  # mean over deviation beyond which Σab - Σa Σb / T would lose digits that matter


def _centred(matrix: sparse.csr_array, found: Moments) -> tuple[sparse.csr_array, np.ndarray]:
    """The matrix and its means, with the few nearly constant features centred: then their mean is 0 and nothing cancels."""
    steady = np.flatnonzero((found.deviation > 0) & (found.mean > NEARLY_CONSTANT * found.deviation))
    if not len(steady):
        return matrix, found.mean
    keep, mean = np.ones(matrix.shape[1]), found.mean.copy()
    keep[steady] = mean[steady] = 0
    columns = sparse.csc_array(matrix[:, steady].toarray() - found.mean[steady])
    place = sparse.csr_array(
        (np.ones(len(steady)), (np.arange(len(steady)), steady)), shape=(len(steady), matrix.shape[1])
    )
    return sparse.csr_array(matrix @ sparse.diags_array(keep) + columns @ place), mean


def correlate(a: Activations, b: Activations, floor: float, label: str = "correlations") -> pa.Table:
    """Correlate every feature of `a` with every feature of `b`, row k of both being the same token.

    Returns:
        Schema `CORRELATIONS`, ordered by `feature_a`, `feature_b`: all pairs with r above `floor`, and for each feature of either
        side its best match whatever its r (of equal ones the lowest number). `both` and `either` are the tokens on which both
        and on which at least one of the two fire. Features without variance are in no pair.

    Raises:
        InputError: the two were not collected over the same number of tokens.
    """
    if a.tokens != b.tokens:
        raise InputError(
            f"{label}: one side has {a.tokens:,} tokens, the other {b.tokens:,}; both must be of one sample"
        )
    moments_a, moments_b = moments(a), moments(b)
    varies_a, varies_b = moments_a.deviation > 0, moments_b.deviation > 0
    matrix_a, mean_a = _centred(a.matrix, moments_a)
    matrix_b, mean_b = _centred(b.matrix, moments_b)
    by_feature = matrix_a.T.tocsr()
    block = max(1, BLOCK_BYTES // (8 * b.features))
    inverse_b = np.divide(1, moments_b.deviation, out=np.zeros(b.features), where=varies_b)

    best_r = np.full(b.features, -np.inf)  # of each feature of b, over the blocks so far
    best_a = np.full(b.features, -1)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    with progress(a.features, "feature", label) as bar:
        for first in range(0, a.features, block):
            rows = np.flatnonzero(varies_a[first : first + block]) + first
            if len(rows) and varies_b.any():
                r = (by_feature[rows] @ matrix_b).toarray() / a.tokens
                r -= np.outer(mean_a[rows], mean_b)
                r *= inverse_b / moments_a.deviation[rows, None]
                np.clip(r, -1, 1, out=r)
                r[:, ~varies_b] = -np.inf
                keep = r > floor
                keep[np.arange(len(rows)), r.argmax(1)] = True
                better = r.max(0) > best_r
                best_a[better] = rows[r.argmax(0)[better]]
                best_r[better] = r.max(0)[better]
                row, column = np.nonzero(keep)
                parts.append((rows[row], column, r[row, column]))
            bar.update(min(block, a.features - first))
    others = np.flatnonzero(best_a >= 0)
    parts.append((best_a[others], others, best_r[others]))
    feature_a, feature_b, r = (np.concatenate(column) for column in zip(*parts, strict=True))
    _, unique = np.unique(feature_a.astype(np.int64) * b.features + feature_b, return_index=True)
    feature_a, feature_b, r = feature_a[unique], feature_b[unique], r[unique]
    both = _both(_ones(a.matrix.T.tocsr()), _ones(b.matrix), feature_a, feature_b)
    either = moments_a.active[feature_a] + moments_b.active[feature_b] - both
    return pa.table([feature_a.astype(np.int32), feature_b.astype(np.int32), r, both, either], schema=CORRELATIONS)


def _ones(matrix: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(matrix.data), np.int64), matrix.indices, matrix.indptr), shape=matrix.shape)


def _both(
    by_feature: sparse.csr_array, by_token: sparse.csr_array, feature_a: np.ndarray, feature_b: np.ndarray
) -> np.ndarray:
    """Tokens on which both features of each pair fire, int64 [pairs]; pairs ordered by `feature_a`."""
    both = np.zeros(len(feature_a), np.int64)
    block = max(1, BLOCK_BYTES // (8 * by_token.shape[1]))
    for first in range(0, by_feature.shape[0], block):
        start, stop = np.searchsorted(feature_a, [first, first + block])
        if start < stop:
            counts = (by_feature[first : first + block] @ by_token).toarray()
            both[start:stop] = counts[feature_a[start:stop] - first, feature_b[start:stop]]
    return both
