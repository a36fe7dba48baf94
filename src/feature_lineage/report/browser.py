"""What the report's feature browser shows: an index of each autoencoder's features, and their details in shards.

Each file is a script that calls one function, as a page opened from disk may not fetch data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.flow.strata import SINGLE_TOKEN
from feature_lineage.progress import progress
from feature_lineage.store.checksums import KEY
from feature_lineage.store.formats import read_table
from feature_lineage.text.vocabulary import Texts, window_texts

SHARD = 256  # features of which the details are in one file
SCORES = {
    "simulation": "the simulation",
    "shuffled": "the shuffled explanation",
    "token_mean": "the token statistics",
    "detection": "the detection",
}
FATES = ("dead", "persisting", "disappearing", "emerging", "unmatched")
VERDICTS = ("kept", "found", "drifted", "lost")  # -1: dead
EVIDENCE = ("decoder_cosine", "encoder_cosine", "best_cosine", "margin")


class Features(NamedTuple):
    """The tables on one autoencoder's features, a row for each unless said otherwise."""

    model: str
    seed: int
    statistics: pa.Table  # `collect.STATISTICS`
    tokens: pa.Table  # `main_token.TOKENS`
    contexts: pa.Table  # the windows of its highest activations: a row for each feature and rank
    categories: pa.Table  # its category and the tokens with most of its activation
    effects: pa.Table  # `logit_effects.EFFECTS`
    interpretations: pa.Table | None  # explanations and scores: a row for each chosen feature


@dataclass(frozen=True, kw_only=True)
class Browsed:
    """What the feature browser shows.

    Attributes:
        shown: model and seed of the autoencoders.
        features: the tables of each (`read_features`).
        flow: verdicts and fates along each edge, `flows/features.parquet`.
        lineages: what became of each feature, and chains of ancestors, `flows/lineages.parquet`.
        sample: the sample's `tokens`, int [windows, length], and `corpus` of each window, int [windows].
        corpora: names of the sample's corpora, in their order.
        vocabulary: text of each token (`vocabulary.token_texts`); where only several tokens together are whole characters, a context has
            their text in place of their numbers.
    """

    shown: Sequence[tuple[str, int]]
    features: Iterable[Features]
    flow: pa.Table
    lineages: pa.Table
    sample: Mapping[str, np.ndarray]
    corpora: Sequence[str]
    vocabulary: Sequence[str]


def read_features(names: Sequence[tuple[str, int]], paths: Mapping[str, Sequence[str | Path]]) -> Iterable[Features]:
    """Read the tables of one autoencoder after another.

    Args:
        names: model and seed of each.
        paths: for each table of `Features`, its file of each autoencoder; `interpretations` may be empty.
    """
    for number, (model, seed) in enumerate(names):
        tables = {name: read_table(files[number]) if files else None for name, files in paths.items()}
        yield Features(model, seed, **tables)


def write_script(path: Path, name: str, content: Any) -> None:
    """Write data as a script that hands it to the page. ASCII only, so that no text of a corpus ends it early."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    path.write_text(f"lineage({json.dumps(name)},{text});\n", encoding="ascii")


def write_browser(folder: Path, browsed: Browsed, models: Sequence[str]) -> dict[str, list[str]]:
    """Write `<model>.seed<k>.js`, the index of each autoencoder, and `<model>.seed<k>.<shard>.js`, the details of `SHARD` features.

    One autoencoder is held at a time.

    Args:
        folder: where to.
        browsed: what the browser shows.
        models: names that models are numbered by.

    Returns:
        The names that categories and corpora are numbered by, as `categories` and `corpora`.
    """
    names: dict[str, list[str]] = {"categories": [], "corpora": list(browsed.corpora)}
    with progress(len(browsed.shown), "autoencoder", "browser") as bar:
        for one in browsed.features:
            here = (pc.field("model") == one.model) & (pc.field("seed") == one.seed)
            own = browsed.lineages.filter(here).sort_by("feature")
            stem = f"{one.model}.seed{one.seed}"
            flow = browsed.flow.filter(here)
            write_script(folder / f"{stem}.js", stem, _index(one, flow, own, models, names))
            for number, shard in enumerate(_shards(one, flow, own, browsed, models)):
                write_script(folder / f"{stem}.{number}.js", f"{stem}.{number}", shard)
            bar.update(1)
    return names


def _index(
    one: Features, flow: pa.Table, lineages: pa.Table, models: Sequence[str], names: Mapping[str, list[str]]
) -> dict[str, Any]:
    """What can be searched and listed, in columns."""
    size = len(one.statistics)
    edges, new, reproducible = [], np.full(size, -1), np.full(size, -1)
    for parent, child, side, rows in _edges(one.model, flow):
        edges.append(
            {
                "parent": parent,
                "child": child,
                "side": side,
                "verdict": [VERDICTS.index(word) if word in VERDICTS else -1 for word in rows["verdict"]],
                "drift": _rounded(rows["drift_r"]),
                "fate": [FATES.index(fate) for fate in rows["fate"]],
                "match": _whole(rows["descendant" if side == "parent" else "ancestor"]),
                "r": _rounded(rows["r"]),
            }
        )
        reproducible = np.maximum(reproducible, _flags(rows["reproducible"]))
        new = np.maximum(new, _flags(rows["new"]))
    tokens = one.categories["tokens"].to_pylist()
    share = one.tokens["token_share"].to_numpy(zero_copy_only=False)
    return {
        "model": one.model,
        "seed": one.seed,
        "density": [float(f"{value:.3g}") for value in one.statistics["density"].to_numpy()],
        "edges": edges,
        "new": new.tolist(),
        "reproducible": reproducible.tolist(),
        "origin": [-1 if name is None else models.index(name) for name in lineages["origin"].to_pylist()],
        "via": [models.index(chain[0]["model"]) if chain else -1 for chain in lineages["chain"].to_pylist()],
        "category": _numbered(one.categories["category"], names["categories"]),
        "corpus": _numbered(one.tokens["corpus"], names["corpora"]),
        "single": (np.nan_to_num(share) >= SINGLE_TOKEN).astype(int).tolist(),
        "tokens": [[entry["token"] for entry in found or []] for found in tokens],
        "interpretations": _interpretations(one.interpretations),
        "not_weighed": json.loads((one.effects.schema.metadata or {}).get(KEY.encode(), b"{}")).get("not_measured"),
        "size": size,
    }


def _edges(model: str, flow: pa.Table) -> Iterable[tuple[str, str, str, pd.DataFrame]]:
    """Parent, child, the side that the model is, and its features' rows in their order, for each edge of the model."""
    for (parent, child), rows in flow.to_pandas().groupby(["parent", "child"], sort=False):
        yield parent, child, "parent" if model == parent else "child", rows.sort_values("feature")


def _flags(values: pd.Series) -> np.ndarray:
    """Yes, no and unknown as 1, 0 and -1, int [features]."""
    return np.array([-1 if value is None or value != value else int(value) for value in values])


def _numbered(column: pa.ChunkedArray, names: list[str]) -> list[int]:
    """A column of names as numbers, -1 for none; `names` grows by those that are new."""
    names += sorted({name for name in pc.unique(column).to_pylist() if name is not None} - set(names))
    numbers = {name: number for number, name in enumerate(names)}
    return [numbers.get(name, -1) for name in column.to_pylist()]


def _whole(values: Iterable[float]) -> list[int]:
    return [-1 if math.isnan(value) else int(value) for value in np.asarray(values, float)]


def _rounded(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 3) for value in np.asarray(values, float).tolist()]


def _interpretations(table: pa.Table | None) -> dict[int, dict[str, Any]]:
    """Explanation and scores of the features that have them, by feature, and in sentences why some are missing (`without`)."""
    kept = {"explanation", "simulation", "detection", "shuffled", "token_mean"}
    rows = (
        table.select(
            [name for name in table.column_names if name in kept | {"feature", "reason", "model_used"}]
        ).to_pylist()
        if table
        else []
    )
    found = {}
    for row in rows:
        values = {name: row[name] for name in kept & row.keys() if row[name] is not None}
        found[row["feature"]] = {
            name: round(value, 3) if isinstance(value, float) else value
            for name, value in sorted(values.items())
            if not (isinstance(value, float) and math.isnan(value))
        }
        if without := _without(row):
            found[row["feature"]]["without"] = without
    return found


def _without(row: Mapping[str, Any]) -> list[str]:
    """Why an explanation or a score is missing, a sentence each, from the reasons of `scores.interpret`."""
    parts = re.split(rf"(?:^|; )({'|'.join(['explanation', *SCORES])}): ", row.get("reason") or "")
    reasons = dict(zip(parts[1::2], parts[2::2], strict=True))
    if parts[0]:
        reasons.setdefault("explanation", parts[0])
    sentences = []
    if not row.get("explanation"):
        if reasons.get("explanation"):
            sentences.append(f"No explanation: {reasons['explanation']}.")
        else:
            sentences.append(
                "No explanation." if row.get("model_used") else "No language model was asked for an explanation."
            )
    return sentences + [f"No score of {title}: {reasons[name]}." for name, title in SCORES.items() if name in reasons]


def _shards(
    one: Features, flow: pa.Table, lineages: pa.Table, browsed: Browsed, models: Sequence[str]
) -> Iterable[dict[str, Any]]:
    """What is shown of a feature that is opened; `flow` and `lineages` are those of its autoencoder."""
    evidence = [_evidence(rows) for *_, rows in _edges(one.model, flow)]
    windows, corpus = browsed.sample["tokens"], browsed.sample["corpus"]
    owner = one.contexts["feature"].to_numpy()
    for first in range(0, len(one.statistics), SHARD):
        here = slice(first, min(first + SHARD, len(one.statistics)))
        size = here.stop - here.start
        start, stop = np.searchsorted(owner, [here.start, here.stop])
        contexts: list[list[Any]] = [[] for _ in range(size)]
        for row in one.contexts.slice(start, stop - start).to_pylist():
            window = row["window"]
            shown = _context(windows[window].tolist(), row["position"], row["activation"], browsed.vocabulary)
            contexts[row["feature"] - first].append([int(corpus[window]), *shown])

        def column(table: pa.Table, name: str, first: int = first, size: int = size) -> list[Any]:
            return table[name].slice(first, size).to_pylist()

        def effects(name: str) -> list[Any]:
            found = column(one.effects, name)
            return [row and [[entry["token"], round(entry["effect"], 3)] for entry in row] for row in found]

        yield {
            "active": column(one.statistics, "active"),
            "max": [float(f"{value:.4g}") for value in column(one.statistics, "max")],
            "contexts": contexts,
            "shares": [[round(t["share"], 3) for t in row or []] for row in column(one.categories, "tokens")],
            "category_share": [None if value is None else round(value, 3) for value in column(one.categories, "share")],
            "corpus_share": [
                None if value is None else round(value, 3) for value in column(one.tokens, "corpus_share")
            ],
            "evidence": [rows[here] for rows in evidence],
            "traced": [
                [
                    [models.index(link["model"]), link["verdict"], link["feature"], _number(link["r"])]
                    for link in links or []
                ]
                for links in column(lineages, "traced")
            ],
            "chain": [
                [[models.index(link["model"]), link["feature"], round(link["r"], 3)] for link in chain]
                for chain in column(lineages, "chain")
            ],
            "promoted": effects("promoted"),
            "suppressed": effects("suppressed"),
        }


def _evidence(rows: pd.DataFrame) -> list[list[Any]]:
    """What each feature's verdict on an edge rests on beside r: direction, `EVIDENCE`, and the verdict on the held-out documents."""
    columns = [rows["direction"], *(rows[name] for name in EVIDENCE), rows["held_out_verdict"]]
    return [[_number(value) for value in row] for row in zip(*columns, strict=True)]


def _number(value: Any) -> Any:
    """A number of three digits, a text as it is, None for what is missing."""
    if value is None or value != value:
        return None
    return round(float(value), 3) if isinstance(value, (float, np.floating)) else value


def _context(
    window: list[int], position: Sequence[int], activation: Sequence[float], texts: Sequence[str]
) -> tuple[list[int | str], list[int], list[float]]:
    """What a context shows: the number of each token, or the text of those that make up a character; where it fires, and how much."""
    # Most windows have nothing to join.
    if not isinstance(texts, Texts) or not any(map(texts.broken.__getitem__, window)):
        return window, list(position), [float(f"{value:.3g}") for value in activation]
    shown = window_texts(window, texts)
    place = {token: number for number, one in enumerate(shown) for token in range(one.first, one.stop)}
    highest: dict[int, float] = {}
    for token, value in zip(position, activation, strict=True):
        highest[place[token]] = max(value, highest.get(place[token], 0))
    tokens = [window[one.first] if one.stop - one.first == 1 else one.text for one in shown]
    return tokens, list(highest), [float(f"{value:.3g}") for value in highest.values()]
