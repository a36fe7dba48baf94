import json
import mmap
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from feature_lineage.errors import InputError
from feature_lineage.store.checksums import sha256
from feature_lineage.store.formats import read_provenance, write_table
from feature_lineage.text import shards as shards_module
from feature_lineage.text.corpora import SCHEMA
from feature_lineage.text.shards import document_ends, encode_corpus, read_index
from feature_lineage.text.tokenizer import END, import_tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from feature_lineage.text.windows import Windows

ODD = [
    "a\r\nb\tc  d\u00a0e",
    "\ufeff\U0001f600 e\u0301 \u200b\u202e\ufffd 日本語",
    "\x00\x01\x7f",
    f"before {END} after{END}",
    "  leading and trailing  ",
    "",
]


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir):
    return load_tokenizer(tokenizer_dir)


# --- tokenizer ---------------------------------------------------------------------------------------------


def test_vocabulary_has_the_size_asked_for(tokenizer):
    assert len(tokenizer) == 400
    assert tokenizer.eos_token == tokenizer.bos_token == END
    assert tokenizer.all_special_tokens == [END]


def test_every_byte_has_a_token(tokenizer):
    # so that nothing is ever unknown, whatever the tokenizer was trained on
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= set(tokenizer.get_vocab())
    assert tokenizer.unk_token is None


@pytest.mark.parametrize("text", [*ODD, "".join(map(chr, range(0x2600))), "\U0010ffff"])
def test_text_round_trips_exactly(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_real_text_round_trips_and_is_shorter(tokenizer, stdlib_texts):
    for text in stdlib_texts:
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        assert len(ids) < 0.8 * len(text.encode())


def test_nothing_is_put_before_the_text(tokenizer):
    assert tokenizer.tokenize("xq")[0].startswith("x")


def test_training_gives_the_same_bytes_twice(tmp_path, stdlib_texts, write_documents, tokenizer_dir):
    documents = write_documents(tmp_path / "train.parquet", stdlib_texts)
    save_tokenizer(train_tokenizer([documents], 400), tmp_path / "again", {"digest": "of the test"})
    assert sha256(tmp_path / "again") == sha256(tokenizer_dir)


def test_training_reads_all_corpora(tmp_path, write_documents):
    one = write_documents(tmp_path / "one.parquet", ["zebra zebra zebra zebra"] * 3)
    two = write_documents(tmp_path / "two.parquet", ["walrus walrus walrus walrus"] * 3)
    vocabulary = train_tokenizer([one, two], 257 + 11).get_vocab()
    assert {"Ġzebra", "Ġwalrus"} <= set(vocabulary)


def test_too_little_text_for_the_vocabulary_is_refused(tmp_path, write_documents):
    documents = write_documents(tmp_path / "small.parquet", ["abc abc"])
    with pytest.raises(InputError, match=r"small.parquet gives \d+ tokens, tokenizer.vocab_size asks 5000"):
        train_tokenizer([documents], 5000)


def test_saved_tokenizer_has_its_provenance_and_loads(tokenizer_dir):
    files = {"tokenizer.json": sha256(tokenizer_dir / "tokenizer.json")}
    assert read_provenance(tokenizer_dir / "tokenizer_config.json") == {"digest": "of the test", "files": files}
    assert isinstance(load_tokenizer(tokenizer_dir), PreTrainedTokenizerFast)


def test_pretrained_tokenizer_is_taken_over_as_it_is(tmp_path, tokenizer_dir, tokenizer):
    # what rule import_tokenizer does, with a local directory in place of the hub
    save_tokenizer(import_tokenizer(tokenizer_dir), tmp_path / "imported", {"digest": "imported"})
    imported = load_tokenizer(tmp_path / "imported")
    assert imported.get_vocab() == tokenizer.get_vocab()
    text = f"def f(x):\r\n\treturn x {END} é"
    assert imported(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert read_provenance(tmp_path / "imported" / "tokenizer_config.json")["digest"] == "imported"


def test_tokenizer_that_is_missing_or_damaged_is_named(tmp_path, tokenizer_dir):
    with pytest.raises(InputError, match=r"tokenizer .*nothing: cannot be loaded"):
        import_tokenizer(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"tokenizer nobody/nothing: cannot be loaded"):
        import_tokenizer("nobody/nothing")
    with pytest.raises(InputError, match=r"nothing/tokenizer_config.json: this input file is missing"):
        load_tokenizer(tmp_path / "nothing")
    shutil.copytree(tokenizer_dir, tmp_path / "damaged")
    (tmp_path / "damaged" / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(InputError, match=r"tokenizer .*damaged: cannot be loaded"):
        import_tokenizer(tmp_path / "damaged")
    with pytest.raises(InputError, match=r"damaged/tokenizer.json: cannot be read, it is truncated or damaged"):
        load_tokenizer(tmp_path / "damaged")


def test_a_tokenizer_whose_file_was_removed_is_not_replaced_by_another(tmp_path, tokenizer_dir):
    shutil.copytree(tokenizer_dir, tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json: this input file is missing"):
        load_tokenizer(tmp_path / "tokenizer")


def test_tokenizer_without_an_end_token_is_refused(tmp_path, corpus):
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1}, [])))
    save_tokenizer(bare, tmp_path / "bare", {})
    with pytest.raises(InputError, match=r"bare: has no token to part documents with; .*add its eos_token"):
        encode_corpus(corpus[0], tmp_path / "bare", tmp_path / "tokens", {})


# --- shards ------------------------------------------------------------------------------------------------


def shards(directory):
    return [np.load(directory / shard["file"]) for shard in read_index(directory)["shards"]]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, write_documents, tokenizer_dir, tokenizer, stdlib_texts):
    """(documents' file, its tokens in one shard, the ids that they should be)."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = ODD + stdlib_texts[:6] + [text[:50] for text in stdlib_texts]
    documents = write_documents(folder / "train.parquet", texts, row_group_size=7)
    count = encode_corpus(documents, tokenizer_dir, folder / "tokens", {"digest": "abc"})
    plain = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    plain.encode_special_tokens = True
    ids = [[*plain.encode(text, add_special_tokens=False).ids, tokenizer.eos_token_id] for text in texts]
    assert count == sum(map(len, ids))
    return documents, folder / "tokens", ids


def test_tokens_are_the_documents_with_an_end_token_after_each(corpus, tokenizer):
    _, directory, ids = corpus
    (found,) = shards(directory)
    np.testing.assert_array_equal(found, np.concatenate(ids))
    assert found.dtype == np.uint16
    # the end token parts documents and stands nowhere else, though a text spells it
    assert (found == tokenizer.eos_token_id).sum() == len(ids)


def test_spelled_end_token_stays_text(corpus, tokenizer):
    _, directory, ids = corpus
    ends = document_ends(directory)
    (found,) = shards(directory)
    number = ODD.index(f"before {END} after{END}")
    assert tokenizer.decode(found[ends[number - 1] : ends[number] - 1]) == ODD[number]
    assert tokenizer.eos_token_id not in ids[number][:-1]


def test_document_ends(corpus):
    _, directory, ids = corpus
    ends = document_ends(directory)
    np.testing.assert_array_equal(ends, np.cumsum([len(one) for one in ids]))
    assert ends.dtype == np.int64


def test_index(corpus, tokenizer_dir, tokenizer):
    _, directory, ids = corpus
    (file,) = directory.glob("shard-*.npy")
    total = sum(map(len, ids))
    index = read_index(directory)
    del index["provenance"]
    assert index == {
        "tokens": total,
        "documents": len(ids),
        "dtype": "uint16",
        "vocab_size": 400,
        "end_token": tokenizer.eos_token_id,
        "tokenizer_sha256": sha256(tokenizer_dir / "tokenizer.json"),
        "shards": [{"file": "shard-00000.npy", "tokens": total, "bytes": file.stat().st_size, "sha256": sha256(file)}],
    }
    assert read_provenance(directory / "index.json") == {"digest": "abc"}
    assert read_provenance(directory / "documents.parquet") == {"digest": "abc"}


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_small_shards_hold_what_one_shard_holds(tmp_path, corpus, tokenizer_dir, size):
    documents, _, ids = corpus
    if size < 100:  # a document longer than many shards
        documents = tmp_path / "one.parquet"
        write_table(documents, pq.read_table(corpus[0]).slice(3, 1), SCHEMA, {})
        ids = ids[3:4]
    encode_corpus(documents, tokenizer_dir, tmp_path / "small", {}, shard_tokens=size)
    found = shards(tmp_path / "small")
    assert [len(shard) for shard in found[:-1]] == [size] * (len(found) - 1)
    assert 0 < len(found[-1]) <= size
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(ids))
    assert read_index(tmp_path / "small")["tokens"] == sum(map(len, ids))
    assert not list(tmp_path.glob(".*")), "no half-written directory stays"


def test_last_shard_that_is_just_full(tmp_path, corpus, tokenizer_dir):
    documents, _, ids = corpus
    encode_corpus(documents, tokenizer_dir, tmp_path / "full", {}, shard_tokens=sum(map(len, ids)))
    assert [len(shard) for shard in shards(tmp_path / "full")] == [sum(map(len, ids))]


def test_encoding_gives_the_same_bytes_twice(tmp_path, corpus, tokenizer_dir):
    documents, directory, _ = corpus
    encode_corpus(documents, tokenizer_dir, tmp_path / "again", {"digest": "abc"})
    assert sha256(tmp_path / "again") == sha256(directory)


def test_shards_of_a_longer_encoding_before_it_go(tmp_path, corpus, tokenizer_dir):
    documents, directory, _ = corpus
    encode_corpus(documents, tokenizer_dir, tmp_path / "again", {"digest": "abc"}, shard_tokens=1000)
    assert len(list((tmp_path / "again").glob("shard-*"))) > 1
    encode_corpus(documents, tokenizer_dir, tmp_path / "again", {"digest": "abc"})
    assert sha256(tmp_path / "again") == sha256(directory)


def test_large_vocabulary_needs_four_bytes(tmp_path, write_documents):
    vocabulary = {END: 0, "[UNK]": 1} | {f"w{i}": i + 2 for i in range(70_000)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    save_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END), tmp_path / "words", {})
    documents = write_documents(tmp_path / "train.parquet", ["w0 w69999"])
    encode_corpus(documents, tmp_path / "words", tmp_path / "tokens", {})
    (found,) = shards(tmp_path / "tokens")
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found, [2, 70_001, 0])
    assert read_index(tmp_path / "tokens")["dtype"] == "uint32"
    np.testing.assert_array_equal(Windows({"c": tmp_path / "tokens"}, 3)[0], [2, 70_001, 0])


def test_a_shard_of_the_right_length_with_other_tokens_is_named(tmp_path, write_tokens):
    directory = write_tokens(tmp_path / "tokens", range(100), range(50))
    shard = directory / "shard-00001.npy"
    np.save(shard, np.arange(1, 51, dtype=np.uint16))
    with pytest.raises(InputError, match=rf"{shard}: damaged, .*delete {directory}"):
        Windows({"c": directory}, 10)


def test_damaged_documents_leave_no_tokens(tmp_path, corpus, tokenizer_dir):
    path = tmp_path / "cut.parquet"
    path.write_bytes(corpus[0].read_bytes()[:-50])
    with pytest.raises(InputError, match=r"cut.parquet: cannot be read, it is truncated or damaged"):
        encode_corpus(path, tokenizer_dir, tmp_path / "tokens", {})
    assert [file.name for file in tmp_path.iterdir()] == ["cut.parquet"]


def test_truncated_and_missing_shards_are_named(tmp_path, write_tokens):
    directory = write_tokens(tmp_path / "tokens", range(100), range(50))
    shard = directory / "shard-00001.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    message = rf"shard-00001.npy: truncated or missing, {len(whole) - 10} bytes of {len(whole)}; delete .*tokens$"
    with pytest.raises(InputError, match=message):
        Windows({"c": directory}, 10)
    shard.unlink()
    with pytest.raises(InputError, match=r"shard-00001.npy: truncated or missing, 0 bytes"):
        Windows({"c": directory}, 10)
    (directory / "index.json").write_text('{"shards": [')
    with pytest.raises(InputError, match=r"index.json: cannot be read"):
        Windows({"c": directory}, 10)


# --- windows -----------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path, write_tokens):
    """Three corpora of several shards each, their numbers all different, and the windows of 8 that they hold."""
    rng = np.random.default_rng(0)
    sizes = {"a": [64, 71, 3], "b": [40], "c": [7, 30, 17]}
    directories, expected, places = {}, [], []
    for number, (name, lengths) in enumerate(sizes.items()):
        parts = [rng.integers(0, 60_000, length) for length in lengths]
        directories[name] = write_tokens(tmp_path / name, *parts)
        offset = 0
        for part in parts:
            for first in range(0, len(part) - 7, 8):
                expected.append(part[first : first + 8])
                places.append((number, offset + first))
            offset += len(part)
    return directories, np.array(expected), np.array(places)


def test_windows_equal_a_numpy_reference(three):
    directories, expected, places = three
    windows = Windows(directories, 8)
    assert len(windows) == len(expected) == 26
    np.testing.assert_array_equal(windows.counts(), [16, 5, 5])
    everything = windows[np.arange(len(windows))]
    np.testing.assert_array_equal(everything, expected)
    assert everything.dtype == np.int64
    corpus, position = windows.places(np.arange(len(windows)))
    np.testing.assert_array_equal(np.stack([corpus, position], 1), places)


def test_windows_one_by_one_and_in_any_order(three):
    directories, expected, _ = three
    windows = Windows(directories, 8)
    np.testing.assert_array_equal(np.stack(list(windows)), expected)
    order = np.random.default_rng(1).integers(0, len(expected), 100)
    np.testing.assert_array_equal(windows[order], expected[order])
    assert windows[np.array([], np.int64)].shape == (0, 8)


def test_windows_are_memory_mapped(three):
    for shard in Windows(three[0], 8)._shards:
        while not isinstance(shard, mmap.mmap):
            shard = shard.base
            assert shard is not None, "the shard was read into memory"


def test_windows_tell_which_document_a_token_is_of(tmp_path, corpus, tokenizer_dir):
    documents, _, ids = corpus
    encode_corpus(documents, tokenizer_dir, tmp_path / "tokens", {}, shard_tokens=1000)
    windows = Windows({"c": tmp_path / "tokens"}, 24)
    owner = np.repeat(np.arange(len(ids)), [len(one) for one in ids])
    flat = np.concatenate(ids)
    _, position = windows.places(np.arange(len(windows)))
    for index, first in enumerate(position):
        np.testing.assert_array_equal(windows[index], flat[first : first + 24])
    ends = document_ends(tmp_path / "tokens")
    inside = position[:, None] + np.arange(24)
    np.testing.assert_array_equal(np.searchsorted(ends, inside, side="right"), owner[inside])


def test_draw_is_without_replacement_and_shuffled(three):
    windows = Windows(three[0], 8)
    everything = windows.sample(None, 0, "key")
    assert sorted(everything) == list(range(26))
    assert list(everything) != sorted(everything)
    some = windows.sample(10 * 8 + 7, 0, "key")
    assert len(some) == len(set(some)) == 10, "rounded down to whole windows"


def test_draw_depends_on_the_seed_alone(three):
    windows = Windows(three[0], 8)
    np.testing.assert_array_equal(
        windows.sample(80, [3, 1], "key"), Windows(three[0], 8).sample(80, [3, 1], "other key")
    )
    assert list(windows.sample(80, [3, 1], "key")) != list(windows.sample(80, [3, 2], "key"))


def test_draw_is_even_over_all_windows(three):
    windows = Windows(three[0], 8)
    hits = np.bincount(np.concatenate([windows.sample(80, seed, "key") for seed in range(2000)]), minlength=26)
    mean = 2000 * 10 / 26
    assert abs(hits - mean).max() < 5 * np.sqrt(mean * (1 - 10 / 26))


def test_balanced_draw_takes_as_many_from_each_corpus(three):
    windows = Windows(three[0], 8)
    corpus, _ = windows.places(windows.sample(3 * 4 * 8, 0, "key", balance=True))
    assert list(np.bincount(corpus)) == [4, 4, 4]
    corpus, _ = windows.places(windows.sample(None, 0, "key", balance=True))
    assert list(np.bincount(corpus)) == [5, 5, 5], "the smallest corpus sets the number"
    assert list(corpus) != sorted(corpus)
    drawn = windows.sample(None, 0, "key", balance=True)
    assert len(set(drawn)) == len(drawn)


def test_draw_of_more_than_there_is_names_directories_key_and_most(three):
    windows = Windows(three[0], 8)
    assert len(windows.sample(26 * 8, 0, "key")) == 26
    with pytest.raises(InputError) as error:
        windows.sample(27 * 8, 0, "models.base.training.tokens")
    assert all(str(directory) in str(error.value) for directory in three[0].values())
    assert "208 tokens in windows of 8 where models.base.training.tokens needs 216" in str(error.value)
    assert "set models.base.training.tokens to at most 208" in str(error.value)


def test_balanced_draw_of_more_than_there_is_names_the_corpus_that_is_short(three):
    windows = Windows(three[0], 8)
    with pytest.raises(InputError) as error:
        windows.sample(3 * 6 * 8, 0, "flow.tokens", balance=True)
    assert str(error.value).startswith(f"{three[0]['b']}: smaller than asked")
    most = int(str(error.value).split("at most ")[1].split()[0].replace(",", ""))
    assert len(windows.sample(most, 0, "flow.tokens", balance=True)) == 15


def test_corpus_without_one_window_is_named(tmp_path, write_tokens):
    directories = {
        "long": write_tokens(tmp_path / "long", range(50)),
        "short": write_tokens(tmp_path / "short", range(7)),
    }
    windows = Windows(directories | {"none": write_tokens(tmp_path / "none")}, 8)
    np.testing.assert_array_equal(windows.counts(), [6, 0, 0])
    for balance in (False, True):
        with pytest.raises(
            InputError, match=r"short: holds not one window of 8 tokens; add documents to corpora.short"
        ):
            windows.sample(None, 0, "key", balance)
    for number, name in ((1, "short"), (2, "none")):
        with pytest.raises(InputError, match=rf"{name}: holds not one window of 8 .* raise corpora.{name}.validation"):
            windows.spread(number, 100)


def test_spread_is_even_ascending_and_of_one_corpus(three):
    windows = Windows(three[0], 8)
    assert list(windows.spread(1, 10**9)) == [16, 17, 18, 19, 20]
    assert list(windows.spread(0, 4 * 8 + 7)) == [0, 4, 8, 12]
    assert list(windows.spread(2, 1)) == [21]
    for wanted in range(1, 17):
        chosen = windows.spread(0, wanted * 8)
        assert len(set(chosen)) == wanted
        assert set(np.diff(chosen)) <= {16 // wanted, -(-16 // wanted)}


def test_shard_size_holds_a_whole_number_of_the_usual_windows():
    # windows do not cross shards; with these no token is lost at a shard's end
    assert shards_module.SHARD_TOKENS % 256 == shards_module.SHARD_TOKENS % 128 == 0


def test_index_is_written_last(corpus):
    # a reader that finds it finds all shards
    _, directory, _ = corpus
    index = json.loads((directory / "index.json").read_text())
    assert all((directory / shard["file"]).exists() for shard in index["shards"])
