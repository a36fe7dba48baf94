"""What the flow along an edge is held against: how much persists into an untrained model, how well the parent's autoencoder serves
the child, what one started from it keeps, and what a merge owes to the way of merging.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from feature_lineage.controls.sides import SIDES, sides
from feature_lineage.models.distance import relative_distance

_PAIR = [("parent", pa.string()), ("child", pa.string()), ("seed", pa.int64())]
PERSISTENCE = pa.schema(
    [
        *_PAIR,
        ("side", pa.string()),
        ("features", pa.int64()),
        ("persisting", pa.int64()),
        ("share", pa.float64()),
        ("median_r", pa.float64()),
        ("same_number", pa.int64()),
    ]
)

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


def compare_baseline(
    correlations: pa.Table, active: tuple[np.ndarray, np.ndarray], min_active: int, threshold: float
) -> list[dict[str, Any]]:
    """How many features of two autoencoders find each other, counted as along an edge: one row for each of the two.

    Args:
        correlations: table of `correlation.correlate`.
        active: tokens on which each feature of the one and of the other fires, int64 [features].
        min_active: a feature that fires on fewer tokens is dead.
        threshold: correlation above which two features are the same.

    Returns:
        Rows of `PERSISTENCE`, names and seed apart. `same_number` counts features that are the same as the feature of their own
        number in the other autoencoder: one that starts from another begins with the same features under the same numbers.
    """
    alive = active[0] >= min_active, active[1] >= min_active
    a, b, r = (correlations[name].to_numpy() for name in ("feature_a", "feature_b", "r"))
    kept = int(((a == b) & (r > threshold) & alive[0][a] & alive[1][b]).sum())
    pair = zip(SIDES, sides(correlations, *alive), strict=True)
    return [{"side": name, **side.row(threshold), "same_number": kept} for name, side in pair]


def compare_transfers(transferred: Mapping[str, Any], own: Mapping[str, Any] | None) -> dict[str, Any]:
    """A row of `TRANSFER`, names and seed apart, of two results of `evaluation.evaluate_autoencoder` on one model and corpora.

    Args:
        transferred: of the parent's autoencoder.
        own: of the child's; its numbers are in the columns `own_…`. None if it has none.
    """
    of_child = own or dict.fromkeys(MEASURES)
    return {name: transferred[name] for name in MEASURES} | {f"own_{name}": of_child[name] for name in MEASURES}


class Merged(NamedTuple):
    """A merge of two models by one method.

    `state`: its tensors by name; `tensors`: table of `merge.tensor_table`; `corpora`: result of `evaluation.evaluate_model`
    by corpus; `autoencoder`: result of `evaluation.evaluate_autoencoder` with the autoencoder of the study's merged model.
    """

    state: Mapping[str, np.ndarray]
    tensors: pa.Table
    corpora: Mapping[str, Mapping[str, float]]
    autoencoder: Mapping[str, Any]


def compare_merges(slerp: Merged, linear: Merged) -> list[dict[str, Any]]:
    """Rows of `LINEAR_MERGE`, one a corpus, model, method and t apart, of two merges of the same parents at the same t.

    `slerp_share`: share of the parameters that are in tensors for which SLERP did not fall back to a straight line;
    `largest_angle` between the parents' tensors, radians; `distance` of the two merges, |slerp - linear| / |slerp| over all
    parameters. Variance explained and loss recovered are of one and the same autoencoder.
    """
    tensors = slerp.tensors.to_pandas()
    whole: dict[str, Any] = {
        "slerp_share": float(tensors["elements"][tensors["branch"] == "slerp"].sum() / tensors["elements"].sum()),
        "largest_angle": float(tensors["angle"].max()),
        "distance": relative_distance(slerp.state, linear.state, slerp.state),
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
