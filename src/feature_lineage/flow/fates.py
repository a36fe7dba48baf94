"""What persists, emerges and disappears along each edge of a lineage, and where each feature comes from (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from feature_lineage.flow.matching import Match, best_matches, mutual_best, one_to_one, thresholds
from feature_lineage.progress import progress
from feature_lineage.store.formats import read_table

EDGES = pa.schema(
    [("parent", pa.string()), ("child", pa.string()), ("seed", pa.int64()), ("threshold", pa.float64())]
    + [
        (name, pa.int64())
        for name in (
            "parent_features", "parent_dead", "parent_persisting", "disappearing",
            "child_features", "child_dead", "child_persisting", "emerging", "mutual", "one_to_one",
            "min_active", "parent_rare", "child_rare",
        )
    ]
    + [
        (name, pa.float64())
        for name in (
            "persisting_share", "persisting_low", "persisting_high", "emerging_share", "emerging_low", "emerging_high",
        )
    ]
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
        ("mutual", pa.bool_()),
        ("one_to_one", pa.int32()),
        ("density", pa.float64()),
    ]
)
OF_SIDE = [("parent", pa.string()), ("child", pa.string()), ("seed", pa.int64()), ("side", pa.string())]
CURVES = pa.schema(
    OF_SIDE + [(name, pa.float64()) for name in ("threshold", "persisting_share", "mutual_share", "one_to_one_share")]
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
        (
            "fates",
            pa.list_(
                pa.struct(
                    [("child", pa.string()), ("fate", pa.string()), ("descendant", pa.int32()), ("r", pa.float64())]
                )
            ),
        ),
    ]
)


class Edge(NamedTuple):
    """One parent → child comparison: densities (share of tokens on which each feature fires) and correlations.

    Of the features with density 0, `parent_rare` and `child_rare` fire, but on fewer than `min_active` tokens.
    """

    parent: str
    child: str
    parent_density: np.ndarray
    child_density: np.ndarray
    correlations: pa.Table
    min_active: int = 1
    parent_rare: int = 0
    child_rare: int = 0


class _Matched(NamedTuple):
    edge: Edge
    down: Match
    up: Match
    parent_persists: np.ndarray  # bool [parent features]
    child_persists: np.ndarray  # bool [child features]
    mutual: np.ndarray  # bool [parent features]
    assigned: tuple[np.ndarray, np.ndarray]  # features of the parent and of the child


class Tables(NamedTuple):
    """What `trace` finds: one row per edge, per feature and edge, per feature."""

    edges: pa.Table
    features: pa.Table
    lineages: pa.Table


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
    dead and neither. Of several parents, a feature's ancestor is the one that it correlates with best. Beside the best match, of which
    several features may share one: pairs that are each other's best match, and the one-to-one assignment, both above `threshold`.

    Args:
        edges: all edges of the lineage.
        densities: per model that has an autoencoder, share of the sample's tokens on which each feature fires, float64 [features].
        order: the models, parents before children.
        threshold: correlation above which two features are the same.
        seed: of the autoencoders compared, for the tables.
    """
    flows = []
    for edge in edges:
        down, up = best_matches(edge.correlations, len(edge.parent_density), len(edge.child_density))
        mutual = mutual_best(down, up) & (down.r > threshold)
        assigned = one_to_one(edge.correlations, threshold)
        flows.append(_Matched(edge, down, up, down.r > threshold, up.r > threshold, mutual, assigned))
    return Tables(
        pa.Table.from_pylist([_edge_row(flow, threshold, seed) for flow in flows], EDGES),
        pa.concat_tables(
            [table for flow in flows for table in _feature_tables(flow, seed)] or [FEATURES.empty_table()]
        ),
        _lineages(flows, densities, order, seed),
    )


class Seed(NamedTuple):
    """The autoencoders of one seed: per model the density of each feature, and all edges."""

    seed: int
    densities: dict[str, np.ndarray]
    edges: list[Edge]


def read_seeds(
    statistics: Mapping[tuple[str, int], str | Path],
    correlations: Mapping[tuple[str, str, int], str | Path],
    min_active: int,
) -> list[Seed]:
    """Read what is compared. A feature that fires on fewer than `min_active` tokens is dead: its density is 0 and it is in no pair.

    Args:
        statistics: file of `collect.Statistics` of each autoencoder, by model and seed.
        correlations: file of `correlation.correlate` of each edge along which two are matched, by parent, child and seed.
        min_active: tokens on which a living feature fires.

    Returns:
        One for each seed, in the order of `statistics`.
    """
    found = []
    for seed in dict.fromkeys(seed for _, seed in statistics):
        densities, rare = {}, {}
        for (model, own), path in statistics.items():
            if own == seed:
                table = read_table(path, ["active", "density"])
                active = table["active"].to_numpy()
                densities[model] = np.where(active >= min_active, table["density"].to_numpy(), 0)
                rare[model] = int(((active > 0) & (active < min_active)).sum())
        compared = []
        for (a, b, own), path in correlations.items():
            if own == seed:
                pairs = read_table(path)
                alive = (densities[a][pairs["feature_a"]] > 0) & (densities[b][pairs["feature_b"]] > 0)
                kept = pairs.filter(pa.array(alive))
                compared.append(Edge(a, b, densities[a], densities[b], kept, min_active, rare[a], rare[b]))
        found.append(Seed(seed, densities, compared))
    return found


def trace_flows(seeds: Sequence[Seed], models: Sequence[str], threshold: float) -> Tables:
    """`trace` for the autoencoders of each seed.

    Args:
        seeds: what `read_seeds` gives.
        models: all models, parents before children.
        threshold: correlation above which two features are the same.
    """
    found = [trace(one.edges, one.densities, models, threshold, one.seed) for one in seeds]
    tables = (pa.concat_tables([getattr(one, name) for one in found]) for name in ("edges", "features", "lineages"))
    return Tables(*tables)


def threshold_curves(seeds: Sequence[Seed], floor: float) -> pa.Table:
    """Share of the living features of each side that persist, as a function of the threshold.

    By best match, by mutual best match and in the one-to-one assignment, which is made anew for each threshold.

    Args:
        seeds: what `read_seeds` gives.
        floor: correlation above which all pairs are known; thresholds go from there to 1 in steps of .01.

    Returns:
        Schema `CURVES`; `side` is `parent` or `child`. Shares are null where no feature lives.
    """
    grid = thresholds(floor)
    rows = []
    with progress(sum(len(one.edges) for one in seeds) * len(grid), "threshold", "curves") as bar:
        for seed, edge in [(one.seed, edge) for one in seeds for edge in one.edges]:
            down, up = best_matches(edge.correlations, len(edge.parent_density), len(edge.child_density))
            mutual = down.r[mutual_best(down, up)]
            for threshold in grid:
                pairs = (np.sum(mutual > threshold), len(one_to_one(edge.correlations, threshold)[0]))
                for side, match, density in (("parent", down, edge.parent_density), ("child", up, edge.child_density)):
                    counts = (np.sum(match.r > threshold), *pairs)
                    alive = np.count_nonzero(density)
                    shares = [count / alive if alive else None for count in counts]
                    row = (edge.parent, edge.child, seed, side, threshold, *shares)
                    rows.append(dict(zip(CURVES.names, row, strict=True)))
                bar.update(1)
    return pa.Table.from_pylist(rows, CURVES)


def _edge_row(flow: _Matched, threshold: float, seed: int) -> dict[str, Any]:
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
        "mutual": int(flow.mutual.sum()),
        "one_to_one": len(flow.assigned[0]),
        "min_active": flow.edge.min_active,
        "parent_rare": flow.edge.parent_rare,
        "child_rare": flow.edge.child_rare,
        "persisting_share": parent_persisting / parent_alive.sum() if parent_alive.any() else None,
        "emerging_share": emerging / child_alive.sum() if child_alive.any() else None,
    }


def _feature_tables(flow: _Matched, seed: int) -> list[pa.Table]:
    mutual = np.zeros(len(flow.edge.child_density), bool)
    mutual[flow.down.best[flow.mutual]] = True
    edge, (left, right) = flow.edge, flow.assigned
    sides = (
        (
            edge.parent, edge.parent_density, flow.down, flow.parent_persists, flow.mutual, left, right,
            "disappearing", "descendant",
        ),
        (edge.child, edge.child_density, flow.up, flow.child_persists, mutual, right, left, "emerging", "ancestor"),
    )  # fmt: skip
    tables = []
    for model, density, match, persists, both, own, other, otherwise, relative in sides:
        count = len(density)
        assigned = np.full(count, -1, np.int32)
        assigned[own] = other
        columns = {
            "parent": pa.array([flow.edge.parent] * count),
            "child": pa.array([flow.edge.child] * count),
            "seed": np.full(count, seed),
            "model": pa.array([model] * count),
            "feature": np.arange(count, dtype=np.int32),
            "fate": pa.array(_fates(density, persists, otherwise).tolist()),
            "ancestor": pa.nulls(count, pa.int32()),
            "descendant": pa.nulls(count, pa.int32()),
            "r": pa.array(match.r, from_pandas=True),
            "mutual": both,
            "one_to_one": pa.array(assigned, mask=assigned < 0),
            "density": density,
        }
        columns[relative] = pa.array(match.best.astype(np.int32), mask=match.best < 0)
        tables.append(pa.table(columns, schema=FEATURES))
    return tables


def _fates(density: np.ndarray, persists: np.ndarray, otherwise: str) -> np.ndarray:
    return np.where(density == 0, "dead", np.where(persists, "persisting", otherwise))


def _lineages(flows: list[_Matched], densities: Mapping[str, np.ndarray], order: Sequence[str], seed: int) -> pa.Table:
    """Each feature's chain of ancestors, nearest first, and fate on the edges below."""
    chains: dict[str, list[list[dict[str, Any]]]] = {}
    rows: list[dict[str, Any]] = []
    for model in filter(densities.__contains__, order):
        density = densities[model]
        into = [flow for flow in flows if flow.edge.child == model]
        below = [
            (flow, _fates(density, flow.parent_persists, "disappearing")) for flow in flows if flow.edge.parent == model
        ]
        chains[model] = []
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
            rows.append(
                {
                    "model": model,
                    "seed": seed,
                    "feature": feature,
                    "density": float(density[feature]),
                    "origin": origin if alive else None,
                    "chain": chain,
                    "fates": [
                        {
                            "child": flow.edge.child,
                            "fate": fates[feature],
                            "descendant": int(flow.down.best[feature]) if flow.down.best[feature] >= 0 else None,
                            "r": float(flow.down.r[feature]) if flow.down.best[feature] >= 0 else None,
                        }
                        for flow, fates in below
                    ],
                }
            )
    return pa.Table.from_pylist(rows, LINEAGES)
