"""Tokenizers of others, from import to token files, against the `tokenizers` library alone.

Of that kind and tried, beside the zoo: a tokenizer.json without a class, with one that transformers does not know or whose code is its own;
special tokens as text, as block, in special_tokens_map.json, in config.json as number or list, missing, or of another vocabulary.
"""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from tokenizer_zoo import CJK, END, SPELLED, TEXTS, ZOO, publish, reference
from tokenizers import Tokenizer, models, pre_tokenizers

from feature_lineage.errors import InputError
from feature_lineage.text import shards
from feature_lineage.text.boundaries import choose_boundaries
from feature_lineage.text.shards import TextEncoder, encode_corpus, read_index
from feature_lineage.text.tokenizer import import_tokenizer, load_tokenizer, save_tokenizer
from feature_lineage.text.vocabulary import Texts, token_texts


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A function that gives a tokenizer of the zoo: its published folder, and that of its import."""
    root, made = tmp_path_factory.mktemp("zoo"), {}

    def get(name):
        if name not in made:
            folder = publish(name, root / name / "published")
            save_tokenizer(import_tokenizer(folder), root / name / "imported", {})
            made[name] = folder, root / name / "imported"
        return made[name]

    return get


@pytest.mark.parametrize("name", ZOO)
def test_a_published_tokenizer_gives_the_tokens_of_its_file(zoo, name):
    folder, imported = zoo(name)
    expected = reference(folder)
    for path in (folder, imported):
        found = import_tokenizer(path)
        for text in (*TEXTS, SPELLED):
            assert found(text)["input_ids"] == expected.encode(text).ids
            assert (
                found(text, add_special_tokens=False)["input_ids"]
                == expected.encode(text, add_special_tokens=False).ids
            )
        assert found.decode(expected.encode(TEXTS[0]).ids) == expected.decode(expected.encode(TEXTS[0]).ids, False)
    assert len(found) == expected.get_vocab_size() and found.get_vocab() == expected.get_vocab()


@pytest.mark.parametrize("name", ZOO)
def test_what_is_saved_of_it_reads_the_same_in_other_libraries(zoo, name):
    from transformers import AutoTokenizer

    folder, imported = zoo(name)
    expected, saved, auto = (
        reference(folder),
        Tokenizer.from_file(str(imported / "tokenizer.json")),
        AutoTokenizer.from_pretrained(imported),
    )
    for text in TEXTS:
        ids = expected.encode(text, add_special_tokens=False).ids
        assert saved.encode(text, add_special_tokens=False).ids == ids
        assert auto(text, add_special_tokens=False)["input_ids"] == ids
    assert auto.eos_token_id == load_tokenizer(imported).eos_token_id


@pytest.mark.parametrize("name", ZOO)
def test_token_files_hold_the_tokens_of_its_file(zoo, tmp_path, write_documents, name):
    folder, imported = zoo(name)
    texts = [*TEXTS, SPELLED]
    expected = reference(folder)
    expected.encode_special_tokens = True  # a special token's text in a document is text
    end = load_tokenizer(imported).eos_token_id
    ids = [[*expected.encode(text, add_special_tokens=False).ids, end] for text in texts]
    documents = write_documents(tmp_path / "train.parquet", texts)
    encode_corpus(documents, imported, tmp_path / "tokens", {})
    found = [np.load(tmp_path / "tokens" / shard["file"]) for shard in read_index(tmp_path / "tokens")["shards"]]
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(ids))


@pytest.mark.parametrize("name", ZOO)
def test_a_models_folder_and_its_hooks_have_the_tokens_of_its_file(zoo, tmp_path, architecture, one_thread, name):
    """TransformerLens builds a tokenizer again, by its class, and gives it the special tokens that it lacks."""
    from transformers import AutoTokenizer

    from feature_lineage.models.checkpoint import build_model, save_model
    from feature_lineage.models.hooks import load_hooked

    folder, imported = zoo(name)
    save_model(build_model(architecture, imported, 0), imported, tmp_path / "model", {})
    expected = reference(folder)
    bridge = load_hooked(tmp_path / "model", "blocks.0.mlp.hook_post")
    ours = load_tokenizer(tmp_path / "model")
    assert bridge.tokenizer.get_vocab() == ours.get_vocab()
    assert bridge.tokenizer.special_tokens_map == ours.special_tokens_map
    for found in (ours, AutoTokenizer.from_pretrained(tmp_path / "model"), bridge.tokenizer):
        for text in TEXTS:
            assert (
                found(text, add_special_tokens=False)["input_ids"]
                == expected.encode(text, add_special_tokens=False).ids
            )


# --- special tokens ----------------------------------------------------------------------------------------


@pytest.fixture
def bare(zoo, tmp_path):
    """A function that publishes one tokenizer with other files beside it."""
    folder, _ = zoo("digits")

    def write(**files):
        target = tmp_path / "published"
        target.mkdir()
        (target / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
        for name, content in files.items():
            (target / f"{name}.json").write_text(json.dumps(content))
        return target

    return write


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"eos_token": END}},
        {"tokenizer_config": {"eos_token": {"content": END, "lstrip": False, "__type": "AddedToken"}}},
        {"tokenizer_config": {}, "special_tokens_map": {"eos_token": END}},
        {"special_tokens_map": {"eos_token": {"content": END}}},
        {"tokenizer_config": {"tokenizer_class": "GPT2Tokenizer"}},  # whose default it is
        {"tokenizer_config": {"tokenizer_class": "Qwen2TokenizerFast"}},
        {"tokenizer_config": {}, "config": {"eos_token_id": 0}},
        {"tokenizer_config": {}, "config": {"eos_token_id": [0, 7]}},
        {"tokenizer_config": {"tokenizer_class": "NobodysTokenizer", "eos_token": END}},
        {
            "tokenizer_config": {"tokenizer_class": "LlamaTokenizer"},
            "config": {"eos_token_id": 0},
        },  # its </s> is no token here
    ],
)
def test_the_end_of_a_sequence_is_found_where_publishers_write_it(bare, files):
    tokenizer = import_tokenizer(bare(**files))
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END, 0)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, r"has no token to part documents with; .*or add its eos_token to tokenizer_config.json"),
        (
            {"tokenizer_config": {"eos_token": "</s>"}},
            r"tokenizer_config.json has eos_token = '</s>', which tokenizer.json has not",
        ),
        ({"tokenizer_config": {"eos_token": 5}}, r"tokenizer_config.json has eos_token = 5; correct it"),
        ({"tokenizer_config": []}, r"cannot be loaded \(tokenizer_config.json: a list"),
        (
            {"tokenizer_config": {"eos_token": END, "model_max_length": "many"}},
            r"cannot be loaded \(tokenizer_config.json: could not convert string to float: 'many'\); correct",
        ),
        ({"tokenizer_config": {"eos_token": END, "padding_side": "middle"}}, "Padding side should be"),
        ({"tokenizer_config": {"auto_map": {"AutoTokenizer": ["a.B", None]}, "tokenizer_class": "B"}}, "custom code"),
        ({"tokenizer_config": {}, "config": {"eos_token_id": 10**6}}, "has no token to part documents with"),
    ],
)
def test_a_tokenizer_that_cannot_part_documents_is_refused(bare, files, said):
    folder = bare(**files)
    with pytest.raises(InputError, match=said) as error:
        choose_boundaries(import_tokenizer(folder), {})
    assert str(error.value).startswith(f"tokenizer {folder}: ") and "\n" not in str(error.value)


def test_local_folders_are_not_looked_for_on_the_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.json").write_text("{}")
    for path, said in {
        "./nothing": "no such folder",
        str(tmp_path / "nothing"): "no such folder",
        "data/tokenizers/nothing": "no such folder",
        "empty": "no tokenizer.json",
        "file.json": "is a file; name its folder",
    }.items():
        with pytest.raises(InputError, match=said) as error:
            import_tokenizer(path)
        assert "network" not in str(error.value)


# --- long texts --------------------------------------------------------------------------------------------


def long_texts():
    """Texts of several kinds, each of many lines, of one line, or without any place to cut."""
    code = Path(textwrap.__file__).read_text(encoding="utf-8")
    mixed = "\n".join(f"{i} {text} {'x' * (i % 7)}.\n{'  ' * (i % 3)}" for i, text in enumerate(TEXTS * 6))
    return {
        "code": code[:8000],
        "mixed": mixed,
        "line": "word and another; " * 400,
        "cjk": CJK.replace(" ", "") * 60,
        "novel": f"{CJK.replace(' ', '')}\n\n　“…”\n" * 60,
        "spaces": "a" + " " * 3000 + "b",
        "crlf": "one line\r\n" * 400,
        "spelled": f"{SPELLED}\n" * 200,
    }


@pytest.mark.parametrize("name", ZOO)
def test_long_texts_in_pieces_have_the_tokens_of_the_whole(zoo, monkeypatch, name):
    """The pieces are cut everywhere that the rule allows, here every 50 and every 700 characters."""
    folder, imported = zoo(name)
    whole = reference(folder)
    whole.encode_special_tokens = True
    texts, _ = token_texts(imported / "tokenizer.json")
    encoder = TextEncoder(load_tokenizer(imported).backend_tokenizer, texts, np.uint32)
    cuts = 0
    for size in (50, 700):
        monkeypatch.setattr(shards, "PIECE", size)
        for kind, text in long_texts().items():
            (pieces,) = encoder([text])
            pieces = list(pieces)
            cuts += len(pieces) - 1
            expected = whole.encode(text, add_special_tokens=False).ids
            np.testing.assert_array_equal(np.concatenate(pieces), expected, err_msg=f"{kind} every {size}")
    assert cuts > 50, "nothing was cut"


def test_a_vocabulary_with_words_across_spaces_is_not_cut_there(monkeypatch):
    vocabulary = {"</s>": 0, "a": 1, " ": 2, "b": 3, "\n": 4, "a ": 5, "a b": 6}
    made = Tokenizer(models.BPE(vocabulary, [("a", " "), ("a ", "b")]))
    monkeypatch.setattr(shards, "PIECE", 10)
    texts = Texts([text.encode() for text in vocabulary])
    text = "a b" * 300 + "\n" + "ab a\nb" * 300
    (pieces,) = TextEncoder(made, texts, np.uint32)([text])
    pieces = list(pieces)
    np.testing.assert_array_equal(np.concatenate(pieces), made.encode(text).ids)
    assert len(pieces) > 50


def test_lines_that_end_in_signs_are_places_for_a_cut(zoo, monkeypatch):
    """As those of a Chinese or Japanese novel do, which has no spaces: it was encoded whole."""
    folder, imported = zoo("digits")
    monkeypatch.setattr(shards, "PIECE", 50)
    encoder = TextEncoder(
        load_tokenizer(imported).backend_tokenizer, token_texts(imported / "tokenizer.json")[0], np.uint32
    )
    ((*pieces,),) = encoder([long_texts()["novel"]])
    assert len(pieces) > 20
    np.testing.assert_array_equal(np.concatenate(pieces), reference(folder).encode(long_texts()["novel"]).ids)


def test_a_text_whose_characters_are_counted_is_not_cut(monkeypatch):
    """Of the pre-tokenizers of `tokenizers`, this alone splits by how far a character is from the beginning."""
    vocabulary = {"</s>": 0, "o": 1, "n": 2, "e": 3, " ": 4, "on": 5, "one": 6}
    made = Tokenizer(models.BPE(vocabulary, [("o", "n"), ("on", "e")]))
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.FixedLength(3)])
    monkeypatch.setattr(shards, "PIECE", 50)
    ((*pieces,),) = TextEncoder(made, Texts([text.encode() for text in vocabulary]), np.uint32)(["one " * 400])
    np.testing.assert_array_equal(np.concatenate(pieces), made.encode("one " * 400).ids)


def test_a_batch_holds_so_many_characters_and_keeps_the_order(zoo, monkeypatch):
    folder, imported = zoo("digits")
    monkeypatch.setattr(shards, "BATCH", 500)
    monkeypatch.setattr(shards, "PIECE", 300)
    texts = ["a" * (i * 37 % 400) + f" {i}\n" * (i % 5 * 60) for i in range(100)]
    encoder = TextEncoder(
        load_tokenizer(imported).backend_tokenizer, token_texts(imported / "tokenizer.json")[0], np.uint16
    )
    found = [np.concatenate([np.zeros(0, np.uint16), *pieces]).tolist() for pieces in encoder(texts)]
    assert found == [reference(folder).encode(text, add_special_tokens=False).ids for text in texts]


MEASURE = """
import resource, sys
from feature_lineage.text.shards import encode_corpus
encode_corpus(sys.argv[1], sys.argv[3], sys.argv[4] + "/small", {})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = encode_corpus(sys.argv[2], sys.argv[3], sys.argv[4] + "/large", {})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / total)
"""


def test_memory_grows_little_with_a_long_text(zoo, tmp_path, write_documents, project):
    _, imported = zoo("digits")
    text = Path(textwrap.__file__).read_text(encoding="utf-8")
    small = write_documents(tmp_path / "small.parquet", [text * 20])
    large = write_documents(tmp_path / "large.parquet", [text * 200])  # 4 MB
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(small), str(large), str(imported), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(project / "src"), "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) < 40, "bytes a token; 300 where a text is encoded whole"
