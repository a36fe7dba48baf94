"""The checksum of an artefact, inside it: every reader verifies it first."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
from safetensors import SafetensorError, safe_open

from feature_lineage.errors import InputError
from feature_lineage.store.writing import PARTIAL

KEY = "provenance"


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


# Each file holds the SHA-256 of itself, taken with zeros in the place of these 64 digits. Where they are follows from the format, so that
# no parser sees a file before it is known to be whole: first in the header of safetensors, last in JSON, and in Parquet's footer behind all
# that comes from the table.
SEAL = "sha256"
_DIGITS = 64
ZEROS = "0" * _DIGITS
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
            sealed.update(ZEROS.encode())
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
    if found.place is None or found.expected is None or found.held != ZEROS:
        raise ValueError(f"{path}: has no place for its digest")
    with path.open("r+b") as file:
        file.seek(found.place)
        file.write(found.expected.encode())


def verify(path: str | Path, delete: str | Path | None = None) -> None:
    """Raise `InputError` if an artefact is missing or not what was written, down to one bit.

    Args:
        path: Parquet, safetensors or JSON, written by this module.
        delete: what to delete so that it is made again, if that is not the file itself.
    """
    path = Path(path)
    try:
        found = _hashes(path)
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise damaged(path, str(error), delete) from error
    if found.held is None:
        raise damaged(path, "it holds no digest of itself: cut off, or written by an older version", delete)
    if found.held != found.expected:
        raise damaged(path, "it is not what was written", delete)


def digests(folder: str | Path) -> dict[str, str]:
    """SHA-256 of the visible files of a folder, by name."""
    files = sorted(file for file in Path(folder).iterdir() if file.is_file() and not file.name.startswith("."))
    return {file.name: sha256(file) for file in files}


def is_foreign(path: Path) -> bool:
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
    if path.is_symlink():
        place = path.readlink()
        return InputError(
            f"{path}: this input file is a link to {place}, which is gone; put that back, or delete the link"
        )
    return InputError(f"{path}: this input file is missing")


def damaged(path: Path, why: str, delete: str | Path | None = None) -> InputError:
    """What is raised for an artefact that is not what was written; `delete` names what is to be deleted, if not the file alone."""
    return InputError(f"{path}: cannot be read, it is truncated or damaged ({why}); delete {delete or 'it'}")


@contextmanager
def verified(path: Path, delete: str | Path | None = None) -> Iterator[None]:
    """Verify `path` and turn what its reader may still raise into an error that names it."""
    verify(path, delete)
    try:
        yield
    except FileNotFoundError:
        raise _missing(path) from None
    except (pa.ArrowException, SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, str(error), delete) from error


def without_seal(path: Path) -> dict[str, Any]:
    """What a JSON artefact holds, its digest left out."""
    content = json.loads(path.read_text(encoding="utf-8"))
    del content[KEY][SEAL]
    return content


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
