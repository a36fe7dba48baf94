"""Weights in torch's own format are made into safetensors without running anything."""

from __future__ import annotations

import json
import os

import pytest
import torch
from checkpoint_zoo import publish
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from feature_lineage.cli import main
from feature_lineage.errors import InputError
from feature_lineage.models.adapter import read_adapter
from feature_lineage.models.checkpoint import import_model, load_model, published_model
from feature_lineage.models.convert import convert
from feature_lineage.store.checksums import sha256


def pickled(name, folder, shards=1):
    """A checkpoint in .bin files, tied tensors under both names, as transformers wrote it once."""
    publish(name, folder)
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    for file in folder.glob("*.safetensors"):
        file.unlink()
    if shards == 1:
        torch.save(state, folder / "pytorch_model.bin")
        return folder
    names = list(state)
    parts = {f"pytorch_model-{i + 1}-of-{shards}.bin": names[i::shards] for i in range(shards)}
    for file, part in parts.items():
        torch.save({key: state[key] for key in part}, folder / file)
    index = {"weight_map": {key: file for file, part in parts.items() for key in part}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def metadata(file):
    with safe_open(file, "pt") as tensors:
        return tensors.metadata()


@pytest.mark.parametrize(("name", "shards"), [("llama", 1), ("gpt2", 1), ("llama-3", 1), ("llama", 3)])
def test_a_checkpoint_is_the_same_afterwards(tmp_path, tokenizer_dir, name, shards):
    """The second and third are tied; `convert` is what the refusal asks for."""
    expected = AutoModelForCausalLM.from_pretrained(publish(name, tmp_path / "expected")).state_dict()
    folder = pickled(name, tmp_path / "published", shards)
    with pytest.raises(InputError, match=rf"feature-lineage convert {folder} OUT"):
        import_model(str(folder), tokenizer_dir, tmp_path / "model", {})
    before = {file.name: sha256(file) for file in folder.iterdir()}
    written = convert(folder, tmp_path / "out")
    assert {file.name: sha256(file) for file in folder.iterdir()} == before
    found = published_model(tmp_path / "out").state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)
    hashes = {metadata(file)["converted_from_sha256"] for file in written}
    assert hashes == {digest for file, digest in before.items() if file.endswith(".bin")}
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"config.json", *(file.name for file in written)}
    assert not list((tmp_path / "out").glob("*.bin*"))
    import_model(str(tmp_path / "out"), tokenizer_dir, tmp_path / "model", {})
    load_model(tmp_path / "model")


def test_tensors_that_share_memory_keep_their_values(tmp_path):
    """Once both were written as the whole that they are views of, or not at all."""
    whole = torch.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "again": whole, "row": whole[1], "turned": whole.T, "own": torch.ones(2)}
    (tmp_path / "in").mkdir()
    torch.save(state, tmp_path / "in" / "pytorch_model.bin")
    (file,) = convert(tmp_path / "in", tmp_path / "out")
    found = load_file(file)
    assert found.keys() == state.keys() - {"again"}
    assert all(torch.equal(found[name], state[name]) for name in found)


def test_an_old_file_is_converted(tmp_path):
    (tmp_path / "in").mkdir()
    torch.save({"a": torch.ones(3)}, tmp_path / "in" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (file,) = convert(tmp_path / "in", tmp_path / "out")
    assert torch.equal(load_file(file)["a"], torch.ones(3))


def test_an_adapter_is_converted(tmp_path):
    from test_adapter import make
    from test_adapter import pickled as pickled_adapter

    make(publish("llama", tmp_path / "base"), tmp_path / "adapter")
    before = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    pickled_adapter(tmp_path / "adapter")
    convert(tmp_path / "adapter", tmp_path / "out")
    _, found = read_adapter(str(tmp_path / "out"))
    assert found.keys() == before.keys() and all(torch.equal(found[key], before[key]) for key in before)


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_nothing_is_run(tmp_path):
    (tmp_path / "in").mkdir()
    torch.save({"a": torch.ones(3), "b": Evil(tmp_path / "mark")}, tmp_path / "in" / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"pytorch_model.bin: is not converted, it is damaged or holds more than tensors"
    ):
        convert(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "mark").exists() and not (tmp_path / "out").exists()


REFUSED = {
    "nothing": (lambda folder: None, "has no pytorch_model.bin, pytorch_model.bin.index.json or adapter_model.bin"),
    "torn": (
        lambda folder: (folder / "pytorch_model.bin").write_bytes(b"PK\x03\x04torn"),
        "is not converted, it is damaged",
    ),
    "a list": (lambda folder: torch.save([torch.ones(2)], folder / "pytorch_model.bin"), "holds a list and no tensors"),
    "a number": (
        lambda folder: torch.save({"a": 3}, folder / "pytorch_model.bin"),
        "its 'a' is a int and no plain tensor",
    ),
    "sparse": (
        lambda folder: torch.save({"a": torch.eye(3).to_sparse()}, folder / "pytorch_model.bin"),
        "its 'a' is a Tensor and no plain tensor",
    ),
    "torn index": (
        lambda folder: (folder / "pytorch_model.bin.index.json").write_text("{"),
        "index.json: cannot be read",
    ),
    "elsewhere": (
        lambda folder: (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../b.bin"}}'),
        "names files outside of its folder",
    ),
    "missing shard": (
        lambda folder: (folder / "pytorch_model.bin.index.json").write_text(
            '{"weight_map": {"a": "1.bin", "b": "2.bin"}}'
        ),
        "1.bin: this file is missing",
    ),
}


@pytest.mark.parametrize(("prepare", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_converted_is_named(tmp_path, prepare, said, capsys):
    (tmp_path / "in").mkdir()
    prepare(tmp_path / "in")
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    text = capsys.readouterr().err
    assert said in text and text.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_not_written_into(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    torch.save({"a": torch.ones(3)}, tmp_path / "in" / "pytorch_model.bin")
    assert main(["convert", str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out/model.safetensors\n"
    with pytest.raises(InputError, match="out: is there already"):
        convert(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="nothing: no such folder"):
        convert(tmp_path / "nothing", tmp_path / "other")
