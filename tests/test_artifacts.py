import errno
import hashlib
import json
import os
import re
import shutil
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from snakemake.iocontainers import InputFiles

from feature_lineage.errors import InputError
from feature_lineage.store.checksums import _hashes, seal, sha256, verify
from feature_lineage.store.formats import (
    read_batches,
    read_json,
    read_provenance,
    read_range,
    read_table,
    read_tensors,
    verify_files,
    write_json,
    write_table,
    write_tensors,
)
from feature_lineage.store.provenance import checkpoint_folder, provenance
from feature_lineage.store.writing import no_space, staged

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.string())])
TABLE = pa.table({"a": [1, 2, 3], "b": ["x", None, "z"]}, schema=SCHEMA)
RECORD = {"digest": "abc", "parameters": {"seed": 1, "text": "å\n"}}


def visible(folder):
    return sorted(path.name for path in folder.rglob("*"))


# --- provenance --------------------------------------------------------------------------------------------


def test_sha256_of_a_file(tmp_path):
    content = bytes(range(256)) * 9000  # more than one chunk
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_sha256_of_a_directory_covers_names_and_contents_of_visible_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "f").write_text("f")
        (tmp_path / name / "g").write_text("g")
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")
    (tmp_path / "two" / ".snakemake_timestamp").write_text("now")
    assert sha256(tmp_path / "one") == sha256(tmp_path / "two")
    (tmp_path / "two" / "g").rename(tmp_path / "two" / "h")
    renamed = sha256(tmp_path / "two")
    (tmp_path / "two" / "h").rename(tmp_path / "two" / "g")
    (tmp_path / "two" / "sub" / "f").write_text("F")
    assert len({sha256(tmp_path / "one"), renamed, sha256(tmp_path / "two")}) == 3


def test_sha256_of_a_missing_file_names_it(tmp_path):
    with pytest.raises(InputError, match=r"nothing.txt: this input file is missing"):
        sha256(tmp_path / "nothing.txt")


def test_provenance_tells_versions_inputs_and_parameters(tmp_path):
    (tmp_path / "in").write_text("content")
    record = provenance({"one": tmp_path / "in", "many": [tmp_path / "in"]}, {"seed": 3, "corpora": ("a", "b")})
    digest = hashlib.sha256(b"content").hexdigest()
    assert record["inputs"] == {"one": digest, "many": [digest]}
    assert record["parameters"] == {"seed": 3, "corpora": ["a", "b"]}
    assert record["versions"]["torch"] == torch.__version__
    assert record == json.loads(json.dumps(record))
    assert str(tmp_path) not in json.dumps(record), "the same study elsewhere must give the same bytes"


def test_provenance_takes_the_inputs_of_a_rule_as_they_are(tmp_path):
    paths = {"one": str(tmp_path / "in"), "many": [str(tmp_path / "in"), str(tmp_path / "other")]}
    for name in ("in", "other"):
        (tmp_path / name).write_text(name)
    record = provenance(paths, {})
    assert provenance(InputFiles(fromdict=paths), {}) == record
    assert provenance(InputFiles(fromdict={"one": paths["one"]}), {})["inputs"] == {"one": record["inputs"]["one"]}


def test_a_folder_removed_while_it_is_written_to_is_named(tmp_path):
    folder = tmp_path / "folder"
    error = pytest.raises(InputError, match=r"folder: this was removed while a\.bin was written")
    with error, staged(folder / "a.bin") as temporary:
        folder.rmdir()
        temporary.write_bytes(b"a")


def test_what_was_removed_while_a_file_was_written_is_named(tmp_path):
    lost, into = tmp_path / "figures" / "sankey.csv", tmp_path / "report"
    with (
        pytest.raises(InputError, match=rf"^{lost}: this was removed while report was written"),
        staged(into) as folder,
    ):
        folder.mkdir()
        shutil.copyfile(lost, folder / lost.name)
    for save in (lambda path: save_file({"x": np.ones(3)}, path), lambda path: torch.save({}, path)):
        with pytest.raises(InputError, match=r": this was removed while report was written"), staged(into) as folder:
            save(folder / "not made" / "checkpoint")
    with pytest.raises(ValueError, match="of another kind"), staged(into):
        raise ValueError("of another kind")


def test_an_input_from_the_future_is_refused_with_the_way_out(tmp_path):
    for name in ("now", "later"):
        (tmp_path / name).write_text("abc")
    now = time.time()
    os.utime(tmp_path / "now", (now, now + 20))
    os.utime(tmp_path / "later", (now, now + 3600))
    provenance({"one": tmp_path / "now"}, {})
    for inputs in ({"one": tmp_path / "later"}, {"many": [tmp_path / "now", tmp_path / "later"]}):
        with pytest.raises(InputError, match=r"later: its time stamp lies 3,[56]\d\d s in the future.*`touch .*later`"):
            provenance(inputs, {})


def test_provenance_digest_depends_on_all_of_it(tmp_path):
    (tmp_path / "in").write_text("content")
    one = provenance({"file": tmp_path / "in"}, {"seed": 3})
    assert provenance({"file": tmp_path / "in"}, {"seed": 3}) == one
    other_seed = provenance({"file": tmp_path / "in"}, {"seed": 4})
    (tmp_path / "in").write_text("other")
    other_input = provenance({"file": tmp_path / "in"}, {"seed": 3})
    assert len({record["digest"] for record in (one, other_seed, other_input)}) == 3


def test_checkpoint_folder_is_hidden_and_of_this_run_alone(tmp_path):
    output = tmp_path / "models" / "lua"
    first = checkpoint_folder(output, {"digest": "1" * 64})
    (first / "step").write_text("1")
    assert first.parent.parent == output.parent
    assert first.parent.name.startswith(".")
    assert checkpoint_folder(output, {"digest": "1" * 64}) == first
    assert (first / "step").exists()
    neighbour = checkpoint_folder(tmp_path / "models" / "bible", {"digest": "1" * 64})
    second = checkpoint_folder(output, {"digest": "2" * 64})
    assert second.is_dir()
    assert neighbour.is_dir()
    assert not first.exists(), "checkpoints of other inputs would never be used again"


# --- atomic writes -----------------------------------------------------------------------------------------


def test_staged_file_appears_only_when_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with staged(path) as temporary:
        assert temporary.parent == path.parent, "a rename is atomic within a file system only"
        temporary.write_text("whole")
        assert not path.exists()
        number = temporary.stat().st_ino
    assert path.read_text() == "whole"
    assert path.stat().st_ino == number, "a copy could be cut short"
    assert visible(path.parent) == ["file.txt"]


def test_staged_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), staged(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert visible(tmp_path) == ["file.txt"]


def test_staged_interrupt_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), staged(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert visible(tmp_path) == []


def test_staged_clears_what_a_killed_job_left(tmp_path):
    path = tmp_path / "folder"
    with staged(path) as temporary:
        name = temporary.name
        temporary.mkdir()
    (tmp_path / name).mkdir()
    (tmp_path / name / "stale").write_text("of a killed job")
    with staged(path) as temporary:
        temporary.mkdir()
        (temporary / "fresh").write_text("fresh")
    assert visible(path) == ["fresh"]


def test_staged_directory_keeps_what_other_steps_wrote(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "sweep.parquet").write_text("of another step")
    (tmp_path / "model" / "config.json").write_text("old")
    with staged(tmp_path / "model") as temporary:
        temporary.mkdir()
        (temporary / "config.json").write_text("new")
    assert visible(tmp_path / "model") == ["config.json", "sweep.parquet"]
    assert (tmp_path / "model" / "config.json").read_text() == "new"


def test_staged_full_disk_is_an_input_error_that_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"file.txt: the disk is full"), staged(tmp_path / "file.txt"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert visible(tmp_path) == []


def test_no_space_sees_through_other_libraries_errors():
    def chained(cause):
        try:
            try:
                raise cause
            except Exception as error:
                raise RuntimeError("writing failed") from error
        except RuntimeError as error:
            return error

    assert no_space(chained(OSError(errno.ENOSPC, "full")))
    assert no_space(OSError(errno.EDQUOT, "quota"))
    assert no_space(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert no_space(RuntimeError("database or disk is full"))
    assert not no_space(chained(OSError(errno.EACCES, "denied")))
    assert not no_space(None)


# --- formats -----------------------------------------------------------------------------------------------


def test_table_round_trip_with_provenance(tmp_path):
    write_table(tmp_path / "t.parquet", TABLE, SCHEMA, RECORD)
    assert read_table(tmp_path / "t.parquet").equals(TABLE)
    assert read_table(tmp_path / "t.parquet", ["b"]).column_names == ["b"]
    assert read_provenance(tmp_path / "t.parquet") == RECORD
    assert pq.read_schema(tmp_path / "t.parquet").field("a").type == pa.int64()


def test_table_from_batches_equals_table_at_once(tmp_path):
    write_table(tmp_path / "t.parquet", iter(TABLE.to_batches(max_chunksize=1)), SCHEMA, RECORD)
    assert read_table(tmp_path / "t.parquet").equals(TABLE)
    batches = list(read_batches(tmp_path / "t.parquet", ["a"], rows=2))
    assert max(map(len, batches)) <= 2
    assert [value for batch in batches for value in batch["a"].to_pylist()] == [1, 2, 3]


def test_table_of_no_batches_is_empty(tmp_path):
    write_table(tmp_path / "t.parquet", iter(()), SCHEMA, RECORD)
    assert read_table(tmp_path / "t.parquet").num_rows == 0


def test_table_that_fails_midway_leaves_nothing(tmp_path):
    def batches():
        yield TABLE.to_batches()[0]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write_table(tmp_path / "t.parquet", batches(), SCHEMA, RECORD)
    assert visible(tmp_path) == []


def test_tensors_round_trip_with_provenance(tmp_path):
    tensors = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([2**40], np.int64)}
    write_tensors(tmp_path / "t.safetensors", tensors, RECORD)
    found = read_tensors(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor, strict=True)
    assert read_provenance(tmp_path / "t.safetensors") == RECORD
    with safe_open(tmp_path / "t.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt"  # transformers refuses a file without it


def test_json_round_trip_with_provenance(tmp_path):
    write_json(tmp_path / "t.json", {"a": [1, None, "å"]}, RECORD)
    assert read_json(tmp_path / "t.json")["a"] == [1, None, "å"]
    assert read_provenance(tmp_path / "t.json") == RECORD


def test_json_refuses_what_is_no_json(tmp_path):
    with pytest.raises(InputError, match=r"t\.json: not written, a number that belongs there is NaN or infinite"):
        write_json(tmp_path / "t.json", {"a": float("nan")}, RECORD)
    assert visible(tmp_path) == []


def test_same_content_gives_same_bytes(tmp_path):
    names = [f"copy-{i}" for i in range(8)]  # several: safetensors alone orders two keys of metadata at random
    for name in names:
        (tmp_path / name).mkdir()
        write_table(tmp_path / name / "t.parquet", TABLE, SCHEMA, RECORD)
        write_tensors(tmp_path / name / "t.safetensors", {"b": np.ones(3), "a": np.zeros(2)}, RECORD)
        write_json(tmp_path / name / "t.json", {"a": 1}, RECORD)
    assert len({sha256(tmp_path / name) for name in names}) == 1


def test_sorted_metadata_leave_the_tensors_where_they_are(tmp_path):
    record = {"text": 'quotes " \\ / é \u2028 \n\t\x01\x7f \U0001f600', "nested": [{"a": None}]}
    tensors = {"z": np.arange(5, dtype=np.int16), "a": np.full((3, 3), 0.5, np.float32)}
    for _ in range(8):
        write_tensors(tmp_path / "t.safetensors", tensors, record)
        found = read_tensors(tmp_path / "t.safetensors")
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(found[name], tensor, strict=True)
        assert read_provenance(tmp_path / "t.safetensors") == record


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("t.parquet", read_table),
        ("t.parquet", lambda path: list(read_batches(path, ["a"]))),
        ("t.parquet", read_provenance),
        ("t.safetensors", read_tensors),
        ("t.safetensors", read_provenance),
        ("t.json", read_json),
        ("t.json", read_provenance),
    ],
)
def test_missing_and_truncated_files_are_named(tmp_path, name, read):
    path = tmp_path / name
    with pytest.raises(InputError, match=rf"{name}: this input file is missing"):
        read(path)
    if path.suffix == ".parquet":
        write_table(path, TABLE, SCHEMA, RECORD)
    elif path.suffix == ".safetensors":
        write_tensors(path, {"w": np.ones(100)}, RECORD)
    else:
        write_json(path, {"a": 1}, RECORD)
    whole = path.read_bytes()
    for size in (0, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=rf"{name}: cannot be read, it is truncated or damaged"):
            read(path)


def test_a_file_of_another_origin_and_a_missing_column_are_named(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "t.parquet")
    save_file({"w": np.ones(3)}, tmp_path / "t.safetensors")
    (tmp_path / "t.json").write_text("{}")
    for name, read in (("t.parquet", read_table), ("t.safetensors", read_tensors), ("t.json", read_json)):
        for reader in (read, read_provenance):
            with pytest.raises(InputError, match=rf"{name}: .*no digest of itself"):
                reader(tmp_path / name)
    write_table(tmp_path / "t.parquet", TABLE, SCHEMA, RECORD)
    with pytest.raises(InputError, match=r"t.parquet(?s:.)*missing"):
        read_table(tmp_path / "t.parquet", ["missing"])


# --- digests -----------------------------------------------------------------------------------------------


def artefacts(folder):
    """One of each format: its path, what writes it there, and what reads it."""
    tensors = {"b": np.arange(40, dtype=np.float32), "a": np.ones((2, 3))}
    return [
        (folder / "t.parquet", lambda path: write_table(path, TABLE, SCHEMA, RECORD), read_table),
        (folder / "t.parquet", lambda path: write_table(path, iter(()), SCHEMA, RECORD), read_table),
        (folder / "t.safetensors", lambda path: write_tensors(path, tensors, RECORD), read_tensors),
        (folder / "t.json", lambda path: write_json(path, {"a": "å"}, RECORD), read_json),
    ]


@pytest.mark.parametrize("number", range(4))
def test_every_flipped_bit_is_found(tmp_path, number):
    path, write, read = artefacts(tmp_path)[number]
    write(path)
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.unlink()
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{path}: cannot be read, it is truncated or damaged \("):
            verify(path)
    path.write_bytes(whole)
    read(path)


@pytest.mark.parametrize("number", range(4))
def test_every_truncation_and_addition_is_found(tmp_path, number):
    path, write, _ = artefacts(tmp_path)[number]
    write(path)
    whole = path.read_bytes()
    for damaged in (*(whole[:size] for size in range(len(whole))), whole + b"\n", whole + whole, b"\0" * len(whole)):
        path.unlink()
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=rf"{path}: cannot be read, it is truncated or damaged \("):
            verify(path)


def test_what_an_artefact_quotes_is_not_taken_for_its_own_digest(tmp_path):
    quoted = ['{"__metadata__":{"sha256":"' + "0" * 64, '"sha256": "' + "0" * 64 + '"', "sha256\x18@" + "0" * 64]
    record = {"parameters": {"quoted": quoted, "zzz": quoted}, "zzz": quoted[1]}
    schema = pa.schema([("text", pa.string())])
    write_table(tmp_path / "t.parquet", pa.table({"text": quoted}), schema, record)
    write_json(tmp_path / "t.json", {"a": quoted, "zzz": quoted}, record)
    write_tensors(tmp_path / "t.safetensors", {name: np.ones(1) for name in quoted}, record)
    assert read_table(tmp_path / "t.parquet")["text"].to_pylist() == quoted
    assert read_json(tmp_path / "t.json")["zzz"] == quoted
    assert sorted(read_tensors(tmp_path / "t.safetensors")) == sorted(quoted)
    assert all(read_provenance(tmp_path / f"t.{kind}") == record for kind in ("parquet", "json", "safetensors"))


def test_a_wide_table_has_its_digest_within_reach(tmp_path):
    schema = pa.schema([(f"column{i}", pa.int64()) for i in range(500)])
    write_table(tmp_path / "t.parquet", pa.table({name: [1] for name in schema.names}, schema=schema), schema, RECORD)
    assert read_table(tmp_path / "t.parquet").num_columns == 500


def test_a_file_is_read_for_its_hashes_once_and_again_when_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "t.json"
    write_json(path, {"a": 1}, RECORD)
    later = time.time_ns() + 10**9
    monkeypatch.setattr("time.time_ns", lambda: later)  # the file is no longer new
    before = sha256(path)
    content = path.read_bytes()
    assert before == hashlib.sha256(content).hexdigest()
    state = path.stat()
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "sha256", None)
        assert sha256(path) == before
        verify(path)
    path.write_bytes(content.replace(b"1", b"2"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # what some copying tools do
    assert sha256(path) != before
    with pytest.raises(InputError, match=r"t\.json"):
        verify(path)


def test_a_new_file_is_not_taken_for_the_one_it_replaced(tmp_path):
    path = tmp_path / "t.json"
    for number in range(10):  # in one tick of the clock, maybe
        path.write_text(str(number))
        assert sha256(path) == hashlib.sha256(str(number).encode()).hexdigest()


def test_a_file_without_a_place_cannot_be_sealed(tmp_path):
    (tmp_path / "t.json").write_text('{"sha256": "0"}')
    with pytest.raises(ValueError, match=r"t\.json: has no place for its digest"):
        seal(tmp_path / "t.json")


def test_a_range_of_rows_is_read_without_the_row_groups_outside_of_it(tmp_path):
    schema = pa.schema([("token", pa.int32()), ("value", pa.int64())])
    token = np.repeat(np.arange(100, dtype=np.int32), 3)
    table = pa.table([token, np.arange(300)], schema=schema)
    batches = [table.slice(first, 50).combine_chunks().to_batches()[0] for first in range(0, 300, 50)]
    write_table(tmp_path / "a.parquet", batches, schema, {})
    for first, last in ((0, 100), (0, 1), (16, 17), (33, 70), (99, 100), (40, 40), (100, 200)):
        found = read_range(tmp_path / "a.parquet", ["token", "value"], first, last)
        wanted = (token >= first) & (token < last)
        assert found["value"].to_pylist() == np.flatnonzero(wanted).tolist()
    content = bytearray((tmp_path / "a.parquet").read_bytes())
    content[4:40] = bytes(36)  # in the first row group
    content = content.replace(_hashes(tmp_path / "a.parquet").held.encode(), b"0" * 64)
    (tmp_path / "a.parquet").write_bytes(bytes(content))
    seal(tmp_path / "a.parquet")  # as if it had been written so
    assert len(read_range(tmp_path / "a.parquet", ["token", "value"], 60, 70)) == 30
    with pytest.raises(InputError, match=r"a\.parquet"):
        read_range(tmp_path / "a.parquet", ["token", "value"], 0, 5)


def test_what_others_made_is_told_from_what_was_damaged(tmp_path):
    write_tensors(tmp_path / "ours.safetensors", {"x": np.ones(3)}, {})
    write_json(tmp_path / "ours.json", {"x": 1}, {})
    save_file({"x": np.ones(3)}, tmp_path / "theirs.safetensors")
    (tmp_path / "theirs.json").write_text('{"x": 1}')
    for kind in ("safetensors", "json"):
        verify_files(tmp_path / f"theirs.{kind}")
        ours = tmp_path / f"ours.{kind}"
        content = ours.read_bytes()
        for place in range(len(content)):
            ours.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            with pytest.raises(InputError, match=re.escape(str(ours))):
                verify_files(ours)
            ours.write_bytes(content[:place])
            with pytest.raises(InputError, match=re.escape(str(ours))):
                verify_files(ours)
