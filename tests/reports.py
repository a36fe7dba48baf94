"""A small study's report: two models of 300 features, with texts in it that would do harm if they were not escaped."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa

from feature_lineage.explanations.scores import INTERPRETATIONS
from feature_lineage.features.collect import STATISTICS
from feature_lineage.flow import fates as flow
from feature_lineage.meaning.logit_effects import EFFECTS
from feature_lineage.meaning.main_token import TOKENS
from feature_lineage.report import figures, flow_figures
from feature_lineage.report.browser import Browsed, Features
from feature_lineage.report.data import Drawn, Findings, Run, Trained
from feature_lineage.report.page import write_report

EVIL = "</script><script>alert(1)</script>"
IMAGE = '<img src=x onerror="alert(2)">'
SIZE = 300
LLM = f"asked-model {IMAGE}"
TEXTS = [f"t{k}" for k in range(20)] + [EVIL, IMAGE, "\n    ", " the", "needle"]
EVIL_TOKEN, IMAGE_TOKEN, NEEDLE = 20, 21, 24
CATEGORIES = ("punctuation", "indentation and line breaks", "word")

CONTEXTS = pa.schema(
    [
        ("feature", pa.int32()),
        ("rank", pa.int16()),
        ("window", pa.int32()),
        ("peak", pa.float32()),
        ("position", pa.list_(pa.int16())),
        ("activation", pa.list_(pa.float32())),
    ]
)
CATEGORISED = pa.schema(
    [
        ("feature", pa.int32()),
        ("category", pa.string()),
        ("share", pa.float64()),
        ("tokens", pa.list_(pa.struct([("token", pa.int32()), ("share", pa.float64())]))),
    ]
)

# What `flows/features.parquet` and `flows/lineages.parquet` have beside the paper's measure.
JUDGED = {
    "verdict": pa.string(), "drift_r": pa.float64(), "direction": pa.string(), "decoder_cosine": pa.float64(),
    "encoder_cosine": pa.float64(), "best_cosine": pa.float64(), "reproducible": pa.bool_(), "margin": pa.float64(),
    "held_out_verdict": pa.string(), "new": pa.bool_(),
}  # fmt: skip
LINK = pa.struct([("model", pa.string()), ("verdict", pa.string()), ("feature", pa.int32()), ("r", pa.float64())])


def extended(schema: pa.Schema, columns: dict[str, pa.DataType]) -> pa.Schema:
    """A schema with some columns more, where it lacks them."""
    return pa.schema([*schema, *((name, kind) for name, kind in columns.items() if name not in schema.names)])


FLOW = extended(flow.FEATURES, JUDGED)
LINEAGES = extended(flow.LINEAGES, {"traced": pa.list_(LINK)})


def verdict(k: int) -> str | None:
    """What became of feature k: 30 of 299 are kept, 40 found again, 26 drifted, 203 lost; 299 is dead."""
    if k == SIZE - 1:
        return None
    return "kept" if k % 10 == 0 else "found" if k % 6 == 0 else "drifted" if k % 9 == 1 else "lost"


def verdict_rows(
    parent: str, child: str, counts: dict[str, int], placebo: dict[str, float | None] | None = None, **changes: Any
) -> list[dict[str, Any]]:
    """Rows of `summary["verdicts"]` for one side, with intervals of two points to either side.

    Args:
        parent: model.
        child: model.
        counts: features by verdict.
        placebo: the placebo's shares by verdict; none without a placebo.
        changes: of the rows' columns.
    """
    living = sum(counts.values())
    rows = []
    for word, count in counts.items():
        share = count / living if living else None
        row = {"parent": parent, "child": child, "seed": 0, "side": "parent", "features": "all", "living": living}
        row |= {"verdict": word, "count": count, "placebo": f"{parent}-placebo-{child}" if placebo else None}
        there = (placebo or {}).get(word)
        less = None if share is None or there is None else share - there
        for name, value in (("", share), ("placebo_", there), ("difference_", less)):
            row[f"{name}low"], row[f"{name}high"] = (
                (None, None) if value is None else (value - 0.02, min(1.0, value + 0.02))
            )
        rows.append(row | {"share": share, "placebo_share": there, "difference": less} | changes)
    return rows


COUNTS = {word: [verdict(k) for k in range(SIZE)].count(word) for word in ("kept", "found", "drifted", "lost")}
PLACEBO = {"kept": 0.99, "found": None, "drifted": 0.008, "lost": 0.002}
READ = {"l0": 15.0, "variance_explained": 0.75}

SUMMARY: dict[str, Any] = {
    "threshold": 0.8,
    "models": ["base", "lua"],
    "edges": [
        {
            "parent": "base", "child": "lua", "seed": 0, "threshold": 0.8, "parent_features": 300, "parent_dead": 1,
            "parent_persisting": 60, "disappearing": 239, "child_features": 300, "child_dead": 1, "child_persisting": 50,
            "emerging": 249, "mutual": 45, "one_to_one": 48, "persisting_share": 60 / 299, "persisting_low": 0.131,
            "persisting_high": 0.262, "emerging_share": None, "emerging_low": None, "emerging_high": None,
        }
    ],
    "origins": {"base": {"base": 299}, "lua": {"base": 50, "lua": 249}},
    "bands": [{"parent": "base", "child": "lua", "origin": "base", "features": 50}],
    "verdicts": [
        *verdict_rows("base", "lua", COUNTS, PLACEBO),
        *verdict_rows("base", "lua", {"kept": 20, "found": 10, "drifted": 5, "lost": 15}, PLACEBO, features="reproducible"),
        *verdict_rows("base", "lua", COUNTS, side="child"),
    ],
    "new": [{"child": "lua", "seed": 0, "living": 299, "new": 269, "share": 269 / 299}],
    "readings": [
        {"parent": "base", "child": child, "seed": 0, "side": side, "own": READ, "other": READ | {"l0": 15.5}, "poor": []}
        for child, side in (("lua", "parent"), ("lua", "child"), ("base-placebo-lua", "parent"))
    ],
    "weights": [
        {"parent": "base", "child": "lua", "all": 0.25, "hooked_block": 0.31},
        {"parent": "base", "child": "base-placebo-lua", "all": 0.1, "hooked_block": 0.12},
    ],
    "stability": [
        {"parent": "base", "child": "lua", "seed": 0, "side": side, "living": 299, "reproducible": 50, "margin": -0.05}
        for side in ("parent", "child")
    ],
    "directions": [
        {
            "parent": "base", "child": "lua", "seed": 0, "pw_mcc": 0.41, "mean_max_cosine": 0.52, "ceiling_pw_mcc": 0.61,
            "ceiling_mean_max_cosine": 0.66, "high": 0.7,
        }
    ],
    "placebos": [
        {
            "root": "base", "placebo": "base-placebo-lua", "fine_tunes": "lua", "seed": 0, "living": 299, "kept": 296, "found": None,
            "drifted": 2, "lost": 1, "share": 0.99, "low": 0.97, "high": 1.0, "weights_all": 0.1, "weights_hooked_block": 0.12,
            "l0": 15.1, "variance_explained": 0.74, "own_l0": 15.0, "own_variance_explained": 0.75,
        }
    ],
    "no_placebo": [],
}  # fmt: skip
INTERVALS = [f"{which}{end}" for which in ("", "placebo_", "difference_") for end in ("low", "high")]
# Of a study without edges.
NOTHING: dict[str, Any] = {
    name: []
    for name in (
        "edges", "bands", "verdicts", "new", "readings", "weights", "stability", "directions", "placebos", "no_placebo"
    )
}  # fmt: skip
SAE = {
    "l0": 41.26, "mse": 0.012345, "variance_explained": 0.875, "loss_recovered": 0.961, "dead_share": 0.0005,
    "loss_clean": 3.1, "loss_zero": 7.4, "loss_spliced": 3.27, "l0_target": 40,
    "definitions": {"l0": "features that fire at a token", "mse": "squared error", "loss_clean": "left out"},
}  # fmt: skip
CONTROLS = {
    "threshold": 0.8,
    "edges": [
        {
            "parent": "base", "child": "lua", "seed": 0, "side": "parent", "features": 299, "persisting": 60, "share": 60 / 299,
            "median_r": 0.5304, "ceiling": 0.4, "share_of_ceiling": 0.5017, "false_match_rate": 0.001, "null_threshold": 0.0604,
            "share_at_null_threshold": 0.99, "neurons": 0.25, "neurons_median_r": 0.46, "as_published": None,
        }
    ],
    "ceilings": [{"model": "base", "ceiling": 0.4}],
    "variants": [
        {
            "parent": "base", "child": "lua", "seed": 0, "side": side, "variant": "strings where both fire", "minimum": minimum,
            "features": 299, "persisting": 250, "share": 250 / 299, "median_r": 0.99,
        }
        for side, minimum in (("parent", 2), ("child", None))
    ],
    "not_measured": {},
    "definitions": {"ceiling": "what two seeds share"},
}  # fmt: skip
CASE = {
    "case": "assignment",
    "hypothesis": "the token =",
    "tokens": ["="],
    "model": "base",
    "seed": 0,
    "mean_correlation": 0.9,
    "nodes": [
        {
            "model": model, "feature": feature, "parent": parent, "kept": feature == 7, "r": r, "fate": parent and "persisting", "ratio": 7.534, "precision": 0.912, "recall": 0.25, "score": 0.5969,
            "density": 0.0123, "verdict": parent and "found", "traced": parent and 9, "traced_r": parent and 0.85, "top_tokens": [{"text": " =", "share": 0.8}, {"text": EVIL, "share": 0.1}],
            "contexts": [{"corpus": "code", "tokens": ["x", " =", IMAGE, "\n"], "activations": [0, 0.5, 1.0, 0]}],
        }
        for model, feature, parent, r in (("base", 7, None, None), ("lua", 7, "base", 0.9), ("lua", 8, "bible", 0.7))
    ],
    "shared": [{"corpus": "code", "tokens": ["y", " ="], "activations": [[0, 0.25], [0, 0.5], [0, 2.0]]}],
    "traced": [{"model": "lua", "verdict": "found", "feature": 9, "r": 0.85}],
    "definitions": {"ratio": "log of a ratio"},
}  # fmt: skip


def fates() -> tuple[pa.Table, pa.Table]:
    """Feature k of the one model is feature k of the other; every sixth persists, 299 is dead. What became of it says `verdict`."""
    rows, lineages = [], []
    for k in range(SIZE):
        persists, dead = k % 6 == 0 and k < 300, k == SIZE - 1
        r = None if dead else 0.9 if persists else 0.3
        for model, otherwise in (("base", "disappearing"), ("lua", "emerging")):
            fate = "dead" if dead else "persisting" if persists else otherwise
            match = {"ancestor" if model == "lua" else "descendant": None if dead else k}
            row = dict.fromkeys(FLOW.names) | {"parent": "base", "child": "lua", "seed": 0, "model": model}
            word = verdict(k)
            judged = {
                "verdict": word,
                "drift_r": None if dead else {"kept": 0.95, "drifted": 0.65}.get(str(word), 0.1),
                "direction": ("same" if k % 4 else "rotated") if word == "found" else None,
                "decoder_cosine": None if dead else 0.5,
                "reproducible": k % 3 == 0,
                "margin": None if dead else -0.25,
                "held_out_verdict": word,
                "new": None if dead or model == "base" else word != "kept",
            }
            rows.append(row | {"feature": k, "fate": fate, "r": r, "mutual": True, "density": 0.01} | match | judged)
            link = {"model": "lua", "verdict": word, "feature": k if word in ("kept", "found") else None, "r": 0.95}
            chain = [{"model": "base", "feature": k, "r": 0.9}] if model == "lua" and persists else []
            origin = None if dead else "base" if chain else model
            lineages.append(
                {
                    "model": model,
                    "seed": 0,
                    "feature": k,
                    "density": 0.01,
                    "origin": origin,
                    "chain": chain,
                    "fates": [],
                    "traced": [link] if model == "base" and not dead else [],
                }
            )
    return pa.Table.from_pylist(rows, FLOW), pa.Table.from_pylist(lineages, LINEAGES)


def untraced(lineages: pa.Table) -> pa.Table:
    """Lineages of features that nothing became of, as their models have no children."""
    rows = [row | {"traced": []} for row in lineages.to_pylist()]
    return pa.Table.from_pylist(rows, LINEAGES)


def features(interpreted: bool = True) -> list[Features]:
    """Feature k fires on token k % 20, the one called 5 on texts that would do harm, 299 on nothing."""
    found = []
    for model in SUMMARY["models"]:
        numbers = range(SIZE)
        alive = [k != SIZE - 1 for k in numbers]
        tokens = [[EVIL_TOKEN, IMAGE_TOKEN] if k == 5 else [NEEDLE] if k == 270 else [k % 20] for k in numbers]
        statistics = [[k, 10 * a, 0.001 * (k + 1) * a, 0.5 * a, 2.0 * a] for k, a in zip(numbers, alive, strict=True)]
        masses = [[k, 1.0, k % 20, 0.95 if k == 7 else 0.6, "code" if k % 2 else "prose", 0.7] for k in numbers]
        contexts = [[k, 0, k % 4, 2.0, [1, 2], [2.0, 0.5]] for k in numbers if alive[k]]
        groups = [
            [k, CATEGORIES[k % 3], 0.8, [{"token": t, "share": 0.5} for t in tokens[k]]]
            if alive[k]
            else [k, None, None, []]
            for k in numbers
        ]
        effects = [[k, [{"token": NEEDLE, "effect": 0.25}], [{"token": EVIL_TOKEN, "effect": -0.5}]] for k in numbers]
        scored = [
            [5, "persisting", False, f"fires on {EVIL}", 0.5, 0.4, 0.7, 0.1, 0.3, 0.2, None, LLM, 100, 10, 0.25],
            [6, "not persisting", True, None, None, None, None, None, 0.8, 0.7, f"no answer {IMAGE}", LLM, 50, 5, 0.5],
        ]
        tables = (statistics, masses, contexts, groups, effects, scored if interpreted else None)
        schemas = (STATISTICS, TOKENS, CONTEXTS, CATEGORISED, EFFECTS, INTERPRETATIONS)
        made = (
            rows and pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
            for rows, schema in zip(tables, schemas, strict=True)
        )
        found.append(Features(model, 0, *made))
    return found


def figure(name: str) -> dict[str, Any]:
    return {**json.loads(go.Figure(go.Scatter(x=[1], y=[2], name=name)).to_json()), "provenance": {"digest": "secret"}}


def content() -> dict[str, Any]:
    """What `write` is given."""
    lines, lineages = fates()
    found = features()
    strata = [
        {"parent": "base", "child": "lua", "seed": 0, "side": side, "kind": "token", "stratum": stratum}
        | {"features": 150, "persisting": 30, "share": 0.2}
        for side in ("parent", "child")
        for stratum in ("single", "several")
    ]
    counts = [
        {"parent": "base", "child": "lua", "seed": 0, "side": "parent", "category": "word", "corpus": corpus}
        | {"verdict": word, "new": None, "fate": fate, "features": number}
        for corpus, word, fate, number in (
            ("code", "kept", "persisting", 2),
            ("code", "found", "persisting", 1),
            ("code", "lost", "disappearing", 1),
            ("prose", None, "dead", 9),
        )
    ]
    tensors = {"tensor": ["w"], "elements": [1234], "cosine": [0.5], "angle": [1.0471975511965976], "branch": ["slerp"]}
    flows = {
        name: json.loads(made.to_json()) | {"provenance": {"digest": "secret"}}
        for name, made in (
            ("verdicts", flow_figures.plot_verdicts(SUMMARY, CONTROLS)),
            ("sankey", figures.plot_sankey(SUMMARY, CONTROLS)),
        )
    }
    return {
        "study": "small",
        "summary": SUMMARY,
        "figures": {
            **flows,
            **{name: figure(name) for name in ("curves", "sweep-both", "training", "scores")},
        },
        "strata": pd.DataFrame(strata),
        "controls": CONTROLS,
        "not_measured": {},
        "baselines": {},
        "categories": pa.Table.from_pylist(counts),
        "merges": {"both": {"tensors": pd.DataFrame(tensors), "record": {"t": 0.583}}},
        "models": {
            "base": {"corpora": {"prose": {"accuracy": 0.41}, "code": {"accuracy": 0.4321}}},
            "lua": {"corpora": {"prose": {"accuracy": 0.3}, "code": {"accuracy": None}}},
        },
        "saes": [("base", 0, SAE), ("lua", 0, SAE)],
        "started": [],
        "cases": [CASE],
        "tracking": {},
        "init": "transpose",
        "gates": [],
        "boundaries": None,
        "files": [],
        "interpretations": {("base", 0): found[0].interpretations},
        "steps": [("Model base", [("lr", 0.001), ("corpora", "prose, code")])],
        "record": {"digest": "abc", "parameters": {"note": "plain"}},
        "shown": [("base", 0), ("lua", 0)],
        "features": found,
        "flow": lines,
        "lineages": lineages,
        "sample": {
            "tokens": np.array([[22, 23, 0], [1, EVIL_TOKEN, IMAGE_TOKEN], [5, 6, 7], [8, 9, NEEDLE]], np.int32),
            "corpus": np.array([0, 0, 1, 1], np.int32),
        },
        "corpora": ["prose", "code"],
        "vocabulary": TEXTS,
    }


def some(kind: type, given: dict[str, Any]) -> Any:
    """One of the kinds of data of a report, of what is given by the names of its fields."""
    return kind(**{field.name: given[field.name] for field in fields(kind)})


def write(folder: Path, **given: Any) -> None:
    """Write the report of a `content`."""
    kinds = {"run": Run, "trained": Trained, "findings": Findings, "drawn": Drawn, "browsed": Browsed}
    assert given.keys() == {field.name for kind in kinds.values() for field in fields(kind)}
    write_report(folder, **{name: some(kind, given) for name, kind in kinds.items()})
