"""Σ_t a(t) b(t) of every pair of features of two models: how the sums are parted, and in which order they are added.

The sample is cut into a power of two of token ranges, the leaves, whose sums are added pairwise, level by level. That order is
fixed by the data alone, so that the result has the same bytes whatever the number of threads and of jobs that share the work.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import sparse

from feature_lineage.errors import InputError
from feature_lineage.features.activations import Source
from feature_lineage.flow.moments import CELLS, Moments, centred, even_bounds, survey
from feature_lineage.flow.products import Copy, Product, in_order, multiplier, rows_between
from feature_lineage.progress import progress
from feature_lineage.store.writing import disk_faults_named

LEAVES = 16  # at least: so many jobs can share the work
LEAF_ENTRIES = 1 << 25  # activations of a leaf, on either side
WINDOW_ENTRIES = 1 << 27  # activations in memory at once, on either side; 12 bytes each
TILE_BYTES = 1 << 21  # dense sums that one thread works on: they stay in its cache
BLOCK_BYTES = 1 << 32  # dense sums kept while window after window is read

Result = TypeVar("Result")


class Layout(NamedTuple):
    """Both sides, their moments, and the leaves: where they begin and end, and the activations in each, the fuller side's."""

    a: Source
    b: Source
    moments_a: Moments
    moments_b: Moments
    bounds: np.ndarray
    entries: np.ndarray


def lay_out(a: Source, b: Source, min_active: int = 1) -> Layout:
    """Survey both sides and cut the sample into leaves.

    Args:
        a: activations of one side.
        b: those of the other, of the same sample.
        min_active: a feature that fires on fewer tokens gets the deviation 0, like a constant one.

    Raises:
        InputError: the two have different numbers of tokens.
    """
    if a.tokens != b.tokens:
        raise InputError(f"one side has {a.tokens:,} tokens, the other {b.tokens:,}; both must be of one sample")
    (moments_a, cells_a), (moments_b, cells_b) = (survey(side) for side in (a, b))
    moments_a, moments_b = (  # what fires too rarely correlates with nothing, like what is constant
        found._replace(deviation=np.where(found.active >= min_active, found.deviation, 0))
        for found in (moments_a, moments_b)
    )
    leaves = LEAVES
    while True:
        entries = np.maximum(*(cells.reshape(leaves, -1).sum(1) for cells in (cells_a, cells_b)))
        if leaves == CELLS or entries.max() <= LEAF_ENTRIES:
            return Layout(a, b, moments_a, moments_b, even_bounds(a.tokens, leaves), entries)
        leaves *= 2


class Tree:
    """Adds a power of two of arrays pairwise, level by level, and holds no more than one of each level; None is zero."""

    def __init__(self) -> None:
        self.levels: list[tuple[int, np.ndarray | None]] = []

    def add(self, array: np.ndarray | None) -> None:
        """Add the sums of the next leaf; the array may be overwritten."""
        size = 1
        while self.levels and self.levels[-1][0] == size:
            left = self.levels.pop()[1]
            if left is not None and array is not None:
                left += array
            array = array if left is None else left
            size *= 2
        self.levels.append((size, array))

    def take(self) -> np.ndarray | None:
        """The sum of all, once."""
        ((_, array),) = self.levels
        self.levels = []
        return array


def _windows(entries: Sequence[int]) -> list[list[int]]:
    """Consecutive leaves in groups of at most `WINDOW_ENTRIES` activations."""
    windows: list[list[int]] = []
    held = 0
    for leaf, count in enumerate(entries):
        if not windows or held + count > WINDOW_ENTRIES:
            windows.append([])
            held = 0
        windows[-1].append(leaf)
        held += count
    return windows


class _Tile(NamedTuple):
    """Features of `a` from `first` to before `last`, in a block from `start` on, and their sums over the leaves so far."""

    start: int
    first: int
    last: int
    tree: Tree


def rows_of_a_tile(features: int) -> int:
    """Features of `a` in a tile, if `b` has so many features."""
    return max(1, TILE_BYTES // (8 * features))


def sums_by_tile(
    layout: Layout,
    leaves: range,
    finish: Callable[[int, int, np.ndarray | None], Result],
    pool: ThreadPoolExecutor,
) -> Iterator[Result]:
    """`finish(first, last, sums)` for each tile of features of `a` in order; sums over the leaves [last - first, features of b].

    What is in memory: the activations of one window, and as many dense sums as `BLOCK_BYTES` allow; of a sample that fits into one
    window, the sums of one tile a thread.
    """
    a, b = layout.a, layout.b
    with disk_faults_named(tempfile.gettempdir()), Copy() as copy_a, Copy() as copy_b:
        with progress(len(leaves), "range", "reading") as bar:
            for leaf in leaves:
                first, last = layout.bounds[leaf : leaf + 2]
                copy_a.append(centred(a.read(first, last), layout.moments_a).T.tocsr())
                copy_b.append(centred(b.read(first, last), layout.moments_b))
                bar.update()
        windows = _windows(layout.entries[leaves.start : leaves.stop].tolist())
        tile = rows_of_a_tile(b.features)
        levels = max(1, len(leaves).bit_length() - 1)  # sums that a tree holds between two leaves, at most
        block = a.features if len(windows) == 1 else max(1, BLOCK_BYTES // (8 * b.features * levels * tile)) * tile

        def work(tile: _Tile, left: list[sparse.csr_array], right: list[Product]) -> None:
            for matrix, product in zip(left, right, strict=True):
                rows = rows_between(matrix, tile.first - tile.start, tile.last - tile.start)
                tile.tree.add(product(rows) if len(rows.data) else None)

        def work_and_finish(tile: _Tile, left: list[sparse.csr_array], right: list[Product]) -> Result:
            work(tile, left, right)
            return finish(tile.first, tile.last, tile.tree.take())

        def load(leaf: int) -> Product:
            return multiplier(copy_b.read(leaf))

        left: list[sparse.csr_array] = []
        right: list[Product] = []
        with progress(a.features, "feature", "correlations") as bar:
            for start in range(0, a.features, block):
                stop = min(start + block, a.features)
                tiles = [_Tile(start, first, min(first + tile, stop), Tree()) for first in range(start, stop, tile)]
                for window in windows:
                    if len(windows) > 1 or not right:
                        right.clear()
                        right += pool.map(load, window)
                    left.clear()
                    left += [copy_a.read(leaf, start, stop) for leaf in window]
                    arguments = ((tile, left, right) for tile in tiles)
                    if window is windows[-1]:
                        for given, result in zip(tiles, in_order(pool, work_and_finish, arguments), strict=True):
                            yield result
                            bar.update(given.last - given.first)
                    else:
                        deque(in_order(pool, work, arguments), maxlen=0)
