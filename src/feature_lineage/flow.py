"""What persists, emerges and disappears along each edge of a lineage, and where each feature comes from (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.artifacts import read_table

EDGES = pa.schema(
    [("parent", pa.string()), ("child", pa.string()), ("seed", pa.int64()), ("threshold", pa.float64())]
    + [
        (name, pa.int64())
        for name in (
            "parent_features", "parent_dead", "parent_persisting", "disappearing",
            "child_features", "child_dead", "child_persisting", "emerging",
        )
    ]
    + [("persisting_share", pa.float64()), ("emerging_share", pa.float64())]
)  # fmt: skip
FEATURES = pa.schema(
    [
        ("parent", pa.string()),
        ("child", pa.string()),
        ("seed", pa.int64()),
        ("model", pa.string()),
        ("feature", pa.int32()),
        ("fate", pa.string()),
        ("ancestor", pa.int32()),
        ("descendant", pa.int32()),
        ("r", pa.float64()),
        ("density", pa.float64()),
    ]
)
LINEAGES = pa.schema(
    [
        ("model", pa.string()),
        ("seed", pa.int64()),
        ("feature", pa.int32()),
        ("density", pa.float64()),
        ("origin", pa.string()),
        (
            "chain",
            pa.list_(pa.struct([("model", pa.string()), ("feature", pa.int32()), ("r", pa.float64())])),
        ),
    ]
)


class Match(NamedTuple):
    """Each feature's best match in the other model: its number (int64, -1 for none) and correlation (float64, NaN for none)."""

    best: np.ndarray
    r: np.ndarray


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


class Edge(NamedTuple):
    """One parent → child comparison: densities (share of tokens on which each feature fires) and correlations."""

    parent: str
    child: str
    parent_density: np.ndarray
    child_density: np.ndarray
    correlations: pa.Table


class _Flow(NamedTuple):
    edge: Edge
    down: Match
    up: Match
    parent_persists: np.ndarray  # bool [parent features]
    child_persists: np.ndarray  # bool [child features]


class Tables(NamedTuple):
    """What `trace` finds: one row per edge, per feature and edge, per feature; and living features by origin, per model."""

    edges: pa.Table
    features: pa.Table
    lineages: pa.Table
    origins: dict[str, dict[str, int]]


def trace(
    edges: Sequence[Edge],
    densities: Mapping[str, np.ndarray],
    order: Sequence[str],
    threshold: float,
    seed: int,
) -> Tables:
    """Follow every feature along every edge.

    A parent's feature persists if its best match in the child correlates above `threshold`, and disappears otherwise; a child's
    feature persists if its best match in the parent does, and emerges otherwise. A feature that never fires in the sample is
    dead and neither. Of several parents, a feature's ancestor is the one that it correlates with best.

    Args:
        edges: all edges of the lineage.
        densities: per model, share of the sample's tokens on which each feature fires, float64 [features].
        order: the models, parents before children.
        threshold: correlation above which two features are the same.
        seed: of the autoencoders compared, for the tables.
    """
    flows = []
    for edge in edges:
        down, up = best_matches(edge.correlations, len(edge.parent_density), len(edge.child_density))
        flows.append(_Flow(edge, down, up, down.r > threshold, up.r > threshold))
    lineages, origins = _lineages(flows, densities, order, seed)
    return Tables(
        pa.Table.from_pylist([_edge_row(flow, threshold, seed) for flow in flows], EDGES),
        pa.concat_tables(
            [table for flow in flows for table in _feature_tables(flow, seed)] or [FEATURES.empty_table()]
        ),
        lineages,
        origins,
    )


def trace_seeds(
    seeds: Sequence[int],
    models: Sequence[str],
    edges: Sequence[tuple[str, str]],
    correlations: Sequence[str | Path],
    statistics: Sequence[str | Path],
    threshold: float,
) -> Tables:
    """`trace` for the autoencoders of each seed, from files; the origins are those of the first seed.

    Args:
        seeds: autoencoder seeds.
        models: all models, parents before children.
        edges: all (parent, child) pairs.
        correlations: file of `correlation.correlate` for each seed and edge, in that order.
        statistics: file of `features.Statistics` for each seed and model, in that order.
        threshold: correlation above which two features are the same.
    """
    found = []
    for number, seed in enumerate(seeds):
        densities = {
            model: read_table(path)["density"].to_numpy()
            for model, path in zip(models, statistics[number * len(models) :], strict=False)
        }
        pairs = zip(edges, correlations[number * len(edges) :], strict=False)
        compared = [Edge(a, b, densities[a], densities[b], read_table(path)) for (a, b), path in pairs]
        found.append(trace(compared, densities, models, threshold, seed))
    tables = (pa.concat_tables([getattr(one, name) for one in found]) for name in ("edges", "features", "lineages"))
    return Tables(*tables, found[0].origins)


def summarise(tables: Tables, threshold: float) -> dict[str, Any]:
    """Counts for people and for the Sankey: edges of all seeds; origins and bands of the first seed."""
    first = tables.lineages["seed"][0].as_py()
    return {
        "threshold": threshold,
        "models": list(tables.origins),
        "edges": tables.edges.to_pylist(),
        "origins": tables.origins,
        "bands": _bands(tables.lineages.filter(pc.equal(tables.lineages["seed"], first))),
    }


def _edge_row(flow: _Flow, threshold: float, seed: int) -> dict[str, Any]:
    parent_alive, child_alive = flow.edge.parent_density > 0, flow.edge.child_density > 0
    parent_persisting, child_persisting = int(flow.parent_persists.sum()), int(flow.child_persists.sum())
    emerging = int(child_alive.sum()) - child_persisting
    return {
        "parent": flow.edge.parent,
        "child": flow.edge.child,
        "seed": seed,
        "threshold": threshold,
        "parent_features": len(parent_alive),
        "parent_dead": int((~parent_alive).sum()),
        "parent_persisting": parent_persisting,
        "disappearing": int(parent_alive.sum()) - parent_persisting,
        "child_features": len(child_alive),
        "child_dead": int((~child_alive).sum()),
        "child_persisting": child_persisting,
        "emerging": emerging,
        "persisting_share": parent_persisting / parent_alive.sum() if parent_alive.any() else None,
        "emerging_share": emerging / child_alive.sum() if child_alive.any() else None,
    }


def _feature_tables(flow: _Flow, seed: int) -> list[pa.Table]:
    sides = (
        (
            flow.edge.parent,
            flow.edge.parent_density,
            flow.down,
            flow.parent_persists,
            "disappearing",
            "descendant",
        ),
        (flow.edge.child, flow.edge.child_density, flow.up, flow.child_persists, "emerging", "ancestor"),
    )
    tables = []
    for model, density, match, persists, otherwise, relative in sides:
        count = len(density)
        fate = np.where(density == 0, "dead", np.where(persists, "persisting", otherwise))
        columns = {
            "parent": pa.array([flow.edge.parent] * count),
            "child": pa.array([flow.edge.child] * count),
            "seed": np.full(count, seed),
            "model": pa.array([model] * count),
            "feature": np.arange(count, dtype=np.int32),
            "fate": pa.array(fate.tolist()),
            "ancestor": pa.nulls(count, pa.int32()),
            "descendant": pa.nulls(count, pa.int32()),
            "r": pa.array(match.r, from_pandas=True),
            "density": density,
        }
        columns[relative] = pa.array(match.best.astype(np.int32), mask=match.best < 0)
        tables.append(pa.table(columns, schema=FEATURES))
    return tables


def _lineages(
    flows: list[_Flow], densities: Mapping[str, np.ndarray], order: Sequence[str], seed: int
) -> tuple[pa.Table, dict[str, dict[str, int]]]:
    """Each feature's chain of ancestors, nearest first, and the numbers of living features by origin."""
    chains: dict[str, list[list[dict[str, Any]]]] = {}
    rows: list[dict[str, Any]] = []
    origins: dict[str, dict[str, int]] = {}
    for model in order:
        density = densities[model]
        into = [flow for flow in flows if flow.edge.child == model]
        chains[model] = []
        counts: dict[str, int] = {}
        for feature in range(len(density)):
            found = [(float(flow.up.r[feature]), -i) for i, flow in enumerate(into) if flow.child_persists[feature]]
            chain: list[dict[str, Any]] = []
            if found:
                r, index = max(found)
                parent, ancestor = into[-index].edge.parent, int(into[-index].up.best[feature])
                chain = [{"model": parent, "feature": ancestor, "r": r}, *chains[parent][ancestor]]
            chains[model].append(chain)
            origin = chain[-1]["model"] if chain else model
            alive = density[feature] > 0
            if alive:
                counts[origin] = counts.get(origin, 0) + 1
            rows.append(
                {
                    "model": model,
                    "seed": seed,
                    "feature": feature,
                    "density": float(density[feature]),
                    "origin": origin if alive else None,
                    "chain": chain,
                }
            )
        origins[model] = {name: counts[name] for name in order if name in counts}
    return pa.Table.from_pylist(rows, LINEAGES), origins


def _bands(lineages: pa.Table) -> list[dict[str, Any]]:
    """How many features of `child` have their ancestor in `parent`, by the model that they go back to."""
    counts: dict[tuple[str, str, str], int] = {}
    for row in lineages.to_pylist():
        if row["chain"]:
            key = (row["chain"][0]["model"], row["model"], row["origin"])
            counts[key] = counts.get(key, 0) + 1
    return [{"parent": p, "child": c, "origin": o, "features": n} for (p, c, o), n in counts.items()]
