"""The counts of the flow with their intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.flow.bootstrap import interval
from feature_lineage.flow.drift import Quality, poor
from feature_lineage.flow.fates import EDGES
from feature_lineage.flow.intervals import ALL, Compared, count_verdicts
from feature_lineage.flow.verdicts import SIDES, numbers


def with_intervals(edges: pa.Table, replicates: Sequence[pa.Table]) -> pa.Table:
    """Give each row of an edge table the 95 % intervals of its two shares; emerging is what does not persist.

    Args:
        edges: table of schema `EDGES`.
        replicates: tables of `bootstrap.bootstrap_flow`, one for each row; none at all leaves the intervals null.
    """
    rows = edges.to_pylist()
    for row, table in zip(rows, replicates, strict=True) if replicates else ():
        if row["persisting_share"] is not None and (found := interval(table, "parent", row["persisting_share"])):
            row["persisting_low"], row["persisting_high"] = found
        if row["emerging_share"] is not None and (found := interval(table, "child", 1 - row["emerging_share"])):
            row["emerging_low"], row["emerging_high"] = 1 - found[1], 1 - found[0]
    return pa.Table.from_pylist(rows, EDGES)


def summarise_flows(
    edges: pa.Table,
    lineages: pa.Table,
    models: Sequence[str],
    threshold: float,
    lineage: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Counts for people and for the Sankey: edges of all seeds; living features by origin, and bands, of the first seed.

    Args:
        edges: table of schema `EDGES`.
        lineages: table of schema `LINEAGES`.
        models: all models, parents before children.
        threshold: correlation above which two features are the same.
        lineage: all (parent, child) pairs, also those that have no autoencoders to match.
    """
    first = lineages.filter(pc.equal(lineages["seed"], lineages["seed"][0]))
    pairs = Counter(
        zip(first["model"].to_pylist(), first["origin"].to_pylist(), strict=True)
    )  # the dead have no origin
    return {
        "threshold": threshold,
        "models": list(models),
        "lineage": [list(edge) for edge in lineage],
        "edges": edges.to_pylist(),
        "origins": {model: {name: pairs[model, name] for name in models if (model, name) in pairs} for model in models},
        "bands": _bands(first),
    }


def _bands(lineages: pa.Table) -> list[dict[str, Any]]:
    """How many features of `child` have their ancestor in `parent`, by the model that they go back to."""
    counts: dict[tuple[str, str, str], int] = {}
    for row in lineages.to_pylist():
        if row["chain"]:
            key = (row["chain"][0]["model"], row["model"], row["origin"])
            counts[key] = counts.get(key, 0) + 1
    return [{"parent": p, "child": c, "origin": o, "features": n} for (p, c, o), n in counts.items()]


def about_edge(
    readings: Sequence[tuple[Quality, Quality]],
    cosines: Mapping[str, float],
    same_model: Mapping[str, Any] | None,
    sides: Sequence[str] = SIDES,
) -> dict[str, Any]:
    """What is said of an edge as a whole, beside its features' verdicts.

    Args:
        readings: how well each dictionary reads its own model and the other.
        cosines: of the two dictionaries (`verdicts.Judged`).
        same_model: of the parent's dictionaries among themselves (`stability.Stability`); None if there is one.
        sides: whose dictionaries they are.

    Returns:
        `readings`: for each side `own`, `other` and why the other is read poorly (`drift.poor`). `cosines`: `pw_mcc` and
        `mean_max_cosine`, the same between the parent's dictionaries as `ceiling_…`, and `high`; None where unknown.
    """
    names = ("pw_mcc", "mean_max_cosine")
    pairs = same_model["pairs"] if same_model else []
    return {
        "readings": [
            {"side": side, "own": own._asdict(), "other": other._asdict(), "poor": poor(own, other)}
            for side, (own, other) in zip(sides, readings, strict=True)
        ],
        "cosines": {name: cosines.get(name) for name in names}
        | {f"ceiling_{name}": _mean([pair[name] for pair in pairs]) for name in names}
        | {"high": same_model["high"] if same_model else None},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """None if there is no value, or one is None: dictionaries too large for it (`direction.pw_mcc`)."""
    return None if not values or None in values else float(np.mean(values))


def new_features(edges: Sequence[Compared]) -> dict[tuple[str, int], np.ndarray]:
    """Which features of each child that has a dictionary are new, by child and seed, bool [features]: they live, and on no parent are they
    kept."""
    found: dict[tuple[str, int], np.ndarray] = {}
    for one in (edge for edge in edges if "child" in edge.sides()):
        words = one.judged.filter(pc.equal(one.judged["side"], "child"))["verdict"]
        here = pc.and_(words.is_valid(), pc.not_equal(words, "kept").fill_null(False)).to_numpy()
        found[one.child, one.seed] = found.get((one.child, one.seed), True) & here
    return found


def summarise_verdicts(
    edges: Sequence[Compared],
    placebos: Mapping[tuple[str, int], Compared],
    placebo_of: Mapping[str, str | None],
    threshold: float,
) -> dict[str, Any]:
    """What became of the features of each edge, counted, beside its placebo.

    Args:
        edges: every edge, of each seed.
        placebos: by name and seed.
        placebo_of: placebo of each child, None where it has none.
        threshold: of r.

    Returns:
        `verdicts` (rows of `intervals.ROWS`), `new` (of each child's living features those that are kept on no parent), `stability`
        (of each side's living features the reproducible ones, the median `margin`, and the `persisting_share` of the reproducible ones:
        those that a feature of the other's dictionary matches on the held-out half).
    """
    verdicts, stability = [], []
    for one in edges:
        verdicts += count_verdicts(one, placebos.get((placebo_of[one.child] or "", one.seed)))
        for side in SIDES:
            table = one.judged.filter(pc.equal(one.judged["side"], side))
            table = table.filter(table["verdict"].is_valid())
            if table["reproducible"].null_count == 0 and table.num_rows:
                margin = float(np.median(numbers(table, "margin")))
                reproducible = pc.sum(table["reproducible"]).as_py()
                place = {"parent": one.parent, "child": one.child, "seed": one.seed, "side": side}
                row = place | {"living": table.num_rows, "reproducible": reproducible, "margin": margin}
                stability.append(row | {"persisting_share": _persisting(table, threshold)})
    new = []
    for (child, seed), found in new_features(edges).items():
        living = next(one.counts("child", ALL)["living"] for one in edges if (one.child, one.seed) == (child, seed))
        count = int(found.sum())
        new.append(
            {"child": child, "seed": seed, "living": living, "new": count, "share": count / living if living else None}
        )
    return {"verdicts": verdicts, "new": new, "stability": stability}


def _persisting(table: pa.Table, threshold: float) -> float | None:
    """Share of a side's reproducible features that match on the held-out half, among those that live there."""
    there = table.filter(pc.and_(table["reproducible"], table["held_out_verdict"].is_valid()))
    return float((numbers(there, "held_out_match_r") > threshold).mean()) if there.num_rows else None
