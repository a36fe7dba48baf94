"""A corpus: documents deduplicated and split into training and validation."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from feature_lineage.errors import InputError
from feature_lineage.progress import logger, progress
from feature_lineage.store.formats import table_writer
from feature_lineage.store.writing import staged
from feature_lineage.text.files import Document

SCHEMA = pa.schema([("text", pa.string()), ("source", pa.string()), ("license", pa.string())])
_BATCH_CHARACTERS = 1 << 24  # how much text is held before a batch is written


_COMMENT = re.compile(
    r"\A(?:#![^\n]*\n)?\s*"
    r"(?:--\[(=*)\[.*?\]\1\][ \t\r]*\n?|/\*.*?\*/[ \t\r]*\n?|(?:(?:--(?!\[=*\[)|#|//|;)[^\n]*(?:\n|\Z))+)",
    re.DOTALL,
)
_LICENSE = re.compile(r"licen[cs]e|copyright|\(c\)|spdx", re.IGNORECASE)


def strip_license_header(text: str) -> str:
    """Cut the comment block at the head of `text` if it speaks of a licence or a copyright, and the blank lines after it."""
    head = _COMMENT.match(text)
    return text[head.end() :].lstrip("\r\n") if head and _LICENSE.search(head.group()) else text


def _share(text: str, salt: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, salt=salt.encode()).digest()) / 2**64


@dataclass(frozen=True)
class CorpusOptions:
    """Which documents a corpus keeps, and how they are split."""

    validation_share: float  # of the documents, held out
    fraction: float = 1.0  # of the documents, kept
    license: str | None = None  # of documents that name none
    strip_license_headers: bool = False  # see `strip_license_header`


class _Split:
    """The file of a split, and the documents held for its next batch."""

    def __init__(self, file: pq.ParquetWriter) -> None:
        self.file, self.characters = file, 0
        self.rows: list[Document] = []

    def add(self, document: Document) -> None:
        self.rows.append(document)
        self.characters += len(document.text)
        if self.characters >= _BATCH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        batch = {field: [getattr(row, field) for row in self.rows] for field in SCHEMA.names}
        self.file.write_table(pa.table(batch, schema=self.file.schema))
        self.rows.clear()
        self.characters = 0


@contextmanager
def _hashes() -> Iterator[sqlite3.Connection]:
    """An empty table of hashes that need not fit in memory."""
    # A database without a name is a temporary file that outlives no kill.
    seen = sqlite3.connect("", isolation_level=None)
    with closing(seen):
        seen.execute("PRAGMA journal_mode=OFF")
        seen.execute("PRAGMA synchronous=OFF")
        seen.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")
        seen.execute("BEGIN")
        yield seen


def _fate(text: str, options: CorpusOptions, seen: sqlite3.Connection) -> str | None:
    """What becomes of a document: its split, `empty`, `duplicate`, or None where it is not in the fraction."""
    if not text.strip():
        return "empty"
    if options.fraction < 1 and _share(text, "fraction") >= options.fraction:
        return None
    key = hashlib.blake2b(text.encode(), digest_size=16).digest()
    if not seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount:
        return "duplicate"
    return "validation" if _share(text, "split") < options.validation_share else "train"


def build_corpus(
    documents: Iterable[Document],
    train: str | Path,
    validation: str | Path,
    record: dict[str, Any],
    name: str,
    options: CorpusOptions,
) -> dict[str, int]:
    """Write a corpus's two Parquet files; memory does not grow with the corpus.

    Exact duplicates and empty documents are dropped. The fraction and the split depend on each text alone, so that neither the
    order of the documents nor a new document moves another one.

    Args:
        documents: of the corpus, in any order.
        train: file of the training documents.
        validation: file of the documents held out.
        record: provenance, written into both.
        name: of the corpus, for messages.
        options: what is kept, and where.

    Returns:
        Counts: read, empty, duplicate, train, validation.

    Raises:
        InputError: one of the two splits would be empty.
    """
    counts = dict.fromkeys(("read", "empty", "duplicate", "train", "validation"), 0)
    Path(train).parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        seen = stack.enter_context(_hashes())
        bar = stack.enter_context(progress(None, "doc"))
        paths = {
            split: stack.enter_context(staged(path)) for split, path in (("train", train), ("validation", validation))
        }
        splits = {
            split: _Split(stack.enter_context(table_writer(path, SCHEMA, record))) for split, path in paths.items()
        }
        for document in documents:
            counts["read"] += 1
            bar.update()
            text = strip_license_header(document.text) if options.strip_license_headers else document.text
            if (fate := _fate(text, options, seen)) is not None:
                counts[fate] += 1
            if fate in splits:
                splits[fate].add(Document(text, document.source, document.license or options.license))
        _refuse_empty(name, counts, options)
        for split in splits.values():
            split.flush()
    logger.info("corpus %s: %s", name, ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    return counts


def _refuse_empty(name: str, counts: Mapping[str, int], options: CorpusOptions) -> None:
    """Raise `InputError` if a split has no document."""
    if not counts["read"] - counts["empty"]:
        raise InputError(
            f"corpus {name}: empty, {counts['read']} documents were read and none holds text; check corpora.{name}"
        )
    for split in ("train", "validation"):
        if not counts[split]:
            raise InputError(
                f"corpus {name}: no {split} document is left of {counts['read']} read (validation = {options.validation_share}, "
                f"fraction = {options.fraction}); change these keys of corpora.{name} or add documents. A plain-text file is one "
                "document, unless `split_on` names a string that stands between documents"
            )
