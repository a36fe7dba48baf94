"""What became of each feature on the planted bed: verdicts by the project's own code, beside the truth.

Two dictionaries of each model, since stability and what is a high cosine need them. A placebo is the parent with nothing changed
but its noise and a factor on each code; a copy is the parent itself with its second dictionary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import planted
import pyarrow as pa
from planted import Family
from scipy import sparse

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.evaluation import Evaluation
from feature_lineage.features.activations import Activations as InMemory
from feature_lineage.features.collect import ACTIVATIONS
from feature_lineage.flow.correlation import correlate
from feature_lineage.flow.direction import Directions
from feature_lineage.flow.drift import Quality, drift
from feature_lineage.flow.stability import (
    Dictionary,
    Stability,
    judged_documents,
    margin,
    measure_stability,
    others,
)
from feature_lineage.flow.verdicts import SIDES, VERDICTS, Activations, Half, Limits, Stable, judge_features, numbers
from feature_lineage.store.formats import write_table

NUMBERS = [
    "living", *VERDICTS, "kept, reproducible", "persisting", "ceiling", "reproducible", "margin", "high cosine", "L0, own", "L0, other", "explained, own",
    "explained, other",
]  # fmt: skip
LIMITS = Limits(threshold=0.8, min_active=10)
DOCUMENT = 100  # tokens
FLOOR = 0.05
# What each measure can see of a kind of feature, by whose dictionary reads both models; see docs/planted-truth.md.
EXPECTED = {
    ("parent", "kept"): "kept",
    ("child", "kept"): "kept",
    ("parent", "rotated"): "found",
    ("child", "rotated"): "found",
    ("parent", "split"): "kept",
    ("child", "split"): "drifted",
    ("parent", "removed"): "lost",
    ("child", "new"): "lost",
}


# Elements of an activation, and what is planted: half of the child's directions are not the parent's, or an eighth of them.
BEDS = {
    "harsh": (64, {"kept": 64, "rotated": 16, "split": 16, "removed": 16, "new": 16}),
    "gentle": (256, {"kept": 112, "rotated": 4, "split": 4, "removed": 4, "new": 4}),
}


class Model(NamedTuple):
    """A planted model and its two dictionaries."""

    family: Family
    dictionaries: tuple[SparseAutoencoder, SparseAutoencoder]


def placebo(parent: Family, jitter: float, seed: int) -> Family:
    """The parent with nothing changed: its codes each times a factor, its noise drawn again."""
    codes = parent.codes.copy()
    random = np.random.default_rng([seed, 3])
    codes.data = codes.data * np.exp(jitter * random.standard_normal(len(codes.data)))
    return parent._replace(codes=codes, seed=[seed, 4])


def silenced(child: Family) -> Family:
    """The child without what changed in it: only the features that were kept are ever active."""
    kept = sparse.diags_array((child.kind == "kept").astype(np.float64))
    return child._replace(codes=sparse.csr_array(child.codes @ kept))


class Bench:
    """Activations of dictionaries on models over the tokens from `first` on, each read once and kept as a file."""

    def __init__(self, first: int, folder: Path) -> None:
        self.first, self.folder = first, folder
        self.read: dict[tuple[int, int], tuple[Path, InMemory, Quality]] = {}
        self.held: list[Any] = []  # so that no id is given twice

    def reading(self, dictionary: SparseAutoencoder, family: Family) -> tuple[Path, InMemory, Quality]:
        """File, activations and reading quality of a dictionary on a model."""
        key = id(dictionary), id(family)
        if key not in self.read:
            self.held += [dictionary, family]
            found = planted.encode(dictionary, family, self.first)
            path = self.folder / f"{len(self.read)}.parquet"
            _write(path, found.matrix)
            self.read[key] = path, found, _quality(dictionary, family, self.first)
        return self.read[key]

    @property
    def document(self) -> np.ndarray:
        """Document of each token, int [tokens]."""
        return np.arange(next(iter(self.read.values()))[1].tokens) // DOCUMENT


def _write(path: Path, matrix: sparse.csr_array) -> None:
    rows = matrix.tocoo()
    columns = [rows.row.astype(np.int32), rows.col.astype(np.int32), rows.data.astype(np.float32)]
    record = {"tokens": matrix.shape[0], "features": matrix.shape[1]}
    write_table(path, pa.table(columns, schema=ACTIVATIONS), ACTIVATIONS, record)


def _quality(dictionary: SparseAutoencoder, family: Family, first: int) -> Quality:
    x = family.activations(first, first + 20_000)
    total = Evaluation(x.shape[1], len(dictionary.b_enc))
    features = dictionary.encode(x)
    total.add(x, features, dictionary.decode(features, x))
    found = total.result()
    return Quality(found["l0"], found["variance_explained"])


def directions(dictionary: SparseAutoencoder) -> Directions:
    """Unit directions of a dictionary in memory."""
    decoder, encoder = dictionary.W_dec.double().numpy(), dictionary.W_enc.T.double().numpy()
    return Directions(*(rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (decoder, encoder)))


def stability(bench: Bench, model: Model) -> Stability:
    """What the two dictionaries of a model share."""
    read = [bench.reading(one, model.family) for one in model.dictionaries]
    alive = [np.bincount(a.matrix.indices, minlength=a.features) >= LIMITS.min_active for _, a, _ in read]
    dictionaries = {
        seed: Dictionary(read[seed][0], alive[seed], directions(model.dictionaries[seed])) for seed in (0, 1)
    }
    table = correlate(read[0][1], read[1][1], FLOOR)
    judged = judged_documents(bench.document, np.zeros(bench.document[-1] + 1, int))
    return measure_stability(dictionaries, {(0, 1): table}, bench.document, judged, LIMITS.threshold)


class Edge(NamedTuple):
    """Verdicts of both sides of an edge (schema `JUDGED`, with what each learned feature recovers), and the numbers of the edge."""

    features: pd.DataFrame
    numbers: dict[str, Any]


def judge_edge(
    bench: Bench, families: Sequence[Family], dictionaries: Sequence[Any], stables: Sequence[Stability]
) -> Edge:
    """Verdicts along an edge.

    Args:
        bench: readings.
        families: parent and child.
        dictionaries: the parent's and the child's; the parent's alone for a placebo.
        stables: stability of each dictionary's model, and the dictionary's number there.
    """
    own = [bench.reading(one, family) for one, family in zip(dictionaries, families, strict=False)]
    other = [bench.reading(one, family) for one, family in zip(dictionaries, reversed(families), strict=False)]
    files = Activations([path for path, *_ in own], [path for path, *_ in other], SIDES[: len(dictionaries)])
    pair = len(dictionaries) == 2
    table = correlate(own[0][1], own[1][1], FLOOR) if pair else None
    held_out = ~judged_documents(bench.document, np.zeros(bench.document[-1] + 1, int))
    stable = [
        Stable(
            *(others(found.features, seed, name, own[place][1].features) for name in ("r", "judged_r")),
            found.cosines["high"],
        )
        for place, (found, seed) in enumerate(stables)
    ]
    judged = judge_features(
        files, table, [directions(one) for one in dictionaries] if pair else (), stable,
        Half(bench.document, held_out), LIMITS,
    )  # fmt: skip
    frame = judged.features.to_pandas()
    found: dict[str, Any] = dict(judged.cosines)
    parts = []
    for place, (side, dictionary) in enumerate(zip(files.sides, dictionaries, strict=True)):
        part = frame[frame["side"] == side].reset_index(drop=True)
        alive = part["verdict"].notna().to_numpy()
        r = part["match_r"].to_numpy(np.float64)
        stable_words = part["held_out_verdict"][alive & part["reproducible"].astype(bool)].dropna()
        found[side] = {
            "living": int(alive.sum()),
            **{word: float((part["verdict"][alive] == word).mean()) for word in VERDICTS},
            "persisting": float((np.nan_to_num(r[alive], nan=-1) > LIMITS.threshold).mean()) if pair else None,
            "kept, reproducible": float((stable_words == "kept").mean()),
            "ceiling": float((np.nan_to_num(stable[place].r[alive, 0], nan=-1) > LIMITS.threshold).mean()),
            "reproducible": float(part["reproducible"][alive].astype(bool).mean()),
            "margin": margin(r, stable[place].r, alive) if pair else None,
            "high cosine": stable[place].high,
        }
        for model, reading in (("own", own[place][2]), ("other", other[place][2])):
            found[side] |= {f"L0, {model}": reading.l0, f"explained, {model}": reading.variance_explained}
        parts.append(part.join(recovers(dictionary, families[place])))
    return Edge(pd.concat(parts, ignore_index=True), found)


def recovers(dictionary: SparseAutoencoder, family: Family, cosine: float = 0.9) -> pd.DataFrame:
    """Of each learned feature the true one with the nearest direction: `nearest`, `kind`, and whether it recovers it."""
    similar = directions(dictionary).decoder @ family.dictionary.T
    nearest = similar.argmax(1)
    return pd.DataFrame({"nearest": nearest, "kind": family.kind[nearest], "recovers": similar.max(1) > cosine})


def judge_all(
    families: tuple[Family, Family], models: Sequence[Sequence[SparseAutoencoder]], first: int, seed: int
) -> dict[str, Any]:
    """The edge, the copy and the placebo of one planted pair.

    Args:
        families: parent and child.
        models: two dictionaries of each.
        first: token from which on they are judged.
        seed: of the placebo.

    Returns:
        `edge`, `copy` and `placebo` (`Edge`), the cosines of each model's two dictionaries (`parent`, `child`), and `silenced`: share of
        the recovered kept features that the parent's dictionary reads above the threshold on the child without what changed.
    """
    (a, b), (c, _) = models
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(first, Path(folder))
        for family, pair in zip(families, models, strict=True):
            for one in pair:
                bench.reading(one, family)
        stable = [stability(bench, Model(family, tuple(pair))) for family, pair in zip(families, models, strict=True)]
        parent = families[0]
        edge = judge_edge(bench, families, (a, c), ((stable[0], 0), (stable[1], 0)))
        quiet = drift(bench.reading(a, parent)[0], bench.reading(a, silenced(families[1]))[0])
        kept = edge.features[edge.features["side"] == "parent"].reset_index(drop=True)
        kept = (kept["recovers"] & kept["verdict"].notna() & (kept["kind"] == "kept")).to_numpy()
        return {
            "edge": edge,
            "copy": judge_edge(bench, (parent, parent), (a, b), ((stable[0], 0), (stable[0], 1))),
            "placebo": judge_edge(bench, (parent, placebo(parent, 0.1, seed)), (a,), ((stable[0], 0),)),
            "parent": stable[0].cosines,
            "child": stable[1].cosines,
            "silenced": float((np.nan_to_num(numbers(quiet, "r"), nan=-1)[kept] > LIMITS.threshold).mean()),
        }


def recovered(edge: Edge) -> pd.DataFrame:
    """The living learned features that recover a true one, with the verdict that is expected of it."""
    features = edge.features
    features = features[features["recovers"] & features["verdict"].notna()]
    return features.assign(expected=[EXPECTED[pair] for pair in zip(features["side"], features["kind"], strict=True)])


def rates(features: pd.DataFrame) -> pd.DataFrame:
    """Precision and recall of each verdict among recovered features: `expected`, `called`, `precision`, `recall`; NaN of none."""
    rows = []
    for word in VERDICTS:
        expected, called = features["expected"] == word, features["verdict"] == word
        right = expected & called
        rows.append(
            {
                "verdict": word,
                "expected": int(expected.sum()),
                "called": int(called.sum()),
                "precision": float(right[called].mean()) if called.any() else np.nan,
                "recall": float(right[expected].mean()) if expected.any() else np.nan,
            }
        )
    return pd.DataFrame(rows)


def is_there(features: pd.DataFrame) -> pd.Series:
    """Features that are kept, or found again in the same direction: still there by one of two measures."""
    return (features["verdict"] == "kept") | ((features["verdict"] == "found") & (features["direction"] == "same"))
