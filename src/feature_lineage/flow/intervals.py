"""How far the counts of verdicts depend on the documents that happened to be sampled, and how far an edge is from its placebo."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.flow.bootstrap import MEMORY, near_pairs
from feature_lineage.flow.verdicts import (
    SIDES,
    VERDICTS,
    Activations,
    Limits,
    Resampled,
    living_pairs,
    numbers,
    resample_sides,
    verdict,
)

LEVEL = 0.95
ALL, REPRODUCIBLE = "all", "reproducible"
_OF_PLACEBO = ("placebo_share", "placebo_low", "placebo_high", "difference", "difference_low", "difference_high")
ROWS = pa.schema(
    [
        ("parent", pa.string()),
        ("child", pa.string()),
        ("seed", pa.int64()),
        ("side", pa.string()),
        ("features", pa.string()),
    ]
    + [("living", pa.int64()), ("verdict", pa.string()), ("count", pa.int64())]
    + [(name, pa.float64()) for name in ("share", "low", "high")]
    + [("placebo", pa.string())]
    + [(name, pa.float64()) for name in _OF_PLACEBO]
)
REPLICATES = pa.schema(
    [("side", pa.string()), ("features", pa.string()), ("replicate", pa.int32()), ("living", pa.int64())]
    + [(name, pa.int64()) for name in VERDICTS]
)


class Drawn(NamedTuple):
    """Documents drawn again: of each token its document, int [tokens]; how often each replicate draws each document of the whole sample
    and of its held-out half, both int [documents, replicates]."""

    document: np.ndarray
    whole: np.ndarray
    held_out: np.ndarray


def bootstrap_verdicts(
    activations: Activations, correlations: pa.Table | None, judged: pa.Table, drawn: Drawn, limits: Limits
) -> pa.Table:
    """Count the verdicts in samples whose documents are drawn again.

    Replicate k is the same draw on every edge and placebo, so that their shares can be compared replicate by replicate.

    Args:
        activations: see `verdicts.judge_features`.
        correlations: see `verdicts.judge_features`.
        judged: what that gives, schema `verdicts.JUDGED`: which features live, and which are reproducible.
        drawn: the documents.
        limits: what decides.

    Returns:
        A row for each side, group of features and replicate, schema `REPLICATES`. `features` is `all`, counted in the whole sample, or
        `reproducible`, counted in the held-out half, if it is known which these are.
    """
    sides = [judged.filter(pc.equal(judged["side"], side)) for side in activations.sides]
    alive = [table["active"].to_numpy() >= max(1, limits.min_active) for table in sides]
    pairs = None if correlations is None else near_pairs(living_pairs(correlations, alive), limits.threshold)
    everything = [np.ones(len(own), bool) for own in alive]  # what is dead in the sample may live in a replicate
    groups = [(ALL, drawn.whole, limits.min_active, everything)]
    if not any(table["reproducible"].null_count for table in sides):
        stable = [own & (numbers(table, "reproducible") > 0) for own, table in zip(alive, sides, strict=True)]
        groups.append((REPRODUCIBLE, drawn.held_out, limits.half_active, stable))
    rows = sum(9 * len(own) for own in alive) + (0 if pairs is None else len(pairs[0]))
    turns = max(1, -(-8 * rows * len(groups) * drawn.whole.shape[1] // MEMORY))
    counts: dict[str, list[np.ndarray]] = {features: [] for features, *_ in groups}
    for parts in zip(*(np.array_split(documents, turns, axis=1) for _, documents, *_ in groups), strict=True):
        resampled = resample_sides(activations, pairs, drawn.document, np.concatenate(parts, axis=1))
        for place, (features, _, least, chosen) in enumerate(groups):
            here = slice(place * parts[0].shape[1], (place + 1) * parts[0].shape[1])
            counts[features].append(_counts(resampled, here, chosen, least, limits.threshold))
    tables = [REPLICATES.empty_table()]
    for features, found in counts.items():
        for side, columns in zip(activations.sides, np.concatenate(found, axis=2), strict=True):
            number = np.arange(columns.shape[1], dtype=np.int32)
            names = [pa.array([name] * len(number)) for name in (side, features)]
            tables.append(pa.table([*names, number, *columns], schema=REPLICATES))
    return pa.concat_tables(tables)


def _counts(sides: list[Resampled], here: slice, chosen: list[np.ndarray], least: int, threshold: float) -> np.ndarray:
    """Living features among those chosen and those with each verdict, in some replicates: int64 [sides, 1 + verdicts, replicates]."""
    found = []
    for side, among in zip(sides, chosen, strict=True):
        words = verdict(side.r[:, here], np.nan_to_num(side.match_r[:, here], nan=-1.0) > threshold, threshold)
        living = (side.active[:, here] >= max(1, least)) & among[:, None]
        found.append([living.sum(0), *((living & (words == place)).sum(0) for place in range(len(VERDICTS)))])
    return np.array(found)


class Compared(NamedTuple):
    """An edge or a placebo with its verdicts (schema `verdicts.JUDGED`) and, if there are any, replicates (schema `REPLICATES`)."""

    parent: str
    child: str
    seed: int
    judged: pa.Table
    replicates: pa.Table | None = None

    def sides(self) -> list[str]:
        """Whose dictionaries there are, the parent's first."""
        return [side for side in SIDES if pc.any(pc.equal(self.judged["side"], side)).as_py()]

    def groups(self) -> list[str]:
        """Groups of features that verdicts are counted in."""
        return [ALL] if self.judged["reproducible"].null_count else [ALL, REPRODUCIBLE]

    def counts(self, side: str, features: str) -> dict[str, int]:
        """Living features and those with each verdict."""
        table = self.judged.filter(pc.equal(self.judged["side"], side))
        if features == REPRODUCIBLE:
            table = table.filter(table["reproducible"])
            words = table["held_out_verdict"].filter(table["verdict"].is_valid())
        else:
            words = table["verdict"]
        found = {word: pc.sum(pc.equal(words, word)).as_py() or 0 for word in VERDICTS}
        return {"living": sum(found.values())} | found

    def shares(self, side: str, features: str, word: str) -> np.ndarray | None:
        """Share of the living features with a verdict in each replicate, float64 [replicates], NaN where none lives; None without any."""
        if self.replicates is None:
            return None
        wanted = pc.and_(pc.equal(self.replicates["side"], side), pc.equal(self.replicates["features"], features))
        table = self.replicates.filter(wanted)
        living = table["living"].to_numpy().astype(np.float64)
        return np.divide(table[word].to_numpy(), living, out=np.full(len(living), np.nan), where=living > 0)


def count_verdicts(one: Compared, placebo: Compared | None = None) -> list[dict[str, Any]]:
    """Verdicts of an edge, counted, beside those of its placebo.

    Args:
        one: the edge.
        placebo: its placebo, of the same seed; None if it has none.

    Returns:
        A row of `ROWS` for each side, group of features and verdict. `low` and `high`: percentile interval over replicates at `LEVEL`,
        extended to the share where that lies outside, which a match can bring about: the best of many is raised by noise. Without a
        dictionary of the other model, none is found: their share is None. `difference`
        is the share less the placebo's; its interval is that of the differences in the same replicates. A placebo without dictionaries
        of its own finds nothing (`placebo_share` of `found` is None) and has no child's side.
    """
    rows = []
    for side in one.sides():
        beside = placebo if placebo is not None and side in placebo.sides() else None
        for features in one.groups():
            counts = one.counts(side, features)
            against = None if beside is None else beside.counts(side, features)
            for word in VERDICTS:
                row = {"parent": one.parent, "child": one.child, "seed": one.seed, "side": side, "features": features}
                row |= {
                    "living": counts["living"],
                    "verdict": word,
                    "count": counts[word],
                    "share": _share(counts, word),
                }
                row["low"], row["high"] = _interval(one.shares(side, features, word), row["share"])
                row |= dict.fromkeys(_OF_PLACEBO) | {"placebo": None if placebo is None else placebo.child}
                if word == "found" and len(one.sides()) == 1:  # there is no dictionary to find it in
                    row |= {"share": None, "low": None, "high": None}
                if against is not None and (word != "found" or len(beside.sides()) > 1):
                    row |= _beside(row["share"], _share(against, word), one, beside, (side, features, word))
                rows.append(row)
    return rows


def _beside(
    share: float | None, other: float | None, one: Compared, placebo: Compared, place: tuple[str, str, str]
) -> dict[str, float | None]:
    """The columns `_OF_PLACEBO`."""
    found: dict[str, float | None] = dict.fromkeys(_OF_PLACEBO) | {"placebo_share": other}
    own, others = one.shares(*place), placebo.shares(*place)
    found["placebo_low"], found["placebo_high"] = _interval(others, other)
    if share is not None and other is not None:
        found["difference"] = share - other
        between = None if own is None or others is None else own - others
        found["difference_low"], found["difference_high"] = _interval(between, share - other)
    return found


def _share(counts: dict[str, int], word: str) -> float | None:
    return counts[word] / counts["living"] if counts["living"] else None


def _interval(shares: np.ndarray | None, share: float | None) -> tuple[float | None, float | None]:
    """Percentile interval of a share that contains it; None without replicates in which it is there."""
    if shares is None or share is None or not (there := shares[~np.isnan(shares)]).size:
        return None, None
    low, high = np.quantile(there, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return min(float(low), share), max(float(high), share)
