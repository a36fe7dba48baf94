"""What a bare count of persisting features is held against: other seeds, shifted samples, raw neurons, the published measure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy import sparse

from feature_lineage.artifacts import read_table
from feature_lineage.correlation import Activations, Moved, Source, correlate, moments
from feature_lineage.flow import best_matches
from feature_lineage.logs import InputError, progress
from feature_lineage.streams import Stream, entropy

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

SIDES = ("parent", "child")
_EDGE = [("parent", pa.string()), ("child", pa.string())]
_SEED = [("seed", pa.int64())]
_SHARE = [("persisting", pa.int64()), ("share", pa.float64()), ("median_r", pa.float64())]
_SIDE = [("side", pa.string()), ("features", pa.int64())]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)

CEILING = pa.schema(
    [("model", pa.string()), ("seed_a", pa.int64()), ("seed_b", pa.int64()), *_SIDE, *_SHARE],
)
CEILING_CURVES = pa.schema([("model", pa.string()), ("threshold", pa.float64()), ("share", pa.float64())])
NULL = pa.schema(
    [
        *_EDGE,
        *_SEED,
        ("offset", pa.float64()),
        ("same_document", pa.float64()),
        *_SIDE,
        ("false_matches", pa.int64()),
        ("false_match_rate", pa.float64()),
        ("threshold", pa.float64()),
        *[(f"q{100 * quantile:g}", pa.float64()) for quantile in QUANTILES],
    ]
)
NEURONS = pa.schema([*_EDGE, ("side", pa.string()), ("neurons", pa.int64()), *_SHARE])
AS_PUBLISHED = pa.schema([*_EDGE, *_SEED, ("variant", pa.string()), ("minimum", pa.int64()), *_SIDE, *_SHARE])
SCHEMAS = {"ceiling": CEILING, "alignment_null": NULL, "neurons": NEURONS, "as_published": AS_PUBLISHED}

FALSE_MATCH_RATE = 0.01  # that the threshold of the null holds
OURS, STRINGS = "ours", "strings"
TOKENS_BOTH, STRINGS_BOTH = "tokens where both fire", "strings where both fire"
PUBLISHED = (STRINGS_BOTH, 2)  # variant and minimum of the published code
MINIMUMS = (2, 3, 5, 10)
BLOCK_BYTES = 1 << 25  # of each of the dense blocks of pairs, block × features, that `best_where_both_fire` holds


class Side(NamedTuple):
    """One side of a comparison: which features fire in the sample (bool), and the r of each one's best match on the other side
    (float64, NaN for none); both [features]."""

    alive: np.ndarray
    r: np.ndarray

    def matches(self, threshold: float) -> int:
        """Living features whose best match correlates above `threshold`."""
        return int((self.r[self.alive] > threshold).sum())

    def share(self, threshold: float) -> float | None:
        """Share of the living features whose best match correlates above `threshold`; None if none lives."""
        return self.matches(threshold) / int(self.alive.sum()) if self.alive.any() else None

    def quantile(self, quantile: float, method: str = "linear") -> float | None:
        """A quantile of the best r of the living features that have a match; None if none has."""
        found = self.r[self.alive & ~np.isnan(self.r)]
        return float(np.quantile(found, quantile, method=method)) if len(found) else None

    def row(self, threshold: float) -> dict[str, Any]:
        """The columns of a table that say what persists."""
        return {
            "features": int(self.alive.sum()),
            "persisting": self.matches(threshold),
            "share": self.share(threshold),
            "median_r": self.quantile(0.5),
        }


Autoencoder = tuple[str, int]  # a model and the seed of its autoencoder
Comparisons = dict[tuple[Autoencoder, Autoencoder], tuple[Side, Side]]


def sides(correlations: pa.Table, alive_a: np.ndarray, alive_b: np.ndarray) -> tuple[Side, Side]:
    """Both sides of a table of `correlation.correlate`; only features that are alive (bool [features]) are matches."""
    kept = alive_a[correlations["feature_a"].to_numpy()] & alive_b[correlations["feature_b"].to_numpy()]
    a, b = best_matches(correlations.filter(pa.array(kept)), len(alive_a), len(alive_b))
    return Side(alive_a, a.r), Side(alive_b, b.r)


def living(activations: Activations, min_active: int) -> Activations:
    """The same without the features that fire on fewer than `min_active` tokens: they never fire."""
    matrix = activations.matrix.tocsr(copy=True)
    matrix.data[_active(activations)[matrix.indices] < min_active] = 0
    matrix.eliminate_zeros()
    return Activations(matrix)


def read_comparisons(
    pairs: Sequence[tuple[Autoencoder, Autoencoder]],
    correlations: Sequence[str | Path],
    statistics: Mapping[Autoencoder, str | Path],
    min_active: int,
) -> Comparisons:
    """`sides` of pairs of autoencoders, from files.

    Args:
        pairs: the pairs.
        correlations: file of `correlation.correlate` for each pair.
        statistics: file of `features.Statistics` of each autoencoder.
        min_active: tokens on which a living feature fires.
    """
    active = {name: read_table(path, ["active"])["active"].to_numpy() for name, path in statistics.items()}
    columns = ["feature_a", "feature_b", "r"]
    return {
        (a, b): sides(read_table(path, columns), active[a] >= min_active, active[b] >= min_active)
        for (a, b), path in zip(pairs, correlations, strict=True)
    }


# --- seed ceiling ------------------------------------------------------------------------------------------


def seed_ceiling(comparisons: Comparisons, threshold: float) -> pa.Table:
    """What two autoencoders of one model share, for each model: the most that can be expected to persist along an edge.

    Autoencoders that differ only in seed share about 30 % of their features (Paulo and Belrose 2025, arXiv 2501.16615).

    Args:
        comparisons: pairs of autoencoders of one model.
        threshold: correlation above which two features are the same.

    Returns:
        Schema `CEILING`: a row for each pair and side.
    """
    rows = [
        {"model": a[0], "seed_a": a[1], "seed_b": b[1], "side": name, **side.row(threshold)}
        for (a, b), pair in comparisons.items()
        for name, side in zip("ab", pair, strict=True)
    ]
    return pa.Table.from_pylist(rows, CEILING)


def ceiling_curves(comparisons: Comparisons, floor: float) -> pa.Table:
    """The share of `seed_ceiling` as a function of the threshold, mean over a model's pairs of autoencoders and both sides of each.

    Args:
        comparisons: pairs of autoencoders of one model.
        floor: correlation above which all pairs are known; thresholds go from there to 1 in steps of .01.

    Returns:
        Schema `CEILING_CURVES`; shares are null where no feature lives.
    """
    found: dict[str, list[Side]] = {}
    for (a, _), pair in comparisons.items():
        found.setdefault(a[0], []).extend(pair)
    rows = []
    for model, parts in found.items():
        for threshold in (np.arange(math.ceil(100 * floor - 1e-9), 101) / 100).tolist():
            shares = [share for side in parts if (share := side.share(threshold)) is not None]
            share = float(np.mean(shares)) if shares else None
            rows.append({"model": model, "threshold": threshold, "share": share})
    return pa.Table.from_pylist(rows, CEILING_CURVES)


# --- alignment null ----------------------------------------------------------------------------------------


def offsets(seed: int) -> list[float]:
    """Shares of a corpus by which it is shifted: a half, and one drawn on either side of it."""
    random = np.random.default_rng(entropy(seed, Stream.SHIFTS))
    return [0.5, random.uniform(0.25, 0.45), random.uniform(0.55, 0.75)]


def shifted_tokens(corpus: np.ndarray, length: int, offset: float) -> np.ndarray:
    """For each token of a sample, the one that takes its place when every corpus is rolled by a share of its own windows.

    Whole windows are rolled, so that a token's position in its context stays. They are rolled within their corpus, so that two
    features that fire on much of one corpus still fire together: such a match says nothing about single tokens, and a null that
    mixed the corpora would not count it as chance.

    Args:
        corpus: number of each window's corpus, [windows].
        length: tokens of a window.
        offset: share of a corpus's windows, between 0 and 1; at least one window, and never all of them.

    Returns:
        Token numbers, int64 [windows * length].

    Raises:
        InputError: a corpus has a single window.
    """
    order = np.arange(len(corpus))
    for number in np.unique(corpus):
        own = np.flatnonzero(corpus == number)
        if len(own) < 2:
            raise InputError(
                f"controls.alignment_null: corpus {number} has a single window in the sample and cannot be shifted; raise flow.tokens, or "
                "set controls.alignment_null to false"
            )
        order[own] = np.roll(own, min(max(1, round(offset * len(own))), len(own) - 1))
    return (order[:, None] * length + np.arange(length)).ravel()


def alignment_null(
    a: Source,
    b: Source,
    corpus: np.ndarray,
    document: np.ndarray,
    shares: Sequence[float],
    threshold: float,
    min_active: int = 1,
    label: str = "null",
) -> list[dict[str, Any]]:
    """Best matches when one side's activations are shifted against the other's: what the maximum over all candidates finds by chance.

    Args:
        a: activations of the parent's features.
        b: activations of the child's, which are shifted; the best matches of both sides are taken anew.
        corpus: number of each window's corpus, [windows].
        document: number of each token's document in its corpus, [windows, length].
        shares: offsets, see `shifted_tokens`.
        threshold: correlation above which two features count as the same.
        min_active: tokens on which a living feature fires.
        label: name in the progress bar.

    Returns:
        Rows of `NULL`, edge and seed left out: for each offset and side the quantiles of the best r, the share of living features
        with a (false) match above `threshold`, and the smallest threshold that at most 1 % exceed. `same_document` is the share of
        tokens that are still beside a token of their own document: a few documents longer than the offset.
    """
    rows = []
    alive = [moments(side).active >= min_active for side in (a, b)]  # a shift moves no feature below it
    for number, offset in enumerate(shares, start=1):
        places = shifted_tokens(corpus, document.shape[1], offset)
        same = float((document.ravel() == document.ravel()[places]).mean())
        table = correlate(a, Moved(b, places), threshold, f"{label} {number}/{len(shares)}", min_active=min_active)
        pair = sides(table, *alive)
        for name, side in zip(SIDES, pair, strict=True):
            rows.append(
                {
                    "offset": offset,
                    "same_document": same,
                    "side": name,
                    "features": int(side.alive.sum()),
                    "false_matches": side.matches(threshold),
                    "false_match_rate": side.share(threshold),
                    "threshold": side.quantile(1 - FALSE_MATCH_RATE, "higher"),
                    **{f"q{100 * quantile:g}": side.quantile(quantile) for quantile in QUANTILES},
                }
            )
    return rows


def _active(activations: Activations) -> np.ndarray:
    """Tokens on which each feature fires."""
    return np.bincount(activations.matrix.indices, minlength=activations.features)


# --- raw neurons -------------------------------------------------------------------------------------------


def neuron_correlations(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]], tokens: int, label: str = "neurons"
) -> np.ndarray:
    """Pearson correlation of every activation element of one model with every one of another, over the same tokens.

    Args:
        batches: pairs [tokens, n_a] and [tokens, n_b]; sums are float64, on the device of the batches.
        tokens: in all, for the progress bar.
        label: name in the progress bar.

    Returns:
        float64 [n_a, n_b]; NaN where one of the two is constant.
    """
    count, start, sums = 0, None, None
    with progress(tokens, "tok", label) as bar:
        for pair in batches:
            x, y = (side.double() for side in pair)
            if start is None:
                start = x[:1], y[:1]  # subtracted throughout: no digits cancel, and what is constant becomes 0 exactly
            x, y = x - start[0], y - start[1]
            part = (x.sum(0), y.sum(0), (x * x).sum(0), (y * y).sum(0), x.T @ y)
            sums = part if sums is None else tuple(old + new for old, new in zip(sums, part, strict=True))
            count += len(x)
            bar.update(len(x))
    if sums is None:
        raise ValueError("neuron_correlations: there is no batch")
    x, y, xx, yy, xy = ((total / count).cpu().numpy() for total in sums)
    varies_x, varies_y = xx > x**2, yy > y**2
    scales = np.outer(np.sqrt(np.where(varies_x, xx - x**2, 1)), np.sqrt(np.where(varies_y, yy - y**2, 1)))
    r = np.clip((xy - np.outer(x, y)) / scales, -1, 1)
    r[~varies_x], r[:, ~varies_y] = np.nan, np.nan
    return r


def neuron_rows(r: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    """Rows of `NEURONS`, edge left out, from `neuron_correlations`: the same measure on neurons that vary.

    Matches are by r, not |r|: as features are compared, and as Bricken et al. 2023 compare neurons.
    """
    rows = []
    for name, matrix in zip(SIDES, (r, r.T), strict=True):
        best = np.where(np.isnan(matrix), -np.inf, matrix).max(1)
        row = Side(np.isfinite(best), best).row(threshold)
        rows.append({"side": name, "neurons": row.pop("features"), **row})
    return rows


# --- as published ------------------------------------------------------------------------------------------


def string_numbers(tokens: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Number of the string that each token decodes to on its own, int64 [tokens], from 0 and without gaps.

    Not with its neighbours: the published measure knows a token by this string alone. Several tokens may have one: those that are no whole
    character (all of them U+FFFD), and with some tokenizers those that differ in a space.
    """
    ids, places = np.unique(tokens, return_inverse=True)
    decoded = [tokenizer.decode([token]) for token in ids.tolist()]
    return np.unique(decoded, return_inverse=True)[1][places.ravel()]


def string_means(activations: Activations, strings: np.ndarray) -> Activations:
    """Each feature's mean activation on each token string, over the tokens of that string on which it fires.

    Args:
        activations: of a sample.
        strings: number of each token's string, int [tokens], from 0 and without gaps.

    Returns:
        A row per string in place of a row per token.
    """
    matrix = activations.matrix
    shape = (int(strings.max()) + 1, len(strings))
    by_string = sparse.csr_array((np.ones(len(strings)), (strings, np.arange(len(strings)))), shape=shape)
    sums, counts = by_string @ matrix, by_string @ _ones(matrix)
    sums.sort_indices()
    counts.sort_indices()
    return Activations(sparse.csr_array((sums.data / counts.data, sums.indices, sums.indptr), shape=sums.shape))


NEARLY_EQUAL = 1e-5  # deviation over root mean square below which float32 activations on the shared rows count as equal


def best_where_both_fire(
    a: Activations, b: Activations, minimums: Sequence[int], label: str = "both fire"
) -> tuple[np.ndarray, np.ndarray]:
    """Best match of each feature by the correlation over those rows alone on which both features of a pair fire.

    Args:
        a: activations, by token or by string.
        b: the other model's, of the same rows.
        minimums: the rows that a pair must share, one result for each. Of independent features half of all pairs that share two
            rows have r = 1.
        label: name in the progress bar.

    Returns:
        r of the best match, float64 [minimums, features] for `a` and for `b`; NaN where no pair is left. A pair on whose shared
        rows one of the features is constant has no correlation.
    """
    by_feature = a.matrix.astype(np.float64).T.tocsr()
    left = (_ones(by_feature), by_feature, by_feature.power(2))
    values = b.matrix.astype(np.float64)
    ones, squares = _ones(values), values.power(2)
    best_a = np.full((len(minimums), a.features), -np.inf)
    best_b = np.full((len(minimums), b.features), -np.inf)
    block = max(1, BLOCK_BYTES // (8 * b.features))
    with progress(a.features, "feature", label) as bar:
        for first in range(0, a.features, block):
            one, value, square = (matrix[first : first + block] for matrix in left)
            rows = (one @ ones).toarray()
            sum_a, sum_b = (value @ ones).toarray(), (one @ values).toarray()
            r = rows * (value @ values).toarray() - sum_a * sum_b
            varies = np.ones(r.shape, bool)
            for total, product in ((sum_a, square @ ones), (sum_b, one @ squares)):
                spread = rows * product.toarray()
                least = NEARLY_EQUAL**2 * spread
                spread -= total**2
                varies &= spread > least
                r /= np.sqrt(np.where(varies, spread, 1))
            for number, minimum in enumerate(minimums):
                kept = np.where(varies & (rows >= minimum), np.clip(r, -1, 1), -np.inf)
                best_a[number, first : first + block] = kept.max(1)
                np.maximum(best_b[number], kept.max(0), out=best_b[number])
            bar.update(len(r))
    for best in (best_a, best_b):
        best[np.isneginf(best)] = np.nan
    return best_a, best_b


def published_rows(
    a: Activations,
    b: Activations,
    correlations: pa.Table,
    strings: np.ndarray,
    threshold: float,
    minimums: Sequence[int] = MINIMUMS,
    label: str = "as published",
) -> list[dict[str, Any]]:
    """What persists by our correlation, by that of the published code, and by what lies between.

    The published code correlates mean activations per token string, over the strings on which both features fire, from two on.
    It keeps pairs at or above its threshold, we those above it; and it read the two sides from different corpora, here both
    read one sample.

    Args:
        a: activations of the parent's features.
        b: activations of the child's.
        correlations: of the two (`correlation.correlate`).
        strings: number of each token's string, see `string_means`.
        threshold: correlation above which two features are the same.
        minimums: rows that two features must share, where only those on which both fire count.
        label: name in the progress bars.

    Returns:
        Rows of `AS_PUBLISHED`, edge and seed left out. `variant` is `ours` (all tokens), `strings` (all strings, 0 where a feature
        does not fire), or one of `tokens where both fire` and `strings where both fire`, the latter with `minimum` 2 being the
        published one. A feature lives if it fires in the sample, in every variant.
    """
    by_string = string_means(a, strings), string_means(b, strings)
    alive = _active(a) > 0, _active(b) > 0
    found = [
        (OURS, None, sides(correlations, *alive)),
        (STRINGS, None, sides(correlate(*by_string, threshold, f"{label}, strings"), *alive)),
    ]
    for variant, pair in ((TOKENS_BOTH, (a, b)), (STRINGS_BOTH, by_string)):
        bests = best_where_both_fire(*pair, minimums, f"{label}, {variant}")
        for minimum, *both in zip(minimums, *bests, strict=True):
            found.append((variant, minimum, tuple(Side(*side) for side in zip(alive, both, strict=True))))
    return [
        {"variant": variant, "minimum": minimum, "side": name, **side.row(threshold)}
        for variant, minimum, pair in found
        for name, side in zip(SIDES, pair, strict=True)
    ]


def _ones(matrix: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(matrix.data)), matrix.indices, matrix.indptr), shape=matrix.shape)


# --- together ----------------------------------------------------------------------------------------------

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


def summarise(
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
