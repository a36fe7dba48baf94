"""What the flow along an edge is held against: how much persists into an untrained model, how well the parent's autoencoder serves
the child, what one started from it keeps, and what a merge owes to the way of merging.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from feature_lineage.flow import best_matches

_PERSISTENCE = [
    ("side", pa.string()),
    ("features", pa.int64()),
    ("persisting", pa.int64()),
    ("share", pa.float64()),
    ("median_r", pa.float64()),
]
_PAIR = [("parent", pa.string()), ("child", pa.string()), ("seed", pa.int64())]
UNTRAINED = pa.schema([("root", pa.string()), ("seed", pa.int64()), *_PERSISTENCE])
STARTED = pa.schema([*_PAIR, *_PERSISTENCE, ("same_number", pa.int64()), ("same_number_share", pa.float64())])

MEASURES = ("variance_explained", "loss_recovered", "l0", "dead_share")
TRANSFER = pa.schema([*_PAIR, *((f"{prefix}{name}", pa.float64()) for prefix in ("", "own_") for name in MEASURES)])

LINEAR_MERGE = pa.schema(
    [
        ("model", pa.string()),
        ("method", pa.string()),
        ("t", pa.float64()),
        ("corpus", pa.string()),
        *(
            (f"{method}_{name}", pa.float64())
            for name in ("loss", "accuracy", "variance_explained", "loss_recovered")
            for method in ("slerp", "linear")
        ),
        ("slerp_share", pa.float64()),
        ("largest_angle", pa.float64()),
        ("distance", pa.float64()),
    ]
)


def persistence(
    correlations: pa.Table,
    densities: tuple[np.ndarray, np.ndarray],
    threshold: float,
    sides: tuple[str, str],
) -> list[dict[str, Any]]:
    """How many features of two autoencoders find each other, as `flow.trace` counts them: one row for each of the two.

    Args:
        correlations: table of `correlation.correlate`.
        densities: per side, share of the sample's tokens on which each feature fires, float64 [features].
        threshold: correlation above which two features are the same.
        sides: what to call the two.

    Returns:
        `side`; `features`, those that fire in the sample; `persisting`, those of them whose best match correlates above
        `threshold`, and their `share`; `median_r` of the best matches (`share` and `median_r` are None where there are none).
    """
    rows = []
    for side, density, match in zip(sides, densities, best_matches(correlations, *map(len, densities)), strict=True):
        features, persisting = int((density > 0).sum()), int((match.r > threshold).sum())
        matched = match.r[~np.isnan(match.r)]
        rows.append(
            {
                "side": side,
                "features": features,
                "persisting": persisting,
                "share": persisting / features if features else None,
                "median_r": float(np.median(matched)) if len(matched) else None,
            }
        )
    return rows


def same_number(correlations: pa.Table, threshold: float) -> int:
    """Features that correlate above `threshold` with the feature of their own number in the other autoencoder.

    An autoencoder that starts from another one begins with the same features under the same numbers.
    """
    a, b, r = (correlations[name].to_numpy() for name in ("feature_a", "feature_b", "r"))
    return int(((a == b) & (r > threshold)).sum())


def started_rows(
    correlations: pa.Table, densities: tuple[np.ndarray, np.ndarray], threshold: float
) -> list[dict[str, Any]]:
    """Rows of `STARTED`, names and seed apart: `persistence` of a parent's autoencoder and a child's that started from it.

    `same_number`: see there; `same_number_share`: its share of the side's `features`.
    """
    kept = same_number(correlations, threshold)
    return [
        row | {"same_number": kept, "same_number_share": kept / row["features"] if row["features"] else None}
        for row in persistence(correlations, densities, threshold, ("parent", "child"))
    ]


def transfer_row(transferred: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `TRANSFER`, names and seed apart, of two results of `evaluation.evaluate_autoencoder` on one model and corpora.

    Args:
        transferred: of the parent's autoencoder.
        own: of the child's; its numbers are in the columns `own_…`.
    """
    return {name: transferred[name] for name in MEASURES} | {f"own_{name}": own[name] for name in MEASURES}


class Merged(NamedTuple):
    """A merge of two models by one method.

    `state`: its tensors by name; `tensors`: table of `merge.tensor_table`; `corpora`: result of `language_model.evaluate_model`
    by corpus; `autoencoder`: result of `evaluation.evaluate_autoencoder` with the autoencoder of the study's merged model.
    """

    state: Mapping[str, np.ndarray]
    tensors: pa.Table
    corpora: Mapping[str, Mapping[str, float]]
    autoencoder: Mapping[str, Any]


def merge_rows(slerp: Merged, linear: Merged) -> list[dict[str, Any]]:
    """Rows of `LINEAR_MERGE`, one a corpus, model, method and t apart, of two merges of the same parents at the same t.

    `slerp_share`: share of the parameters that are in tensors for which SLERP did not fall back to a straight line;
    `largest_angle` between the parents' tensors, radians; `distance` of the two merges, |slerp - linear| / |slerp| over all
    parameters. Variance explained and loss recovered are of one and the same autoencoder.
    """
    tensors = slerp.tensors.to_pandas()
    whole: dict[str, Any] = {
        "slerp_share": float(tensors["elements"][tensors["branch"] == "slerp"].sum() / tensors["elements"].sum()),
        "largest_angle": float(tensors["angle"].max()),
        "distance": relative_distance(slerp.state, linear.state),
    }
    both = {"slerp": slerp, "linear": linear}
    for method, found in both.items():
        whole |= {f"{method}_{name}": found.autoencoder[name] for name in ("variance_explained", "loss_recovered")}
    return [
        {"corpus": corpus, **whole}
        | {
            f"{method}_{name}": found.corpora[corpus][name]
            for method, found in both.items()
            for name in ("loss", "accuracy")
        }
        for corpus in slerp.corpora
    ]


def relative_distance(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float:
    """|a - b| / |a|, the Euclidean norm over all tensors of two state dicts; float64."""
    apart = sum(float(np.square(a[name].astype(np.float64) - b[name]).sum()) for name in a)
    return float(np.sqrt(apart / sum(float(np.square(tensor.astype(np.float64)).sum()) for tensor in a.values())))
