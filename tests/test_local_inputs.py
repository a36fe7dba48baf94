"""By what a study knows the checkpoints, tokenizers and corpora that it reads from disk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from feature_lineage.places import is_path, wrong_folder
from feature_lineage.study import digests, local_inputs
from feature_lineage.study.digests import Checksums
from feature_lineage.study.loading import load_study
from feature_lineage.study.local_inputs import LocalInputs, checkpoint_files, tokenizer_files
from feature_lineage.study.types import StudyError
from feature_lineage.text import tokenizer

LINES = [{"text": f"Story {number}."} for number in range(60)]
WHAT = ("model", "tokenizer", "corpus")


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def published(tmp_path_factory, tokenizer_dir, tiny_model):
    """A checkpoint in shards, a tokenizer, a data set of two splits."""
    root = tmp_path_factory.mktemp("published")
    shutil.copytree(tokenizer_dir, root / "tokenizer")
    tiny_model().save_pretrained(root / "base", max_shard_size="40KB")
    write_lines(root / "stories" / "train.jsonl", LINES)
    write_lines(root / "stories" / "validation.jsonl", LINES[:5])
    return root


@pytest.fixture
def root(published, tmp_path):
    return Path(shutil.copytree(published, tmp_path / "published"))


def study(root, **corpus):
    return load_study(
        {
            "study": "local",
            "corpora": {"stories": {"huggingface": f"{root}/stories"} | corpus},
            "tokenizer": {"pretrained": f"{root}/tokenizer"},
            "models": {"base": {"pretrained": f"{root}/base", "train": ["stories"]}},
        }
    )


def identities(root, **corpus):
    """As a process of its own would take them."""
    found = LocalInputs(study(root, **corpus), Checksums(root.parent / "checksums.json"))
    return dict(zip(WHAT, (found.model("base"), found.tokenizer(), found.corpus("stories")), strict=True))


def changed(before, after):
    return {what for what in WHAT if before[what] != after[what]}


def edit(path, old, new):
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


# --- what changes ------------------------------------------------------------------------------------------


def model_config(root):
    edit(root / "base/config.json", b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 1e-05')


def generation_config(root):
    (root / "base/generation_config.json").write_text('{"temperature": 0.5}')


def model_shard(root):
    shard = sorted((root / "base").glob("model-*.safetensors"))[1]
    edit(shard, shard.read_bytes()[-4:], b"\1\2\3\4")


def model_in_one_file(root):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(root / "base")
    shutil.rmtree(root / "base")
    model.save_pretrained(root / "base")


def weights_of_another_name(root):
    edit(root / "base/config.json", b"{", b'{"transformers_weights": "other.safetensors",')


def blob_of_the_cache(root):
    """As the hub's cache has it: the snapshot links to a blob, named by its content."""
    config = root / "base/config.json"
    (root / "blobs").mkdir()
    config.rename(root / "blobs/one")
    config.symlink_to("../blobs/one")
    before = identities(root)
    (root / "blobs/two").write_bytes(config.read_bytes() + b" ")
    config.unlink()
    config.symlink_to("../blobs/two")
    assert changed(before, identities(root)) == {"model"}


def tokens(root):
    edit(root / "tokenizer/tokenizer.json", b'"add_prefix_space": false', b'"add_prefix_space": true')


def tokenizer_config(root):
    edit(root / "tokenizer/tokenizer_config.json", b"{", b'{"pad_token": "<|endoftext|>",')


def special_tokens(root):
    (root / "tokenizer/special_tokens_map.json").write_text('{"pad_token": "<|endoftext|>"}')


def chat_template(root):
    (root / "tokenizer/chat_template.jinja").write_text("{{ messages }}")


def rows_with_an_old_time_stamp(root):
    write_lines(root / "stories/train.jsonl", LINES[:-1])
    os.utime(root / "stories/train.jsonl", (1e9, 1e9))


def rows_with_the_same_time_stamp_and_size(root):
    file = root / "stories/train.jsonl"
    before = file.stat()
    edit(file, b"Story 1.", b"Story x.")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def parquet(root):
    import pandas as pd

    (root / "stories/train.jsonl").unlink()
    (root / "stories/validation.jsonl").unlink()
    pd.DataFrame(LINES).to_parquet(root / "stories/train.parquet")


def csv(root):
    shutil.rmtree(root / "stories")
    (root / "stories").mkdir()
    (root / "stories/train.csv").write_text("text\none\n")


def shards_in_a_folder(root):
    (root / "stories/train.jsonl").unlink()
    write_lines(root / "stories/train/0.jsonl", LINES[:30])
    write_lines(root / "stories/train/1.jsonl", LINES[30:])


def saved_to_disk(root):
    import datasets

    shutil.rmtree(root / "stories")
    datasets.DatasetDict(train=datasets.Dataset.from_list(LINES)).save_to_disk(root / "stories")
    before = identities(root)
    shutil.rmtree(root / "stories")
    datasets.DatasetDict(train=datasets.Dataset.from_list(LINES[1:])).save_to_disk(root / "stories")
    assert changed(before, identities(root)) == {"corpus"}
    shutil.rmtree(root / "stories")
    datasets.Dataset.from_list(LINES[1:]).save_to_disk(root / "stories")


def another_card(root):
    (root / "stories/README.md").write_text(
        "---\nconfigs:\n- {config_name: x, data_files: train.jsonl}\n---\nA card.\n"
    )


def no_data_set_at_all(root):
    (root / "stories/train.jsonl").rename(root / "stories/train.unknown")
    (root / "stories/validation.jsonl").unlink()


def another_link(root):
    (root / "stories").rename(root / "v1")
    write_lines(root / "v2" / "train.jsonl", LINES[1:])
    (root / "stories").symlink_to("v2")


CHANGES = {
    "model": (
        model_config,
        generation_config,
        model_shard,
        model_in_one_file,
        weights_of_another_name,
        blob_of_the_cache,
    ),
    "tokenizer": (tokens, tokenizer_config, special_tokens, chat_template),
    "corpus": (
        *(rows_with_an_old_time_stamp, rows_with_the_same_time_stamp_and_size, parquet, csv, shards_in_a_folder),
        *(saved_to_disk, another_card, no_data_set_at_all, another_link),
    ),
}


@pytest.mark.parametrize(
    ("what", "change"),
    [(what, change) for what, changes in CHANGES.items() for change in changes],
    ids=lambda part: getattr(part, "__name__", part),
)
def test_what_is_read_and_changes_has_another_identity(root, what, change):
    """Once the path was the identity. Each file that is read was tried, and the ways in which one is replaced."""
    before = identities(root)
    change(root)
    assert changed(before, identities(root)) == {what}


def test_what_moves_or_is_touched_or_is_not_read_has_the_same_identity(root):
    before = identities(root)
    for path in root.rglob("*"):
        os.utime(path)
    (root / "base/optimizer.pt").write_text("Not read.")
    (root / "base/tokenizer.json").write_text("{}")
    (root / "base/README.md").write_text("A model.")
    (root / "tokenizer/vocab.json").write_text("{}")
    (root / "stories/README.md").write_text("A data set.")
    write_lines(root / "stories/validation.jsonl", LINES[:6])
    assert identities(root) == before
    (root.parent / "link").symlink_to(root.rename(root.parent / "elsewhere"))
    assert identities(root.parent / "link") == before


def test_another_split_or_column_of_the_same_folder_has_another_identity(root):
    found = [identities(root, **options)["corpus"] for options in ({}, {"split": "validation"}, {"text": "title"})]
    assert len(set(map(repr, found))) == 3


def test_names_on_the_hub_are_their_own_identity(tmp_path):
    found = identities(tmp_path / "nothing")  # a path that is missing
    assert found["model"].startswith("sha256:")
    config = study(tmp_path).model_dump(exclude_unset=True)
    config["models"]["base"]["pretrained"] = config["tokenizer"]["pretrained"] = "someone/model"
    config["corpora"]["stories"]["huggingface"] = "someone/stories"
    hub = LocalInputs(load_study(config), Checksums(tmp_path / "checksums.json"))
    assert hub.model("base") == hub.tokenizer() == "someone/model"
    assert hub.corpus("stories") == (*hub.source("stories"), None)
    hub.check()


def test_the_files_of_a_checkpoint_are_those_that_are_loaded(root):
    loaded = {path.name for path in (root / "base").iterdir()}
    assert dict(checkpoint_files(root / "base")) == {name: root / "base" / name for name in loaded}
    (root / "base/model.safetensors.index.json").write_text('{"weight_map": [1]}')
    assert all(name.endswith(".json") for name in dict(checkpoint_files(root / "base")))
    (root / "base/config.json").write_text("torn")
    (root / "base/model.safetensors").write_text("")
    assert "model.safetensors" in dict(checkpoint_files(root / "base"))


def test_the_files_of_a_tokenizer_are_those_that_are_loaded(root):
    assert set(dict(tokenizer_files(root / "base"))) == {"tokenizer.json", *tokenizer._BESIDE}


def test_of_a_model_s_config_a_tokenizer_reads_the_special_tokens(root):
    """Where both are in one folder, another model must not be another tokenizer."""
    shutil.copyfile(root / "base/config.json", root / "tokenizer/config.json")
    before = identities(root)
    edit(root / "tokenizer/config.json", b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 1e-05')
    assert identities(root) == before
    edit(root / "tokenizer/config.json", b"{", b'{"sep_token_id": 7,')
    assert changed(before, identities(root)) == {"tokenizer"}


# --- checksums ---------------------------------------------------------------------------------------------


def test_each_file_is_read_once_as_long_as_it_stays_the_same(tmp_path, monkeypatch):
    file, store = tmp_path / "file", tmp_path / "kept" / "checksums.json"
    file.write_bytes(b"one")
    read = []
    real = local_inputs.hashlib.file_digest
    monkeypatch.setattr(local_inputs.hashlib, "file_digest", lambda *given: read.append(1) or real(*given))
    first = Checksums(store).of([file])
    assert Checksums(store).of([file]) == first and len(read) == 1
    file.write_bytes(b"two")
    second = Checksums(store).of([file])
    assert second != first and len(read) == 2
    for damage in ("", "{", "[]", '{"' + os.path.realpath(file) + '": 5}'):
        store.write_text(damage)
        assert Checksums(store).of([file]) == second
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_a_large_file_is_announced_and_a_store_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr(digests, "_LARGE", 1)
    (tmp_path / "file").write_bytes(b"one")
    said = []
    assert len(Checksums(tmp_path / "file" / "no folder", said.append).of([tmp_path / "file"])) == 1
    assert "file (0.0 GB)" in said[0]


# --- paths and names ---------------------------------------------------------------------------------------


def test_what_is_a_path_and_what_a_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("here", "owner/there"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nothing")
    for name in ("here", "owner/there", "./here", "~/here", f"{tmp_path}/here", "here/", "owner/../here"):
        assert is_path(name) and wrong_folder(name) is None, name
    for name in ("./no", "../no", "/no", "~/no", "no/", "a/b/c", "owner/no", "data/stories.jsonl"):
        assert is_path(name) and wrong_folder(name) == "no such folder", name
    assert "is a file" in wrong_folder("file") and "link" in wrong_folder("dangling")
    for name, revision in (
        ("gpt2", None),
        ("someone/model", None),
        ("someone/Llama-3.2-1B", None),
        ("owner/no", "main"),
    ):
        assert not is_path(name, revision) and wrong_folder(name, revision) is None, name


def test_every_missing_folder_is_named_with_its_key_and_the_remedy(tmp_path):
    config = study(tmp_path / "no").model_dump(exclude_unset=True)
    (tmp_path / "file").write_text("")
    config["models"]["base"]["pretrained"] = str(tmp_path / "file")
    with pytest.raises(StudyError) as error:
        LocalInputs(load_study(config), Checksums(tmp_path / "checksums.json")).check()
    first, *lines = str(error.value).splitlines()
    assert first == "config refused, 3 problems in study 'local':"
    for line, key, problem in zip(
        lines,
        ("corpora.stories.huggingface", "tokenizer.pretrained", "models.base.pretrained"),
        ("no such folder", "no such folder", "it is a file"),
        strict=True,
    ):
        assert line.startswith(f"  {key}: found '{tmp_path}/") and problem in line and "; allowed: the path" in line


def test_a_file_that_cannot_be_read_is_named(root, monkeypatch):
    def refuse(self, paths):
        raise PermissionError(13, "Permission denied", next(iter(paths)))

    monkeypatch.setattr(Checksums, "of", refuse)
    with pytest.raises(StudyError, match=r"base/config.json: cannot be read \(Permission denied\)"):
        identities(root)


# --- checkpoints and adapters in folders -------------------------------------------------------------------


def refused(root, models):
    config = study(root).model_dump(exclude_unset=True) | {"models": models}
    with pytest.raises(StudyError) as error:
        LocalInputs(load_study(config), Checksums(root.parent / "checksums.json")).check()
    first, *lines = str(error.value).splitlines()
    assert first.startswith("config refused, ")
    return lines


def base(root, **changes):
    return {"base": {"pretrained": f"{root}/base", "train": ["stories"]} | changes}


def adapter(folder, weights="adapter_model.safetensors", **config):
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4} | config))
    (folder / weights).write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("name", ["alone", "base"])
def test_an_adapter_given_as_a_checkpoint_is_told_what_to_write(root, name):
    """Alone, and inside of a full checkpoint, where it was ignored."""
    adapter(root / name)
    (line,) = refused(root, {"tuned": {"pretrained": f"{root}/{name}", "train": ["stories"]}})
    assert line.startswith(f"  models.tuned.pretrained: found '{root}/{name}', which holds an adapter")
    assert f"write `models.tuned: {{parent: THAT MODEL, adapter: {root}/{name}}}`" in line


def test_pickled_weights_are_told_how_to_convert(root):
    for file in (root / "base").glob("*.safetensors*"):
        file.unlink()
    (root / "base" / "pytorch_model.bin").write_bytes(b"")
    (line,) = refused(root, base(root))
    assert f"`feature-lineage convert {root}/base OUT`" in line
    (root / "base" / "pytorch_model.bin").unlink()
    (line,) = refused(root, base(root))
    assert "which has no weights in safetensors" in line


ADAPTERS = {
    "no folder": (lambda folder: None, "no such folder"),
    "no config": (lambda folder: folder.mkdir(), "which has no adapter_config.json; name the folder"),
    "pickled": (lambda folder: adapter(folder, "adapter_model.bin"), "`feature-lineage convert "),
    "no weights": (lambda folder: adapter(folder, "other"), "which has no adapter_model.safetensors"),
    "other kind": (lambda folder: adapter(folder, peft_type="LOHA"), "of kind LOHA, and only LoRA can be merged"),
    "a list": (lambda folder: (adapter(folder) / "adapter_config.json").write_text("[]"), "of kind unknown"),
}


@pytest.mark.parametrize(("prepare", "said"), ADAPTERS.values(), ids=ADAPTERS)
def test_a_folder_that_is_no_adapter_is_refused(root, prepare, said):
    prepare(root / "lora")
    (line,) = refused(root, base(root) | {"tuned": {"parent": "base", "adapter": f"{root}/lora"}})
    assert line.startswith(f"  models.tuned.adapter: found '{root}/lora'") and said in line


def test_an_adapter_is_known_by_its_two_files(root):
    adapter(root / "lora")
    config = study(root).model_dump(exclude_unset=True)
    config["models"] = base(root) | {"tuned": {"parent": "base", "adapter": f"{root}/lora"}}

    def identity():
        inputs = LocalInputs(load_study(config), Checksums(root.parent / "checksums.json"))
        inputs.check()
        return inputs.model("tuned")

    found = [identity()]
    (root / "lora" / "README.md").write_text("Not read.")
    assert identity() == found[0]
    (root / "lora" / "adapter_model.safetensors").write_bytes(b"others!")
    found.append(identity())
    adapter(root / "lora", lora_alpha=5)
    found.append(identity())
    assert len(set(found)) == 3
    config["models"]["tuned"]["adapter"] = "someone/adapter"
    assert identity() == "someone/adapter"


@pytest.mark.parametrize(("key", "hook"), [("hidden_size", "hook_resid_post"), ("intermediate_size", "mlp.hook_post")])
def test_a_child_of_another_width_is_refused_naming_both(root, key, hook):
    shutil.copytree(root / "base", root / "wide")
    edit(root / "wide" / "config.json", f'"{key}": '.encode(), f'"{key}": 1'.encode())
    config = json.loads((root / "base" / "config.json").read_text())
    models = base(root) | {"child": {"pretrained": f"{root}/wide", "parent": "base"}}
    at = study(root).model_dump(exclude_unset=True) | {"autoencoder": {"hook": f"blocks.0.{hook}"}, "models": models}
    inputs = LocalInputs(load_study(at), Checksums(root.parent / "checksums.json"))
    with pytest.raises(StudyError) as error:
        inputs.check()
    (_, line) = str(error.value).splitlines()
    wide, own = json.loads((root / "wide" / "config.json").read_text())[key], config[key]
    assert line.startswith(
        f"  models.child.pretrained: found '{root}/wide', whose {key} is {wide:,}, and that of its parent models.base"
    )
    assert f"'{root}/base', is {own:,}" in line


def test_another_width_that_the_hook_point_does_not_have_is_fine(root):
    shutil.copytree(root / "base", root / "wide")
    edit(root / "wide" / "config.json", b'"intermediate_size": ', b'"intermediate_size": 1')
    models = base(root) | {"child": {"pretrained": f"{root}/wide", "parent": "base"}}
    at = study(root).model_dump(exclude_unset=True) | {"autoencoder": {"hook": "blocks.0.hook_resid_post"}}
    LocalInputs(load_study(at | {"models": models}), Checksums(root.parent / "checksums.json")).check()


# --- links to what is gone ---------------------------------------------------------------------------------


def test_links_that_lead_nowhere_are_mended_or_named(root, tmp_path):
    """To the same weights elsewhere they are led; to others, or of a model that is none, they are removed; of the hub they are named."""
    folder = tmp_path / "models" / "base"
    folder.mkdir(parents=True)
    link, weights = folder / "model.safetensors", root / "base" / "model.safetensors"
    weights.write_bytes(b"weights")
    digest = Checksums(tmp_path / "checksums.json").of([weights])[0]

    def follow(pretrained, known):
        link.unlink(missing_ok=True)
        link.symlink_to("/nowhere/model.safetensors")
        os.utime(link, (1e9, 1e9), follow_symlinks=False)
        record = {"pretrained": "someone/model", "files": {"model.safetensors": {"sha256": known}}}
        (folder / "import.json").write_text(json.dumps(record))
        config = study(root).model_dump(exclude_unset=True)
        config["models"]["base"]["pretrained"] = pretrained
        LocalInputs(load_study(config), Checksums(tmp_path / "checksums.json")).follow(tmp_path / "models")

    follow(f"{root}/base", digest)
    assert link.readlink() == weights.resolve() and link.lstat().st_mtime == 1e9
    follow(f"{root}/base", "0" * 64)
    assert not link.is_symlink()
    follow("someone/other", digest)
    assert not link.is_symlink()
    with pytest.raises(
        StudyError, match=r"models\.base\.pretrained: the weights of 'someone/model' are gone from /nowhere/"
    ):
        follow("someone/model", digest)
    assert link.is_symlink()
