"""Reading and writing artefacts: never a half-written file under a final name, provenance inside each."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from feature_lineage.logs import InputError

KEY = "provenance"
CLOCKS = 60.0  # seconds that the clocks of a cluster's machines may differ by
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
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            for file in sorted(f for f in path.rglob("*") if f.is_file() and not f.name.startswith(".")):
                digest.update(f"{file.relative_to(path).as_posix()} {sha256(file)}\n".encode())
        else:
            with path.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
    except FileNotFoundError:
        raise InputError(f"{path}: this input file is missing; run Snakemake again to make it anew") from None
    return digest.hexdigest()


def provenance(inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What an artefact was made from: versions, hashes of its inputs, its parameters (seed among them), and a digest of it all.

    Args:
        inputs: a path, or a list of paths, by name.
        parameters: anything that JSON can hold, by name.

    Raises:
        InputError: an input is missing, or its time stamp lies in the future.
    """
    for _, found in inputs.items():
        for path in [found] if isinstance(found, str | Path) else found:
            _refuse_future(Path(path))
    record = {
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "inputs": {
            name: sha256(path) if isinstance(path, str | Path) else [sha256(part) for part in path]
            for name, path in sorted(inputs.items())
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
    with _naming(path):
        if path.suffix == ".parquet":
            return json.loads(pq.read_schema(path).metadata[KEY.encode()])
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as tensors:
                return json.loads(tensors.metadata()[KEY])
        return json.loads(path.read_text(encoding="utf-8"))[KEY]


# --- atomic writes -----------------------------------------------------------------------------------------


@contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the final name, on failure nothing is left.

    A directory's files are moved one by one, so that several steps may write into one directory.
    """
    path = Path(path)
    temporary = path.parent / f".{path.name}.partial"
    _remove(temporary)
    try:
        with full_disk_named(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if temporary.is_dir():
                path.mkdir(exist_ok=True)
                for file in sorted(temporary.iterdir()):
                    file.replace(path / file.name)
            else:
                temporary.replace(path)
    except InputError:
        raise
    except Exception as error:
        if not path.parent.exists():
            raise InputError(
                f"{path.parent}: this folder was removed while {path.name} was written; run Snakemake again"
            ) from error
        raise
    finally:
        _remove(temporary)


# In the words of the system, SQLite, numpy and, twice, torch.
_FULL = ("No space left on device", "disk is full", "requested and", "iostream error", "inline_container.cc")


@contextmanager
def full_disk_named(path: str | Path) -> Iterator[None]:
    """Turn the many errors that a full disk causes into one that names what was being written."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if no_space(error):
            raise InputError(
                f"{path}: the disk is full; free some space there and start again, finished steps are kept"
            ) from error
        raise


def no_space(error: BaseException | None) -> bool:
    """Whether a full disk is behind an error, whichever library raised it."""
    while error is not None:
        if getattr(error, "errno", None) in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if any(words in str(error) for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn what a reader of `path` may raise into one error that names it."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: this input file is missing; run Snakemake again to make it anew") from None
    except (pa.ArrowException, SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read, it is truncated or damaged ({error}); delete it and run Snakemake again"
        ) from error


# --- formats -----------------------------------------------------------------------------------------------


def write_table(
    path: str | Path, table: pa.Table | Iterable[pa.RecordBatch], schema: pa.Schema, record: dict[str, Any]
) -> None:
    """Write a Parquet file (zstd) from a table or a stream of batches, provenance in the schema's metadata."""
    schema = schema.with_metadata({KEY: json.dumps(record, sort_keys=True)})
    with staged(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in table.to_batches() if isinstance(table, pa.Table) else table:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def read_table(path: str | Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file; raises `InputError` that names it if it is missing, truncated or lacks a column."""
    with _naming(Path(path)):
        return pq.read_table(path, columns=columns, partitioning=None)


def read_batches(path: str | Path, columns: list[str], rows: int = 1 << 16) -> Iterator[pa.RecordBatch]:
    """Stream a Parquet file in record batches of at most `rows` rows, none across row groups."""
    with _naming(Path(path)), pq.ParquetFile(path) as file:
        for group in range(
            file.num_row_groups
        ):  # one at a time: pyarrow keeps all the bytes of those that it iterates over
            yield from file.iter_batches(rows, row_groups=[group], columns=columns)


def read_range(path: str | Path, columns: list[str], first: int, last: int) -> pa.Table:
    """Rows of a Parquet file ordered by the first of `columns` in which that is from `first` to before `last`.

    Row groups outside of the range are not read.
    """
    with _naming(Path(path)), pq.ParquetFile(path) as file:
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
    with staged(path) as temporary:
        temporary.write_text(json.dumps(content | {KEY: record}, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object; raises `InputError` that names the file."""
    with _naming(Path(path)):
        return json.loads(Path(path).read_text(encoding="utf-8"))


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], record: dict[str, Any]) -> None:
    """Write a safetensors file, provenance in its metadata."""
    with staged(path) as temporary:
        save_file(dict(tensors), temporary, metadata={"format": "pt", KEY: json.dumps(record, sort_keys=True)})
        sort_metadata(temporary)


def sort_metadata(path: str | Path) -> None:
    """Put the metadata of a safetensors file in order: the library writes it in a random one, and equal runs give equal bytes."""
    with Path(path).open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size)
        if len(text) != size:
            raise ValueError(f"{path}: its header would grow from {size} to {len(text)} bytes")
        file.seek(8)
        file.write(text)


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read a safetensors file; raises `InputError` that names it."""
    with _naming(Path(path)), safe_open(path, "np") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
