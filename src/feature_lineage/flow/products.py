"""Products of sparse matrices that are kept on disk, computed by threads."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    import torch


Result = TypeVar("Result")


class Copy:
    """Matrices, one per leaf, in a temporary file without compression, read back by rows; the file has no name to outlive a kill."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115
        self.places: list[tuple[int, int, tuple[int, int], np.dtype]] = []

    def __enter__(self) -> Copy:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def append(self, matrix: sparse.csr_array) -> None:
        """Write the matrix of the next leaf."""
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


class Rows(NamedTuple):
    """Some rows of a CSR matrix, as views: where each begins (int32, from 0), columns and values."""

    starts: np.ndarray
    indices: np.ndarray
    data: np.ndarray


def rows_between(matrix: sparse.csr_array, first: int, last: int) -> Rows:
    """Rows from `first` to before `last`."""
    starts = matrix.indptr[first : last + 1]
    low, high = starts[0], starts[-1]
    return Rows(starts - low, matrix.indices[low:high], matrix.data[low:high])


def _tensor(rows: Rows, columns: int) -> torch.Tensor:
    import torch  # here and below: it is slow to import, and most that import `correlation` multiply nothing

    shape = (len(rows.starts) - 1, columns)
    return torch.sparse_csr_tensor(*map(torch.from_numpy, rows), size=shape, check_invariants=False)


Product = Callable[[Rows], np.ndarray]


def multiplier(matrix: sparse.csr_array) -> Product:
    """Of sparse rows, their product with `matrix`, dense float64: MKL's where torch has it, twice as fast as scipy's."""
    import torch

    shared, columns = matrix.shape
    if not torch.backends.mkl.is_available():
        return lambda rows: (sparse.csr_array(rows[::-1], shape=(len(rows.starts) - 1, shared)) @ matrix).toarray()
    right = _tensor(rows_between(matrix, 0, shared), columns)

    def product(rows: Rows) -> np.ndarray:
        out = torch.empty(len(rows.starts) - 1, columns, dtype=torch.float64)
        return torch.addmm(out, _tensor(rows, shared), right, beta=0, out=out).numpy()

    return product


def add_product(rows: sparse.csr_array, dense: np.ndarray, total: np.ndarray) -> None:
    """Add `rows` @ `dense` to `total`, in its place: all float64, the two dense ones C-contiguous. One thread makes each row."""
    import torch

    if not torch.backends.mkl.is_available():
        total += rows @ dense
        return
    with warnings.catch_warnings():  # torch tells once that sparse tensors are in beta
        warnings.simplefilter("ignore")
        left = _tensor(rows_between(rows, 0, rows.shape[0]), rows.shape[1])
    out = torch.from_numpy(total)
    torch.addmm(out, left, torch.from_numpy(np.ascontiguousarray(dense)), out=out)


@contextmanager
def workers(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """Threads that each compute alone: numpy, scipy and MKL let the others run meanwhile."""
    import torch

    before = torch.get_num_threads()
    with warnings.catch_warnings():  # torch tells once that sparse tensors are in beta
        warnings.simplefilter("ignore")
        _tensor(rows_between(sparse.csr_array((1, 1)), 0, 1), 1)
    try:
        with ThreadPoolExecutor(threads or before, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def in_order(
    pool: ThreadPoolExecutor, function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
) -> Iterator[Result]:
    """Results in the order of the arguments, worked on only a little ahead of the caller."""
    ahead: deque[Future[Result]] = deque()
    for given in arguments:
        ahead.append(pool.submit(function, *given))
        if len(ahead) > 2 * pool._max_workers:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()
