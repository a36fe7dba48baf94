"""What kind of token each feature is about, by measured statistics: `RULE` and `DEFINITIONS` say how."""

from __future__ import annotations

import keyword
import re
import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import accumulate, pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from feature_lineage.features.activations import ActivationFile, window_pieces
from feature_lineage.meaning.contexts import leading
from feature_lineage.progress import progress
from feature_lineage.store.writing import disk_faults_named
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
ENTRIES = (
    1 << 22
)  # activations of some features that are sorted at once, about 80 bytes each; those of one feature always
RANGES = 128  # of so many activations, at most about twice as many: a range has a temporary file
MASSES = 1 << 25  # of features × positions that are added up at once
_ENTRY = np.dtype(
    [("feature", np.int32), ("token", np.int32), ("activation", np.float32)]
)  # `token` is its place in the sample

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

    The file is read twice: to count each feature's activations, and to copy them, range by range of features, to temporary files of 12
    bytes an activation. Memory is that of one range, and grows with neither the sample nor features × vocabulary. Each sum adds up in the
    order of the file, so that it does not depend on where ranges end.

    Args:
        path: activations, a file of `collect.collect_features`.
        tokens: token numbers of the sample, int [windows, length].
        classes: their classes (`token_classes`).
        vocabulary: tokens of the vocabulary.

    Returns:
        One row a feature, schema `CATEGORISED`. `share` is that of the category in the feature's mass, for `mixed` that of the largest class.
        Of each of the five tokens with most of the mass, its share of it and the log-likelihood ratio of the token, in nats:
        log(share / share of the token in the sample). Null, and no tokens, for a feature that never fires.

    Raises:
        InputError: the file is missing, damaged or of another sample; no space for the temporary files.
    """
    unigram = np.bincount(tokens.ravel(), minlength=vocabulary) / tokens.size
    active = _active(path)
    tables = []
    with disk_faults_named(tempfile.gettempdir()), ExitStack() as stack:
        bounds = _ranges(active, tokens.shape[1])
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in bounds[1:]]
        _copy(path, tokens.shape, bounds, files)
        with progress(len(active), "feature") as bar:
            for (first, stop), file in zip(pairwise(bounds.tolist()), files, strict=True):
                file.seek(0)
                found = np.frombuffer(file.read(), _ENTRY)
                file.close()  # its space is free again
                tables.append(_categorised(found, active[first:stop], first, tokens, classes, unigram))
                bar.update(stop - first)
    return pa.concat_tables(tables)


def _active(path: str | Path) -> np.ndarray:
    """Activations of each feature, int64 [features]."""
    source = ActivationFile(path, places=True)
    active = np.zeros(source.features, np.int64)
    for _, feature, _ in source.pieces():
        active += np.bincount(feature, minlength=len(active))
    return active


def _ranges(active: np.ndarray, length: int) -> np.ndarray:
    """Where ranges of features begin that are worked through at once, and the end of the last; int64, at least two."""
    most, wide = max(ENTRIES, -(-int(active.sum()) // RANGES)), max(1, MASSES // length)
    until = np.cumsum(active)
    bounds = [0]
    while bounds[-1] < len(active):
        first = bounds[-1]
        stop = int(np.searchsorted(until, (until[first - 1] if first else 0) + most, side="right"))
        bounds.append(min(max(stop, first + 1), first + wide, len(active)))
    return np.array(bounds)


def _copy(path: str | Path, shape: tuple[int, int], bounds: np.ndarray, files: Sequence[IO[bytes]]) -> None:
    """Write all activations, in their order, each to the file of its range of features."""
    home = np.repeat(np.arange(len(files), dtype=np.int16), np.diff(bounds))
    with progress(shape[0], "window") as bar:
        for window, position, feature, activation in window_pieces(path, shape):
            order = np.argsort(home[feature], kind="stable")
            entries = np.empty(len(order), _ENTRY)
            entries["feature"], entries["activation"] = feature[order], activation[order]
            entries["token"] = window[order].astype(np.int64) * shape[1] + position[order]
            cuts = np.searchsorted(home[entries["feature"]], np.arange(len(files) + 1))
            for file, (first, stop) in zip(files, pairwise(cuts.tolist()), strict=True):
                file.write(entries[first:stop].data)
            bar.update(int(window[-1]) + 1 - bar.n)
        for file in files:
            file.flush()


def _categorised(
    entries: np.ndarray, active: np.ndarray, first: int, tokens: np.ndarray, classes: np.ndarray, unigram: np.ndarray
) -> pa.Table:
    """The rows of some features, from `first` on: `entries` are all of their activations, `active` how many each has."""
    length, features = tokens.shape[1], len(active)
    feature, place = entries["feature"].astype(np.int64) - first, entries["token"]
    mass = entries["activation"].astype(np.float64)
    on_class = _masses(feature, classes.ravel()[place], mass, (features, len(CLASSES)))
    on_position = _masses(feature, place % length, mass, (features, length))
    total = on_class.sum(1)
    fires = total > 0
    class_share, position_share = (
        np.divide(found.max(1), total, out=np.zeros(features), where=fires) for found in (on_class, on_position)
    )
    on_one = (position_share > MAJORITY) & (active >= length)
    names = np.where(class_share > MAJORITY, np.array(CLASSES, object)[on_class.argmax(1)], "mixed")
    names[on_one] = "position"
    share = np.where(on_one, position_share, class_share)
    lists = _top_tokens(feature, tokens.ravel()[place], mass, features, unigram)
    columns = [pa.array(names, pa.string(), mask=~fires), pa.array(share, mask=~fires), lists]
    return pa.table([np.arange(first, first + features, dtype=np.int32), *columns], schema=CATEGORISED)


def _masses(feature: np.ndarray, group: np.ndarray, mass: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mass of each feature on each group, float64 [features, groups]."""
    return np.bincount(feature * shape[1] + group, mass, shape[0] * shape[1]).reshape(shape)


def _top_tokens(
    feature: np.ndarray, token: np.ndarray, mass: np.ndarray, features: int, unigram: np.ndarray
) -> list[list[dict[str, Any]]]:
    """For each feature its tokens with the largest masses."""
    vocabulary = len(unigram)
    key, number = np.unique(feature * vocabulary + token, return_inverse=True)
    sums = np.bincount(number, mass, len(key))
    feature, token = np.divmod(key, vocabulary)
    order, _ = leading(feature, sums, token, TOP_TOKENS)
    bounds = np.searchsorted(feature, np.arange(features + 1))
    total = np.zeros(features)
    row = np.zeros(vocabulary)
    for one, (start, stop) in enumerate(pairwise(bounds.tolist())):
        row[token[start:stop]] = sums[start:stop]
        total[one] = row.sum()
        row[token[start:stop]] = 0
    lists: list[list[dict[str, Any]]] = [[] for _ in total]
    for place in order.tolist():
        one, number = int(feature[place]), int(token[place])
        share = float(sums[place] / total[one])
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
