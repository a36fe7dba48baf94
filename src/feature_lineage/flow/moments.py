"""Sums of activations from which correlations are computed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from feature_lineage.features.activations import Source
from feature_lineage.progress import progress

CELLS = 4096  # token ranges in which activations are counted, and leaves at most
NEARLY_CONSTANT = 100.0  # mean over deviation beyond which Σab - Σa Σb / T would lose digits that matter


class Moments(NamedTuple):
    """Per feature: tokens on which it fires (int64), mean and standard deviation over all tokens (float64); all [features].

    The deviation is 0 exactly for a feature that never fires or always with the same value: it correlates with nothing.
    """

    active: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def moments(activations: Source) -> Moments:
    """Mean and population standard deviation of each feature."""
    return survey(activations)[0]


def pearson(
    product: np.ndarray, mean_a: np.ndarray, mean_b: np.ndarray, deviation_a: np.ndarray, deviation_b: np.ndarray
) -> np.ndarray:
    """Pearson correlation of pairs of features from means over tokens.

    Args:
        product: mean product of each pair, float64 [...].
        mean_a: mean of each pair's first feature; this and the rest broadcast to the shape of `product`.
        mean_b: mean of its second.
        deviation_a: standard deviation of its first.
        deviation_b: standard deviation of its second.

    Returns:
        float64 [...]; NaN where a deviation is NaN.
    """
    return (product - mean_a * mean_b) / (deviation_a * deviation_b)


def survey(source: Source) -> tuple[Moments, np.ndarray]:
    """Moments, and the activations in each of `CELLS` token ranges; one pass.

    Over the active tokens first, each value taken less the feature's first one so that equal values leave exactly 0, pieces merged as
    Chan, Golub and LeVeque 1983 do; the tokens on which it is silent are one more piece.
    """
    count = source.features
    active, first, mean, squares = np.zeros(count, np.int64), np.zeros(count), np.zeros(count), np.zeros(count)
    cells, bounds = np.zeros(CELLS, np.int64), even_bounds(source.tokens, CELLS)
    with progress(source.tokens, "tok", "moments") as bar:
        for token, feature, activation in source.pieces():
            cells += np.diff(np.searchsorted(token, bounds))
            row = sparse.csr_array((activation, feature, [0, len(feature)]), shape=(1, count))
            by_feature = row.tocsc()
            counts = np.diff(by_feature.indptr)
            here = np.flatnonzero(counts)
            counts, starts = counts[here], by_feature.indptr[here]
            values = by_feature.data.astype(np.float64)
            new = active[here] == 0
            first[here[new]] = values[starts[new]]
            values -= np.repeat(first[here], counts)
            own = np.add.reduceat(values, starts) / counts
            values -= np.repeat(own, counts)
            values *= values
            before, after = active[here], active[here] + counts
            step = own - mean[here]
            mean[here] += step * (counts / after)
            squares[here] += np.add.reduceat(values, starts) + step**2 * (before * (counts / after))
            active[here] = after
            bar.update(int(token[-1]) + 1 - bar.n)
    mean += first
    share = active / max(1, source.tokens)
    squares += active * ((source.tokens - active) / max(1, source.tokens)) * mean**2
    return Moments(active, share * mean, np.sqrt(squares / max(1, source.tokens))), cells


def even_bounds(tokens: int, ranges: int) -> np.ndarray:
    """Where equal token ranges begin, and the end of the last; int64 [ranges + 1]."""
    return np.arange(ranges + 1) * tokens // ranges


def centred(matrix: sparse.csr_array, found: Moments) -> sparse.csr_array:
    """The matrix with the few nearly constant features less their mean, so that nothing cancels in their sums."""
    steady = np.flatnonzero(is_steady(found))
    if not len(steady):
        return matrix
    keep = np.ones(matrix.shape[1])
    keep[steady] = 0
    columns = sparse.csc_array(matrix[:, steady].toarray() - found.mean[steady])
    place = sparse.csr_array(
        (np.ones(len(steady)), (np.arange(len(steady)), steady)), shape=(len(steady), matrix.shape[1])
    )
    return sparse.csr_array(matrix @ sparse.diags_array(keep) + columns @ place)


def is_steady(found: Moments) -> np.ndarray:
    """Which features are so nearly constant that their sums are taken of values less the mean, bool [features]."""
    return (found.deviation > 0) & (found.mean > NEARLY_CONSTANT * found.deviation)
