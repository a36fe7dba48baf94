"""The activations of a model's features, non-zero ones only: one reader for all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy import sparse

from feature_lineage.errors import InputError
from feature_lineage.store.formats import read_batches, read_provenance, read_range, read_table

WindowPieces = Iterator[
    tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
]  # windows, positions, features, activations


def window_pieces(path: str | Path, shape: tuple[int, int]) -> WindowPieces:
    """Stream a file of `collect.collect_features` in pieces that hold whole windows.

    Args:
        path: the file.
        shape: windows of the sample, tokens of a window.

    Raises:
        InputError: see `activations.activation_blocks`.
    """
    length = shape[1]
    held = [np.zeros(0, kind) for kind in (np.int32, np.int32, np.float64)]
    for first, block in activation_blocks(path, shape[0] * length, places=True):
        entries = block.tocoo()
        piece = (first + entries.row, entries.col, entries.data)
        held = [np.concatenate(pair) for pair in zip(held, piece, strict=True)]
        cut = np.searchsorted(held[0], (first + block.shape[0]) // length * length)
        if cut:
            token, feature, activation = (column[:cut] for column in held)
            yield *np.divmod(token, length), feature, activation
            held = [column[cut:] for column in held]


# A sample may hold tokens that no model reads (`sample.kept_tokens`). Its files then have two numbers of each token: `token` among all, which
# tells window and position, and this one among those that are read, over which everything is counted. Their `tokens` are the latter.
ROW = "row"
PLACES = "places"  # in the provenance: tokens of the sample, those counted that are left out


def numbered(record: Mapping[str, Any], places: bool = False) -> tuple[str, int]:
    """The column that numbers the tokens of a file with this provenance, and how many there are: those read, or with `places` all."""
    if PLACES not in record:
        return "token", int(record["tokens"])
    return ("token", int(record[PLACES])) if places else (ROW, int(record["tokens"]))


MOVED = 1 << 14  # tokens read at once where they are in another order
GAP = 64  # tokens between two that are read at once, too
PIECE = 1 << 20  # activations, wherever they are worked through one after another
Pieces = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]  # tokens, features, activations


class Activations(NamedTuple):
    """Non-zero activations of a model's features, in memory: `matrix` is CSR [tokens, features]."""

    matrix: sparse.csr_array

    @property
    def tokens(self) -> int:
        """Tokens in the sample."""
        return self.matrix.shape[0]

    @property
    def features(self) -> int:
        """Features, dead ones counted."""
        return self.matrix.shape[1]

    def pieces(self) -> Pieces:
        """All activations in the order of tokens, `PIECE` at a time."""
        matrix = self.matrix
        for first in range(0, matrix.nnz, PIECE):
            last = min(first + PIECE, matrix.nnz)
            token = np.searchsorted(matrix.indptr, np.arange(first, last), side="right") - 1
            yield token, matrix.indices[first:last], matrix.data[first:last]

    def read(self, first: int, last: int) -> sparse.csr_array:
        """Activations on the tokens from `first` to before `last`, [last - first, features]."""
        return self.matrix[first:last]


class ActivationFile:
    """The same in a file of `collect.collect_features`, never read as a whole; with `places`, tokens are numbered among all of the sample.

    Raises:
        InputError: here or while reading: the file is missing, damaged, not ordered by token, or holds a token or feature outside
            of the numbers in its provenance.
    """

    def __init__(self, path: str | Path, places: bool = False) -> None:
        record = read_provenance(path)
        self.path, self.features = path, int(record["features"])
        self._number, self.tokens = numbered(record, places)

    def pieces(self) -> Pieces:
        """All activations in the order of tokens, `PIECE` at a time."""
        before = 0
        for token, feature, activation in self._cut():
            if token[0] < before or (token[1:] < token[:-1]).any():
                raise InputError(f"{self.path}: is not ordered by token; delete it")
            if token[-1] >= self.tokens or feature.min() < 0 or feature.max() >= self.features:
                raise _outside(self.path, (self.tokens, self.features))
            before = token[-1]
            yield token, feature, activation

    def _cut(self) -> Pieces:
        """The columns, cut as those in memory are: wherever the row groups end, moments come out the same to the byte."""
        held: list[pa.RecordBatch] = []
        count = 0
        for batch in read_batches(self.path, [self._number, "feature", "activation"], PIECE):
            batch = batch.select([self._number, "feature", "activation"])
            while count + len(batch) >= PIECE:
                yield _columns([*held, batch.slice(0, PIECE - count)])
                batch, held, count = batch.slice(PIECE - count), [], 0
            held.append(batch)
            count += len(batch)
        if count:
            yield _columns(held)

    def read(self, first: int, last: int) -> sparse.csr_array:
        """Activations on the tokens from `first` to before `last`, [last - first, features]."""
        table = read_range(self.path, [self._number, "feature", "activation"], first, last)
        token, feature, activation = (column.to_numpy() for column in table.columns)
        starts = np.searchsorted(token, np.arange(first, last + 1, dtype=token.dtype)).astype(np.int32)
        return sparse.csr_array((activation, feature, starts), shape=(last - first, self.features))


def _columns(batches: list[pa.RecordBatch]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    token, feature, activation = (column.to_numpy() for column in pa.Table.from_batches(batches).columns)
    return token, feature, activation


class Moved(NamedTuple):
    """A source with its tokens in another order: what is on token k is what `source` has on token `places[k]`."""

    source: Activations | ActivationFile
    places: np.ndarray

    @property
    def tokens(self) -> int:
        """Tokens in the sample."""
        return len(self.places)

    @property
    def features(self) -> int:
        """Features, dead ones counted."""
        return self.source.features

    def pieces(self) -> Pieces:
        """All activations in the order of tokens, those of `MOVED` tokens at a time."""
        for first in range(0, self.tokens, MOVED):
            matrix = self.read(first, min(first + MOVED, self.tokens))
            if matrix.nnz:
                token = first + np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
                yield token, matrix.indices, matrix.data

    def read(self, first: int, last: int) -> sparse.csr_array:
        """Activations on the tokens from `first` to before `last`, [last - first, features]; runs of `places` are read at once."""
        places = self.places[first:last]
        if not len(places):
            return self.source.read(first, first)
        step = np.diff(places)
        runs = np.split(places, np.flatnonzero((step < 1) | (step > GAP)) + 1)
        return sparse.vstack([self._run(run) for run in runs], format="csr")

    def _run(self, run: np.ndarray) -> sparse.csr_array:
        """Activations on some tokens in ascending order, near one another."""
        found = self.source.read(run[0], run[-1] + 1)
        return found if found.shape[0] == len(run) else found[run - run[0]]


Source = Activations | ActivationFile | Moved


def _outside(path: str | Path, shape: tuple[int, int]) -> InputError:
    return InputError(f"{path}: holds a token or feature outside of {shape}; delete it")


def read_activations(path: str | Path) -> Activations:
    """Read a file of `collect.collect_features` as a whole; its provenance gives the numbers of tokens and features.

    Raises:
        InputError: the file is missing, damaged, or holds a token or feature outside of these numbers.
    """
    table = read_table(path)
    record = read_provenance(path)
    number, tokens = numbered(record)
    token, feature, activation = (table[name].to_numpy() for name in (number, "feature", "activation"))
    shape = (tokens, record["features"])
    if len(token) and (token.min() < 0 or feature.min() < 0 or token.max() >= shape[0] or feature.max() >= shape[1]):
        raise _outside(path, shape)
    return Activations(sparse.csr_array((activation.astype(np.float64), (token, feature)), shape=shape))


BLOCK = 1 << 14  # tokens read at a time


def activation_blocks(path: str | Path, tokens: int, places: bool = False) -> Iterator[tuple[int, sparse.csr_array]]:
    """Stream a file of `collect.collect_features`, `BLOCK` tokens at a time.

    Args:
        path: the file; its rows are ordered by token.
        tokens: tokens of the sample that are read, or with `places` all.
        places: whether those that are left out are counted: they have no activations.

    Yields:
        The number of the block's first token, and its activations: float64 [tokens of the block, features].

    Raises:
        InputError: the file is missing, damaged, of a sample of another size, or holds a token or feature out of range.
    """
    record = read_provenance(path)
    number, held = numbered(record, places)
    names = [number, "feature", "activation"]
    if held != tokens:
        raise InputError(f"{path}: has {held:,} tokens, the sample {tokens:,}; delete it")
    batches = read_batches(path, names, 1 << 18)
    rest = [np.zeros(0, kind) for kind in (np.int32, np.int32, np.float32)]
    for first in range(0, tokens, BLOCK):
        stop = min(first + BLOCK, tokens)
        parts = [rest]
        while (not len(parts[-1][0]) or parts[-1][0][-1] < stop) and (batch := next(batches, None)) is not None:
            parts.append([batch[name].to_numpy() for name in names])
        token, feature, activation = (np.concatenate(column) for column in zip(*parts, strict=True))
        cut = np.searchsorted(token, stop)
        rest = [token[cut:], feature[cut:], activation[cut:]]
        place, shape = (token[:cut] - first, feature[:cut]), (stop - first, record["features"])
        try:
            yield first, sparse.csr_array((activation[:cut].astype(np.float64), place), shape=shape)
        except ValueError as error:
            raise _outside(path, (tokens, record["features"])) from error
    if len(rest[0]) or next(batches, None) is not None:
        raise _outside(path, (tokens, record["features"]))


class Entries(NamedTuple):
    """Activations of chosen features: the window and the position of each, the feature's place among the chosen, its value in float64."""

    window: np.ndarray
    position: np.ndarray
    place: np.ndarray
    activation: np.ndarray


def whole_windows(path: str | Path, shape: tuple[int, int], features: np.ndarray) -> Iterator[tuple[int, Entries]]:
    """Stream the activations of some features, never half a window at a time.

    Args:
        path: a file of `collect.collect_features`.
        shape: (windows, length) of the sample.
        features: numbers of the features, int64.

    Yields:
        Tokens read so far, and the entries of the windows that are whole.

    Raises:
        InputError: the file is missing, damaged, of a sample of another size, or holds a token or feature out of range.
    """
    file = ActivationFile(path, places=True)
    windows, length = shape
    if file.tokens != windows * length:
        raise InputError(f"{path}: has {file.tokens:,} tokens, the sample {windows * length:,}; delete it")
    places = np.full(file.features, -1)
    places[features] = np.arange(len(features))
    rest = [np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)]
    for token, feature, activation in file.pieces():
        place = places[feature]
        keep = place >= 0
        new = (token[keep].astype(np.int64), place[keep], activation[keep].astype(np.float64))
        rest = [np.concatenate(pair) for pair in zip(rest, new, strict=True)]
        cut = np.searchsorted(rest[0], int(token[-1]) // length * length)
        yield int(token[-1]), Entries(rest[0][:cut] // length, rest[0][:cut] % length, rest[1][:cut], rest[2][:cut])
        rest = [part[cut:] for part in rest]
    yield windows * length, Entries(rest[0] // length, rest[0] % length, rest[1], rest[2])
