"""Artefacts: tables, tensors and JSON with their provenance inside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save_file

from feature_lineage.errors import InputError
from feature_lineage.store.checksums import KEY, SEAL, ZEROS, damaged, is_foreign, seal, sha256, verified, without_seal
from feature_lineage.store.writing import staged


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance inside a Parquet, safetensors or JSON file."""
    path = Path(path)
    with verified(path):
        if path.suffix == ".parquet":
            return json.loads(pq.read_schema(path).metadata[KEY.encode()])
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as tensors:
                return json.loads(tensors.metadata()[KEY])
        return without_seal(path)[KEY]


def verify_files(path: str | Path) -> None:
    """Verify an artefact and the files beside it whose `digests` are in its provenance as `files`; what others made has none, and passes.

    Raises:
        InputError: names the file that is missing or not what was written.
    """
    path = Path(path)
    if is_foreign(path):
        return
    for name, digest in read_provenance(path).get("files", {}).items():
        file = path.with_name(name)
        if not file.exists():
            raise InputError(f"{file}: this input file is missing; delete {path}")
        if sha256(file) != digest:
            raise damaged(file, "it is not what was written", f"it and {path}")


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
    # Of floating-point numbers hardly two are equal: a dictionary of them takes most of the time to write and to read.
    flat = not any(pa.types.is_nested(field.type) for field in schema)
    repeated = [field.name for field in schema if not pa.types.is_floating(field.type)] if flat else True
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeated) as writer:
        yield writer
        writer.add_key_value_metadata({SEAL: ZEROS})
    seal(path)


def read_table(path: str | Path, columns: list[str] | None = None, delete: str | Path | None = None) -> pa.Table:
    """Read a Parquet file; raises `InputError` that names it if it is missing, damaged or lacks a column, and what to `delete`."""
    with verified(Path(path), delete):
        return pq.read_table(path, columns=columns, partitioning=None)


def read_batches(path: str | Path, columns: list[str], rows: int = 1 << 16) -> Iterator[pa.RecordBatch]:
    """Stream a Parquet file in record batches of at most `rows` rows, none across row groups."""
    with verified(Path(path)), pq.ParquetFile(path) as file:
        for group in range(
            file.num_row_groups
        ):  # one at a time: pyarrow keeps all the bytes of those that it iterates over
            yield from file.iter_batches(rows, row_groups=[group], columns=columns)


def read_range(path: str | Path, columns: list[str], first: int, last: int) -> pa.Table:
    """Rows of a Parquet file ordered by the first of `columns` in which that is from `first` to before `last`.

    Row groups outside of the range are not read.
    """
    with verified(Path(path)), pq.ParquetFile(path) as file:
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
    content = {key: value for key, value in content.items() if key != KEY} | {KEY: record | {SEAL: ZEROS}}
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
    with verified(Path(path), delete):
        return without_seal(Path(path))


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], record: dict[str, Any]) -> None:
    """Write a safetensors file, provenance in its metadata."""
    with staged(path) as temporary:
        save_file(dict(tensors), temporary, metadata=tensor_metadata(record))
        seal(temporary)


def tensor_metadata(record: dict[str, Any]) -> dict[str, str]:
    """The metadata of a safetensors file, with a place for its digest; `seal` the file once it is written."""
    return {SEAL: ZEROS, "format": "pt", KEY: json.dumps(record, sort_keys=True)}


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Read a safetensors file; raises `InputError` that names it."""
    with verified(Path(path)), safe_open(path, "np") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
