"""Reading and writing artefacts: never a half-written file under a final name, provenance and a digest of itself inside each."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from feature_lineage.logs import InputError

KEY = "provenance"
PARTIAL = ".partial"  # how the name of a file ends that is being written
CLOCKS = 600.0  # seconds that the clocks of a cluster's machines may differ by
_PACKAGES = (
    "feature-lineage",
    "torch",
    "transformers",
    "transformer-lens",
    "tokenizers",
    "numpy",
    "scipy",
    "pyarrow",
)


# --- provenance --------------------------------------------------------------------------------------------


def sha256(path: str | Path) -> str:
    """Hex digest of a file, or of a directory's visible files and their names."""
    path = Path(path)
    if not path.is_dir():
        try:
            return _hashes(path).whole
        except FileNotFoundError:
            raise _missing(path) from None
    digest = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith(".")):
        digest.update(f"{file.relative_to(path).as_posix()} {sha256(file)}\n".encode())
    return digest.hexdigest()


def provenance(inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What an artefact was made from: versions, hashes of its inputs, its parameters (seed among them), and a digest of it all.

    Args:
        inputs: a path, or a list of paths, by name.
        parameters: anything that JSON can hold, by name.

    Raises:
        InputError: an input is missing, or its time stamp lies in the future.
    """
    files = dict(inputs.items())  # a rule's inputs have items() and no more of a mapping
    for found in files.values():
        for path in [found] if isinstance(found, str | Path) else found:
            _refuse_future(Path(path))
    record = {
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "inputs": {
            name: sha256(path) if isinstance(path, str | Path) else [sha256(part) for part in path]
            for name, path in sorted(files.items())
        },
        "parameters": dict(parameters),
    }
    text = json.dumps(record, sort_keys=True)
    return json.loads(text) | {"digest": hashlib.sha256(text.encode()).hexdigest()}


def _refuse_future(path: Path) -> None:
    """Snakemake throws away what a job made from an input that is newer than it: say so before the work rather than after it."""
    if path.exists() and (ahead := path.stat().st_mtime - time.time()) > CLOCKS:
        raise InputError(
            f"{path}: its time stamp lies {ahead:,.0f} s in the future; set this machine's clock right, or say `touch {path}`: "
            "a time stamp alone reruns nothing"
        )


def checkpoint_folder(output: str | Path, record: dict[str, Any]) -> Path:
    """Where a job keeps its checkpoints while it runs: beside its output, named by its inputs and parameters.

    Snakemake does not know of it, so it outlives a job that is killed; folders of other inputs or parameters are removed.
    """
    output = Path(output)
    folder = output.parent / f".{output.name}.checkpoints" / record["digest"][:16]
    for other in folder.parent.glob("*"):
        if other != folder:
            _remove(other)
    with disk_faults_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance inside a Parquet, safetensors or JSON file."""
    path = Path(path)
    with _whole(path):
        if path.suffix == ".parquet":
            return json.loads(pq.read_schema(path).metadata[KEY.encode()])
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as tensors:
                return json.loads(tensors.metadata()[KEY])
        return _without_seal(path)[KEY]


# --- digests -----------------------------------------------------------------------------------------------

# Each file holds the SHA-256 of itself, taken with zeros in the place of these 64 digits. Where they are follows from the format, so that
# no parser sees a file before it is known to be whole: first in the header of safetensors, last in JSON, and in Parquet's footer behind all
# that comes from the table.
SEAL = "sha256"
_DIGITS = 64
_ZEROS = "0" * _DIGITS
_LABELS = {
    ".safetensors": b'{"__metadata__":{"%s":"' % SEAL.encode(),
    ".parquet": SEAL.encode() + bytes([0x18, _DIGITS]),  # Thrift's "a string of 64 bytes"
    ".json": b'"%s": "' % SEAL.encode(),
}
_JSON_TAIL = 256  # bytes
_LARGEST_FOOTER = 1 << 26  # bytes
_SETTLED = 10**8  # ns: within a clock tick after it was written a file may change and have the same time stamps


class _Hashes(NamedTuple):
    """SHA-256 of a file; and where its own digest is, that which it holds and that which it should; None without such a place."""

    whole: str
    place: int | None = None
    held: str | None = None
    expected: str | None = None


_known: dict[tuple[Any, ...], _Hashes] = {}


def _hashes(path: Path) -> _Hashes:
    """Read a file once for both; what is known of a file that did not change since is not read again."""
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        kind = Path(path.name.removesuffix(PARTIAL)).suffix
        key = (kind, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        if key in _known:
            return _known[key]
        settled = not 0 <= time.time_ns() - state.st_ctime_ns < _SETTLED
        place = _place(file, kind, state.st_size)
        whole = hashlib.sha256()
        file.seek(0)
        _update(file, whole, end=place)
        if place is None:
            found = _Hashes(whole.hexdigest())
        else:
            sealed = whole.copy()  # what lies before the place is read and hashed once
            held = file.read(_DIGITS)
            whole.update(held)
            sealed.update(_ZEROS.encode())
            _update(file, whole, sealed)
            found = _Hashes(whole.hexdigest(), place, held.decode("latin-1"), sealed.hexdigest())
    if settled:
        _known[key] = found
    return found


def _update(file: IO[bytes], *digests: Any, end: int | None = None) -> None:
    """Feed what follows in a file to digests, up to its end or before a place in it."""
    while chunk := file.read(1 << 20 if end is None else min(1 << 20, end - file.tell())):
        for digest in digests:
            digest.update(chunk)


def _place(file: IO[bytes], kind: str, size: int) -> int | None:
    """Where the digits of a file's own digest begin."""
    if kind not in _LABELS:
        return None
    label = _LABELS[kind]
    first, length = {".safetensors": (8, len(label)), ".json": (size - _JSON_TAIL, _JSON_TAIL)}.get(kind, (0, 0))
    if kind == ".parquet":
        file.seek(max(0, size - 8))
        length = min(int.from_bytes(file.read(4), "little"), _LARGEST_FOOTER)
        first = size - 8 - length
    first = max(0, first)
    file.seek(first)
    found = file.read(length).rfind(label)
    place = first + found + len(label)
    return place if found >= 0 and place + _DIGITS <= size else None


def seal(path: str | Path) -> None:
    """Write a file's digest into the place that is held free for it.

    Raises:
        ValueError: the file has no such place.
    """
    path = Path(path)
    if path.name.removesuffix(PARTIAL).endswith(".safetensors"):
        _sort_metadata(path)
    found = _hashes(path)
    if found.place is None or found.expected is None or found.held != _ZEROS:
        raise ValueError(f"{path}: has no place for its digest")
    with path.open("r+b") as file:
        file.seek(found.place)
        file.write(found.expected.encode())


def verify(path: str | Path, delete: str | Path | None = None) -> None:
    """Raise `InputError` if an artefact is missing or not what was written, down to one bit.

    Args:
        path: Parquet, safetensors or JSON, written by this module.
        delete: what to delete so that Snakemake makes it anew, if that is not the file itself.
    """
    path = Path(path)
    try:
        found = _hashes(path)
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise _damaged(path, str(error), delete) from error
    if found.held is None:
        raise _damaged(path, "it holds no digest of itself: cut off, or written by an older version", delete)
    if found.held != found.expected:
        raise _damaged(path, "it is not what was written", delete)


def digests(folder: str | Path) -> dict[str, str]:
    """SHA-256 of the visible files of a folder, by name."""
    files = sorted(file for file in Path(folder).iterdir() if file.is_file() and not file.name.startswith("."))
    return {file.name: sha256(file) for file in files}


def verify_files(path: str | Path) -> None:
    """Verify an artefact and the files beside it whose `digests` are in its provenance as `files`; what others made has none, and passes.

    Raises:
        InputError: names the file that is missing or not what was written.
    """
    path = Path(path)
    if _foreign(path):
        return
    for name, digest in read_provenance(path).get("files", {}).items():
        file = path.with_name(name)
        if not file.exists():
            raise InputError(f"{file}: this input file is missing; delete {path} and run Snakemake again")
        if sha256(file) != digest:
            raise _damaged(file, "it is not what was written", f"it and {path}")


def _foreign(path: Path) -> bool:
    """Whether a safetensors or JSON file was made by somebody else: it can be read and holds neither a digest nor provenance."""
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_bytes())
        else:
            with safe_open(path, "np") as tensors:
                found = tensors.metadata() or {}
        return isinstance(found, dict) and KEY not in found and _hashes(path).place is None
    except (OSError, ValueError, SafetensorError):
        return False


def _missing(path: Path) -> InputError:
    return InputError(f"{path}: this input file is missing; run Snakemake again to make it anew")


def _damaged(path: Path, why: str, delete: str | Path | None = None) -> InputError:
    return InputError(
        f"{path}: cannot be read, it is truncated or damaged ({why}); delete {delete or 'it'} and run Snakemake again"
    )


@contextmanager
def _whole(path: Path, delete: str | Path | None = None) -> Iterator[None]:
    """Verify `path` and turn what its reader may still raise into an error that names it."""
    verify(path, delete)
    try:
        yield
    except FileNotFoundError:
        raise _missing(path) from None
    except (pa.ArrowException, SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, str(error), delete) from error


# --- atomic writes -----------------------------------------------------------------------------------------


@contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the final name, on failure nothing is left.

    A directory's files are moved one by one, so that several steps may write into one directory.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}{PARTIAL}"
    _remove(temporary)
    try:
        with disk_faults_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.is_dir():
                path.mkdir(exist_ok=True)
                for file in sorted(temporary.iterdir()):
                    file.replace(path / file.name)
            else:
                temporary.replace(path)
    finally:
        _remove(temporary)


# In the words of the system and SQLite, whose files may lie on another disk than the artefact.
_FULL = ("No space left on device", "disk is full")
_LITTLE = 1 << 16  # bytes: a disk with less is full, whatever a library says that failed to write to it


# In the words of the system, where an error has no file name of its own, and of torch.
_REMOVED = re.compile("No such file or directory|Parent directory .* does not exist")


@contextmanager
def disk_faults_named(path: str | Path) -> Iterator[None]:
    """Turn the many errors that a full disk, or something removed while `path` is written, causes into one that names the file."""
    path = Path(path)
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if no_space(error) or (isinstance(error, OSError | RuntimeError) and _free(path) < _LITTLE):
            raise InputError(
                f"{_final(path)}: the disk is full; free some space there and start again, finished steps are kept ({error})"
            ) from error
        if removed := _removed(error, path):
            raise InputError(
                f"{removed}: this was removed while {path.name} was written ({error}); run Snakemake again"
            ) from error
        raise


def _removed(error: BaseException | None, path: Path) -> str | None:
    """What was removed, if an error says that something was; the folder of `path` where it does not say what."""
    if not path.parent.exists():
        return str(path.parent)
    while error is not None:
        if isinstance(error, FileNotFoundError) and error.filename:
            return _final(error.filename)
        if _REMOVED.search(str(error)):
            return str(path.parent)
        error = error.__cause__
    return None


def _final(path: str | Path) -> str:
    """The final name of what is written under a temporary one."""
    return re.sub(rf"/\.([^/]+){re.escape(PARTIAL)}(?=/|$)", r"/\1", str(path))


def no_space(error: BaseException | None) -> bool:
    """Whether an error says that a disk is full."""
    while error is not None:
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if any(words in str(error) for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _free(path: Path) -> int:
    """Bytes free on the disk on which a path is, or is to be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # what a link leads to is not ours
        with suppress(FileNotFoundError):  # somebody else removes it too
            shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- formats -----------------------------------------------------------------------------------------------


def write_table(
    path: str | Path, table: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema, record: dict[str, Any]
) -> None:
    """Write a Parquet file (zstd) from a table or a stream of batches, provenance in the schema's metadata."""
    with staged(path) as temporary, table_writer(temporary, schema, record) as writer:
        for batch in table.to_batches() if isinstance(table, pa.Table) else table:
            writer.write_batch(batch.replace_schema_metadata(writer.schema.metadata))


@contextmanager
def table_writer(path: str | Path, schema: pa.Schema, record: dict[str, Any]) -> Iterator[pq.ParquetWriter]:
    """A writer of what `write_table` writes, for who writes several files at once; `path` is a temporary one."""
    schema = schema.with_metadata({KEY: json.dumps(record, sort_keys=True)})
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        yield writer
        writer.add_key_value_metadata({SEAL: _ZEROS})
    seal(path)


def read_table(path: str | Path, columns: list[str] | None = None, delete: str | Path | None = None) -> pa.Table:
    """Read a Parquet file; raises `InputError` that names it if it is missing, damaged or lacks a column, and what to `delete`."""
    with _whole(Path(path), delete):
        return pq.read_table(path, columns=columns, partitioning=None)


def read_batches(path: str | Path, columns: list[str], rows: int = 1 << 16) -> Iterator[pa.RecordBatch]:
    """Stream a Parquet file in record batches of at most `rows` rows, none across row groups."""
    with _whole(Path(path)), pq.ParquetFile(path) as file:
        for group in range(
            file.num_row_groups
        ):  # one at a time: pyarrow keeps all the bytes of those that it iterates over
            yield from file.iter_batches(rows, row_groups=[group], columns=columns)


def read_range(path: str | Path, columns: list[str], first: int, last: int) -> pa.Table:
    """Rows of a Parquet file ordered by the first of `columns` in which that is from `first` to before `last`.

    Row groups outside of the range are not read.
    """
    with _whole(Path(path)), pq.ParquetFile(path) as file:
        place = file.schema_arrow.get_field_index(columns[0])
        groups = []
        for number in range(file.num_row_groups):
            found = file.metadata.row_group(number).column(place).statistics
            if not (found and found.has_min_max) or (found.min < last and found.max >= first):
                groups.append(number)
        table = file.read_row_groups(groups, columns=columns).select(columns)
        start, stop = np.searchsorted(table[columns[0]].to_numpy(), [first, last])
        return table.slice(start, stop - start)


def write_json(path: str | Path, content: dict[str, Any], record: dict[str, Any]) -> None:
    """Write a JSON object, provenance under its own key."""
    content = {key: value for key, value in content.items() if key != KEY} | {KEY: record | {SEAL: _ZEROS}}
    with staged(path) as temporary:
        try:
            text = json.dumps(content, indent=2, allow_nan=False)
        except ValueError as error:
            raise InputError(
                f"{path}: not written, a number that belongs there is NaN or infinite ({error}); look at what it is made from"
            ) from error
        temporary.write_text(text + "\n", encoding="utf-8")
        seal(temporary)


def read_json(path: str | Path, delete: str | Path | None = None) -> dict[str, Any]:
    """Read a JSON object; raises `InputError` that names the file, and what to `delete`."""
    with _whole(Path(path), delete):
        return _without_seal(Path(path))


def _without_seal(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[KEY][SEAL]
    return content


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], record: dict[str, Any]) -> None:
    """Write a safetensors file, provenance in its metadata."""
    with staged(path) as temporary:
        save_file(dict(tensors), temporary, metadata=tensor_metadata(record))
        seal(temporary)


def tensor_metadata(record: dict[str, Any]) -> dict[str, str]:
    """The metadata of a safetensors file, with a place for its digest; `seal` the file once it is written."""
    return {SEAL: _ZEROS, "format": "pt", KEY: json.dumps(record, sort_keys=True)}


def _sort_metadata(path: Path) -> None:
    """Put the metadata in order, the digest first: the library writes it in a random one, and equal runs give equal bytes."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        metadata = dict(sorted(header.pop("__metadata__").items(), key=lambda item: (item[0] != SEAL, item)))
        text = json.dumps({"__metadata__": metadata} | header, ensure_ascii=False, separators=(",", ":"))
        text = text.encode().ljust(size)
        if len(text) != size:
            raise ValueError(f"{path}: its header would grow from {size} to {len(text)} bytes")
        file.seek(8)
        file.write(text)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read a safetensors file; raises `InputError` that names it."""
    with _whole(Path(path)), safe_open(path, "np") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
