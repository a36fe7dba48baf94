"""Exact Pearson correlation of every pair of features of two models over one sample of tokens (paper, section 3.4).

Activations are sparse and non-negative, so that Σ_t a(t) b(t) needs only the tokens on which both fire: the cost is that of
Σ_t nnz_a(t) nnz_b(t) products. Neither tokens × features nor features × features is ever held densely. Sums are float64.
The result has the same bytes whatever the number of threads and of jobs that share the work: see `sums`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import sparse

from feature_lineage.features.activations import PIECE, Source
from feature_lineage.flow.moments import is_steady
from feature_lineage.flow.products import in_order, workers
from feature_lineage.flow.sums import Layout, Tree, lay_out, rows_of_a_tile, sums_by_tile
from feature_lineage.progress import progress
from feature_lineage.store.formats import read_batches

CORRELATIONS = pa.schema(
    [
        ("feature_a", pa.int32()),
        ("feature_b", pa.int32()),
        ("r", pa.float64()),
        ("both", pa.int64()),
        ("either", pa.int64()),
    ]
)
PARTIAL_SUMS = pa.schema([("feature_a", pa.int32()), ("feature_b", pa.int32()), ("sum", pa.float64())])


class _Found(NamedTuple):
    """Of a tile: pairs to keep, and each feature of b's highest correlation in it with the feature of a that has it."""

    feature_a: np.ndarray
    feature_b: np.ndarray
    r: np.ndarray
    best_r: np.ndarray
    best_a: np.ndarray


def _selector(layout: Layout, floor: float) -> Callable[[int, int, np.ndarray | None], _Found | None]:
    """What turns the sums of a tile into correlations and keeps those above the floor and the best of each row."""
    a, b = layout.moments_a, layout.moments_b
    mean_a, mean_b = (np.where(is_steady(side), 0, side.mean) for side in (a, b))
    varies_a, varies_b = a.deviation > 0, b.deviation > 0
    inverse_b = np.divide(1, b.deviation, out=np.zeros(len(varies_b)), where=varies_b)
    silent = np.flatnonzero(~varies_b)

    def select(first: int, last: int, sums: np.ndarray | None) -> _Found | None:
        rows = np.flatnonzero(varies_a[first:last])
        if not len(rows) or len(silent) == len(varies_b):
            return None
        r = np.zeros((last - first, len(varies_b))) if sums is None else sums
        if len(rows) < len(r):
            r = r[rows]
        rows += first
        r /= layout.a.tokens
        r -= np.multiply.outer(mean_a[rows], mean_b)
        r *= inverse_b
        r /= a.deviation[rows, None]
        np.clip(r, -1, 1, out=r)
        r[:, silent] = -np.inf
        best_r, best = r[0].copy(), np.zeros(len(varies_b), np.int64)
        for number, row in enumerate(r[1:], 1):
            np.copyto(best, number, where=row > best_r)
            np.maximum(best_r, row, out=best_r)
        keep = r > floor
        keep[np.arange(len(rows)), r.argmax(1)] = True
        row, column = np.divmod(np.flatnonzero(keep), len(varies_b))
        return _Found(rows[row], column, r[row, column], best_r, rows[best])

    return select


def _table(layout: Layout, found: Iterable[_Found | None], pool: ThreadPoolExecutor) -> pa.Table:
    """The pairs of all tiles and the best match of each feature of b, with their support."""
    features = layout.b.features
    best_r, best_a = np.full(features, -np.inf), np.full(features, -1)  # over the tiles so far
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for tile in found:
        if tile is not None:
            parts.append(tile[:3])
            np.copyto(best_a, tile.best_a, where=tile.best_r > best_r)
            np.maximum(best_r, tile.best_r, out=best_r)
    others = np.flatnonzero(best_a >= 0)
    parts.append((best_a[others], others, best_r[others]))
    feature_a, feature_b, r = (np.concatenate(column) for column in zip(*parts, strict=True))
    _, unique = np.unique(feature_a.astype(np.int64) * features + feature_b, return_index=True)
    feature_a, feature_b, r = feature_a[unique], feature_b[unique], r[unique]
    both = _both(layout, feature_a, feature_b, pool)
    either = layout.moments_a.active[feature_a] + layout.moments_b.active[feature_b] - both
    return pa.table([feature_a.astype(np.int32), feature_b.astype(np.int32), r, both, either], schema=CORRELATIONS)


def _both(layout: Layout, feature_a: np.ndarray, feature_b: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """Tokens on which both features of each pair fire, int64 [pairs].

    Intersects the token lists of the pairs alone: a pair above the floor shares many of its tokens, so this costs less than a second
    product.
    """

    def by_feature(side: Source, leaf: int) -> sparse.csr_array:
        matrix = side.read(layout.bounds[leaf], layout.bounds[leaf + 1])
        ones = np.ones(matrix.nnz, np.int8)
        return sparse.csr_array((ones, matrix.indices, matrix.indptr), shape=matrix.shape).T.tocsr()

    def count(leaf: int) -> np.ndarray:
        a, b = by_feature(layout.a, leaf), by_feature(layout.b, leaf)
        both = np.zeros(len(feature_a), np.int64)
        cost = np.cumsum(np.diff(a.indptr)[feature_a] + np.diff(b.indptr)[feature_b])
        first = 0
        while first < len(both):
            last = max(first + 1, int(np.searchsorted(cost, (cost[first - 1] if first else 0) + PIECE)))
            both[first:last] = np.diff(a[feature_a[first:last]].multiply(b[feature_b[first:last]]).indptr)
            first = last
        return both

    both = np.zeros(len(feature_a), np.int64)
    leaves = len(layout.bounds) - 1
    with progress(leaves, "range", "support") as bar:
        for part in in_order(pool, count, ((leaf,) for leaf in range(leaves))):
            both += part
            bar.update()
    return both


def correlate(
    a: Source,
    b: Source,
    floor: float,
    threads: int | None = None,
    min_active: int = 1,
) -> pa.Table:
    """Correlate every feature of `a` with every feature of `b`, row k of both being the same token.

    Args:
        a: activations in memory or in a file; a file is read in pieces, whatever its size.
        b: the same of the other side.
        floor: pairs above this correlation are kept.
        threads: CPU threads, torch's number of them by default; it changes no byte.
        min_active: features that fire on fewer tokens are dead: they are in no pair.

    Returns:
        Schema `CORRELATIONS`, ordered by `feature_a`, `feature_b`: all pairs with r above `floor`, and for each feature of either
        side its best match whatever its r (of equal ones the lowest number). `both` and `either` are the tokens on which both
        and on which at least one of the two fire. Features without variance are in no pair.

    Raises:
        InputError: the two were not collected over the same number of tokens; a file is damaged; no space for a temporary copy.
    """
    layout = lay_out(a, b, min_active)
    with workers(threads) as pool:
        return _table(layout, sums_by_tile(layout, range(len(layout.entries)), _selector(layout, floor), pool), pool)


def correlate_part(a: Source, b: Source, part: int, parts: int, threads: int | None = None) -> Iterator[pa.RecordBatch]:
    """Σ_t a(t) b(t) of every pair over one of `parts` equal ranges of the sample, for `merge_parts`.

    Args:
        a: see `correlate`; all of the sample, whatever the part.
        b: see `correlate`.
        part: number of the range, from 0.
        parts: 1, 2, 4, 8 or 16.
        threads: see `correlate`.

    Yields:
        Schema `PARTIAL_SUMS`, ordered by feature; sums of zero are left out.
    """
    layout = lay_out(a, b)

    def triples(first: int, last: int, sums: np.ndarray | None) -> pa.RecordBatch:
        row, column = np.nonzero(np.zeros((0, 0)) if sums is None else sums)
        values = np.zeros(0) if sums is None else sums[row, column]
        return pa.record_batch([(row + first).astype(np.int32), column.astype(np.int32), values], schema=PARTIAL_SUMS)

    share = len(layout.entries) // parts
    with workers(threads) as pool:
        yield from sums_by_tile(layout, range(part * share, (part + 1) * share), triples, pool)


def merge_parts(
    a: Source,
    b: Source,
    paths: Sequence[str | Path],
    floor: float,
    threads: int | None = None,
    min_active: int = 1,
) -> pa.Table:
    """What `correlate` returns, to the byte, from the files of all parts in order."""
    layout = lay_out(a, b, min_active)
    tile = rows_of_a_tile(b.features)
    tiles = [(first, min(first + tile, a.features)) for first in range(0, a.features, tile)]
    select = _selector(layout, floor)

    def work(bounds: tuple[int, int], triples: tuple[tuple[np.ndarray, ...], ...]) -> _Found | None:
        first, last = bounds
        tree = Tree()
        for feature_a, feature_b, values in triples:
            sums = np.zeros((last - first, b.features))
            sums[feature_a - first, feature_b] = values
            tree.add(sums)
        return select(first, last, tree.take())

    streams = [_by_tile(path, [last for _, last in tiles]) for path in paths]
    with workers(threads) as pool:
        return _table(layout, in_order(pool, work, zip(tiles, zip(*streams, strict=True), strict=True)), pool)


def _by_tile(path: str | Path, ends: Sequence[int]) -> Iterator[tuple[np.ndarray, ...]]:
    """The columns of a file of partial sums, cut where `feature_a` reaches each end."""
    batches = read_batches(path, PARTIAL_SUMS.names, PIECE)
    held = [np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0)]
    for end in ends:
        while not len(held[0]) or held[0][-1] < end:
            batch = next(batches, None)
            if batch is None:
                break
            columns = (column.to_numpy() for column in batch.columns)
            held = [np.concatenate(pair) for pair in zip(held, columns, strict=True)]
        cut = np.searchsorted(held[0], end)
        yield tuple(column[:cut] for column in held)
        held = [column[cut:] for column in held]
