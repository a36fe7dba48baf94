"""A tokenizer, corpora as shards of token ids, and windows of fixed length read from them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feature_lineage.artifacts import (
    digests,
    read_batches,
    read_json,
    read_table,
    sha256,
    staged,
    verify_files,
    write_json,
    write_table,
)
from feature_lineage.logs import InputError, logger, progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
SHARD_TOKENS = 1 << 24
_LENGTHS = pa.schema([("tokens", pa.int32())])


# --- tokenizer ---------------------------------------------------------------------------------------------


def train_tokenizer(corpora: Sequence[str | Path], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on the texts of Parquet files, read as a stream; one special token, `<|endoftext|>`.

    Raises:
        InputError: the text is too little for `vocab_size`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    def texts() -> Iterator[list[str]]:
        with progress(None, "doc", "tokenizer") as bar:
            for path in corpora:
                for batch in read_batches(path, ["text"], rows=256):
                    bar.update(len(batch))
                    yield batch.column("text").to_pylist()

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        texts(),
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    if (found := bpe.get_vocab_size()) != vocab_size:
        raise InputError(
            f"tokenizer: the text of {', '.join(map(str, corpora))} gives {found} tokens, tokenizer.vocab_size asks {vocab_size}; "
            "lower the key or train on more text"
        )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=END, eos_token=END)


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a directory; every file of one that `save_tokenizer` or `language_model.save_model` wrote is verified.

    Raises:
        InputError: a file of it is missing or damaged, or as for `published_tokenizer`.
    """
    verify_files(Path(path) / "tokenizer_config.json")
    return published_tokenizer(path)


def published_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer from a directory or the hub, whoever made it.

    Raises:
        InputError: it cannot be loaded, is not a fast one, or has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(path), revision=revision or "main", use_fast=True, trust_remote_code=False
        )
    except Exception as error:  # the loaders raise many kinds, down to a bare Exception from the tokenizers library
        raise InputError(
            f"tokenizer {path}: cannot be loaded ({' '.join(str(error).split())}); check the name or path, the revision and the network"
        ) from error
    if not tokenizer.is_fast:
        raise InputError(
            f"tokenizer {path}: is not a fast tokenizer (no tokenizer.json); convert it with transformers first"
        )
    if tokenizer.eos_token_id is None:
        raise InputError(f"tokenizer {path}: has no end-of-sequence token to part documents with; choose another")
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many rows an embedding needs: one more than the highest id, as a vocabulary may have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, path: str | Path, record: dict[str, Any]) -> None:
    """Write a tokenizer directory; its provenance goes into `tokenizer_config.json`, with digests of the other files."""
    with staged(path) as folder:
        tokenizer.save_pretrained(folder)
        config = folder / "tokenizer_config.json"
        content = json.loads(config.read_text(encoding="utf-8"))
        config.unlink()
        write_json(config, content, record | {"files": digests(folder)})


# --- shards ------------------------------------------------------------------------------------------------


def encode_corpus(
    documents: str | Path,
    tokenizer: str | Path,
    output: str | Path,
    record: dict[str, Any],
    shard_tokens: int = SHARD_TOKENS,
) -> int:
    """Encode a Parquet file of documents into token shards, an end token after each document; returns the tokens written.

    The directory holds `shard-00000.npy`, … (uint16, or uint32 for vocabularies above 65,536), `documents.parquet` (tokens of
    each document, its end token counted) and `index.json`. One shard and one batch of documents are held at a time. What was in
    the directory before goes: its shards may be more.

    Raises:
        InputError: a file cannot be read, or the tokenizer has no token for any of the text.
    """
    encoder = load_tokenizer(tokenizer)
    vocabulary = vocabulary_size(encoder)
    dtype = np.uint16 if vocabulary <= 1 << 16 else np.uint32
    shards: list[dict[str, Any]] = []
    total = count = 0

    shutil.rmtree(output, ignore_errors=True)
    with staged(output) as folder:
        folder.mkdir()
        buffer = np.empty(shard_tokens, dtype)
        filled = 0

        def flush() -> None:
            file = folder / f"shard-{len(shards):05d}.npy"
            np.save(file, buffer[:filled])
            shards.append({"file": file.name, "tokens": filled, "bytes": file.stat().st_size, "sha256": sha256(file)})

        def lengths() -> Iterator[pa.RecordBatch]:
            nonlocal filled, total, count
            with progress(None, "tok", f"tokens {Path(output).parent.name}/{Path(output).name}") as bar:
                for batch in read_batches(documents, ["text"], rows=64):
                    encoded = encoder(
                        batch.column("text").to_pylist(),
                        add_special_tokens=False,
                        split_special_tokens=True,  # "<|endoftext|>" in a text is text
                        verbose=False,
                    )["input_ids"]
                    for ids in encoded:
                        ids = np.asarray([*ids, encoder.eos_token_id], dtype)
                        total, count = total + len(ids), count + 1
                        bar.update(len(ids))
                        while len(ids):
                            part = ids[: shard_tokens - filled]
                            buffer[filled : filled + len(part)] = part
                            filled += len(part)
                            ids = ids[len(part) :]
                            if filled == shard_tokens:
                                flush()
                                filled = 0
                    yield pa.record_batch([pa.array([len(ids) + 1 for ids in encoded], pa.int32())], schema=_LENGTHS)

        write_table(folder / "documents.parquet", lengths(), _LENGTHS, record)
        if total == count:
            raise InputError(
                f"tokenizer {tokenizer}: has no token for any text of {documents}; choose another under `tokenizer`"
            )
        if filled:
            flush()
        index = {
            "tokens": total,
            "documents": count,
            "dtype": np.dtype(dtype).name,
            "vocab_size": vocabulary,
            "end_token": encoder.eos_token_id,
            "tokenizer_sha256": sha256(Path(tokenizer) / "tokenizer.json"),
            "shards": shards,
        }
        write_json(folder / "index.json", index, record)
    logger.info("%s: %s tokens in %s documents, %d shards", output, f"{total:,}", f"{count:,}", len(shards))
    return total


def token_directories(corpora: Sequence[str], indices: Sequence[str | Path]) -> dict[str, Path]:
    """Token directory by corpus, told from their index files."""
    return {corpus: Path(index).parent for corpus, index in zip(corpora, indices, strict=True)}


def read_index(directory: str | Path) -> dict[str, Any]:
    """The index of a token directory, after a check that each shard is there and whole.

    Raises:
        InputError: names the file that is missing or truncated.
    """
    index = read_json(Path(directory) / "index.json", delete=directory)
    for shard in index["shards"]:
        file = Path(directory) / shard["file"]
        found = file.stat().st_size if file.exists() else 0
        if found != shard["bytes"]:
            raise InputError(
                f"{file}: truncated or missing, {found:,} bytes of {shard['bytes']:,}; delete {directory} and run Snakemake again"
            )
        if sha256(file) != shard["sha256"]:
            raise InputError(f"{file}: damaged, it is not what was written; delete {directory} and run Snakemake again")
    return index


# --- windows -----------------------------------------------------------------------------------------------


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
        for number, path in enumerate(self.directories.values()):
            offset = 0
            for shard in read_index(path)["shards"]:
                tokens = np.load(path / shard["file"], mmap_mode="r")
                self._shards.append(tokens[: len(tokens) // length * length].reshape(-1, length))
                self._corpus.append(number)
                self._offset.append(offset)
                offset += len(tokens)
        self._ends = np.cumsum([len(shard) for shard in self._shards])

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

    def draw(self, tokens: int | None, seed: int | Sequence[int], key: str, balance: bool = False) -> np.ndarray:
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


def document_ends(directory: str | Path) -> np.ndarray:
    """Position after each document's end token, int64 [documents]."""
    lengths = read_table(Path(directory) / "documents.parquet", delete=directory)["tokens"]
    return np.cumsum(lengths.to_numpy(), dtype=np.int64)
