"""Files of text as they lie on disk: which kind, and how they are opened."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from feature_lineage.errors import InputError


class Document(NamedTuple):
    """One text, where it came from, and its licence if known."""

    text: str
    source: str
    license: str | None


def not_a_file(pattern: str) -> str:
    """Why a pattern names no file, in a phrase."""
    if not os.path.lexists(pattern):
        return "no such file"
    path = Path(pattern)
    if path.is_dir():
        return f"a folder, where files are meant, for instance {pattern.rstrip('/')}/**/*.txt"
    return "no regular file" if path.exists() else "a link that leads to no file"


TABLES = (".parquet", ".jsonl", ".jsonlines", ".ndjson", ".json", ".csv", ".tsv")  # whose documents are in a column
PACKED = (".gz", ".zst")
# What is no text, by suffix, as some of it could be taken for UTF-8.
_OTHERS = (
    *(
        ".arrow",
        ".feather",
        ".orc",
        ".avro",
        ".pkl",
        ".pickle",
        ".npy",
        ".npz",
        ".h5",
        ".hdf5",
        ".safetensors",
        ".sqlite",
        ".db",
    ),
    *(".xls", ".xlsx", ".ods", ".doc", ".docx", ".odt", ".rtf", ".epub", ".pdf", ".ps"),
    *(".tab", ".psv"),  # tables, but .tsv and .csv alone say what stands between their fields
    *(".zip", ".tar", ".tgz", ".bz2", ".xz", ".lz4", ".br", ".7z", ".rar"),
)
# What is no text by its first bytes, whatever its name, and what to do about it.
_BEGINNINGS = {
    b"%PDF-": ("a PDF", "convert it to text"),
    b"PK\x03\x04": ("a ZIP archive", "unpack it"),
    b"WARC/": ("a web archive", "extract its texts"),
    b"<mediawiki": ("a dump of a wiki", "extract its texts"),
    b"ARROW1": ("an Arrow file", "convert it to Parquet"),
    b"{\\rtf": ("rich text", "convert it to text"),
    b"PAR1": ("a Parquet file", "name it .parquet, unpacked"),
    b"\x1f\x8b": ("something packed by gzip", "add .gz to its name"),
    b"\x28\xb5\x2f\xfd": ("something packed by zstd", "add .zst to its name"),
    **{b"BZh%d" % level: ("something packed by bzip2", "unpack it") for level in range(1, 10)},
    b"\x04\x22\x4d\x18": ("something packed by lz4", "unpack it"),
    b"\xfd7zXZ\0": ("something packed by xz", "unpack it"),
    b"\xff\xfe": ("text in UTF-16", "convert it to UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "convert it to UTF-8"),
    b"version https://git-lfs.": ("a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`"),
}
READ = 1 << 20  # bytes


def kind_of(path: Path) -> str:
    """The suffix that tells how a file is read, in lower case and without that of a packed file."""
    name = path.name.lower()
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return Path(name).suffix


def _check_beginning(path: Path) -> None:
    """Refuse a file that is something else than its name says, by its first bytes and by those of what is packed in it."""
    suffix, longest = path.suffix.lower(), max(map(len, _BEGINNINGS))
    named = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".parquet": b"PAR1"}.get(suffix)
    with path.open("rb") as file:
        found = [("is", beginning) for beginning in _starting(file.read(longest)) if beginning != named]
    if not found and suffix in PACKED:
        with opened(path) as file:
            found = [("holds", beginning) for beginning in _starting(file.read(longest))]
    for verb, beginning in found:
        kind, remedy = _BEGINNINGS[beginning]
        raise InputError(f"{path}: {verb} {kind}; {remedy} or leave it out")


def _starting(start: bytes) -> list[bytes]:
    return [beginning for beginning in _BEGINNINGS if start.startswith(beginning)]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what reading a file raises into an InputError that names it."""
    try:
        # Their readers take it for an empty text.
        if path.suffix.lower() in PACKED and not path.stat().st_size:
            raise EOFError("0 bytes")
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert the file or leave it out"
        ) from None
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise InputError(
            f"{path}: cannot be read, it is missing, truncated or damaged ({error}); replace it or leave it out"
        ) from error


def opened(path: Path) -> Any:
    """A file open for reading bytes, decompressed."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") if path.suffix.lower() == ".zst" else path.open("rb")


def remedy_for(names: Iterable[str], text: str) -> str:
    """What to do about a column that is not there, in a phrase."""
    if "." in text and text.partition(".")[0] in names:
        return "a key inside another cannot be read, move it to the top"
    return "set the corpus's `text`"
