"""Where each feature fires most: the windows of the sample with its highest activations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_lineage.features.activations import window_pieces
from feature_lineage.progress import progress
from feature_lineage.store.formats import read_provenance
from feature_lineage.text.vocabulary import window_texts

CONTEXTS = pa.schema(
    [
        ("feature", pa.int32()),
        ("rank", pa.int16()),
        ("window", pa.int32()),
        ("peak", pa.float32()),
        ("position", pa.list_(pa.int16())),
        ("activation", pa.list_(pa.float32())),
    ]
)
TOP = 10  # contexts of a feature


def leading(group: np.ndarray, value: np.ndarray, number: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the `count` largest values of each group, of equal ones the lowest number, and their ranks from 0.

    Ordered by group, then rank; all arrays are one-dimensional.
    """
    order = np.lexsort((number, -value, group))
    group = group[order]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    keep = rank < count
    return order[keep], rank[keep]


def collect_contexts(path: str | Path, shape: tuple[int, int], count: int = TOP) -> pa.Table:
    """The windows on which each feature has its highest activation.

    One pass finds them, keeping `count` windows a feature; a second collects the activations in them. Memory grows with the features.

    Args:
        path: activations, a file of `collect.collect_features`.
        shape: windows of the sample, tokens of a window.
        count: windows of a feature.

    Returns:
        Schema `CONTEXTS`, ordered by feature and rank; of equal peaks the lower window comes first. Features that never fire have no row.
    """
    features = read_provenance(path)["features"]
    found = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64))  # features, peaks, windows
    lowest = np.full(features, -np.inf)  # a later window must exceed it
    with progress(2 * shape[0], "window") as bar:
        for window, _, feature, activation in window_pieces(path, shape):
            bar.update(int(window[-1]) + 1 - bar.n)
            key = window.astype(np.int64) * features + feature
            order = np.argsort(key, kind="stable")
            key = key[order]
            starts = np.flatnonzero(np.diff(key, prepend=-1))
            peak = np.maximum.reduceat(activation[order], starts)
            window, feature = np.divmod(key[starts], features)
            higher = peak > lowest[feature]
            new = (feature[higher], peak[higher], window[higher])
            found = tuple(np.concatenate(pair) for pair in zip(found, new, strict=True))
            order, rank = leading(*found, count)
            found = tuple(column[order] for column in found)
            last = rank == count - 1
            lowest[found[0][last]] = found[1][last]
        bar.update(shape[0] - bar.n)
        feature, peak, window = found
        row, position, activation = _activations(path, shape, window * features + feature, bar)
    offsets = np.searchsorted(row, np.arange(len(feature) + 1)).astype(np.int32)
    rank = np.arange(len(feature)) - np.searchsorted(feature, feature)
    columns = [
        *(feature.astype(np.int32), rank.astype(np.int16), window.astype(np.int32), peak.astype(np.float32)),
        pa.ListArray.from_arrays(offsets, position.astype(np.int16)),
        pa.ListArray.from_arrays(offsets, activation.astype(np.float32)),
    ]
    return pa.table(columns, schema=CONTEXTS)


def _activations(
    path: str | Path, shape: tuple[int, int], keys: np.ndarray, bar: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, position and activation of all that is in the (window, feature) of the keys, ordered by row and position."""
    features = read_provenance(path)["features"]
    by_key = np.argsort(keys)
    ordered = keys[by_key]
    parts = []
    for window, position, feature, activation in window_pieces(path, shape):
        key = window.astype(np.int64) * features + feature
        place = np.minimum(np.searchsorted(ordered, key), len(ordered) - 1)
        hit = ordered[place] == key
        parts.append((by_key[place[hit]], position[hit], activation[hit]))
        bar.update(shape[0] + int(window[-1]) + 1 - bar.n)
    if not parts:
        return tuple(np.zeros(0, kind) for kind in (np.int64, np.int32, np.float64))
    row, position, activation = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((position, row))
    return row[order], position[order], activation[order]


def highlighted(
    tokens: np.ndarray, position: Sequence[int], activation: Sequence[float], texts: Sequence[str]
) -> dict[str, list[Any]]:
    """A window as it is shown: the text of each token, and the feature's activation there, 0 where it is silent.

    Tokens that are pieces of one character are shown as one, with the highest of their activations.

    Args:
        tokens: token numbers of the window, int [length].
        position: where the feature fires in it.
        activation: how much it fires there.
        texts: text of each token of the vocabulary (`token_texts`). It is a corpus's: escape it in HTML.
    """
    values = np.zeros(len(tokens))
    values[list(position)] = activation
    shown = window_texts(tokens.tolist(), texts)
    return {
        "tokens": [one.text for one in shown],
        "activations": [float(values[one.first : one.stop].max()) for one in shown],
    }
