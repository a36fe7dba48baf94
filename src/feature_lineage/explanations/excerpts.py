"""Which features are explained, and the excerpts that show them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from feature_lineage.features.activations import Entries, whole_windows
from feature_lineage.flow.strata import SINGLE_TOKEN
from feature_lineage.progress import progress
from feature_lineage.streams import Stream, entropy

PERSISTING, OTHERS = "persisting", "not persisting"

# Excerpts of each side, after Bricken et al.: a feature's highest activations, two from each tenth of its range, random ones, and
# its strongest tokens elsewhere; a third of a paper's window each.
TOP, OF_BAND, BANDS, RANDOM, ELSEWHERE = 10, 2, 10, 5, 10
EXCERPT = 9  # tokens
UNITS = 8  # a document with more than this fraction of its corpus's windows is cut


def mixed(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A random-looking uint64 for each number (splitmix64): draws by it stay when other numbers come or go."""
    with np.errstate(over="ignore"):
        z = numbers.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


class Chosen(NamedTuple):
    """A feature, its fate (`PERSISTING` or `OTHERS`) and whether it is a single-token feature (see `strata.strata`)."""

    feature: int
    fate: str
    single_token: bool


def choose(
    lineages: pa.Table, tokens: pa.Table, model: str, autoencoder: int, count: int | str, seed: int
) -> list[Chosen]:
    """Features to interpret, as many that persist as that do not, as far as there are; a budget that ends early ends for both alike.

    A feature persists if it does on any edge to a child of its model; in a model without children, if it persists from a parent. Dead
    features are left out. A larger `count` keeps those of a smaller one.

    Args:
        lineages: table of schema `fates.LINEAGES`.
        tokens: table of `main_token.weigh_tokens` of the model.
        model: the model.
        autoencoder: seed of its autoencoder.
        count: how many, or "all" that live.
        seed: of the draw.

    Returns:
        The features of each fate, in the order of the draw, one of each in turn.
    """
    found: dict[str, list[int]] = {PERSISTING: [], OTHERS: []}
    for batch in lineages.select(["model", "seed", "feature", "origin", "chain", "fates"]).to_batches():
        for row in batch.to_pylist():
            if (row["model"], row["seed"]) == (model, autoencoder) and row["origin"] is not None:
                below = [edge["fate"] == "persisting" for edge in row["fates"]]
                found[PERSISTING if any(below) or (not below and row["chain"]) else OTHERS].append(row["feature"])
    shares = np.nan_to_num(tokens["token_share"].to_numpy())
    chosen: list[list[Chosen]] = []
    for fate, features in found.items():
        order = np.asarray(features, np.int64)[np.argsort(mixed(np.asarray(features, np.int64), seed))]
        order = order if count == "all" else order[: int(count) // 2]
        chosen.append([Chosen(int(feature), fate, bool(shares[feature] >= SINGLE_TOKEN)) for feature in order])
    return [one for one in chain.from_iterable(zip_longest(*chosen)) if one]


def halves(corpus: np.ndarray, document: np.ndarray, seed: int) -> np.ndarray:
    """Part the windows of a sample in two halves, the documents of each corpus at random.

    Documents stay whole, unless one has more than an eighth of its corpus's windows, which is then cut. A window belongs to the document
    of its first token.

    Args:
        corpus: of each window, int [windows], ascending.
        document: of each token, int [windows, length].
        seed: of the draw.

    Returns:
        0 for windows to explain on, 1 for windows to score on; int8 [windows].
    """
    side = np.zeros(len(corpus), np.int8)
    for number in np.unique(corpus):
        windows = np.flatnonzero(corpus == number)
        longest = max(1, len(windows) // UNITS)
        first = document[windows, 0]
        place = np.arange(len(windows)) - np.searchsorted(
            first, first
        )  # windows of a corpus are in the order of its documents
        _, unit = np.unique(np.stack([first, place // longest]), axis=1, return_inverse=True)
        sizes = np.bincount(unit)
        taken = [0, 0]
        of_unit = np.zeros(len(sizes), np.int8)
        random = np.random.default_rng(entropy(seed, Stream.SIDES, int(number)))
        for one in random.permutation(len(sizes)):
            of_unit[one] = taken[1] < taken[0]
            taken[of_unit[one]] += sizes[one]
        side[windows] = of_unit[unit]
    return side


class Excerpts(NamedTuple):
    """Pieces of windows of one side: `tokens` int [excerpts, width], a feature's `activations` float64 of the same shape."""

    tokens: np.ndarray
    activations: np.ndarray


class Evidence(NamedTuple):
    """What is known of a feature: its maximum, excerpts to explain and to score, and the baseline's prediction for the latter.

    `token_means` is float64 of the shape of `score.tokens`: the feature's mean activation on each token on the other side; where the
    token does not occur there, its mean on that side.
    """

    feature: int
    maximum: float
    explain: Excerpts
    score: Excerpts
    token_means: np.ndarray


def gather(
    path: str | Path,
    maxima: np.ndarray,
    features: Sequence[int],
    tokens: np.ndarray,
    side: np.ndarray,
    seed: int,
) -> list[Evidence]:
    """Draw excerpts of some features and read their activations, in two passes over the file; only what is drawn stays in memory.

    Args:
        path: activations, a file of `collect.collect_features`.
        maxima: each feature's highest activation, float64 [all features].
        features: those to draw for.
        tokens: the sample, int [windows, length].
        side: of each window (see `halves`).
        seed: of the draws; those of a feature depend on no other feature.

    Raises:
        InputError: the file is damaged or of another sample.
    """
    if not features:
        return []
    width = min(EXCERPT, tokens.shape[1])
    number = np.asarray(features, np.int64)
    with progress(2 * tokens.size, "tok") as bar:
        read = partial(_read, path, tokens.shape, number, bar)
        candidates = _candidates(read(), maxima[number], number, side, seed)
        drawn = _sample(candidates, number, tokens, side, width, seed)
        text = tokens[drawn.window[:, None], drawn.start[:, None] + np.arange(width)]
        scored = side[drawn.window] == 1
        activations = np.zeros(text.shape)
        means = _Means(drawn.place[scored], text[scored], tokens, side, len(number))
        for entries in read():
            _fill(activations, drawn, len(tokens), entries)
            means.add(entries)
    predicted = np.zeros(text.shape)
    predicted[scored] = means.of(drawn.place[scored], text[scored])
    evidence = []
    bounds = np.searchsorted(drawn.place, np.arange(len(number) + 1))
    for one, feature in enumerate(features):
        rows = slice(*bounds[one : one + 2])
        explain, score = (Excerpts(text[rows][part], activations[rows][part]) for part in (~scored[rows], scored[rows]))
        evidence.append(Evidence(int(feature), float(maxima[feature]), explain, score, predicted[rows][scored[rows]]))
    return evidence


def _read(path: str | Path, shape: tuple[int, int], features: np.ndarray, bar: Any) -> Iterator[Entries]:
    done = 0
    for tokens, entries in whole_windows(path, shape, features):
        yield entries
        bar.update(tokens - done)
        done = tokens


class _Candidates(NamedTuple):
    """Windows that excerpts may be taken from, ordered by group and rank; `position` is that of the highest activation."""

    group: np.ndarray
    rank: np.ndarray
    window: np.ndarray
    position: np.ndarray


def _group(place: np.ndarray | int, side: np.ndarray | int, band: np.ndarray | int) -> Any:
    """Band `BANDS` is that of the highest activations, whatever they are."""
    return (place * 2 + side) * (BANDS + 1) + band


def _candidates(
    entries: Iterator[Entries], maxima: np.ndarray, features: np.ndarray, side: np.ndarray, seed: int
) -> _Candidates:
    kept = _Candidates(*(np.zeros(0, kind) for kind in (np.int64, np.float64, np.int64, np.int64)))
    for window, position, place, activation in entries:
        order = np.lexsort((position, -activation, window, place))
        order = order[np.r_[True, (np.diff(window[order]) != 0) | (np.diff(place[order]) != 0)][: len(order)]]
        window, position, place, peak = window[order], position[order], place[order], activation[order]
        band = np.minimum(BANDS * peak / maxima[place], BANDS - 1).astype(np.int64)
        draw = mixed((features[place] << 32) + window, seed) / 2.0**64
        new = _Candidates(
            np.concatenate([_group(place, side[window], band), _group(place, side[window], BANDS)]),
            np.concatenate([draw, -peak]),
            np.tile(window, 2),
            np.tile(position, 2),
        )
        both = _Candidates(*(np.concatenate(pair) for pair in zip(kept, new, strict=True)))
        order = np.lexsort((both.window, both.rank, both.group))
        group = both.group[order]
        within = np.arange(len(group)) - np.searchsorted(group, group)
        # The highest may be among a band's: enough of it that two more are left.
        order = order[within < np.where(group % (BANDS + 1) == BANDS, TOP, TOP + OF_BAND)]
        kept = _Candidates(*(column[order] for column in both))
    return kept


class _Drawn(NamedTuple):
    """Excerpts, ordered by feature and window, no window twice for one feature: place of the feature, window and first position of each,
    int64 [excerpts]."""

    place: np.ndarray
    window: np.ndarray
    start: np.ndarray


def _sample(
    candidates: _Candidates, features: np.ndarray, tokens: np.ndarray, side: np.ndarray, width: int, seed: int
) -> _Drawn:
    length = tokens.shape[1]
    by_token = np.argsort(tokens, axis=None, kind="stable")
    ordered = tokens.ravel()[by_token]
    of_side = [np.flatnonzero(side == which) for which in (0, 1)]
    drawn: list[tuple[int, int, int]] = []
    for place, feature in enumerate(features.tolist()):
        for which, windows in enumerate(of_side):
            random = np.random.default_rng(entropy(seed, Stream.EXCERPTS, feature, which))
            chosen: dict[int, int] = {}
            for band in (BANDS, *reversed(range(BANDS))):
                group = _group(place, which, band)
                rows = slice(*np.searchsorted(candidates.group, [group, group + 1]))
                found = np.stack([candidates.window[rows], candidates.position[rows]], 1)
                _take(chosen, found, TOP if band == BANDS else OF_BAND)
                if band == BANDS:
                    strongest = np.unique(tokens[found[:, 0], found[:, 1]])
            spare = random.choice(windows, min(len(windows), RANDOM + len(chosen)), replace=False)
            _take(chosen, np.stack([spare, random.integers(length, size=len(spare))], 1), RANDOM)
            found = [by_token[slice(*np.searchsorted(ordered, [token, token + 1]))] for token in strongest]
            spare = np.concatenate([np.zeros(0, np.int64), *found])
            spare = random.choice(spare, min(len(spare), 8 * (ELSEWHERE + len(chosen))), replace=False)
            found = np.stack(np.divmod(spare, length), 1)
            _take(chosen, found[side[found[:, 0]] == which], ELSEWHERE)
            drawn += [(place, window, position) for window, position in chosen.items()]
    found = np.asarray(drawn, np.int64).reshape(-1, 3).T
    found[2] = np.clip(found[2] - width // 2, 0, length - width)
    return _Drawn(*found[:, np.argsort(found[0] * len(tokens) + found[1])])


def _take(chosen: dict[int, int], pairs: np.ndarray, count: int) -> None:
    """Add the first `count` of some (window, position) whose window is new."""
    for window, position in pairs.tolist():
        if count and window not in chosen:
            chosen[window] = position
            count -= 1


def _fill(activations: np.ndarray, drawn: _Drawn, windows: int, entries: Entries) -> None:
    """Write those of some entries that lie in excerpts into their activations, float64 [excerpts, width]; `windows` in the sample."""
    key, sought = drawn.place * windows + drawn.window, entries.place * windows + entries.window
    i = np.minimum(np.searchsorted(key, sought), len(key) - 1)
    hit = key[i] == sought
    i, offset = i[hit], entries.position[hit] - drawn.start[i[hit]]
    inside = (offset >= 0) & (offset < activations.shape[1])
    activations[i[inside], offset[inside]] = entries.activation[hit][inside]


class _Means:
    """Mean activations of features on tokens, over the windows to explain on.

    Args:
        place: of the feature of each excerpt, int64 [excerpts].
        text: the tokens on which its mean is wanted, int [excerpts, width].
        tokens: the sample, int [windows, length].
        side: of each window.
        count: of the features.
    """

    def __init__(self, place: np.ndarray, text: np.ndarray, tokens: np.ndarray, side: np.ndarray, count: int) -> None:
        self._tokens, self._side = tokens, side
        self._vocabulary = int(tokens.max()) + 1
        self._wanted = np.unique(self._key(place[:, None], text))
        self._sums, self._total = np.zeros(len(self._wanted)), np.zeros(count)

    def _key(self, place: np.ndarray, token: np.ndarray) -> np.ndarray:
        return place * self._vocabulary + token

    def add(self, entries: Entries) -> None:
        """Count some entries; those of the other side are left out."""
        kept = self._side[entries.window] == 0
        window, position, place, activation = (column[kept] for column in entries)
        self._total += np.bincount(place, activation, minlength=len(self._total))
        if len(self._wanted):
            sought = self._key(place, self._tokens[window, position])
            i = np.minimum(np.searchsorted(self._wanted, sought), len(self._wanted) - 1)
            same = self._wanted[i] == sought
            self._sums += np.bincount(i[same], activation[same], minlength=len(self._wanted))

    def of(self, place: np.ndarray, text: np.ndarray) -> np.ndarray:
        """The mean on each wanted token, float64 [excerpts, width]; where the token does not occur, the mean on all tokens."""
        counts = np.bincount(self._tokens[self._side == 0].ravel(), minlength=self._vocabulary)
        feature, token = np.divmod(self._wanted, self._vocabulary)
        average = self._total / max(1, counts.sum())
        means = np.where(counts[token] > 0, self._sums / np.maximum(counts[token], 1), average[feature])
        return means[np.searchsorted(self._wanted, self._key(place[:, None], text))]
