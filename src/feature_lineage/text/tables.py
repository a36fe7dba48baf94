"""Documents of one file: plain text, or rows of a table."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from feature_lineage.errors import InputError
from feature_lineage.text.chat import conversation
from feature_lineage.text.files import (
    _OTHERS,
    READ,
    TABLES,
    Document,
    _check_beginning,
    _readable,
    kind_of,
    opened,
    remedy_for,
)
from feature_lineage.text.json_rows import json_lines, json_rows


def file_documents(
    path: Path, source: str, text: str = "text", split_on: str | None = None, messages: str | None = None
) -> Iterator[Document]:
    """Documents of one file, by its suffix; `.gz` and `.zst` are unpacked.

    Of Parquet, JSON (lines, an array of objects, or one object), CSV and TSV the column `text` is read and no other but `license`; a null
    is an empty document. With `messages`, that column's conversations are read, as JSON. Any other file is text: one document, or those between the places where `split_on` stands, without the line
    breaks beside it.

    Raises:
        InputError: missing, truncated, not text, not UTF-8, without the column `text`, or `text` or `split_on` cannot apply; names the
            file (and line).
    """
    if kind_of(path) in TABLES:
        if split_on is not None:
            raise InputError(
                f"{path}: each row is a document, so `split_on` cannot apply; name plain-text files in a corpus of their own"
            )
        for place, value, license in rows_of(path, messages or text):
            yield document_of(value, f"{source}:{place}", license, text, messages)
        return
    if messages is not None:
        raise InputError(f"{path}: is no table, so `messages` = {messages!r} cannot apply; name JSON lines or Parquet")
    if kind_of(path) in _OTHERS:
        raise InputError(
            f"{path}: cannot be read as text ({kind_of(path)}); convert it to text, JSON lines, CSV or Parquet, plain, .gz or .zst, or leave it out"
        )
    with _readable(path):
        _check_beginning(path)
        if text != "text":
            raise InputError(
                f"{path}: is plain text without columns, so `text` = {text!r} cannot apply; remove the key or leave the file out"
            )
        with opened(path) as stream:
            if split_on is None:
                yield Document(_plain(path, stream.read().decode("utf-8"), text), source, None)
            else:
                for place, part in _parts(stream, split_on):
                    yield Document(_plain(path, part.strip("\r\n"), text), f"{source}{place}", None)


def _plain(path: Path, content: str, text: str) -> str:
    if "\0" in content:
        raise InputError(f"{path}: not text, it holds NUL characters; convert the file to UTF-8 or leave it out")
    if _holds_rows(content, text):
        raise InputError(
            f"{path}: holds rows in JSON under a name of plain text; name it .jsonl or .json, or leave it out"
        )
    if _holds_table(content, text):
        raise InputError(
            f"{path}: holds a table under a name of plain text, its first line names a column {text!r}; name it .csv (commas between "
            "fields) or .tsv (tabs), or leave it out"
        )
    return content.removeprefix("\ufeff")  # a byte order mark is no part of the text


def _holds_rows(content: str, text: str) -> bool:
    """Whether a text is JSON lines, or another JSON whose rows have the column."""
    content = content.strip("\ufeff \t\r\n")
    if content[:1] not in ("{", "["):
        return False
    first, _, rest = content.partition("\n")
    entry = _json_of(first)
    if entry is None:
        entry = _json_of(content)
    elif isinstance(entry, dict) and isinstance(_json_of(rest.lstrip().partition("\n")[0]), dict):
        return True
    entry = entry[0] if isinstance(entry, list) and entry else entry
    return isinstance(entry, dict) and text in entry


def _holds_table(content: str, text: str) -> bool:
    """Whether the first line of a text names columns, the asked one among them, and the second goes on like that."""
    first, second = [*content.removeprefix("\ufeff").split("\n", 2), ""][:2]
    for delimiter in "\t,;|":
        names = [name.removeprefix('"').removesuffix('"') for name in first.rstrip("\r").split(delimiter)]
        # A line of prose or code has spaces or signs somewhere.
        named = len(names) > 1 and text in names and all(re.fullmatch(r"[\w.-]*", name) for name in names)
        if named and (delimiter in second or second.startswith('"')):
            return True
    return False


def _json_of(content: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(content)


def _parts(stream: Any, separator: str) -> Iterator[tuple[str, str]]:
    """`:<number>` and text of each part between the separators, read piece by piece; what is blank after the last is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, done, number = "", 0, 0
    while chunk := stream.read(max(READ, len(rest))):
        held = len(decoder.getstate()[0])
        try:
            *parts, rest = (rest + decoder.decode(chunk)).split(separator)
        except UnicodeDecodeError as error:
            error.start += done - held  # in the file
            raise
        done += len(chunk)
        for part in parts:
            yield f":{number}", part
            number += 1
    rest += decoder.decode(b"", final=True)
    if rest.strip() or not number:
        yield f":{number}" * bool(number), rest


def rows_of(path: Path, text: str, label: str | None = None) -> Iterator[tuple[int, Any, Any]]:
    """Of each document of a table: its place in the file (JSON: line or item from 1, others: row from 0), its text and its licence."""
    kind, label = kind_of(path), label or str(path)
    readers = {".parquet": _parquet_rows, ".json": json_rows, ".csv": _csv_rows, ".tsv": _csv_rows}
    with _readable(path):
        _check_beginning(path)
        yield from readers.get(kind, json_lines)(path, text, label)


def _parquet_rows(path: Path, text: str, label: str) -> Iterator[tuple[int, Any, Any]]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        _check_column(names, text, label)
        columns = [text] + ["license"] * ("license" in names and text != "license")
        row = 0
        for batch in file.iter_batches(1024, columns=columns):
            licenses = batch.column("license").to_pylist() if "license" in columns[1:] else [None] * len(batch)
            for value, license in zip(batch.column(text).to_pylist(), licenses, strict=True):
                yield row, value, license
                row += 1


def _csv_rows(path: Path, text: str, label: str) -> Iterator[tuple[int, Any, Any]]:
    csv.field_size_limit(sys.maxsize)
    with opened(path) as stream:
        delimiter = "\t" if kind_of(path) == ".tsv" else ","
        lines = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""), delimiter=delimiter, strict=True)
        try:
            names = next(lines, [])
            _check_column(names, text, label, _header_hint(names, delimiter))
            at, license = names.index(text), names.index("license") if "license" in names else None
            for row, fields in enumerate(line for line in lines if line):
                if len(fields) != len(names):
                    raise InputError(
                        f"{path}:{lines.line_num}: has {len(fields)} fields where the first line names {len(names)}; quote fields with "
                        "separators or line breaks in them"
                    )
                if any("\0" in field for field in fields):
                    raise InputError(
                        f"{path}:{lines.line_num}: not text, it holds NUL characters; replace the file or leave it out"
                    )
                yield row, fields[at], None if license is None else fields[license] or None
        except csv.Error as error:
            raise InputError(
                f"{path}:{lines.line_num}: not CSV ({error}); mend the line or leave the file out"
            ) from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: not UTF-8 ({error.reason} after line {lines.line_num}); convert the file or leave it out"
            ) from None


def _check_column(names: Sequence[str], text: str, label: str, hint: str | None = None) -> None:
    if text not in names:
        raise InputError(
            f"{label}: has no column {text!r}, only {', '.join(names) or 'nothing'}; {hint or remedy_for(names, text)}"
        )
    if twice := [name for name in (text, "license") if names.count(name) > 1]:
        raise InputError(f"{label}: has two columns {twice[0]!r}; rename one of them")


def _header_hint(names: Sequence[str], delimiter: str) -> str:
    """What to do about a first line that does not name the column."""
    others = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
    for other, name in others.items():
        if len(names) == 1 and other in names[0] and other != delimiter:
            return f"its fields seem to be separated by {name}, where {others[delimiter]} are meant (.csv: commas, .tsv: tabs)"
    return "set the corpus's `text`, or add a first line that names the columns"


def document_of(value: Any, source: str, license: Any, column: str, messages: str | None = None) -> Document:
    """A row as a document; one without text is empty. A conversation of the column `messages` is one as JSON."""
    if messages is not None:
        value, column = conversation(value, source, messages), messages
    value = "" if value is None else value
    if not isinstance(value, str):
        raise InputError(f"{source}: column {column!r} holds {type(value).__name__}, not text; set the corpus's `text`")
    license = license if isinstance(license, str) else None
    for name, content in ((column, value), ("license", license or "")):
        try:
            content.encode()
        except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which no file can hold
            raise InputError(
                f"{source}: column {name!r} is not valid Unicode ({error.reason} at character {error.start}); "
                "mend it or leave it out"
            ) from None
    return Document(value, source, license)
