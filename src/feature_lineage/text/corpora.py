"""A corpus: documents deduplicated and split into training and validation."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

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


def build_corpus(
    documents: Iterable[Document],
    train: str | Path,
    validation: str | Path,
    record: dict[str, Any],
    *,
    name: str,
    validation_share: float,
    fraction: float = 1.0,
    license: str | None = None,
    strip_license_headers: bool = False,
) -> dict[str, int]:
    """Write a corpus's two Parquet files; memory does not grow with the corpus.

    Exact duplicates and empty documents are dropped. `fraction` and the split depend on each text alone, so that neither the
    order of the documents nor a new document moves another one.

    Returns:
        Counts: read, empty, duplicate, train, validation.

    Raises:
        InputError: one of the two splits would be empty.
    """
    counts = dict.fromkeys(("read", "empty", "duplicate", "train", "validation"), 0)
    Path(train).parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # A database without a name is a temporary file that outlives no kill: hashes need not fit in memory.
        seen = sqlite3.connect("", isolation_level=None)
        stack.callback(seen.close)
        seen.execute("PRAGMA journal_mode=OFF")
        seen.execute("PRAGMA synchronous=OFF")
        seen.execute("CREATE TABLE seen (hash BLOB PRIMARY KEY) WITHOUT ROWID")
        seen.execute("BEGIN")
        bar = stack.enter_context(progress(None, "doc"))
        paths = {
            split: stack.enter_context(staged(path)) for split, path in (("train", train), ("validation", validation))
        }
        writers = {split: stack.enter_context(table_writer(path, SCHEMA, record)) for split, path in paths.items()}
        rows: dict[str, list[Document]] = {split: [] for split in paths}
        held = dict.fromkeys(paths, 0)

        def flush(split: str) -> None:
            batch = {field: [getattr(row, field) for row in rows[split]] for field in SCHEMA.names}
            writers[split].write_table(pa.table(batch, schema=writers[split].schema))
            rows[split].clear()
            held[split] = 0

        for document in documents:
            counts["read"] += 1
            bar.update()
            text = strip_license_header(document.text) if strip_license_headers else document.text
            if not text.strip():
                counts["empty"] += 1
                continue
            if fraction < 1 and _share(text, "fraction") >= fraction:
                continue
            key = hashlib.blake2b(text.encode(), digest_size=16).digest()
            if not seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount:
                counts["duplicate"] += 1
                continue
            split = "validation" if _share(text, "split") < validation_share else "train"
            counts[split] += 1
            rows[split].append(Document(text, document.source, document.license or license))
            held[split] += len(text)
            if held[split] >= _BATCH_CHARACTERS:
                flush(split)
        if not counts["read"] - counts["empty"]:
            raise InputError(
                f"corpus {name}: empty, {counts['read']} documents were read and none holds text; check corpora.{name}"
            )
        for split in paths:
            if not counts[split]:
                raise InputError(
                    f"corpus {name}: no {split} document is left of {counts['read']} read (validation = {validation_share}, "
                    f"fraction = {fraction}); change these keys of corpora.{name} or add documents. A plain-text file is one document, unless `split_on` "
                    "names a string that stands between documents"
                )
            flush(split)
    logger.info("corpus %s: %s", name, ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    return counts
