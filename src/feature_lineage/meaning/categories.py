"""What kind of token each feature is about, by measured statistics: `RULE` and `DEFINITIONS` say how."""

from __future__ import annotations

import keyword
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_lineage.features.activations import window_pieces
from feature_lineage.meaning.contexts import leading
from feature_lineage.progress import progress
from feature_lineage.store.formats import read_provenance
from feature_lineage.text.vocabulary import Texts, window_texts

CLASSES = (
    "punctuation",
    "indentation and line breaks",
    "keyword",
    "identifier",
    "number",
    "word",
    "part of word",
)
PUNCTUATION, SPACE, KEYWORD, IDENTIFIER, NUMBER, WORD, PART = range(len(CLASSES))
CATEGORIES = (*CLASSES, "position", "mixed")
MAJORITY = 0.5  # share of the mass that a category takes more than
CODE = 0.05  # share of a corpus's tokens with a sign of code in it
TOP_TOKENS = 5
PAIRS = (
    1 << 24
)  # of a feature and a token whose sums are held at once, 16 bytes each: features with more take another pass
BUFFER = 1 << 21  # activations that are sorted at once

LUA = "and break do else elseif end false for function goto if in local nil not or repeat return then true until while"
KEYWORDS = frozenset([*keyword.kwlist, *LUA.split()])
_SIGN_OF_CODE = re.compile(r"[=(){}\[\]<>_]")
_UNKNOWN = re.compile(r"\s*[<\[]\|?unk(?:nown)?\|?[>\]]\s*", re.IGNORECASE)  # its brackets are no code
_RUN = {True: re.compile(r"\w+"), False: re.compile(r"\w+(?:['’]\w+)*")}  # in code, in prose

RULE = (
    "Every occurrence of a token in the sample is of one class, as far as its window shows. A feature's category is the class with more "
    f"than {MAJORITY:.0%} of its activation mass, the sum of its activations. What makes a word is the longest run of letters, digits "
    "and underscores that a token is in (in prose with apostrophes between letters), across tokens. A corpus is code if at least "
    f"{CODE:.0%} of its tokens in the sample hold one of = ( ) {{ }} [ ] < > _."
)
DEFINITIONS = {
    "punctuation": "Neither letter, digit nor underscore in the token.",
    "indentation and line breaks": "White space alone; and the special token that parts documents.",
    "keyword": "In code, a run that is a reserved word of Python or Lua.",
    "identifier": "In code, any other run, those of strings and comments among them.",
    "number": "A run that begins with a digit.",
    "word": "In prose, a token that holds a whole run; the token for unknown text is taken for one.",
    "part of word": "In prose, a token that holds a piece of a run; anywhere, a piece of a character.",
    "position": "Decided before the others: more than half of the mass lies on one position in the window, whatever the tokens there, and "
    "the feature fires on at least as many tokens as a window has positions, so that one or two occurrences do not decide.",
    "mixed": "No class, and no position, has more than half of the mass.",
}

CATEGORISED = pa.schema(
    [
        ("feature", pa.int32()),
        ("category", pa.string()),
        ("share", pa.float64()),
        (
            "tokens",
            pa.list_(pa.struct([("token", pa.int32()), ("share", pa.float64()), ("ratio", pa.float64())])),
        ),
    ]
)
COUNTS = pa.schema(
    [
        ("parent", pa.string()),
        ("child", pa.string()),
        ("seed", pa.int64()),
        ("side", pa.string()),
        ("category", pa.string()),
        ("corpus", pa.string()),
        ("verdict", pa.string()),
        ("new", pa.bool_()),
        ("fate", pa.string()),
        ("features", pa.int64()),
    ]
)


def code_corpora(tokens: np.ndarray, corpus: np.ndarray, texts: Sequence[str], special: np.ndarray) -> np.ndarray:
    """Whether each corpus of a sample is code, bool [corpora]; for the arguments see `token_classes`."""
    sign = [bool(_SIGN_OF_CODE.search(text)) and not _UNKNOWN.fullmatch(text) for text in texts]
    sign = np.array(sign) & ~special
    share = sign[tokens].mean(axis=1)
    windows = np.bincount(corpus)
    return np.bincount(corpus, share) >= CODE * np.maximum(windows, 1)


def token_classes(tokens: np.ndarray, corpus: np.ndarray, texts: Sequence[str], special: np.ndarray) -> np.ndarray:
    """The class of every token occurrence of a sample.

    Args:
        tokens: token numbers, int [windows, length].
        corpus: corpus of each window, int [windows].
        texts: text of each token of the vocabulary (`vocabulary.token_texts`).
        special: whether each is a special token, bool [vocabulary].

    Returns:
        Numbers of `CLASSES`, uint8 [windows, length].
    """
    # What parts documents breaks a line.
    if isinstance(texts, Texts):
        texts = Texts([b"\n" if one else piece for piece, one in zip(texts.pieces, special, strict=True)])
    else:
        texts = ["\n" if one else text for text, one in zip(texts, special, strict=True)]
    alone = [PART if "\ufffd" in text else SPACE if not text.strip() else PUNCTUATION for text in texts]
    classes = np.array(alone, np.uint8)[tokens]
    code = code_corpora(tokens, corpus, texts, special)[corpus]
    with progress(len(tokens), "window", "token classes") as bar:
        for row, (window, is_code) in enumerate(zip(tokens.tolist(), code.tolist(), strict=True)):
            shown = window_texts(window, texts)
            starts = [0, *accumulate(len(one.text) for one in shown)]
            free = 0  # a token with two runs in it is of the first one's class
            for run in _RUN[is_code].finditer("".join(one.text for one in shown)):
                first = shown[bisect_right(starts, run.start()) - 1].first
                stop = shown[bisect_right(starts, run.end() - 1) - 1].stop
                classes[row, max(first, free) : stop] = _class(run[0], is_code, stop - first > 1)
                free = stop
            for one in shown:
                if one.stop - one.first > 1:
                    classes[row, one.first : one.stop] = PART
            bar.update()
    return classes


def _class(run: str, is_code: bool, several: bool) -> int:
    if run[0].isdigit():
        return NUMBER
    if is_code:
        return KEYWORD if run in KEYWORDS else IDENTIFIER
    return PART if several else WORD


def categorise_features(path: str | Path, tokens: np.ndarray, classes: np.ndarray, vocabulary: int) -> pa.Table:
    """The category of each feature, and the tokens with most of its activation.

    The file is read once, and once more for each `PAIRS` of a feature and a token that it fires on; memory grows with neither the
    sample nor features × vocabulary.

    Args:
        path: activations, a file of `collect.collect_features`.
        tokens: token numbers of the sample, int [windows, length].
        classes: their classes (`token_classes`).
        vocabulary: tokens of the vocabulary.

    Returns:
        One row a feature, schema `CATEGORISED`. `share` is that of the category in the feature's mass, for `mixed` that of the largest class.
        Of each of the five tokens with most of the mass, its share of it and the log-likelihood ratio of the token, in nats:
        log(share / share of the token in the sample). Null, and no tokens, for a feature that never fires.
    """
    (windows, length), features = tokens.shape, read_provenance(path)["features"]
    unigram = np.bincount(tokens.ravel(), minlength=vocabulary) / tokens.size
    on_class, on_position = np.zeros(features * len(CLASSES)), np.zeros(features * length)
    active = np.zeros(features, np.int64)
    lists: list[list[dict[str, Any]]] = []
    with progress(windows, "window") as bar:
        while len(lists) < features:
            first = len(lists)
            sums = _Sums(first, features, vocabulary)
            for window, position, feature, activation in window_pieces(path, tokens.shape):
                if not first:
                    key = feature * len(CLASSES) + classes[window, position]
                    on_class += np.bincount(key, activation, len(on_class))
                    on_position += np.bincount(feature * length + position, activation, len(on_position))
                    active += np.bincount(feature, minlength=features)
                    bar.update(int(window[-1]) + 1 - bar.n)
                sums.add(feature, tokens[window, position], activation)
            lists += sums.top_tokens(unigram)
    on_class, on_position = on_class.reshape(features, -1), on_position.reshape(features, -1)
    total = on_class.sum(1)
    fires = total > 0
    class_share, position_share = (
        np.divide(mass.max(1), total, out=np.zeros(features), where=fires) for mass in (on_class, on_position)
    )
    on_one = (position_share > MAJORITY) & (active >= length)
    names = np.where(class_share > MAJORITY, np.array(CLASSES, object)[on_class.argmax(1)], "mixed")
    names[on_one] = "position"
    share = np.where(on_one, position_share, class_share)
    columns = [pa.array(names, pa.string(), mask=~fires), pa.array(share, mask=~fires), lists]
    return pa.table([np.arange(features, dtype=np.int32), *columns], schema=CATEGORISED)


class _Sums:
    """Activation of each feature of a range on each token, for the pairs that occur.

    The range ends earlier as soon as its pairs are more than `PAIRS`, down to one feature. Each sum adds up in the order of the file, so
    that it does not depend on where ranges end.
    """

    def __init__(self, first: int, stop: int, vocabulary: int) -> None:
        self.first, self.stop, self.vocabulary = first, stop, vocabulary
        self.key, self.sum = np.zeros(0, np.int64), np.zeros(0)  # feature × vocabulary + token, ascending
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, feature: np.ndarray, token: np.ndarray, activation: np.ndarray) -> None:
        here = (feature >= self.first) & (feature < self.stop)
        key = feature[here].astype(np.int64) * self.vocabulary + token[here]
        self.waiting.append((key, activation[here].astype(np.float64)))
        if sum(len(key) for key, _ in self.waiting) >= BUFFER:
            self._merge()

    def _merge(self) -> None:
        if not self.waiting:
            return
        key, activation = (np.concatenate(column) for column in zip(*self.waiting, strict=True))
        self.waiting = []
        found, number = np.unique(key, return_inverse=True)
        place = np.searchsorted(self.key, found)
        known = np.zeros(len(found), bool)
        inside = place < len(self.key)
        known[inside] = self.key[place[inside]] == found[inside]
        self.key = np.insert(self.key, place[~known], found[~known])
        self.sum = np.insert(self.sum, place[~known], 0.0)
        place += np.cumsum(~known) - ~known  # behind the new ones before it
        np.add.at(self.sum, place[number], activation)
        while len(self.key) > PAIRS and self.stop - self.first > 1:
            self.stop = (self.first + self.stop) // 2
            kept = int(np.searchsorted(self.key, self.stop * self.vocabulary))
            self.key, self.sum = self.key[:kept].copy(), self.sum[:kept].copy()

    def top_tokens(self, unigram: np.ndarray) -> list[list[dict[str, Any]]]:
        """For each feature of the range, its tokens with the largest sums."""
        self._merge()
        feature, token = np.divmod(self.key, self.vocabulary)
        order, _ = leading(feature, self.sum, token, TOP_TOKENS)
        bounds = np.searchsorted(feature, np.arange(self.first, self.stop + 1))
        total = np.zeros(self.stop - self.first)
        row = np.zeros(self.vocabulary)
        for number, (start, stop) in enumerate(pairwise(bounds.tolist())):
            row[token[start:stop]] = self.sum[start:stop]
            total[number] = row.sum()
            row[token[start:stop]] = 0
        lists: list[list[dict[str, Any]]] = [[] for _ in total]
        for place in order.tolist():
            one, number = int(feature[place]) - self.first, int(token[place])
            share = float(self.sum[place] / total[one])
            lists[one].append({"token": number, "share": share, "ratio": float(np.log(share / unigram[number]))})
        return lists


def count_categories(
    features: pa.Table, categories: Mapping[tuple[str, int], pa.Table], tokens: Mapping[tuple[str, int], pa.Table]
) -> pa.Table:
    """Living features of both sides of each edge by category, corpus, verdict and fate, for the seeds that have categories.

    Args:
        features: `flows/features.parquet`.
        categories: table of `categorise` for each model and seed.
        tokens: table of `main_token.weigh_tokens` for each model and seed: its corpus is the one with most of a feature's mass.

    Returns:
        Schema `COUNTS`; `side` is `parent` or `child`; `verdict` and `new` are what became of them by what they do, `fate` by the paper's
        measure. Combinations without features have no row.
    """
    told = ["verdict", "new", "fate"]
    frame = features.select(["parent", "child", "seed", "model", "feature", *told]).to_pandas()
    frame = frame[(frame["fate"] != "dead") & frame["seed"].isin({seed for _, seed in categories})]
    rows: list[dict[str, Any]] = []
    for (parent, child, seed, model), alive in frame.groupby(["parent", "child", "seed", "model"], sort=False):
        side = {"parent": parent, "child": child, "seed": seed, "side": "parent" if model == parent else "child"}
        alive = alive.assign(
            category=categories[model, seed]["category"].to_pandas()[alive["feature"]].to_numpy(),
            corpus=tokens[model, seed]["corpus"].to_pandas()[alive["feature"]].to_numpy(),
        )
        for key, count in alive.groupby(["category", "corpus", *told], dropna=False).size().items():
            values = (None if value is None or value != value else value for value in key)
            rows.append({**side, **dict(zip(["category", "corpus", *told], values, strict=True)), "features": count})
    return pa.Table.from_pylist(rows, COUNTS)
