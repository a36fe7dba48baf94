"""Verdicts in the tables of the flow: each feature's on every edge, and what became of it further down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.flow import fates
from feature_lineage.flow.drift import DRIFT
from feature_lineage.flow.matching import thresholds
from feature_lineage.flow.verdicts import SIDES, numbers

Pair = tuple[str, str, int]  # parent, child, seed
UNMATCHED = (
    "unmatched"  # fate, by the paper's measure, of a living feature that there is no other dictionary to match with
)
EVIDENCE = (
    "direction",
    "decoder_cosine",
    "encoder_cosine",
    "best_cosine",
    "reproducible",
    "margin",
    "held_out_verdict",
)
FEATURES = pa.schema(
    [
        *fates.FEATURES,
        ("verdict", pa.string()),
        ("drift_r", pa.float64()),
        ("direction", pa.string()),
        ("decoder_cosine", pa.float64()),
        ("encoder_cosine", pa.float64()),
        ("best_cosine", pa.float64()),
        ("reproducible", pa.bool_()),
        ("margin", pa.float64()),
        ("held_out_verdict", pa.string()),
        ("new", pa.bool_()),
    ]
)
STEP = pa.struct([("model", pa.string()), ("verdict", pa.string()), ("feature", pa.int32()), ("r", pa.float64())])
LINEAGES = pa.schema([*fates.LINEAGES, ("traced", pa.list_(STEP))])
_PLACE = [("parent", pa.string()), ("child", pa.string()), ("seed", pa.int64()), ("side", pa.string())]
DRIFTS = pa.schema([*_PLACE, *DRIFT])
CURVES = pa.schema(
    [
        *_PLACE,
        ("threshold", pa.float64()),
        ("kept_share", pa.float64()),
        ("living", pa.int64()),
        ("placebo", pa.bool_()),
    ]
)


def of_side(judged: pa.Table, side: str) -> pa.Table:
    """Rows of a side of a table of `verdicts.JUDGED`, in the order of their features."""
    return judged.filter(pc.equal(judged["side"], side))


def with_verdicts(
    features: pa.Table,
    judged: Mapping[Pair, pa.Table],
    new: Mapping[tuple[str, int], np.ndarray],
    densities: Mapping[tuple[str, int], np.ndarray] | None = None,
) -> pa.Table:
    """The table of features with the verdict on each, and what it rests on.

    Args:
        features: schema `fates.FEATURES`; of each seed and edge first the parent's features, then the child's, in order.
        judged: tables of `verdicts.judge_features`, by edge and seed.
        new: which features of each child are kept on no parent, by child and seed (`summary.new_features`).
        densities: of the features of each dictionary, by model and seed (`fates.Seed`), float64 [features]; for edges that `features` lacks.

    Returns:
        Schema `FEATURES`; `new` is of the child's features alone. Of an edge of which one model alone has a dictionary, the living features'
        fate is `UNMATCHED`.
    """
    found = [FEATURES.empty_table()]
    matched = set()
    frame = features.select(["parent", "child", "seed"]).to_pandas()
    for (parent, child, seed), rows in frame.groupby(["parent", "child", "seed"], sort=False):
        part = features.slice(rows.index[0], len(rows))
        matched.add((parent, child, seed))
        table = judged[parent, child, seed]
        added = {name: table[name] for name in ("verdict", *EVIDENCE)} | {"drift_r": table["r"]}
        count = of_side(table, SIDES[0]).num_rows
        added["new"] = pa.concat_arrays([pa.nulls(count, pa.bool_()), pa.array(new[child, seed])])
        columns = [part[f.name] if f.name in part.column_names else added[f.name] for f in FEATURES]
        found.append(pa.table(columns, schema=FEATURES))
    for pair, table in judged.items():
        if pair not in matched:
            found.append(_alone(pair, table, new, densities or {}))
    return pa.concat_tables(found)


def _alone(
    pair: Pair,
    judged: pa.Table,
    new: Mapping[tuple[str, int], np.ndarray],
    densities: Mapping[tuple[str, int], np.ndarray],
) -> pa.Table:
    """Rows of an edge of which one model alone has a dictionary: verdicts, and no match with another dictionary's features."""
    parent, child, seed = pair
    (side,) = set(judged["side"].to_pylist())
    count, dead = judged.num_rows, judged["verdict"].is_null().to_numpy()
    columns = {"feature": np.arange(count, dtype=np.int32), "mutual": np.zeros(count, bool)}
    columns |= {
        name: pa.array([value] * count) for name, value in (("parent", parent), ("child", child), ("seed", seed))
    }
    columns["model"] = columns[side]
    columns["fate"] = pa.array(np.where(dead, "dead", UNMATCHED).tolist())
    columns["density"] = densities[parent if side == SIDES[0] else child, seed]
    columns |= {name: judged[name] for name in ("verdict", *EVIDENCE)} | {"drift_r": judged["r"]}
    if side == "child":
        columns["new"] = pa.array(new[child, seed])
    missing = {field.name: pa.nulls(count, field.type) for field in FEATURES}
    return pa.table(missing | columns, schema=FEATURES)


class _Down:
    """The parent's side of a comparison, feature by feature: verdict (None for the dead), r, and the feature that matches (-1 for none)."""

    def __init__(self, judged: pa.Table, threshold: float) -> None:
        table = of_side(judged, SIDES[0])
        self.verdict = table["verdict"].to_pylist()
        self.r, match_r = numbers(table, "r"), numbers(table, "match_r")
        self.match = np.where(match_r > threshold, np.nan_to_num(numbers(table, "match"), nan=-1.0), -1).astype(
            np.int64
        )
        self.match_r = match_r


def with_traced(
    lineages: pa.Table,
    judged: Mapping[Pair, pa.Table],
    order: Sequence[str],
    edges: Sequence[tuple[str, str]],
    threshold: float,
) -> pa.Table:
    """The table of lineages with what became of each feature in every model further down.

    Where the feature's own dictionary reads a descendant, the verdict there says it: a feature that is kept has its own number, one that
    is found that of its match. Where no feature of the descendant's dictionary matches it directly, or its own dictionary does not read
    the descendant, it is also `found` if what it has become in a model between them has a match there. Otherwise, of a descendant that its
    dictionary does not read, nothing is known, and there is no step.

    Args:
        lineages: schema `fates.LINEAGES`.
        judged: tables of `verdicts.judge_features` by pair and seed: every edge of which one model has a dictionary, and each root with its
            further descendants.
        order: all models, parents before children.
        edges: all (parent, child) pairs.
        threshold: of r.

    Returns:
        Schema `LINEAGES`; `traced` has the steps of a living feature in the order of the models.
    """
    down = {pair: _Down(table, threshold) for pair, table in judged.items() if SIDES[0] in table["side"].to_pylist()}
    rows: dict[tuple[str, int], list[list[dict[str, Any]]]] = {}
    for model, seed in dict.fromkeys(zip(lineages["model"].to_pylist(), lineages["seed"].to_pylist(), strict=True)):
        count = pc.sum(pc.and_(pc.equal(lineages["model"], model), pc.equal(lineages["seed"], seed))).as_py()
        rows[model, seed] = _traced(model, seed, count, down, order, edges)
    keys = zip(
        lineages["model"].to_pylist(), lineages["seed"].to_pylist(), lineages["feature"].to_pylist(), strict=True
    )
    traced = pa.array([rows[model, seed][feature] for model, seed, feature in keys], pa.list_(STEP))
    return pa.table([*lineages.columns, traced], schema=LINEAGES)


def _traced(
    model: str,
    seed: int,
    count: int,
    down: Mapping[Pair, _Down],
    order: Sequence[str],
    edges: Sequence[tuple[str, str]],
) -> list[list[dict[str, Any]]]:
    """The steps of each feature of one dictionary."""
    steps: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    # Number of what each feature is in a model's own dictionary, -1 for none.
    carried: dict[str, np.ndarray] = {model: np.arange(count)}
    for name in order[order.index(model) + 1 :]:
        above = [parent for parent, child in edges if child == name and parent in carried]
        if not above:
            continue
        direct = down.get((model, name, seed))
        become, r = np.full(count, -1), np.full(count, np.nan)
        for parent in above:
            if (parent, name, seed) not in down:  # the parent has no dictionary: what it carries is nothing
                continue
            below, here = down[parent, name, seed], carried[parent]
            there = np.flatnonzero(here >= 0)
            match = below.match[here[there]]
            better = (match >= 0) & ~(below.match_r[here[there]] <= r[there])
            become[there[better]], r[there[better]] = match[better], below.match_r[here[there]][better]
        for feature in range(count):
            if (found := _step(name, feature, direct, int(become[feature]), float(r[feature]))) is not None:
                steps[feature].append(found)
        carried[name] = np.where(direct.match >= 0, direct.match, become) if direct is not None else become
    return steps


def _step(name: str, feature: int, direct: _Down | None, become: int, r: float) -> dict[str, Any] | None:
    """What a feature is in a descendant: by its own dictionary's reading, if there is one, and by what it has become on the way."""
    if direct is None:
        return {"model": name, "verdict": "found", "feature": become, "r": r} if become >= 0 else None
    verdict, match = direct.verdict[feature], int(direct.match[feature])
    if verdict is None:
        return None
    if verdict != "kept" and match < 0 <= become:
        verdict, match = "found", become
    number = {"kept": feature, "found": match}.get(verdict)
    own = float(direct.r[feature])
    return {"model": name, "verdict": verdict, "feature": number, "r": None if np.isnan(own) else own}


def drift_table(judged: Mapping[Pair, pa.Table]) -> pa.Table:
    """What every dictionary reads on the other model of its edges, feature by feature; schema `DRIFTS`."""
    tables = [DRIFTS.empty_table()]
    for (parent, child, seed), table in judged.items():
        place = [pa.array([value] * table.num_rows) for value in (parent, child, seed)]
        tables.append(pa.table([*place, *(table[name] for name in ("side", *DRIFT.names))], schema=DRIFTS))
    return pa.concat_tables(tables)


def drift_curves(judged: Mapping[Pair, pa.Table], placebos: Mapping[Pair, pa.Table]) -> pa.Table:
    """Share of the living features of each side that are kept, as a function of the threshold; schema `CURVES`.

    Args:
        judged: tables of `verdicts.judge_features`, by edge and seed.
        placebos: the same, by root, placebo and seed.
    """
    rows = []
    for (parent, child, seed), table in [*judged.items(), *placebos.items()]:
        for side in dict.fromkeys(table["side"].to_pylist()):
            half = of_side(table, side)
            r = np.nan_to_num(numbers(half, "r")[half["verdict"].is_valid().to_numpy()], nan=-1.0)
            place = {"parent": parent, "child": child, "seed": seed, "side": side, "living": len(r)}
            place["placebo"] = (parent, child, seed) in placebos
            rows += [
                place | {"threshold": t, "kept_share": float((r > t).mean()) if len(r) else None}
                for t in thresholds(0.0)
            ]
    return pa.Table.from_pylist(rows, CURVES)
