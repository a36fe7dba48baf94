"""Exact Pearson correlation of every pair of features of two models over one sample of tokens (paper, section 3.4).

Activations are sparse and non-negative, so that Σ_t a(t) b(t) needs only the tokens on which both fire: the cost is that of
Σ_t nnz_a(t) nnz_b(t) products. Neither tokens × features nor features × features is ever held densely. Sums are float64.

The sample is cut into a power of two of token ranges, the leaves, whose sums are added pairwise, level by level. That order is
fixed by the data alone, so that the result has the same bytes whatever the number of threads and of jobs that share the work.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from scipy import sparse

from feature_lineage.errors import InputError
from feature_lineage.features.activations import PIECE, Source
from feature_lineage.flow.moments import CELLS, Moments, _bounds, _centred, _steady, _survey
from feature_lineage.progress import progress
from feature_lineage.store.formats import read_batches
from feature_lineage.store.writing import disk_faults_named

if TYPE_CHECKING:
    import torch


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

LEAVES = 16  # at least: so many jobs can share the work
LEAF_ENTRIES = 1 << 25  # activations of a leaf, on either side
WINDOW_ENTRIES = 1 << 27  # activations in memory at once, on either side; 12 bytes each
TILE_BYTES = 1 << 21  # dense sums that one thread works on: they stay in its cache
BLOCK_BYTES = 1 << 32  # dense sums kept while window after window is read

Result = TypeVar("Result")


class _Plan(NamedTuple):
    """Both sides, their moments, and the leaves: where they begin and end, and the activations in each, the fuller side's."""

    a: Source
    b: Source
    moments_a: Moments
    moments_b: Moments
    bounds: np.ndarray
    entries: np.ndarray


def _plan(a: Source, b: Source, min_active: int = 1) -> _Plan:
    if a.tokens != b.tokens:
        raise InputError(f"one side has {a.tokens:,} tokens, the other {b.tokens:,}; both must be of one sample")
    (moments_a, cells_a), (moments_b, cells_b) = (_survey(side) for side in (a, b))
    moments_a, moments_b = (  # what fires too rarely correlates with nothing, like what is constant
        found._replace(deviation=np.where(found.active >= min_active, found.deviation, 0))
        for found in (moments_a, moments_b)
    )
    leaves = LEAVES
    while True:
        entries = np.maximum(*(cells.reshape(leaves, -1).sum(1) for cells in (cells_a, cells_b)))
        if leaves == CELLS or entries.max() <= LEAF_ENTRIES:
            return _Plan(a, b, moments_a, moments_b, _bounds(a.tokens, leaves), entries)
        leaves *= 2


class _Tree:
    """Adds a power of two of arrays pairwise, level by level, and holds no more than one of each level; None is zero."""

    def __init__(self) -> None:
        self.levels: list[tuple[int, np.ndarray | None]] = []

    def add(self, array: np.ndarray | None) -> None:
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


class _Copy:
    """Matrices, one per leaf, in a temporary file without compression, read back by rows; the file has no name to outlive a kill."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.places: list[tuple[int, int, tuple[int, int], np.dtype]] = []

    def __enter__(self) -> _Copy:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def append(self, matrix: sparse.csr_array) -> None:
        self.places.append((self.file.tell(), matrix.nnz, matrix.shape, matrix.dtype))
        for array in (matrix.indptr.astype(np.int32), matrix.indices.astype(np.int32), matrix.data):
            self.file.write(array.data)
        self.file.flush()

    def read(self, number: int, first: int = 0, last: int | None = None) -> sparse.csr_array:
        """Rows from `first` to before `last` of a leaf's matrix, float64."""
        offset, entries, (rows, columns), dtype = self.places[number]
        last = rows if last is None else min(last, rows)
        starts = self._array(np.int32, last - first + 1, offset + 4 * first)
        low, high = int(starts[0]), int(starts[-1])
        offset += 4 * (rows + 1)
        indices = self._array(np.int32, high - low, offset + 4 * low)
        offset += 4 * entries
        data = self._array(dtype, high - low, offset + dtype.itemsize * low)
        shape = (last - first, columns)
        return sparse.csr_array((data.astype(np.float64, copy=False), indices, starts - low), shape=shape)

    def _array(self, dtype: Any, count: int, offset: int) -> np.ndarray:
        """Read at a place of its own: several threads read at once."""
        array = np.empty(count, dtype)
        rest = memoryview(array).cast("B") if count else b""
        while len(rest):
            read = os.preadv(self.file.fileno(), [rest], offset)
            rest, offset = rest[read:], offset + read
        return array


class _Rows(NamedTuple):
    """Some rows of a CSR matrix, as views: where each begins (int32, from 0), columns and values."""

    starts: np.ndarray
    indices: np.ndarray
    data: np.ndarray


def _rows(matrix: sparse.csr_array, first: int, last: int) -> _Rows:
    starts = matrix.indptr[first : last + 1]
    low, high = starts[0], starts[-1]
    return _Rows(starts - low, matrix.indices[low:high], matrix.data[low:high])


def _tensor(rows: _Rows, columns: int) -> torch.Tensor:
    import torch  # here and below: it takes longer to import than most users of this module's sources take to run

    shape = (len(rows.starts) - 1, columns)
    return torch.sparse_csr_tensor(*map(torch.from_numpy, rows), size=shape, check_invariants=False)


_Product = Callable[[_Rows], np.ndarray]


def _multiplier(matrix: sparse.csr_array) -> _Product:
    """Of sparse rows, their product with `matrix`, dense float64: MKL's where torch has it, twice as fast as scipy's."""
    import torch

    shared, columns = matrix.shape
    if not torch.backends.mkl.is_available():
        return lambda rows: (sparse.csr_array(rows[::-1], shape=(len(rows.starts) - 1, shared)) @ matrix).toarray()
    right = _tensor(_rows(matrix, 0, shared), columns)

    def product(rows: _Rows) -> np.ndarray:
        out = torch.empty(len(rows.starts) - 1, columns, dtype=torch.float64)
        return torch.addmm(out, _tensor(rows, shared), right, beta=0, out=out).numpy()

    return product


@contextmanager
def _workers(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute alone: numpy, scipy and MKL let the others run meanwhile."""
    import torch

    before = torch.get_num_threads()
    with warnings.catch_warnings():  # torch tells once that sparse tensors are in beta
        warnings.simplefilter("ignore")
        _tensor(_rows(sparse.csr_array((1, 1)), 0, 1), 1)
    try:
        with ThreadPoolExecutor(threads or before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _in_order(
    pool: ThreadPoolExecutor, function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[Result]:
    """Results in the order of the arguments, worked on only a little ahead of whoever takes them."""
    ahead: deque[Future[Result]] = deque()
    for given in arguments:
        ahead.append(pool.submit(function, *given))
        if len(ahead) > 2 * pool._max_workers:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


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
    tree: _Tree


def _rows_of_a_tile(features: int) -> int:
    return max(1, TILE_BYTES // (8 * features))


def _sums(
    plan: _Plan,
    leaves: range,
    finish: Callable[[int, int, np.ndarray | None], Result],
    pool: ThreadPoolExecutor,
) -> Iterator[Result]:
    """`finish(first, last, sums)` for each tile of features of `a` in order; sums over the leaves [last - first, features of b].

    What is in memory: the activations of one window, and as many dense sums as `BLOCK_BYTES` allow; of a sample that fits into one
    window, the sums of one tile a thread.
    """
    a, b = plan.a, plan.b
    with disk_faults_named(tempfile.gettempdir()), _Copy() as copy_a, _Copy() as copy_b:
        with progress(len(leaves), "range", "reading") as bar:
            for leaf in leaves:
                first, last = plan.bounds[leaf : leaf + 2]
                copy_a.append(_centred(a.read(first, last), plan.moments_a).T.tocsr())
                copy_b.append(_centred(b.read(first, last), plan.moments_b))
                bar.update()
        windows = _windows(plan.entries[leaves.start : leaves.stop].tolist())
        tile = _rows_of_a_tile(b.features)
        levels = max(1, len(leaves).bit_length() - 1)  # sums that a tree holds between two leaves, at most
        block = a.features if len(windows) == 1 else max(1, BLOCK_BYTES // (8 * b.features * levels * tile)) * tile

        def work(tile: _Tile, left: list[sparse.csr_array], right: list[_Product]) -> None:
            for matrix, product in zip(left, right, strict=True):
                rows = _rows(matrix, tile.first - tile.start, tile.last - tile.start)
                tile.tree.add(product(rows) if len(rows.data) else None)

        def work_and_finish(tile: _Tile, left: list[sparse.csr_array], right: list[_Product]) -> Result:
            work(tile, left, right)
            return finish(tile.first, tile.last, tile.tree.take())

        def load(leaf: int) -> _Product:
            return _multiplier(copy_b.read(leaf))

        left: list[sparse.csr_array] = []
        right: list[_Product] = []
        with progress(a.features, "feature", "correlations") as bar:
            for start in range(0, a.features, block):
                stop = min(start + block, a.features)
                tiles = [_Tile(start, first, min(first + tile, stop), _Tree()) for first in range(start, stop, tile)]
                for window in windows:
                    if len(windows) > 1 or not right:
                        right.clear()
                        right += pool.map(load, window)
                    left.clear()
                    left += [copy_a.read(leaf, start, stop) for leaf in window]
                    arguments = ((tile, left, right) for tile in tiles)
                    if window is windows[-1]:
                        for given, result in zip(tiles, _in_order(pool, work_and_finish, arguments), strict=True):
                            yield result
                            bar.update(given.last - given.first)
                    else:
                        deque(_in_order(pool, work, arguments), maxlen=0)


class _Found(NamedTuple):
    """Of a tile: pairs to keep, and each feature of b's highest correlation in it with the feature of a that has it."""

    feature_a: np.ndarray
    feature_b: np.ndarray
    r: np.ndarray
    best_r: np.ndarray
    best_a: np.ndarray


def _selector(plan: _Plan, floor: float) -> Callable[[int, int, np.ndarray | None], _Found | None]:
    """What turns the sums of a tile into correlations and keeps those above the floor and the best of each row."""
    a, b = plan.moments_a, plan.moments_b
    mean_a, mean_b = (np.where(_steady(side), 0, side.mean) for side in (a, b))
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
        r /= plan.a.tokens
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


def _table(plan: _Plan, found: Iterable[_Found | None], pool: ThreadPoolExecutor) -> pa.Table:
    """The pairs of all tiles and the best match of each feature of b, with their support."""
    features = plan.b.features
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
    both = _both(plan, feature_a, feature_b, pool)
    either = plan.moments_a.active[feature_a] + plan.moments_b.active[feature_b] - both
    return pa.table([feature_a.astype(np.int32), feature_b.astype(np.int32), r, both, either], schema=CORRELATIONS)


def _both(plan: _Plan, feature_a: np.ndarray, feature_b: np.ndarray, pool: ThreadPoolExecutor) -> np.ndarray:
    """Tokens on which both features of each pair fire, int64 [pairs].

    Intersects the token lists of the pairs alone: a pair above the floor shares many of its tokens, so this costs less than a second
    product.
    """

    def by_feature(side: Source, leaf: int) -> sparse.csr_array:
        matrix = side.read(plan.bounds[leaf], plan.bounds[leaf + 1])
        ones = np.ones(matrix.nnz, np.int8)
        return sparse.csr_array((ones, matrix.indices, matrix.indptr), shape=matrix.shape).T.tocsr()

    def count(leaf: int) -> np.ndarray:
        a, b = by_feature(plan.a, leaf), by_feature(plan.b, leaf)
        both = np.zeros(len(feature_a), np.int64)
        cost = np.cumsum(np.diff(a.indptr)[feature_a] + np.diff(b.indptr)[feature_b])
        first = 0
        while first < len(both):
            last = max(first + 1, int(np.searchsorted(cost, (cost[first - 1] if first else 0) + PIECE)))
            both[first:last] = np.diff(a[feature_a[first:last]].multiply(b[feature_b[first:last]]).indptr)
            first = last
        return both

    both = np.zeros(len(feature_a), np.int64)
    leaves = len(plan.bounds) - 1
    with progress(leaves, "range", "support") as bar:
        for part in _in_order(pool, count, ((leaf,) for leaf in range(leaves))):
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
    plan = _plan(a, b, min_active)
    with _workers(threads) as pool:
        return _table(plan, _sums(plan, range(len(plan.entries)), _selector(plan, floor), pool), pool)


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
    plan = _plan(a, b)

    def triples(first: int, last: int, sums: np.ndarray | None) -> pa.RecordBatch:
        row, column = np.nonzero(np.zeros((0, 0)) if sums is None else sums)
        values = np.zeros(0) if sums is None else sums[row, column]
        return pa.record_batch([(row + first).astype(np.int32), column.astype(np.int32), values], schema=PARTIAL_SUMS)

    share = len(plan.entries) // parts
    with _workers(threads) as pool:
        yield from _sums(plan, range(part * share, (part + 1) * share), triples, pool)


def merge_parts(
    a: Source,
    b: Source,
    paths: Sequence[str | Path],
    floor: float,
    threads: int | None = None,
    min_active: int = 1,
) -> pa.Table:
    """What `correlate` returns, to the byte, from the files of all parts in order."""
    plan = _plan(a, b, min_active)
    tile = _rows_of_a_tile(b.features)
    tiles = [(first, min(first + tile, a.features)) for first in range(0, a.features, tile)]
    select = _selector(plan, floor)

    def work(bounds: tuple[int, int], triples: tuple[tuple[np.ndarray, ...], ...]) -> _Found | None:
        first, last = bounds
        tree = _Tree()
        for feature_a, feature_b, values in triples:
            sums = np.zeros((last - first, b.features))
            sums[feature_a - first, feature_b] = values
            tree.add(sums)
        return select(first, last, tree.take())

    streams = [_by_tile(path, [last for _, last in tiles]) for path in paths]
    with _workers(threads) as pool:
        return _table(plan, _in_order(pool, work, zip(tiles, zip(*streams, strict=True), strict=True)), pool)


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
