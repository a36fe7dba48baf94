"""A corpus's tokens on disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feature_lineage.errors import InputError
from feature_lineage.progress import logger, progress
from feature_lineage.store.checksums import sha256
from feature_lineage.store.formats import read_batches, read_json, read_table, write_json, write_table
from feature_lineage.store.writing import staged
from feature_lineage.text.boundaries import boundaries_of
from feature_lineage.text.chat import ChatEncoder, Conversation
from feature_lineage.text.tokenizer import load_tokenizer, vocabulary_size
from feature_lineage.text.vocabulary import token_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer


SHARD_TOKENS = 1 << 24
PIECE = 1 << 18  # characters of a text that are encoded at a time, where it can be cut
BATCH = 1 << 20  # characters of texts that are encoded at a time
_AROUND = 256  # characters on both sides of a cut that must be encoded as they are without it
_TRIES = 100  # places for a cut that are tried
_PLACES = ((r"\w", " "), (r"\w", "\n"), (r"\S", "\n"))  # for a cut, between what stands before and after it
_LENGTHS = pa.schema([("tokens", pa.int32())])


def encode_corpus(
    documents: str | Path,
    tokenizer: str | Path,
    output: str | Path,
    record: dict[str, Any],
    shard_tokens: int = SHARD_TOKENS,
    roles: str | None = None,
) -> int:
    """Encode a Parquet file of documents into token shards; returns the tokens written.

    Before and after each document stands what the tokenizer's folder says (`boundaries_of`). The directory holds `shard-00000.npy`, …
    (uint16, or uint32 for vocabularies above 65,536), `documents.parquet` (tokens of each document, those around it counted) and
    `index.json`. One shard and one batch of documents are held at a time. What was in the directory before goes: its shards may be more.
    Ids are those of `tokenizer.json`; a special token's text in a document is text.

    Conversations are rendered with the tokenizer's chat template, and nothing is put around them. Where one role's tokens are chosen of them,
    `shard-00000.chosen.npy`, … say which those are, bool.

    Args:
        documents: Parquet of `corpora.build_corpus`.
        tokenizer: directory of the tokenizer.
        output: the directory.
        record: provenance.
        shard_tokens: tokens of a shard.
        roles: `all`, `assistant` or `user`, if the documents are conversations.

    Raises:
        InputError: a file cannot be read, a chat template cannot be used, or the tokenizer has no token for any of the text, or none to part documents with.
    """
    encoder = load_tokenizer(tokenizer)
    vocabulary = vocabulary_size(encoder)
    dtype = np.uint16 if vocabulary <= 1 << 16 else np.uint32
    around = boundaries_of(encoder)
    texts, special = token_texts(Path(tokenizer) / "tokenizer.json")
    backend = encoder.backend_tokenizer
    encode = TextEncoder(backend, texts, dtype) if roles is None else ChatEncoder(encoder, roles, dtype)
    start, end = (np.array(ids if roles is None else (), dtype) for ids in around[:2])

    shutil.rmtree(output, ignore_errors=True)
    with staged(output) as folder:
        folder.mkdir()
        shards = _Shards(folder, shard_tokens, start, end, chosen=roles not in (None, "all"))
        write_table(folder / "documents.parquet", _encoded(documents, encode, shards), _LENGTHS, record)
        if shards.tokens == shards.documents * (len(shards.start) + len(shards.end)):
            raise InputError(
                f"tokenizer {tokenizer}: has no token for any text of {documents}; choose another under `tokenizer`"
            )
        shards.close()
        # Special tokens alone: the text of documents holds none of them, so that the ids tell the positions.
        left_out = sorted({token for token in around.document_start if special[token]})
        index = shards.index() | {
            "vocab_size": vocabulary,
            "tokenizer_sha256": sha256(Path(tokenizer) / "tokenizer.json"),
        }
        write_json(folder / "index.json", index | ({"left_out": left_out} if left_out else {}), record)
    counts = (f"{count:,}" for count in (shards.tokens, shards.documents))
    logger.info("%s: %s tokens in %s documents, %d shards", output, *counts, len(shards.files))
    return shards.tokens


class _Shards:
    """Writes documents as files of `size` tokens, one of them in memory at a time.

    Args:
        folder: where.
        size: tokens of a file.
        start: what stands before a document, of the files' type.
        end: what stands after it.
        chosen: whether some tokens alone are chosen, so that files beside the tokens say which.
    """

    def __init__(self, folder: Path, size: int, start: np.ndarray, end: np.ndarray, chosen: bool) -> None:
        self.folder, self.start, self.end = folder, start, end
        self.files: list[dict[str, Any]] = []  # as the index describes them
        self.tokens = self.documents = 0
        self._buffer, self._filled = np.empty(size, end.dtype), 0
        self._chosen = np.empty(size, bool) if chosen else None

    def add(self, document: Iterable[np.ndarray] | Conversation) -> int:
        """Write a document, in parts, and what stands around it; returns its tokens, those counted."""
        talk = document if isinstance(document, Conversation) else None
        length = 0
        for ids in chain([self.start], [talk.ids] if talk else document, [self.end]):
            self._store(ids, talk.chosen if talk else None)
            length += len(ids)
        self.tokens += length
        self.documents += 1
        return length

    def index(self) -> dict[str, Any]:
        """What the index says of what was written."""
        return {
            "tokens": self.tokens,
            "documents": self.documents,
            "dtype": self.end.dtype.name,
            "end_token": int(self.end[-1]) if len(self.end) else None,
            "shards": self.files,
        }

    def close(self) -> None:
        """Write what is left."""
        if self._filled:
            self._flush()

    def _store(self, ids: np.ndarray, chosen: np.ndarray | None) -> None:
        while len(ids):
            part = ids[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            if self._chosen is not None and chosen is not None:
                self._chosen[self._filled : self._filled + len(part)] = chosen[: len(part)]
                chosen = chosen[len(part) :]
            self._filled += len(part)
            ids = ids[len(part) :]
            if self._filled == len(self._buffer):
                self._flush()

    def _flush(self) -> None:
        name = f"shard-{len(self.files):05d}"
        described = {"tokens": self._filled, **self._saved(f"{name}.npy", self._buffer)}
        if self._chosen is not None:
            described["chosen"] = self._saved(f"{name}.chosen.npy", self._chosen)
        self.files.append(described)
        self._filled = 0

    def _saved(self, name: str, buffer: np.ndarray) -> dict[str, Any]:
        file = self.folder / name
        np.save(file, buffer[: self._filled])
        return {"file": name, "bytes": file.stat().st_size, "sha256": sha256(file)}


def _encoded(documents: str | Path, encode: TextEncoder | ChatEncoder, shards: _Shards) -> Iterator[pa.RecordBatch]:
    """Write all documents as shards; the tokens of each, schema `_LENGTHS`."""
    with progress(None, "tok") as bar:
        for batch in read_batches(documents, ["text"], rows=64):
            lengths = []
            for document in encode(batch.column("text").to_pylist()):
                lengths.append(shards.add(document))
                bar.update(lengths[-1])
            yield pa.record_batch([pa.array(lengths, pa.int32())], schema=_LENGTHS)


class TextEncoder:
    """Encodes texts with a `tokenizers.Tokenizer`: batches of short ones, long ones in pieces, as a token takes 300 bytes on the way.

    A text is cut before a space that follows a letter or digit, or a line break that follows anything but blanks, where no token of the
    vocabulary holds both, so that no merge and no best path leads across; and where the characters around are encoded alike with and without the cut, so that neither
    the normaliser nor the pre-tokenizer looks across. Where there is no such place, or the pre-tokenizer counts characters from the
    beginning, a text is encoded whole.

    Args:
        tokenizer: which; its truncation and padding are off.
        texts: of its vocabulary (`vocabulary.token_texts`).
        dtype: of the ids.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str], dtype: Any) -> None:
        self.tokenizer, self.dtype = tokenizer, dtype
        tokenizer.encode_special_tokens = True  # "<|endoftext|>" in a text is text
        splitter = tokenizer.pre_tokenizer
        counted = splitter is not None and b'"FixedLength"' in splitter.__getstate__()  # from the beginning of the text
        places = [rf"(?<={before}){after}" for before, after in _PLACES if not _held(texts, before, after)]
        self._cut = re.compile("|".join(places)) if places and not counted else None

    def __call__(self, texts: Sequence[str]) -> Iterator[Iterable[np.ndarray]]:
        """The ids of each text, in parts: int [tokens of the part]. The parts of a text must be read before the next."""
        held: list[str] = []
        for text in texts:
            if held and sum(map(len, held)) + len(text) > BATCH:
                yield from ([ids] for ids in self._encode(held))
                held.clear()
            if len(text) > 2 * PIECE:
                yield from ([ids] for ids in self._encode(held))
                held.clear()
                yield self._pieces(text)
            else:
                held.append(text)
        yield from ([ids] for ids in self._encode(held))

    def _encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(one.ids, self.dtype) for one in found]

    def _pieces(self, text: str) -> Iterator[np.ndarray]:
        first, before = 0, ""
        while first < len(text):
            stop = self._next_cut(text, first + PIECE)
            # What stands before a piece is encoded with it: some tokenizers mark the beginning of a text.
            lead, whole = self._encode([before, before + text[first:stop]])
            if not np.array_equal(whole[: len(lead)], lead):
                raise InputError(
                    f"tokenizer: cannot encode a text of {len(text):,} characters in pieces; cut it into documents of at most {2 * PIECE:,}"
                )
            yield whole[len(lead) :]
            first, before = stop, text[max(0, stop - _AROUND) : stop]

    def _next_cut(self, text: str, first: int) -> int:
        """Where the text can be cut, from `first` on; its end if nowhere."""
        places = self._cut.finditer(text, first, max(0, len(text) - _AROUND)) if self._cut else iter(())
        for found in islice(places, _TRIES):
            place = found.start()
            left, right = text[max(0, place - _AROUND) : place], text[place : place + _AROUND]
            alone, both = self._encode([left, left + right])
            if np.array_equal(both[: len(alone)], alone):
                return place
        return len(text)


def _held(texts: Sequence[str], before: str, after: str) -> bool:
    """Whether a token holds both sides of a place for a cut; bytes that are no whole character may be any."""
    both = re.compile(rf"(?:{before}|\ufffd){after}")
    return any(both.search(text) for text in texts)


def token_directories(corpora: Sequence[str], indices: Sequence[str | Path]) -> dict[str, Path]:
    """Token directory by corpus, told from their index files."""
    return {corpus: Path(index).parent for corpus, index in zip(corpora, indices, strict=True)}


def read_index(directory: str | Path) -> dict[str, Any]:
    """The index of a token directory, after a check that each shard is there and whole.

    Raises:
        InputError: names the file that is missing or truncated.
    """
    index = read_json(Path(directory) / "index.json", delete=directory)
    for shard in [part for one in index["shards"] for part in (one, one.get("chosen")) if part]:
        file = Path(directory) / shard["file"]
        found = file.stat().st_size if file.exists() else 0
        if found != shard["bytes"]:
            raise InputError(f"{file}: truncated or missing, {found:,} bytes of {shard['bytes']:,}; delete {directory}")
        if sha256(file) != shard["sha256"]:
            raise InputError(f"{file}: damaged, it is not what was written; delete {directory}")
    return index


def document_ends(directory: str | Path) -> np.ndarray:
    """Position after each document and what stands after it, int64 [documents]."""
    lengths = read_table(Path(directory) / "documents.parquet", delete=directory)["tokens"]
    return np.cumsum(lengths.to_numpy(), dtype=np.int64)
