"""Top contexts against a dense copy, and tokens as text."""

import shutil
from itertools import pairwise

import numpy as np
import pytest
from test_feature_tokens import write_activations

from feature_lineage.errors import InputError
from feature_lineage.features import activations as feature_activations
from feature_lineage.features.activations import window_pieces
from feature_lineage.meaning.contexts import CONTEXTS, collect_contexts, highlighted, leading
from feature_lineage.text.tokenizer import save_tokenizer
from feature_lineage.text.vocabulary import token_texts

WINDOWS, LENGTH, FEATURES = 60, 5, 9


def few_values(seed, share=0.3):
    """Activations [tokens, features] of so few values that many peaks are equal; the last feature never fires."""
    random = np.random.default_rng(seed)
    dense = random.integers(1, 5, (WINDOWS * LENGTH, FEATURES)) * (random.random((WINDOWS * LENGTH, FEATURES)) < share)
    dense[:, -1] = 0
    dense[LENGTH:, -2] = 0
    return dense.astype(np.float32) / 3


def dense_contexts(dense, count):
    rows = []
    for feature in range(FEATURES):
        windows = dense[:, feature].reshape(WINDOWS, LENGTH)
        best = sorted((-peak, window) for window, peak in enumerate(windows.max(1)) if peak > 0)[:count]
        for rank, (peak, window) in enumerate(best):
            position = np.flatnonzero(windows[window]).tolist()
            activation = windows[window][position].tolist()
            rows.append(dict(zip(CONTEXTS.names, (feature, rank, window, -peak, position, activation), strict=True)))
    return rows


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 14])  # tokens read at a time; a window has five
@pytest.mark.parametrize("count", [1, 10, 100])
@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_contexts_are_those_of_a_dense_copy(tmp_path, monkeypatch, block, count, share):
    dense = few_values(1, share)
    path = write_activations(tmp_path / "a.parquet", dense)
    monkeypatch.setattr(feature_activations, "BLOCK", block)
    found = collect_contexts(path, (WINDOWS, LENGTH), count)
    assert found.schema == CONTEXTS
    assert found.to_pylist() == dense_contexts(dense, count)


def test_no_piece_parts_a_window(tmp_path, monkeypatch):
    dense = few_values(2)
    path = write_activations(tmp_path / "a.parquet", dense)
    monkeypatch.setattr(feature_activations, "BLOCK", 7)
    pieces = list(window_pieces(path, (WINDOWS, LENGTH)))
    assert len(pieces) > 5
    assert all(before[0][-1] < after[0][0] for before, after in pairwise(pieces))
    again = np.zeros_like(dense)
    for window, position, feature, activation in pieces:
        again[window * LENGTH + position, feature] = activation
    np.testing.assert_array_equal(again, dense)


def test_a_sample_that_never_fires_has_no_contexts(tmp_path):
    path = write_activations(tmp_path / "a.parquet", np.zeros((WINDOWS * LENGTH, FEATURES), np.float32))
    assert collect_contexts(path, (WINDOWS, LENGTH)).num_rows == 0


def test_activations_of_another_sample_are_refused(tmp_path):
    path = write_activations(tmp_path / "a.parquet", few_values(3))
    with pytest.raises(InputError, match=r"a\.parquet: has 300 tokens, the sample 305"):
        collect_contexts(path, (WINDOWS + 1, LENGTH))


def test_the_largest_of_a_group_come_first_and_of_equal_ones_the_lowest_number():
    group, value, number = np.array([2, 1, 1, 1, 2]), np.array([5.0, 3, 7, 7, 6]), np.array([0, 1, 9, 4, 3])
    order, rank = leading(group, value, number, 2)
    assert order.tolist() == [3, 2, 4, 0]
    assert rank.tolist() == [0, 1, 0, 1]


def test_a_window_is_shown_whole():
    shown = highlighted(np.array([2, 0, 1]), [0, 2], [0.5, 1.5], ["a", " b", "<script>"])
    assert shown == {"tokens": ["<script>", "a", " b"], "activations": [0.5, 0.0, 1.5]}


# --- tokens as text ----------------------------------------------------------------------------------------


def test_texts_of_a_window_join_to_its_text(tokenizer_dir):
    from feature_lineage.text.tokenizer import load_tokenizer

    text = "    def read(self, name):\n        return name == 'é'\n"
    tokens = load_tokenizer(tokenizer_dir)(text)["input_ids"]
    texts, special = token_texts(tokenizer_dir / "tokenizer.json")
    shown = "".join(texts[token] for token in tokens)
    assert shown.replace("\ufffd", "") == text.replace("é", "")
    assert [texts[i] for i in np.flatnonzero(special)] == ["<|endoftext|>"]


def test_spaces_written_as_a_sign_of_their_own_are_spaces(tmp_path):
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = Tokenizer(models.WordLevel({"</s>": 0, "▁=": 1, "a": 2, "▁▁": 3}, unk_token="</s>"))
    pieces.decoder = decoders.Metaspace()
    save_tokenizer(PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="</s>"), tmp_path / "tokenizer", {})
    texts, special = token_texts(tmp_path / "tokenizer" / "tokenizer.json")
    assert texts == ["</s>", " =", "a", "  "]
    assert special.tolist() == [True, False, False, False]


def test_a_damaged_tokenizer_is_named(tmp_path, tokenizer_dir):
    shutil.copytree(tokenizer_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot be read"):
        token_texts(tmp_path / "tokenizer.json")
