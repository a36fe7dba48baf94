"""Best, mutual and one-to-one matches of two dictionaries."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching


class Match(NamedTuple):
    """Each feature's best match in the other model: its number (int64, -1 for none) and correlation (float64, NaN for none)."""

    best: np.ndarray
    r: np.ndarray


def thresholds(floor: float) -> list[float]:
    """Thresholds from the first hundredth that is not below `floor` to 1, in steps of .01."""
    return (np.arange(math.ceil(100 * floor - 1e-9), 101) / 100).tolist()  # 100 * .07 is more than 7


def best_matches(correlations: pa.Table, features_a: int, features_b: int) -> tuple[Match, Match]:
    """Best match of each feature of both sides of a table of `correlation.correlate`; of equal ones the lowest number."""
    a, b, r = (correlations[name].to_numpy() for name in ("feature_a", "feature_b", "r"))
    return _best(a, b, r, features_a), _best(b, a, r, features_b)


def _best(own: np.ndarray, other: np.ndarray, r: np.ndarray, count: int) -> Match:
    best, highest = np.full(count, -1), np.full(count, np.nan)
    order = np.lexsort((-other, r))  # ascending: what is written last is the highest, at equal r the lowest number
    best[own[order]] = other[order]
    highest[own[order]] = r[order]
    return Match(best, highest)


def strongest(feature: np.ndarray, r: np.ndarray, count: int) -> np.ndarray:
    """Highest r of each feature's pairs, float64 [count, ...]; NaN for none.

    Args:
        feature: of each pair, int [pairs].
        r: of each pair, float64 [pairs, ...]; NaN is left out.
        count: of features.
    """
    best = np.full((count, *r.shape[1:]), -np.inf)
    np.maximum.at(best, feature, np.where(np.isnan(r), -np.inf, r))
    return np.where(np.isneginf(best), np.nan, best)


def mutual_best(down: Match, up: Match) -> np.ndarray:
    """Whether each feature of the parent is the best match of its own best match, bool [parent features]."""
    found = np.flatnonzero(down.best >= 0)
    mutual = np.zeros(len(down.best), bool)
    mutual[found] = up.best[down.best[found]] == found
    return mutual


def one_to_one(correlations: pa.Table, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """The assignment of features to one another, each to one at most, with the largest sum of r over pairs above `threshold` (≥ 0).

    Exact, by the sparse Jonker-Volgenant algorithm: every feature of the parent may also go to a place of its own that is worth 0, so
    that an assignment of all of them exists.

    Returns:
        The features of the parent and of the child that are assigned, both int32 [pairs].
    """
    a, b, r = (correlations[name].to_numpy() for name in ("feature_a", "feature_b", "r"))
    above = r > threshold
    left, row = np.unique(a[above], return_inverse=True)
    right, column = np.unique(b[above], return_inverse=True)
    if not len(left):
        return left, right
    own = np.arange(len(left))
    cost = np.concatenate([2 - r[above], np.full(len(left), 2.0)])  # 2 more than -r, since the algorithm takes no zeros
    place = (np.concatenate([row, own]), np.concatenate([column, len(right) + own]))
    chosen = min_weight_full_bipartite_matching(csr_array((cost, place), shape=(len(left), len(right) + len(left))))[1]
    real = chosen < len(right)
    return left[real], right[chosen[real]]
