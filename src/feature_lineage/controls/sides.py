"""The two sides of a comparison, and what every control reads of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from feature_lineage.features.activations import Activations
from feature_lineage.flow.matching import best_matches
from feature_lineage.store.formats import read_table

SIDES = ("parent", "child")
EDGE = [("parent", pa.string()), ("child", pa.string())]
SEED = [("seed", pa.int64())]
SHARE = [("persisting", pa.int64()), ("share", pa.float64()), ("median_r", pa.float64())]
SIDE = [("side", pa.string()), ("features", pa.int64())]


class Side(NamedTuple):
    """One side of a comparison: which features fire in the sample (bool), and the r of each one's best match on the other side
    (float64, NaN for none); both [features]."""

    alive: np.ndarray
    r: np.ndarray

    def matches(self, threshold: float) -> int:
        """Living features whose best match correlates above `threshold`."""
        return int((self.r[self.alive] > threshold).sum())

    def share(self, threshold: float) -> float | None:
        """Share of the living features whose best match correlates above `threshold`; None if none lives."""
        return self.matches(threshold) / int(self.alive.sum()) if self.alive.any() else None

    def quantile(self, quantile: float, method: str = "linear") -> float | None:
        """A quantile of the best r of the living features that have a match; None if none has."""
        found = self.r[self.alive & ~np.isnan(self.r)]
        return float(np.quantile(found, quantile, method=method)) if len(found) else None

    def row(self, threshold: float) -> dict[str, Any]:
        """The columns of a table that say what persists."""
        return {
            "features": int(self.alive.sum()),
            "persisting": self.matches(threshold),
            "share": self.share(threshold),
            "median_r": self.quantile(0.5),
        }


Autoencoder = tuple[str, int]  # a model and the seed of its autoencoder
Comparisons = dict[tuple[Autoencoder, Autoencoder], tuple[Side, Side]]


def sides(correlations: pa.Table, alive_a: np.ndarray, alive_b: np.ndarray) -> tuple[Side, Side]:
    """Both sides of a table of `correlation.correlate`; only features that are alive (bool [features]) are matches."""
    kept = alive_a[correlations["feature_a"].to_numpy()] & alive_b[correlations["feature_b"].to_numpy()]
    a, b = best_matches(correlations.filter(pa.array(kept)), len(alive_a), len(alive_b))
    return Side(alive_a, a.r), Side(alive_b, b.r)


def without_dead(activations: Activations, min_active: int) -> Activations:
    """The same without the features that fire on fewer than `min_active` tokens: they never fire."""
    matrix = activations.matrix.tocsr(copy=True)
    matrix.data[active_tokens(activations)[matrix.indices] < min_active] = 0
    matrix.eliminate_zeros()
    return Activations(matrix)


def read_comparisons(
    pairs: Sequence[tuple[Autoencoder, Autoencoder]],
    correlations: Sequence[str | Path],
    statistics: Mapping[Autoencoder, str | Path],
    min_active: int,
) -> Comparisons:
    """`sides` of pairs of autoencoders, from files.

    Args:
        pairs: the pairs.
        correlations: file of `correlation.correlate` for each pair.
        statistics: file of `collect.Statistics` of each autoencoder.
        min_active: tokens on which a living feature fires.
    """
    active = {name: read_table(path, ["active"])["active"].to_numpy() for name, path in statistics.items()}
    columns = ["feature_a", "feature_b", "r"]
    return {
        (a, b): sides(read_table(path, columns), active[a] >= min_active, active[b] >= min_active)
        for (a, b), path in zip(pairs, correlations, strict=True)
    }


def active_tokens(activations: Activations) -> np.ndarray:
    """Tokens on which each feature fires."""
    return np.bincount(activations.matrix.indices, minlength=activations.features)
