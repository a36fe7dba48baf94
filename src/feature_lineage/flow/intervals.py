"""How far the counts of verdicts depend on the documents that happened to be sampled, and how far an edge is from its placebo."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.flow.bootstrap import MEMORY, near_pairs
from feature_lineage.flow.verdicts import (
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
