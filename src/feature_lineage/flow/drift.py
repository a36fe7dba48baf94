"""Drift: one dictionary reads two models. What a feature of it does on the other model, beside what it does on its own.

Matching asks whether a feature of one dictionary has a partner in another one, and two dictionaries of one model share few features. Drift
needs no second dictionary: token by token, a feature's activations on the two models are compared with each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy import sparse

from feature_lineage.features.activations import ActivationFile, activation_blocks
from feature_lineage.flow.bootstrap import MEMORY, resample
from feature_lineage.flow.matching import thresholds
from feature_lineage.flow.moments import moments
from feature_lineage.progress import progress

FEATURES = pa.schema(
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
SIDES = ("parent", "child")  # whose dictionary reads both models of an edge
_SIDE = ("side", pa.string())
SIDED = pa.schema([_SIDE, *FEATURES])
REPLICATES = pa.schema([_SIDE, ("replicate", pa.int32()), ("living", pa.int64()), ("kept", pa.int64())])
_EDGE = [("parent", pa.string()), ("child", pa.string()), ("seed", pa.int64())]
DRIFT = pa.schema([*_EDGE, *SIDED])
CURVES = pa.schema([*_EDGE, _SIDE, ("threshold", pa.float64()), ("kept_share", pa.float64())])
L0_OFF = 0.5  # a reading is poor where its L0 is off by more than this share of the own model's,
EXPLAINED = 0.8  # or where it explains less than this share of the variance that it explains there


class Quality(NamedTuple):
    """How a dictionary reads a model: mean number of active features per token, share of the activations' variance explained."""

    l0: float
    variance_explained: float


def poor(own: Quality, other: Quality) -> list[str]:
    """Why a dictionary reads the other model poorly, in phrases; none if it reads it about as well as its own.

    Under a poor reading a high r is still evidence that a feature was kept. A low one may be the feature's doing or the reading's.
    """
    found = []
    if abs(other.l0 - own.l0) > L0_OFF * own.l0:
        found.append(f"L0 is {other.l0:.1f} where it is {own.l0:.1f} on its own model")
    if other.variance_explained < EXPLAINED * own.variance_explained:
        found.append(
            f"it explains {other.variance_explained:.0%} of the variance where it explains {own.variance_explained:.0%} of its own "
            "model's"
        )
    return found


def measure_drift(own: Sequence[str | Path], other: Sequence[str | Path]) -> pa.Table:
    """`drift` of the parent's dictionary and of the child's, schema `SIDED`.

    Args:
        own: activations of each of the two on its own model.
        other: activations of each on the other's.
    """
    return pa.concat_tables(_of_side(side, drift(*files)) for side, *files in zip(SIDES, own, other, strict=True))


def _of_side(side: str, table: pa.Table) -> pa.Table:
    return table.add_column(0, pa.field(*_SIDE), pa.array([side] * table.num_rows, pa.string()))


def drift(own: str | Path, other: str | Path) -> pa.Table:
    """What each feature of a dictionary does on another model.

    Args:
        own: its activations on its own model over the sample, a file of `collect.collect_features`.
        other: its activations on the other model, over the same tokens.

    Returns:
        A row for each feature, schema `FEATURES`. `r`: Pearson correlation over all tokens between the two; None
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
        [pa.array(column, FEATURES.field(name).type, mask=missing[name]) for name, column in columns.items()],
        schema=FEATURES,
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


def is_kept(table: pa.Table, threshold: float) -> np.ndarray:
    """Which features are kept, bool [rows of `DRIFT`]: r above the threshold. One that is silent on a side is not."""
    return np.nan_to_num(table["r"].to_numpy(zero_copy_only=False).astype(np.float64), nan=-1.0) > threshold


def is_alive(table: pa.Table, min_active: int) -> np.ndarray:
    """Which features live on their own model, bool [rows of `DRIFT`]: they fire there on at least `min_active` tokens."""
    return table["active"].to_numpy() >= max(1, min_active)


def is_new(readings: Mapping[str, pa.Table], threshold: float) -> np.ndarray:
    """Which features of a child are new, bool [features]: on every parent its own dictionary reads them at or below the threshold.

    Args:
        readings: by parent, rows of `DRIFT` of the child's side, ordered by feature.
        threshold: of r.
    """
    return ~np.logical_or.reduce([is_kept(table, threshold) for table in readings.values()])


def bootstrap_drift(
    own: Sequence[str | Path],
    other: Sequence[str | Path],
    document: np.ndarray,
    sampled: np.ndarray,
    threshold: float,
    min_active: int,
) -> pa.Table:
    """Count kept features of the parent's dictionary and of the child's in samples whose documents are sampled again.

    Args:
        own: see `measure_drift`.
        other: see `measure_drift`.
        document: document of each token, int [tokens] (`bootstrap.number_documents`).
        sampled: how often each replicate has each document, [documents, replicates] (`bootstrap.sample_documents`).
        threshold: of r.
        min_active: tokens of the replicate on which a living feature fires on its own model.

    Returns:
        A row for each side and replicate, schema `REPLICATES`.
    """
    found = [_counted(*files, document, sampled, threshold, min_active) for files in zip(own, other, strict=True)]
    return pa.concat_tables(_of_side(side, table) for side, table in zip(SIDES, found, strict=True))


def _counted(
    own: str | Path, other: str | Path, document: np.ndarray, sampled: np.ndarray, threshold: float, min_active: int
) -> pa.Table:
    features = np.arange(ActivationFile(own).features)
    counts = []
    for part in np.array_split(sampled, -(-8 * 9 * len(features) * sampled.shape[1] // MEMORY), axis=1):
        found = resample(own, other, features, features, document, part)
        alive = found.active_a >= max(1, min_active)
        counts.append([alive.sum(0), (alive & (np.nan_to_num(found.r, nan=-1.0) > threshold)).sum(0)])
    columns = np.concatenate(counts, axis=1) if counts else np.zeros((2, 0), np.int64)
    return pa.table([np.arange(sampled.shape[1], dtype=np.int32), *columns], schema=pa.schema(list(REPLICATES)[1:]))


def kept_interval(replicates: pa.Table, level: float = 0.95) -> tuple[float, float] | None:
    """Percentile interval of the kept share; None if no replicate has a living feature."""
    living, kept = replicates["living"].to_numpy(), replicates["kept"].to_numpy()
    there = living > 0
    if not there.any():
        return None
    low, high = np.quantile(kept[there] / living[there], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class Reading(NamedTuple):
    """One side of an edge: the drift of a dictionary's features (schema `FEATURES`), how well it reads each model, and replicates, if any."""

    parent: str
    child: str
    seed: int
    side: str
    drift: pa.Table
    own: Quality
    other: Quality
    replicates: pa.Table | None = None

    @property
    def place(self) -> dict[str, Any]:
        """Edge, seed and side."""
        return {name: getattr(self, name) for name in ("parent", "child", "seed", "side")}


def summarise_drift(readings: Sequence[Reading], threshold: float, min_active: int) -> list[dict[str, Any]]:
    """Drift along every edge, counted.

    Args:
        readings: both sides of every edge, of each seed.
        threshold: of r.
        min_active: tokens on which a living feature fires on its own model.

    Returns:
        A row for each reading: of `living` features `kept` (of the child's dictionary: those that are already there on the parent) and
        their share with its interval; of the child's side its `new` ones, which no parent has; how well the dictionary reads either
        model, and why it reads the other one poorly, if it does.
    """
    rows = []
    for one in readings:
        alive = is_alive(one.drift, min_active)
        kept, living = int((alive & is_kept(one.drift, threshold)).sum()), int(alive.sum())
        row = one.place | {"features": len(alive), "living": living, "kept": kept}
        row |= {"share": kept / living if living else None, "new": None}
        row["interval"] = None if one.replicates is None else kept_interval(one.replicates)
        if one.side == "child":
            beside = [r for r in readings if (r.child, r.seed, r.side) == (one.child, one.seed, "child")]
            row["new"] = int((alive & is_new({r.parent: r.drift for r in beside}, threshold)).sum())
        row |= {"own": one.own._asdict(), "other": one.other._asdict(), "poor": poor(one.own, one.other)}
        rows.append(row)
    return rows


def drift_table(readings: Sequence[Reading]) -> pa.Table:
    """All readings, feature by feature; schema `DRIFT`."""
    tables = [DRIFT.empty_table()]
    for one in readings:
        columns = [pa.array([value] * one.drift.num_rows, DRIFT.field(name).type) for name, value in one.place.items()]
        tables.append(pa.table([*columns, *one.drift.columns], schema=DRIFT))
    return pa.concat_tables(tables)


def drift_curves(readings: Sequence[Reading], min_active: int) -> pa.Table:
    """Share of the living features of each reading that are kept, as a function of the threshold; schema `CURVES`."""
    rows = []
    for one in readings:
        alive = is_alive(one.drift, min_active)
        r = np.nan_to_num(one.drift["r"].to_numpy(zero_copy_only=False).astype(np.float64)[alive], nan=-1.0)
        for threshold in thresholds(0.0):
            share = float((r > threshold).mean()) if alive.any() else None
            rows.append(one.place | {"threshold": threshold, "kept_share": share})
    return pa.Table.from_pylist(rows, CURVES)
