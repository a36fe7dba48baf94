"""Windows of tokens, of one length, across corpora."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from feature_lineage.errors import InputError
from feature_lineage.text.shards import document_ends, read_index


class Windows:
    """All windows of `length` tokens in some token directories: a sequence over memory-mapped shards.

    Windows do not overlap and do not cross shards; they cross documents, whose end tokens part them.

    Args:
        directories: token directory by corpus.
        length: tokens of a window.
    """

    def __init__(self, directories: Mapping[str, str | Path], length: int) -> None:
        self.length = length
        self.corpora = list(directories)
        self.directories = {corpus: Path(path) for corpus, path in directories.items()}
        self._shards: list[np.ndarray] = []
        self._corpus: list[int] = []  # of each shard
        self._offset: list[int] = []  # of each shard, in its corpus, in tokens
        self._chosen: list[np.ndarray | None] = []  # which tokens of each shard, where that is not all
        left_out: set[int] = set()  # ids of what stands before documents
        for number, path in enumerate(self.directories.values()):
            offset = 0
            index = read_index(path)
            left_out.update(index.get("left_out", ()))
            for shard in index["shards"]:
                tokens = np.load(path / shard["file"], mmap_mode="r")
                whole = len(tokens) // length * length
                chosen = np.load(path / shard["chosen"]["file"], mmap_mode="r") if "chosen" in shard else None
                self._shards.append(tokens[:whole].reshape(-1, length))
                self._chosen.append(None if chosen is None else chosen[:whole].reshape(-1, length))
                self._corpus.append(number)
                self._offset.append(offset)
                offset += len(tokens)
        self._ends = np.cumsum([len(shard) for shard in self._shards])
        self._left_out = np.array(sorted(left_out), np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int | np.ndarray) -> np.ndarray:
        """Token ids, int64: [length] for one index, [k, length] for an array of k."""
        many = np.atleast_1d(np.asarray(index, np.int64))
        shard = np.searchsorted(self._ends, many, side="right")
        tokens = np.empty((len(many), self.length), np.int64)
        for number in np.unique(shard):
            chosen = shard == number
            first = self._ends[number] - len(self._shards[number])
            tokens[chosen] = self._shards[number][many[chosen] - first]
        return tokens if np.ndim(index) else tokens[0]

    def kept(self, index: np.ndarray) -> np.ndarray | None:
        """Which tokens of windows are read: bool [k, length], false for the special tokens before documents and for what other roles say.

        None where all are, in every window.
        """
        if not len(self._left_out) and all(chosen is None for chosen in self._chosen):
            return None
        index = np.asarray(index, np.int64)
        kept = ~np.isin(self[index], self._left_out)
        shard = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(shard):
            if (chosen := self._chosen[number]) is not None:
                rows = shard == number
                kept[rows] &= chosen[index[rows] - (self._ends[number] - len(self._shards[number]))]
        return kept

    def counts(self) -> np.ndarray:
        """Windows of each corpus, int64 [corpora]; a corpus's windows have consecutive indices."""
        return np.bincount(self._corpus, [len(shard) for shard in self._shards], minlength=len(self.corpora)).astype(
            np.int64
        )

    def places(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The corpus of each window (int64 [k]) and its first token's position in that corpus (int64 [k])."""
        shard = np.searchsorted(self._ends, index, side="right")
        first = self._ends - [len(s) for s in self._shards]
        return np.asarray(self._corpus)[shard], np.asarray(self._offset)[shard] + (index - first[shard]) * self.length

    def sample(self, tokens: int | None, seed: int | Sequence[int], key: str, balance: bool = False) -> np.ndarray:
        """Indices of windows drawn without replacement, shuffled, int64 [k].

        Args:
            tokens: how many tokens to draw (rounded down to windows, or with `balance` to as many from each); all if None.
            seed: the draw depends on this alone.
            key: configuration key that asks for the tokens, for the error message.
            balance: as many from each corpus (the smallest corpus sets the number if `tokens` is None).

        Raises:
            InputError: the corpora hold fewer tokens than asked, or not one window.
        """
        random = np.random.default_rng(seed)
        counts = self.counts()
        for corpus, count in zip(self.corpora, counts, strict=True):
            if not count:
                raise InputError(
                    f"{self.directories[corpus]}: holds not one window of {self.length} tokens; add documents to corpora.{corpus}"
                )
        if balance:
            each = int(counts.min()) if tokens is None else math.ceil(tokens / self.length / len(counts))
            wanted = [each] * len(counts)
        else:
            wanted = [int(counts.sum()) if tokens is None else max(1, tokens // self.length)]
            counts = np.array([counts.sum()])
        firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        drawn = []
        for number, (first, count, want) in enumerate(zip(firsts, counts, wanted, strict=True)):
            if want > count:
                names = [self.corpora[number]] if balance else self.corpora
                most = int(counts.min()) * len(counts) * self.length
                raise InputError(
                    f"{', '.join(str(self.directories[name]) for name in names)}: smaller than asked, {count * self.length:,} tokens "
                    f"in windows of {self.length} where {key} needs {want * self.length:,}; set {key} to at most {most:,} or add documents"
                )
            drawn.append(first + random.choice(count, want, replace=False))
        return random.permutation(np.concatenate(drawn))

    def spread(self, corpus: int, tokens: int) -> np.ndarray:
        """Indices of evenly spaced windows of one corpus, all if it holds fewer than `tokens`; int64, ascending.

        Raises:
            InputError: the corpus holds not one window.
        """
        count = int(self.counts()[corpus])
        if not count:
            name = self.corpora[corpus]
            raise InputError(
                f"{self.directories[name]}: holds not one window of {self.length} tokens; raise corpora.{name}.validation "
                "or add documents"
            )
        first = int(self.counts()[:corpus].sum())
        wanted = min(count, max(1, tokens // self.length))
        return first + np.arange(wanted) * count // wanted


class PlainWindows:
    """Windows of the same documents with nothing before each and one token after it, whatever stands around them in the files.

    Args:
        directory: token directory of a corpus.
        around: tokens before and after each document there, to be left out.
        end: what parts documents instead.
        length: tokens of a window.
    """

    def __init__(self, directory: str | Path, around: tuple[int, int], end: int, length: int) -> None:
        self.length, self._before, self._end = length, around[0], end
        shards = read_index(directory)["shards"]
        self._shards = [np.load(Path(directory) / shard["file"], mmap_mode="r") for shard in shards]
        self._bounds = np.cumsum([0, *(len(shard) for shard in self._shards)])
        ends = document_ends(directory)
        self._starts = np.concatenate([[0], ends[:-1]])
        self._ends = np.cumsum(ends - self._starts - sum(around) + 1)  # of the documents as they are read here

    def __len__(self) -> int:
        return int(self._ends[-1]) // self.length

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Token ids of some windows, int64 [k, length]."""
        place = (np.asarray(index, np.int64)[:, None] * self.length + np.arange(self.length)).ravel()
        document = np.searchsorted(self._ends, place, side="right")
        last = self._ends[document] - 1
        first = np.where(document > 0, self._ends[document - 1], 0)
        source = self._starts[document] + self._before + place - first
        tokens = np.full(len(place), self._end, np.int64)
        for number, shard in enumerate(self._shards):
            here = (place < last) & (source >= self._bounds[number]) & (source < self._bounds[number + 1])
            tokens[here] = shard[source[here] - self._bounds[number]]
        return tokens.reshape(-1, self.length)

    def spread(self, tokens: int) -> np.ndarray:
        """Indices of evenly spaced windows, all if they hold fewer than `tokens`; int64, ascending."""
        wanted = min(len(self), max(1, tokens // self.length))
        return np.arange(wanted) * len(self) // max(1, wanted)
