"""What persists, by density, single token and corpus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from feature_lineage.flow.fates import OF_SIDE

STRATA = pa.schema(
    [
        *OF_SIDE,
        ("kind", pa.string()),
        ("stratum", pa.string()),
        ("features", pa.int64()),
        ("persisting", pa.int64()),
        ("share", pa.float64()),
    ]
)
ULTRALOW = (
    1e-6  # density below which a feature is of the cluster that autoencoders make of nothing (Bricken et al. 2023)
)
SINGLE_TOKEN = 0.9  # share of a feature's activation on one token from which it is a single-token feature


def density_band(density: float) -> str:
    """The decade of a density, as text; all below `ULTRALOW` are one band."""
    if density < ULTRALOW:
        return "below 1e-6, ultralow"
    decade = min(math.floor(math.log10(density)), -1)
    return f"1e{decade} to {f'1e{decade + 1}' if decade < -1 else '1'}"


def strata(features: pa.Table, tokens: Mapping[tuple[str, int], pa.Table]) -> pa.Table:
    """Share of the living features that persist, by density, by whether they fire for a single token, and by corpus.

    A single-token feature has at least `SINGLE_TOKEN` of its activation on one token of the vocabulary; a feature is of the corpus on
    which most of its activation lies. Dead features are left out, so that the strata of each kind add up to the living ones.

    Args:
        features: table of schema `FEATURES`.
        tokens: table of `main_token.weigh_tokens` for each model and seed.

    Returns:
        Schema `STRATA`: `kind` is `density`, `token` or `corpus`; strata without features have no row.
    """
    counts: dict[tuple[Any, ...], list[int]] = {}
    frame = features.select(["parent", "child", "seed", "model", "feature", "fate", "density"]).to_pandas()
    for (parent, child, seed, model), rows in frame.groupby(["parent", "child", "seed", "model"], sort=False):
        alive = rows[rows["fate"] != "dead"]
        found = tokens[model, seed].to_pandas().loc[alive["feature"]]
        kinds = {
            "density": [density_band(density) for density in alive["density"]],
            "token": np.where(found["token_share"] >= SINGLE_TOKEN, "single", "several").tolist(),
            "corpus": found["corpus"].tolist(),
        }
        edge = (parent, child, seed, "parent" if model == parent else "child")
        for kind, names in kinds.items():
            for name in sorted(set(names)):
                counts[(*edge, kind, name)] = [0, 0]
            for name, fate in zip(names, alive["fate"], strict=True):
                counts[(*edge, kind, name)][0] += 1
                counts[(*edge, kind, name)][1] += fate == "persisting"
    rows = [dict(zip(STRATA.names, (*key, *count, count[1] / count[0]), strict=True)) for key, count in counts.items()]
    return pa.Table.from_pylist(rows, STRATA)
