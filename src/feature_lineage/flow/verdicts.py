"""What became of each feature along an edge, in one word, and what the word rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from feature_lineage.flow.bootstrap import Comparison, near_pairs, resample_together
from feature_lineage.flow.direction import Directions, best_cosines, pair_cosines, pw_mcc
from feature_lineage.flow.drift import DRIFT, drift
from feature_lineage.flow.matching import Match, best_matches, strongest
from feature_lineage.flow.stability import is_reproducible

SIDES = ("parent", "child")  # whose dictionary reads both models of an edge
VERDICTS = ("kept", "found", "drifted", "lost")
LOST = 0.5  # r at or below which a feature does something else: less than a quarter of the variance is shared
JUDGED = pa.schema(
    [
        ("side", pa.string()),
        *DRIFT,
        ("match", pa.int32()),
        ("match_r", pa.float64()),
        ("decoder_cosine", pa.float64()),
        ("encoder_cosine", pa.float64()),
        ("best_cosine", pa.float64()),
        ("direction", pa.string()),
        ("verdict", pa.string()),
        ("reproducible", pa.bool_()),
        ("margin", pa.float64()),
        ("held_out_r", pa.float64()),
        ("held_out_match_r", pa.float64()),
        ("held_out_verdict", pa.string()),
    ]
)


class Activations(NamedTuple):
    """Files of an edge's activations over one sample: of each dictionary on its own model, and on the other.

    `sides` says whose dictionaries there are: the parent's before the child's, or one of them alone.
    """

    own: Sequence[str | Path]
    other: Sequence[str | Path]
    sides: Sequence[str] = SIDES


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What decides: r above `threshold` is the same feature; a living one fires on at least `min_active` tokens."""

    threshold: float
    min_active: int

    @property
    def half_active(self) -> int:
        """Tokens on which a feature fires that lives in one half of the documents."""
        return -(-self.min_active // 2)


def verdict(r: np.ndarray, matched: np.ndarray, threshold: float) -> np.ndarray:
    """The place in `VERDICTS` of each feature, int8 of the shape of `r`; they exclude each other, in this order.

    `kept`: its own dictionary reads r above the threshold on the other model. `found`: not kept, but a feature of the other's dictionary
    matches. `drifted`: r above `LOST`. `lost`: none of these.

    Args:
        r: between what a feature does on its own and on the other model, float64; NaN where it is silent on one, which is not kept.
        matched: whether a feature of the other's own dictionary correlates with it above the threshold, bool of the same shape.
        threshold: of r.
    """
    r = np.nan_to_num(r, nan=-1.0)
    return np.where(r > threshold, 0, np.where(matched, 1, np.where(r > LOST, 2, 3))).astype(np.int8)


class Half(NamedTuple):
    """The half of the documents on which persistence of reproducible features is read: `document` of each token, int [tokens]; which
    documents are in it, bool [documents]."""

    document: np.ndarray
    held_out: np.ndarray


class Stable(NamedTuple):
    """How stable a dictionary's features are: best r in each other dictionary of its model on the whole sample and on the judged
    documents, both float64 [features, other dictionaries], and the decoder cosine that is high (`stability.measure_stability`)."""

    r: np.ndarray
    judged_r: np.ndarray
    high: float | None


class Judged(NamedTuple):
    """Verdicts (schema `JUDGED`) and, if both dictionaries are there, `pw_mcc` and `mean_max_cosine` of their decoders (else empty)."""

    features: pa.Table
    cosines: dict[str, float | None]


def judge_features(
    activations: Activations,
    correlations: pa.Table | None,
    directions: Sequence[Directions],
    stable: Sequence[Stable | None],
    half: Half,
    limits: Limits,
) -> Judged:
    """Give each feature of both sides of an edge its verdict.

    Args:
        activations: of both dictionaries on both models.
        correlations: table of `correlation.correlate` between the two dictionaries, each on its own model; None if the child has none.
        directions: of both dictionaries; none if the two models share no basis.
        stable: stability of each dictionary's features; None for one that is alone.
        half: on which the verdicts of reproducible features are read.
        limits: what decides.

    Returns:
        A row for each side and feature. The columns of `DRIFT` are of its own dictionary on both models. `match`, `match_r`: best match
        among the living features of the other's dictionary; `decoder_cosine` and `encoder_cosine` with it; `best_cosine` of its
        decoder vector with any of the other dictionary. `direction`, of a match above the threshold: `same` where the decoder cosine
        is high, else `rotated`. `verdict`: None for the dead. `reproducible` and `margin` (best r in the other side less the mean of
        the best in its own model's other dictionaries): None without any. `held_out_…`: the same on one half of the documents; None for
        those that do not live there.
    """
    drifts = [drift(*files) for files in zip(activations.own, activations.other, strict=True)]
    alive = [table["active"].to_numpy() >= max(1, limits.min_active) for table in drifts]
    matches = _matches(correlations, alive)
    halves = _held_out(activations, correlations, alive, half, limits)
    best = best_cosines(*(one.decoder for one in directions)) if directions else None
    tables = []
    for place, (side, table) in enumerate(zip(activations.sides, drifts, strict=True)):
        match, other = matches[place], stable[place]
        columns = {"side": pa.array([side] * table.num_rows)} | {name: table[name] for name in DRIFT.names}
        columns["verdict"] = _words(numbers(table, "r"), match.r > limits.threshold, alive[place], limits.threshold)
        columns |= _match(match) | halves[place]
        if best is not None:
            columns |= _cosines(match, directions[place], directions[1 - place], other, limits.threshold)
            columns["best_cosine"] = pa.array(best[place].r)
        if other is not None and other.r.shape[1]:
            columns["reproducible"] = pa.array(is_reproducible(other.judged_r, limits.threshold))
            columns["margin"] = pa.array(np.nan_to_num(match.r) - np.nan_to_num(other.r).mean(1))
        missing = {name: pa.nulls(table.num_rows, JUDGED.field(name).type) for name in JUDGED.names}
        tables.append(pa.table(missing | columns, schema=JUDGED))
    return Judged(pa.concat_tables(tables), _dictionaries(directions, best))


def numbers(table: pa.Table, column: str) -> np.ndarray:
    """A column as float64; NaN where it is None."""
    return table[column].to_numpy(zero_copy_only=False).astype(np.float64)


def _matches(correlations: pa.Table | None, alive: Sequence[np.ndarray]) -> list[Match]:
    """Best matches of each side among the living features of the other."""
    if correlations is None:
        return [Match(np.full(len(one), -1), np.full(len(one), np.nan)) for one in alive]
    return list(best_matches(living_pairs(correlations, alive), *map(len, alive)))


def living_pairs(correlations: pa.Table, alive: Sequence[np.ndarray]) -> pa.Table:
    """Rows of a table of `correlation.correlate` whose features both live (bool [features], of each side)."""
    a, b = (correlations[name].to_numpy() for name in ("feature_a", "feature_b"))
    return correlations.filter(pa.array(alive[0][a] & alive[1][b]))


def _words(r: np.ndarray, matched: np.ndarray, alive: np.ndarray, threshold: float) -> pa.Array:
    return pa.array(np.array(VERDICTS, object)[verdict(r, matched, threshold)], pa.string(), mask=~alive)


def _match(match: Match) -> dict[str, pa.Array]:
    return {
        "match": pa.array(match.best.astype(np.int32), mask=match.best < 0),
        "match_r": pa.array(match.r, from_pandas=True),
    }


def _cosines(
    match: Match, own: Directions, other: Directions, stable: Stable | None, threshold: float
) -> dict[str, pa.Array]:
    """Cosines with the best match; which direction one above the threshold has, if it is known what a high cosine is."""
    decoder, encoder = (pair_cosines(a, b, match.best) for a, b in zip(own, other, strict=True))
    found = {
        name: pa.array(c, from_pandas=True) for name, c in (("decoder_cosine", decoder), ("encoder_cosine", encoder))
    }
    if stable is not None and stable.high is not None:
        words = np.where(decoder > stable.high, "same", "rotated").astype(object)
        found["direction"] = pa.array(words, pa.string(), mask=~(match.r > threshold))
    return found


def _held_out(
    activations: Activations, correlations: pa.Table | None, alive: Sequence[np.ndarray], half: Half, limits: Limits
) -> list[dict[str, pa.Array]]:
    """The columns `held_out_…` of each side."""
    drawn = half.held_out[:, None].astype(np.int64)
    pairs = None if correlations is None else near_pairs(living_pairs(correlations, alive), limits.threshold)
    found = []
    for side in resample_sides(activations, pairs, half.document, drawn):
        r, match_r, fires = side.r[:, 0], side.match_r[:, 0], side.active[:, 0]
        matched = np.nan_to_num(match_r, nan=-1.0) > limits.threshold
        lives = alive[len(found)] & (fires >= max(1, limits.half_active))
        found.append(
            {
                "held_out_r": pa.array(r, from_pandas=True),
                "held_out_match_r": pa.array(match_r, from_pandas=True),
                "held_out_verdict": _words(r, matched, lives, limits.threshold),
            }
        )
    return found


class Resampled(NamedTuple):
    """One side in each replicate: tokens on which each feature fires on its own model, its r between the models, and the r of its best
    match; all float64 [features, replicates]."""

    active: np.ndarray
    r: np.ndarray
    match_r: np.ndarray


def resample_sides(
    activations: Activations, pairs: tuple[np.ndarray, np.ndarray] | None, document: np.ndarray, drawn: np.ndarray
) -> list[Resampled]:
    """Each side in samples whose documents are drawn again.

    Args:
        activations: see `judge_features`.
        pairs: features of the parent and of the child that may match, both int [pairs]; None if the child has no dictionary.
        document: document of each token, int [tokens].
        drawn: how often each replicate draws each document, int [documents, replicates].
    """
    count = len(activations.own)
    comparisons = [Comparison(place, count + place) for place in range(count)]
    if pairs is not None:
        comparisons.append(Comparison(0, 1, pairs))
    active, r = resample_together([*activations.own, *activations.other], comparisons, document, drawn)
    if pairs is None:
        best = [np.full_like(side, np.nan) for side in r]
    else:
        best = [strongest(feature, r[-1], len(side)) for feature, side in zip(pairs, r, strict=False)]
    return [Resampled(*side) for side in zip(active, r, best, strict=False)]


def _dictionaries(directions: Sequence[Directions], best: tuple[Match, Match] | None) -> dict[str, float | None]:
    if best is None:
        return {}
    return {
        "pw_mcc": pw_mcc(*(one.decoder for one in directions)),
        "mean_max_cosine": float(np.mean([side.r.mean() for side in best])),
    }
