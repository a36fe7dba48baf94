"""Classes of tokens as a reader would tell them, and categories against a dense copy."""

import numpy as np
import pyarrow as pa
import pytest
from reports import FLOW
from test_feature_tokens import sparse_activations, write_activations

from feature_lineage.meaning import categories
from feature_lineage.meaning.categories import (
    CATEGORISED,
    CLASSES,
    categorise_features,
    code_corpora,
    count_categories,
    token_classes,
)
from feature_lineage.meaning.main_token import TOKENS

END = "<|endoftext|>"


def classes_of(*windows, code=False):
    """The class of each token of some windows of one corpus, given as texts."""
    windows = [list(window) for window in windows]
    length = max(map(len, windows))
    # What fills a window up, and makes the corpus code or prose.
    sign = "(" if code else "."
    filled = [[*window, *[sign] * (length - len(window))] for window in windows] + [[sign] * length]
    texts = sorted({text for window in filled for text in window})
    tokens = np.array([[texts.index(text) for text in window] for window in filled])
    found = token_classes(tokens, np.zeros(len(tokens), int), texts, np.array([text == END for text in texts]))
    return [[CLASSES[number] for number in row[: len(window)]] for row, window in zip(found, windows, strict=False)]


P, S, K, ID, N, W, X = CLASSES


@pytest.mark.parametrize(
    ("window", "code", "expected"),
    [
        ("The¦ cat¦ sat¦.¦\n", False, [W, W, W, P, S]),
        (" un¦believ¦able¦,¦ so", False, [X, X, X, P, W]),
        (" don¦'t¦ say¦ '¦twas¦'", False, [X, X, W, P, W, P]),
        (" rock¦ ’¦n", False, [W, P, W]),
        ("in¦ 18¦66¦th¦.", False, [W, N, N, N, P]),
        (" caf¦\ufffd¦\ufffd¦ for", False, [W, X, X, W]),
        (f"end¦{END}¦And", False, [W, S, W]),
        ("\n    ¦if¦ not¦ self¦._¦name¦:\n", True, [S, K, K, ID, ID, ID, P]),
        ("func¦tion¦ f¦(¦x1¦)¦ end", True, [K, K, ID, P, ID, P, K]),
        (" =¦ 0¦x¦1F¦;¦  ¦\t", True, [P, N, N, N, P, S, S]),
        ("(¦'¦for¦'¦)", True, [P, P, K, P, P]),
        (" for¦ the¦ir", False, [W, X, X]),
        ("1.x¦ c", True, [N, ID]),  # of two runs in a token the first counts
    ],
)
def test_a_token_is_of_the_class_that_a_reader_would_say(window, code, expected):
    assert classes_of(window.split("¦"), code=code) == [expected]


def test_words_end_with_their_window():
    assert classes_of([" be", "fore"], ["hand", " s"]) == [[X, X], [W, W]]


def test_a_corpus_is_code_by_its_tokens():
    texts = ["the", " x", "=", "(", END]
    prose = [0, 1] * 10
    window = {"prose": prose, "sparse": [*prose[:-1], 2], "bracketed": [*prose[:-2], 3, 2], "ends": [4] * 20}
    tokens = np.array(list(window.values()))
    found = code_corpora(tokens, np.arange(4), texts, np.array([text == END for text in texts]))
    assert dict(zip(window, found.tolist(), strict=True)) == {
        "prose": False,
        "sparse": True,  # 5 %
        "bracketed": True,
        "ends": False,  # a special token is no sign, whatever it is written as
    }


# --- features ----------------------------------------------------------------------------------------------


def sample(seed, windows=300, length=5, vocabulary=7):
    random = np.random.default_rng(seed)
    tokens = random.integers(0, vocabulary, (windows, length))
    classes = np.where(random.random(tokens.shape) < 0.2, random.integers(0, len(CLASSES), tokens.shape), tokens)
    return tokens, classes.astype(np.uint8)  # mostly the token's own


def dense_category(activation, tokens, classes):
    """(category, share, [(token, share, ratio)]) of one feature's activations [windows, length], by the module's words."""
    mass = activation.sum()
    if not mass:
        return None, None, []
    shares = [(token, activation[tokens == token].sum() / mass) for token in np.unique(tokens)]
    shares = sorted(((token, share) for token, share in shares if share), key=lambda pair: (-pair[1], pair[0]))[:5]
    listed = [(token, share, np.log(share / np.mean(tokens == token))) for token, share in shares]
    place = activation.sum(0).max() / mass
    if place > 0.5 and np.count_nonzero(activation) >= activation.shape[1]:
        return "position", place, listed
    by_class = {name: activation[classes == number].sum() / mass for number, name in enumerate(CLASSES)}
    name = max(by_class, key=by_class.get)
    return (name if by_class[name] > 0.5 else "mixed"), by_class[name], listed


@pytest.mark.parametrize(
    ("entries", "ranges", "masses"),
    [(1, 500, 1), (1, 500, 1 << 25), (1, 3, 1 << 25), (700, 128, 20), (1 << 20, 128, 1 << 25)],
)
def test_categories_are_those_of_a_dense_copy(tmp_path, monkeypatch, entries, ranges, masses):
    """A feature at a time, some and all."""
    tokens, classes = sample(0)
    dense = sparse_activations(1, tokens.size, 20)
    flat, kinds, place = tokens.ravel(), classes.ravel(), np.arange(tokens.size) % 5
    dense[:, 0] *= kinds == kinds[0]
    dense[:, 1] *= 0.05 + (kinds == kinds[0])
    dense[:, 2] *= flat == 2
    dense[:, 3] *= place == 0
    dense[:, 4] *= 0.2 + (place == 4)
    dense[:, 5] *= np.arange(tokens.size) == np.argmax(dense[:, 5])  # one occurrence: no position
    dense[:, 6] = 0
    path = write_activations(tmp_path / "a.parquet", dense)
    monkeypatch.setattr(categories, "ENTRIES", entries)
    monkeypatch.setattr(categories, "RANGES", ranges)
    monkeypatch.setattr(categories, "MASSES", masses)
    found = categorise_features(path, tokens, classes, 7)
    assert found.schema == CATEGORISED
    assert found["feature"].to_pylist() == list(range(20))
    for feature, row in enumerate(found.to_pylist()):
        activation = dense[:, feature].astype(np.float64).reshape(tokens.shape)
        name, share, listed = dense_category(activation, tokens, classes)
        assert (row["category"], row["share"]) == (name, share if share is None else pytest.approx(share))
        assert [entry["token"] for entry in row["tokens"]] == [token for token, _, _ in listed]
        np.testing.assert_allclose([(e["share"], e["ratio"]) for e in row["tokens"]], [t[1:] for t in listed] or [])
    names = found["category"].to_pylist()
    assert names[0] == CLASSES[kinds[0]] and names[3] == "position" and names[5] != "position" and names[6] is None
    assert {"mixed", "position", CLASSES[2], CLASSES[kinds[0]]} <= set(names)


def test_a_large_vocabulary_takes_two_passes_and_bounded_memory(tmp_path, monkeypatch):
    """A published model's 151,936 tokens: features × vocabulary are 311 million sums, of which the sample has 6,000.

    Also tried: few activations at once. The file is read as often, and the result is the same to the bit.
    """
    random = np.random.default_rng(0)
    features, vocabulary = 2048, 151_936
    tokens = random.integers(0, vocabulary, (300, 5))
    dense = np.zeros((tokens.size, features), np.float32)
    for row in dense:
        row[random.integers(0, features, 4)] = random.exponential(1.0, 4)
    path = write_activations(tmp_path / "a.parquet", dense)
    passes, most = [], []
    pieces, categorised = categories.window_pieces, categories._categorised
    monkeypatch.setattr(categories, "window_pieces", lambda *a: passes.append(1) or pieces(*a))
    monkeypatch.setattr(categories, "_categorised", lambda *a: most.append((len(a[0]), len(a[1]))) or categorised(*a))
    found = categorise_features(path, tokens, np.zeros(tokens.shape, np.uint8), vocabulary)
    assert len(passes) == 1 and len(most) == 1
    monkeypatch.setattr(categories, "ENTRIES", 100)
    passes.clear()
    most.clear()
    assert categorise_features(path, tokens, np.zeros(tokens.shape, np.uint8), vocabulary).equals(found)
    assert len(passes) == 1 and 60 < len(most) <= 80
    assert max(entries for entries, _ in most) <= 100
    assert [sum(column) for column in zip(*most, strict=True)] == [np.count_nonzero(dense), features]


def test_masses_add_up_in_the_order_of_the_sample(tmp_path, monkeypatch):
    """So that the last bit depends on no buffer: against float64 sums token by token."""
    tokens = np.random.default_rng(3).integers(0, 3, (400, 5))
    dense = sparse_activations(4, tokens.size, 6, 0.8)
    path = write_activations(tmp_path / "a.parquet", dense)
    mass = np.zeros((6, 3))
    for token, row in zip(tokens.ravel(), dense.astype(np.float64), strict=True):
        mass[:, token] += row
    for entries in (1, 3000, 1 << 20):
        monkeypatch.setattr(categories, "ENTRIES", entries)
        found = categorise_features(path, tokens, np.zeros(tokens.shape, np.uint8), 3)
        for feature, listed in enumerate(found["tokens"].to_pylist()):
            total = mass[feature].sum()
            assert {one["token"]: one["share"] for one in listed} == dict(enumerate((mass[feature] / total).tolist()))


def test_half_of_the_mass_is_no_majority(tmp_path):
    tokens, classes = np.array([[0, 1], [1, 0]]), np.array([[0, 1], [1, 0]], np.uint8)
    dense = np.array([[1, 1, 3], [1, 2, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    path = write_activations(tmp_path / "a.parquet", dense)
    found = categorise_features(path, tokens, classes, 2)
    assert found["category"].to_pylist() == ["mixed", "position", CLASSES[0]]


def test_living_features_are_counted_by_category_corpus_verdict_and_fate():
    """A feature may be kept and yet disappear by the paper's measure; what is unknown is no group of its own that is lost."""
    fates = ["persisting", "dead", "disappearing", "persisting"]
    verdicts = ["found", None, "kept", "kept"]
    columns = {"parent": "a", "child": "b", "seed": 0}
    rows = [
        {**columns, "model": "a", "feature": i, "fate": fate, "verdict": verdict, "new": None}
        for i, (fate, verdict) in enumerate(zip(fates, verdicts, strict=True))
    ]
    rows += [{**columns, "model": "b", "feature": 0, "fate": "emerging", "verdict": "lost", "new": True}]
    features = pa.Table.from_pylist(rows, FLOW)
    kinds = {("a", 0): [W, P, W, W], ("b", 0): ["mixed"]}
    corpora = {("a", 0): ["x", "x", "x", "y"], ("b", 0): ["y"]}
    found = count_categories(
        features,
        {
            key: pa.Table.from_pylist([{"category": kind} for kind in found], CATEGORISED)
            for key, found in kinds.items()
        },
        {key: pa.Table.from_pylist([{"corpus": corpus} for corpus in found], TOKENS) for key, found in corpora.items()},
    )
    counted = [
        tuple(row[name] for name in ("side", "category", "corpus", "verdict", "new", "fate", "features"))
        for row in found.to_pylist()
    ]
    assert sorted(counted) == [
        ("child", "mixed", "y", "lost", True, "emerging", 1),
        ("parent", W, "x", "found", None, "persisting", 1),
        ("parent", W, "x", "kept", None, "disappearing", 1),
        ("parent", W, "y", "kept", None, "persisting", 1),
    ]
