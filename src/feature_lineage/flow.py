"""What persists, emerges and disappears along each edge of a lineage, and where each feature comes from (paper, section 3.4)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from feature_lineage.artifacts import read_table
from feature_lineage.bootstrap import interval
from feature_lineage.logs import progress

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
_OF_SIDE = [("parent", pa.string()), ("child", pa.string()), ("seed", pa.int64()), ("side", pa.string())]
CURVES = pa.schema(
    _OF_SIDE + [(name, pa.float64()) for name in ("threshold", "persisting_share", "mutual_share", "one_to_one_share")]
)
STRATA = pa.schema(
    [
        *_OF_SIDE,
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


class _Flow(NamedTuple):
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
        densities: per model, share of the sample's tokens on which each feature fires, float64 [features].
        order: the models, parents before children.
        threshold: correlation above which two features are the same.
        seed: of the autoencoders compared, for the tables.
    """
    flows = []
    for edge in edges:
        down, up = best_matches(edge.correlations, len(edge.parent_density), len(edge.child_density))
        mutual = mutual_best(down, up) & (down.r > threshold)
        assigned = one_to_one(edge.correlations, threshold)
        flows.append(_Flow(edge, down, up, down.r > threshold, up.r > threshold, mutual, assigned))
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
    seeds: Sequence[int],
    models: Sequence[str],
    edges: Sequence[tuple[str, str]],
    correlations: Sequence[str | Path],
    statistics: Sequence[str | Path],
    min_active: int,
) -> list[Seed]:
    """Read what is compared. A feature that fires on fewer than `min_active` tokens is dead: its density is 0 and it is in no pair.

    Args:
        seeds: autoencoder seeds.
        models: all models.
        edges: all (parent, child) pairs.
        correlations: file of `correlation.correlate` for each seed and edge, in that order.
        statistics: file of `features.Statistics` for each seed and model, in that order.
        min_active: tokens on which a living feature fires.
    """
    found = []
    for number, seed in enumerate(seeds):
        densities, rare = {}, {}
        for model, path in zip(models, statistics[number * len(models) :], strict=False):
            table = read_table(path, ["active", "density"])
            active = table["active"].to_numpy()
            densities[model] = np.where(active >= min_active, table["density"].to_numpy(), 0)
            rare[model] = int(((active > 0) & (active < min_active)).sum())
        compared = []
        for (a, b), path in zip(edges, correlations[number * len(edges) :], strict=False):
            pairs = read_table(path)
            alive = (densities[a][pairs["feature_a"]] > 0) & (densities[b][pairs["feature_b"]] > 0)
            kept = pairs.filter(pa.array(alive))
            compared.append(Edge(a, b, densities[a], densities[b], kept, min_active, rare[a], rare[b]))
        found.append(Seed(seed, densities, compared))
    return found


def trace_seeds(seeds: Sequence[Seed], models: Sequence[str], threshold: float) -> Tables:
    """`trace` for the autoencoders of each seed.

    Args:
        seeds: what `read_seeds` gives.
        models: all models, parents before children.
        threshold: correlation above which two features are the same.
    """
    found = [trace(one.edges, one.densities, models, threshold, one.seed) for one in seeds]
    tables = (pa.concat_tables([getattr(one, name) for one in found]) for name in ("edges", "features", "lineages"))
    return Tables(*tables)


def with_intervals(edges: pa.Table, replicates: Sequence[pa.Table]) -> pa.Table:
    """Give each row of an edge table the 95 % intervals of its two shares; emerging is what does not persist.

    Args:
        edges: table of schema `EDGES`.
        replicates: tables of `bootstrap.bootstrap`, one for each row; none at all leaves the intervals null.
    """
    rows = edges.to_pylist()
    for row, table in zip(rows, replicates, strict=True) if replicates else ():
        if row["persisting_share"] is not None and (found := interval(table, "parent", row["persisting_share"])):
            row["persisting_low"], row["persisting_high"] = found
        if row["emerging_share"] is not None and (found := interval(table, "child", 1 - row["emerging_share"])):
            row["emerging_low"], row["emerging_high"] = 1 - found[1], 1 - found[0]
    return pa.Table.from_pylist(rows, EDGES)


def curves(seeds: Sequence[Seed], floor: float) -> pa.Table:
    """Share of the living features of each side that persist, as a function of the threshold.

    By best match, by mutual best match and in the one-to-one assignment, which is made anew for each threshold.

    Args:
        seeds: what `read_seeds` gives.
        floor: correlation above which all pairs are known; thresholds go from there to 1 in steps of .01.

    Returns:
        Schema `CURVES`; `side` is `parent` or `child`. Shares are null where no feature lives.
    """
    thresholds = (np.arange(math.ceil(100 * floor - 1e-9), 101) / 100).tolist()
    rows = []
    with progress(sum(len(one.edges) for one in seeds) * len(thresholds), "threshold", "curves") as bar:
        for seed, edge in [(one.seed, edge) for one in seeds for edge in one.edges]:
            down, up = best_matches(edge.correlations, len(edge.parent_density), len(edge.child_density))
            mutual = down.r[mutual_best(down, up)]
            for threshold in thresholds:
                pairs = (np.sum(mutual > threshold), len(one_to_one(edge.correlations, threshold)[0]))
                for side, match, density in (("parent", down, edge.parent_density), ("child", up, edge.child_density)):
                    counts = (np.sum(match.r > threshold), *pairs)
                    alive = np.count_nonzero(density)
                    shares = [count / alive if alive else None for count in counts]
                    row = (edge.parent, edge.child, seed, side, threshold, *shares)
                    rows.append(dict(zip(CURVES.names, row, strict=True)))
                bar.update(1)
    return pa.Table.from_pylist(rows, CURVES)


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
        tokens: table of `feature_tokens.token_masses` for each model and seed.

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


def summarise_flows(edges: pa.Table, lineages: pa.Table, models: Sequence[str], threshold: float) -> dict[str, Any]:
    """Counts for people and for the Sankey: edges of all seeds; living features by origin, and bands, of the first seed.

    Args:
        edges: table of schema `EDGES`.
        lineages: table of schema `LINEAGES`.
        models: all models, parents before children.
        threshold: correlation above which two features are the same.
    """
    first = lineages.filter(pc.equal(lineages["seed"], lineages["seed"][0]))
    pairs = Counter(
        zip(first["model"].to_pylist(), first["origin"].to_pylist(), strict=True)
    )  # the dead have no origin
    return {
        "threshold": threshold,
        "models": list(models),
        "edges": edges.to_pylist(),
        "origins": {model: {name: pairs[model, name] for name in models if (model, name) in pairs} for model in models},
        "bands": _bands(first),
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
        "mutual": int(flow.mutual.sum()),
        "one_to_one": len(flow.assigned[0]),
        "min_active": flow.edge.min_active,
        "parent_rare": flow.edge.parent_rare,
        "child_rare": flow.edge.child_rare,
        "persisting_share": parent_persisting / parent_alive.sum() if parent_alive.any() else None,
        "emerging_share": emerging / child_alive.sum() if child_alive.any() else None,
    }


def _feature_tables(flow: _Flow, seed: int) -> list[pa.Table]:
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


def _lineages(flows: list[_Flow], densities: Mapping[str, np.ndarray], order: Sequence[str], seed: int) -> pa.Table:
    """Each feature's chain of ancestors, nearest first, and fate on the edges below."""
    chains: dict[str, list[list[dict[str, Any]]]] = {}
    rows: list[dict[str, Any]] = []
    for model in order:
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


def _bands(lineages: pa.Table) -> list[dict[str, Any]]:
    """How many features of `child` have their ancestor in `parent`, by the model that they go back to."""
    counts: dict[tuple[str, str, str], int] = {}
    for row in lineages.to_pylist():
        if row["chain"]:
            key = (row["chain"][0]["model"], row["model"], row["origin"])
            counts[key] = counts.get(key, 0) + 1
    return [{"parent": p, "child": c, "origin": o, "features": n} for (p, c, o), n in counts.items()]
