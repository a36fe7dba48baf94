"""Tokens as text, for every kind of vocabulary, against the tokenizers' own decoders.

Of that kind and tried, beside the zoo: vocabularies whose normaliser alone writes spaces as a sign; WordPiece without a decoder; added
tokens that look like pieces; unknown text at the head, at the end and beside punctuation; characters over two, three and four tokens,
cut by the window, broken, and followed by the start of another in one token.
"""

import json

import numpy as np
import pytest
from tokenizer_zoo import CJK, TEXTS, ZOO, publish, reference
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from feature_lineage.meaning.categories import CLASSES, code_corpora, token_classes
from feature_lineage.meaning.contexts import highlighted
from feature_lineage.report.browser import _context
from feature_lineage.text.tokenizer import import_tokenizer, save_tokenizer
from feature_lineage.text.vocabulary import Shown, Texts, token_texts, window_texts

P, S, K, ID, N, W, X = CLASSES


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A function that gives a tokenizer of the zoo, and its vocabulary as `token_texts` reads it."""
    root, made = tmp_path_factory.mktemp("zoo"), {}

    def get(name):
        if name not in made:
            folder = publish(name, root / name / "published")
            save_tokenizer(import_tokenizer(folder), root / name / "imported", {})
            made[name] = reference(folder), *token_texts(root / name / "imported" / "tokenizer.json")
        return made[name]

    return get


def encoded(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def read(ids, texts):
    return "".join(one.text for one in window_texts(ids, texts))


@pytest.mark.parametrize("name", ZOO)
def test_texts_of_a_window_join_to_what_the_tokenizer_decodes(zoo, name):
    tokenizer, texts, _ = zoo(name)
    if name == "word-piece":  # it is published without a decoder
        tokenizer.decoder = decoders.WordPiece(cleanup=False)
    for text in TEXTS:
        ids = encoded(tokenizer, text)
        assert read(ids, texts).strip(" ") == tokenizer.decode(ids, skip_special_tokens=False).strip(" ")
    assert len(texts) == max(tokenizer.get_vocab().values()) + 1


def test_the_token_for_unknown_text_is_text_and_special_ones_are_not(zoo):
    for name, unknown in {"unigram": "<unk>", "words": "<unk>", "bert-cased": "[UNK]", "pieces": "<unk>"}.items():
        tokenizer, texts, special = zoo(name)
        number = tokenizer.token_to_id(unknown)
        assert texts[number].strip() == unknown and not special[number]
        end = "[SEP]" if name == "bert-cased" else "</s>"
        assert special[tokenizer.token_to_id(end)] and texts[tokenizer.token_to_id(end)] == end


def written(tmp_path, tokenizer, **settings):
    """Texts of a tokenizer built by hand."""
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"} | settings))
    save_tokenizer(import_tokenizer(tmp_path), tmp_path / "saved", {})
    return token_texts(tmp_path / "saved" / "tokenizer.json")


def test_pieces_of_words_follow_their_word(tmp_path):
    words = {"</s>": 0, "[UNK]": 1, "un": 2, "##believ": 3, "##able": 4, ",": 5, "the": 6, "##": 7}
    made = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    texts, special = written(tmp_path, made)
    assert texts[1:7] == [" [UNK]", " un", "believ", "able", ",", " the"]
    assert special.tolist() == [True] + [False] * 7


def test_a_sign_for_spaces_that_only_the_normaliser_names(tmp_path):
    made = Tokenizer(models.BPE({"</s>": 0, "▁the": 1, "a": 2, "▁": 3, "<0x0A>": 4}, [], byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "▁")])
    texts, _ = written(tmp_path, made)
    assert texts == ["</s>", " the", "a", " ", "\n"]


# --- characters of several tokens --------------------------------------------------------------------------


def test_neighbouring_pieces_are_joined_before_they_are_decoded(zoo):
    tokenizer, texts, _ = zoo("digits")
    ids = encoded(tokenizer, CJK)
    assert sum("\ufffd" in texts[token] for token in ids) > len(ids) / 2, "most tokens are pieces of characters"
    shown = window_texts(ids, texts)
    assert read(ids, texts) == CJK
    assert [place for one in shown for place in range(one.first, one.stop)] == list(range(len(ids)))


@pytest.mark.parametrize("name", ["digits", "pieces"])
def test_windows_that_cut_characters_read_as_their_bytes(zoo, name):
    tokenizer, texts, _ = zoo(name)
    ids = encoded(tokenizer, CJK + "\U0001f600 é")
    for first in range(0, len(ids) - 9):
        window = ids[first : first + 9]
        expected = b"".join(texts.pieces[token] for token in window).decode("utf-8", "replace")
        found = read(window, texts)
        # A cut character may read as several signs where its pieces are decoded apart.
        assert found.replace("\ufffd", "") == expected.replace("\ufffd", "")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"a", b"\xe6\x97", b"\xa5", b"b"], [(0, 1, "a"), (1, 3, "日"), (3, 4, "b")]),
        ([b"\xe6\x97", b"\xa5\xe6", b"\x9c\xac", b"."], [(0, 3, "日本"), (3, 4, ".")]),
        ([b"\xf0", b"\x9f", b"\x98", b"\x80"], [(0, 4, "\U0001f600")]),
        ([b"x\xe6\x97", b"\xa5y", b"z"], [(0, 2, "x日y"), (2, 3, "z")]),
        ([b"\xa5", b"a", b"\xe6\x97"], [(0, 1, "\ufffd"), (1, 2, "a"), (2, 3, "\ufffd")]),  # cut at both ends
        ([b"\xe6", b"a", b"\x97"], [(0, 1, "\ufffd"), (1, 2, "a"), (2, 3, "\ufffd")]),  # never a character
        ([b"\xe6", b"", b"\x97"], [(0, 1, "\ufffd"), (1, 2, ""), (2, 3, "\ufffd")]),
        ([b"\xef\xbf\xbd", b"b"], [(0, 1, "\ufffd"), (1, 2, "b")]),  # which a text may hold
    ],
)
def test_tokens_are_joined_where_a_character_goes_on(pieces, expected):
    assert window_texts(range(len(pieces)), Texts(pieces)) == [Shown(*one) for one in expected]


def test_a_context_shows_joined_tokens_with_the_highest_activation():
    texts = Texts([b"a", b"\xe6\x97", b"\xa5", b"b"])
    shown = highlighted(np.array([0, 1, 2, 3]), [1, 2, 3], [0.5, 2.0, 1.0], texts)
    assert shown == {"tokens": ["a", "日", "b"], "activations": [0.0, 2.0, 1.0]}
    assert _context([0, 1, 2, 3], [1, 2, 3], [0.5, 2.0, 1.0], texts) == ([0, "日", 3], [1, 2], [2.0, 1.0])
    assert _context([0, 1, 2, 3], [0, 3], [0.5, 1.0], texts) == ([0, "日", 3], [0, 2], [0.5, 1.0])
    for whole in (texts, list(texts)):  # nothing to join: every token is its number
        assert _context([3, 0, 3], [0, 2], [0.51234, 1.0], whole) == ([3, 0, 3], [0, 2], [0.512, 1.0])


# --- classes -----------------------------------------------------------------------------------------------


def classes(ids, texts, special):
    (found,) = token_classes(np.array([ids]), np.zeros(1, int), texts, special)
    return [CLASSES[number] for number in found]


def test_word_pieces_have_the_classes_that_a_reader_would_say(tmp_path):
    words = ["</s>", "[UNK]", "un", "##believ", "##able", ",", "the", "cat", "18", "##66", ".", "'"]
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    texts, special = written(tmp_path, made)
    window = ["the", "cat", "[UNK]", "un", "##believ", "##able", ",", "the", "18", "##66", ".", "[UNK]", "</s>", "the"]
    ids = [made.token_to_id(word) for word in window]
    assert classes(ids, texts, special) == [W, W, W, X, X, X, P, W, N, N, P, W, S, W]


def test_whole_words_are_words(tmp_path):
    words = ["</s>", "<unk>", "the", "cat", ",", "1866"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    texts, special = written(tmp_path, made)
    assert classes([2, 3, 4, 1, 3, 5, 1, 0], texts, special) == [W, W, P, W, W, N, W, S]


def test_unknown_text_is_no_sign_of_code(tmp_path):
    texts, special = ["the", "<unk>", " [UNK]", "=", "</s>"], np.array([False, False, False, False, True])
    tokens = np.array([[0, 1, 2, 1], [0, 0, 0, 3]])
    assert code_corpora(tokens, np.array([0, 1]), texts, special).tolist() == [False, True]


def test_a_word_with_a_character_of_several_tokens_is_one_word():
    texts = Texts([b" caf", b"\xc3", b"\xa9", b" for", b"e\xcc", b"\x81x", b"\n"])
    assert classes([0, 1, 2, 3], texts, np.zeros(7, bool)) == [X, X, X, W]
    assert classes([3, 4, 5, 6], texts, np.zeros(7, bool))[:1] == [X]  # " fore…"


def test_pieces_of_characters_are_parts_of_words_anywhere(zoo):
    tokenizer, texts, special = zoo("digits")
    ids = encoded(tokenizer, CJK)
    found = classes(ids, texts, special)
    joined = [one for one in window_texts(ids, texts) if one.stop - one.first > 1]
    assert joined and all(found[place] == X for one in joined for place in range(one.first, one.stop))
    assert S not in [found[place] for one in joined for place in range(one.first, one.stop)]
