"""What two autoencoders of one model share."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from feature_lineage.controls.sides import SHARE, SIDE, Comparisons, Side
from feature_lineage.flow.matching import thresholds

CEILING = pa.schema(
    [("model", pa.string()), ("seed_a", pa.int64()), ("seed_b", pa.int64()), *SIDE, *SHARE],
)
CEILING_CURVES = pa.schema([("model", pa.string()), ("threshold", pa.float64()), ("share", pa.float64())])


def measure_ceiling(comparisons: Comparisons, threshold: float) -> pa.Table:
    """What two autoencoders of one model share, for each model: the most that can be expected to persist along an edge.

    Autoencoders that differ only in seed share about 30 % of their features (Paulo and Belrose 2025, arXiv 2501.16615).

    Args:
        comparisons: pairs of autoencoders of one model.
        threshold: correlation above which two features are the same.

    Returns:
        Schema `CEILING`: a row for each pair and side.
    """
    rows = [
        {"model": a[0], "seed_a": a[1], "seed_b": b[1], "side": name, **side.row(threshold)}
        for (a, b), pair in comparisons.items()
        for name, side in zip("ab", pair, strict=True)
    ]
    return pa.Table.from_pylist(rows, CEILING)


def ceiling_curves(comparisons: Comparisons, floor: float) -> pa.Table:
    """The share of `measure_ceiling` as a function of the threshold, mean over a model's pairs of autoencoders and both sides of each.

    Args:
        comparisons: pairs of autoencoders of one model.
        floor: correlation above which all pairs are known; thresholds go from there to 1 in steps of .01.

    Returns:
        Schema `CEILING_CURVES`; shares are null where no feature lives.
    """
    found: dict[str, list[Side]] = {}
    for (a, _), pair in comparisons.items():
        found.setdefault(a[0], []).extend(pair)
    rows = []
    for model, parts in found.items():
        for threshold in thresholds(floor):
            shares = [share for side in parts if (share := side.share(threshold)) is not None]
            share = float(np.mean(shares)) if shares else None
            rows.append({"model": model, "threshold": threshold, "share": share})
    return pa.Table.from_pylist(rows, CEILING_CURVES)
