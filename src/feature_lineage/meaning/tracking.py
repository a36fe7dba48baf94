"""The way of features down the lineage, and how they lie on a hypothesis's tokens (paper, section 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.features.activations import activation_blocks, window_pieces
from feature_lineage.progress import progress
from feature_lineage.store.formats import read_provenance

BETA = 0.5  # recall counts this much beside precision


class Sample(NamedTuple):
    """What a case is looked for in: a sample of tokens, its corpora, and the vocabulary as `vocabulary.token_texts` gives it."""

    tokens: np.ndarray  # int [windows, length]
    corpus: np.ndarray  # int [windows]
    corpora: Sequence[str]
    texts: Sequence[str]
    special: np.ndarray  # bool [vocabulary]
    kept: np.ndarray | None = None  # which tokens are read, bool [windows, length]; None for all

    def read(self, inside: np.ndarray) -> np.ndarray:
        """The tokens of some windows, bool [windows], that are read; int, flat where some are left out."""
        return self.tokens[inside] if self.kept is None else self.tokens[inside][self.kept[inside]]


# --- the way -----------------------------------------------------------------------------------------------


class Node(NamedTuple):
    """A tracked feature: its model, the model that it was followed from, and what `fates.trace` says of the edge between them."""

    model: str
    feature: int
    parent: str | None
    r: float | None
    fate: str | None
    kept: bool


def follow(features: pa.Table, edges: Sequence[tuple[str, str]], model: str, feature: int, seed: int) -> list[Node]:
    """Follow a feature down every edge by its best match, whatever its correlation.

    Where two parents lead to a model, both paths are in the list; the one with the higher correlation is kept, of equal ones the first.

    Args:
        features: table of schema `fates.FEATURES`.
        edges: all (parent, child) pairs, parents before children.
        model: where to start.
        feature: its feature.
        seed: autoencoder seed.
    """
    rows = features.filter(pc.equal(features["seed"], seed))
    nodes, tracked = [Node(model, feature, None, None, None, True)], {model: feature}
    for child in dict.fromkeys(child for _, child in edges):
        paths = []
        for parent in [one for one, other in edges if other == child and one in tracked]:
            wanted = {"parent": parent, "child": child, "model": parent, "feature": tracked[parent]}
            mask = reduce(pc.and_, (pc.equal(rows[column], value) for column, value in wanted.items()))
            (row,) = rows.filter(mask).to_pylist()
            if row["descendant"] is not None:
                paths.append(Node(child, row["descendant"], parent, row["r"], row["fate"], False))
        if paths:
            best = max(range(len(paths)), key=lambda place: paths[place].r)
            nodes += [path._replace(kept=place == best) for place, path in enumerate(paths)]
            tracked[child] = paths[best].feature
    return nodes


def living(lineages: pa.Table, model: str, seed: int) -> dict[int, float]:
    """The density of each living feature of a model, as a table of schema `fates.LINEAGES` has it: of every model, with edges or without."""
    mask = pc.and_(pc.equal(lineages["model"], model), pc.equal(lineages["seed"], seed))
    table = lineages.filter(mask)
    densities = zip(table["feature"].to_pylist(), table["density"].to_pylist(), strict=True)
    return {feature: density for feature, density in densities if density > 0}


def traced(lineages: pa.Table, model: str, feature: int, seed: int) -> dict[str, dict[str, Any]]:
    """What became of a feature in each descendant of its model, by verdict: `model`, `verdict`, `feature` and `r`, by model.

    Args:
        lineages: `flows/lineages.parquet`.
        model: the feature's.
        feature: its number.
        seed: autoencoder seed.
    """
    wanted = {"model": model, "feature": feature, "seed": seed}
    mask = reduce(pc.and_, (pc.equal(lineages[column], value) for column, value in wanted.items()))
    (row,) = lineages.filter(mask).select(["traced"]).to_pylist()
    return {found["model"]: found for found in row["traced"] or ()}


# --- measures ----------------------------------------------------------------------------------------------


class Support(NamedTuple):
    """How features lie on a hypothesis, each [features]: precision, recall and score (0 where a feature is silent)."""

    precision: np.ndarray
    recall: np.ndarray
    score: np.ndarray


def support(mass: np.ndarray, on: np.ndarray, fired: np.ndarray, occurrences: int) -> Support:
    """Precision, recall and score.

    Args:
        mass: each feature's activation on the tokens that count, summed; float64 [features].
        on: of it, that on the hypothesis's tokens.
        fired: occurrences of the hypothesis's tokens on which each fires.
        occurrences: of the hypothesis's tokens.
    """
    precision = np.divide(on, mass, out=np.zeros(len(mass)), where=mass > 0)
    recall = fired / occurrences
    below = BETA**2 * precision + recall
    score = np.divide((1 + BETA**2) * precision * recall, below, out=np.zeros(len(mass)), where=below > 0)
    return Support(precision, recall, score)


def survey(path: str | Path, sample: Sample, hypothesis: np.ndarray, inside: np.ndarray) -> Support:
    """`support` of a hypothesis in all features of a model, in one pass over its activations."""
    features = read_provenance(path)["features"]
    mass, on, fired = np.zeros(features), np.zeros(features), np.zeros(features)
    meant = np.isin(sample.tokens, hypothesis) & inside[:, None]
    with progress(len(meant), "window", "features") as bar:
        for window, position, feature, activation in window_pieces(path, meant.shape):
            counts, hit = inside[window], meant[window, position]
            mass += np.bincount(feature[counts], activation[counts], features)
            on += np.bincount(feature[hit], activation[hit], features)
            fired += np.bincount(feature[hit], minlength=features)
            bar.update(int(window[-1]) + 1 - bar.n)
    return support(mass, on, fired, int(meant.sum()))


class Columns(NamedTuple):
    """What a pass over a few features, of any models, finds."""

    masses: np.ndarray  # on each token, float64 [features, vocabulary]
    support: Support | None
    correlations: np.ndarray  # float64 [features, features], NaN where one does not vary
    shown: np.ndarray  # activations in some windows, float64 [features, those windows, length]


def measure(
    columns: Sequence[tuple[str | Path, int]],
    sample: Sample,
    hypothesis: np.ndarray | None,
    inside: np.ndarray,
    windows: Sequence[int],
) -> Columns:
    """Weigh some features on every token, and correlate them with one another, exactly and in one pass.

    Args:
        columns: activations file and number of each feature.
        sample: tokens and vocabulary.
        hypothesis: its tokens, if they are known.
        inside: windows that count for masses and support, bool [windows]; correlations are over all.
        windows: whose activations to keep.
    """
    count, length = len(columns), sample.tokens.shape[1]
    kept = np.ones(sample.tokens.size, bool) if sample.kept is None else sample.kept.ravel()
    flat = sample.tokens.ravel()[kept]
    numbers: dict[str | Path, list[int]] = {}  # places among the columns, by file: each is read once
    for place, (path, _) in enumerate(columns):
        numbers.setdefault(path, []).append(place)
    counts = np.repeat(inside, length)[kept]
    meant = counts & np.isin(flat, () if hypothesis is None else hypothesis)
    masses, fired = np.zeros((len(sample.texts), count)), np.zeros(count)
    mean, squares = np.zeros(count), np.zeros((count, count))
    shown = np.zeros((len(windows) * length, count))
    shown_tokens = (np.asarray(windows, np.int64)[:, None] * length + np.arange(length)).ravel()
    # The number of each among the tokens that are read; a token that is left out keeps the activation 0.
    places = np.where(kept[shown_tokens], np.cumsum(kept)[shown_tokens] - 1, -1)
    with progress(flat.size, "tok", "tokens") as bar:
        for blocks in zip(*(activation_blocks(path, flat.size) for path in numbers), strict=True):
            first, size = blocks[0][0], blocks[0][1].shape[0]
            values = np.empty((size, count))
            for (_, block), own in zip(blocks, numbers.values(), strict=True):
                values[:, own] = block[:, [columns[place][1] for place in own]].toarray()
            here = slice(first, first + size)
            np.add.at(masses, flat[here][counts[here]], values[counts[here]])
            fired += (values[meant[here]] > 0).sum(0)
            # Blocks are centred before they are merged (Chan, Golub and LeVeque 1983), so that nothing cancels.
            step = values.mean(0) - mean
            squares += np.cov(values, rowvar=False, ddof=0).reshape(count, count) * size
            squares += np.multiply.outer(step, step) * (first * size / (first + size))
            mean += step * (size / (first + size))
            among = (places >= first) & (places < first + size)
            shown[among] = values[places[among] - first]
            bar.update(size)
    deviation = np.sqrt(np.diag(squares))
    with np.errstate(invalid="ignore"):
        correlations = np.where(np.outer(deviation, deviation) > 0, squares / np.outer(deviation, deviation), np.nan)
    found = None
    if hypothesis is not None:
        found = support(masses.sum(0), masses[hypothesis].sum(0), fired, int(meant.sum()))
    return Columns(masses.T, found, np.clip(correlations, -1, 1), shown.T.reshape(count, len(windows), length))
