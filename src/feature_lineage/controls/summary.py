"""All controls side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_lineage.controls.alignment_null import NULL
from feature_lineage.controls.as_published import AS_PUBLISHED, PUBLISHED
from feature_lineage.controls.ceiling import CEILING
from feature_lineage.controls.neurons import NEURONS
from feature_lineage.controls.sides import SIDES, Comparisons
from feature_lineage.store.formats import read_table

SCHEMAS = {"ceiling": CEILING, "alignment_null": NULL, "neurons": NEURONS, "as_published": AS_PUBLISHED}

DEFINITIONS: Mapping[str, str] = {
    "features": "features of this side that fire in the sample; the others are dead and count nowhere",
    "share": "share of them whose best match among all features of the other side correlates above the threshold: on the parent's "
    "side they persist and the others disappear, on the child's side they were inherited and the others emerge",
    "median_r": "median correlation of the best matches",
    "ceiling": "the same share between two autoencoders of this side's own model that differ only in seed, mean over both sides and "
    "all pairs of the first seed with another. Nothing was trained between them, so what is missing from 100 % is the "
    "autoencoders' doing, and an edge cannot be expected to exceed it",
    "share_of_ceiling": "share / ceiling",
    "false_match_rate": "the same share after one side's activations were shifted against the other's, whole windows within their "
    "corpus: no token is beside itself, so every match is by chance; the highest of the offsets",
    "null_threshold": "the threshold that at most 1 % of the features exceed by chance (99th percentile of the shifted best "
    "matches); the highest of the offsets",
    "share_at_null_threshold": "the share at that threshold in place of the study's",
    "neurons": "the same share for the model's own activations at the hook, without any autoencoder; matches by r, not |r|",
    "neurons_median_r": "median correlation of the neurons' best matches",
    "as_published": "the same share by the measure of the paper's published code: mean activation per token string, only strings on "
    "which both features fire, from two strings on. Two points always correlate perfectly, so half of all candidates that share two "
    "strings match by chance",
}


def join_control(control: str, parts: Iterable[str | Path]) -> pa.Table:
    """The tables of a control that was measured edge by edge, as one of its schema; empty without edges."""
    return pa.concat_tables([SCHEMAS[control].empty_table(), *map(read_table, parts)])


def summarise_controls(
    edges: Comparisons,
    tables: Mapping[str, pa.Table],
    threshold: float,
    not_measured: Mapping[str, str],
) -> dict[str, Any]:
    """Each edge's share of persisting features beside its controls, both sides.

    Args:
        edges: the autoencoders of each parent and child, one seed at a time.
        tables: those of `SCHEMAS` that were measured, by name.
        threshold: correlation above which two features are the same.
        not_measured: why the others were not, by name; their numbers are None.

    Returns:
        `edges` (a row per edge, seed and side), `ceilings` (a row per model), `variants` (the table `as_published`),
        `not_measured` and `definitions`.
    """
    rows = {name: table.to_pylist() for name, table in tables.items()}
    shares: dict[str, list[float]] = {}
    for row in rows.get("ceiling", []):
        if row["share"] is not None:
            shares.setdefault(row["model"], []).append(row["share"])
    ceilings = {model: float(np.mean(found)) for model, found in shares.items()}

    found = []
    for ((parent, seed), (child, _)), pair in edges.items():
        for name, model, side in zip(SIDES, (parent, child), pair, strict=True):
            edge = {"parent": parent, "child": child, "side": name}
            here = edge | {"seed": seed}
            row = here | side.row(threshold)
            ceiling = ceilings.get(model)
            null = _only(rows.get("alignment_null", []), here)
            limit = _highest(null, "threshold")
            (neurons,) = _only(rows.get("neurons", []), edge) or [{}]
            variant, minimum = PUBLISHED
            (published,) = _only(rows.get("as_published", []), here | {"variant": variant, "minimum": minimum}) or [{}]
            found.append(
                row
                | {
                    "ceiling": ceiling,
                    "share_of_ceiling": row["share"] / ceiling if ceiling and row["share"] is not None else None,
                    "false_match_rate": _highest(null, "false_match_rate"),
                    "null_threshold": limit,
                    "share_at_null_threshold": None if limit is None else side.share(limit),
                    "neurons": neurons.get("share"),
                    "neurons_median_r": neurons.get("median_r"),
                    "as_published": published.get("share"),
                }
            )
    return {
        "threshold": threshold,
        "edges": found,
        "ceilings": [{"model": model, "ceiling": ceiling} for model, ceiling in ceilings.items()],
        "variants": rows.get("as_published", []),
        "not_measured": dict(not_measured),
        "definitions": dict(DEFINITIONS),
    }


def _only(rows: list[dict[str, Any]], values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def _highest(rows: list[dict[str, Any]], name: str) -> float | None:
    return max((row[name] for row in rows if row[name] is not None), default=None)
