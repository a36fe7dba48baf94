"""Does the flow find what was planted? Precision and recall of "persisting" and of each verdict, where the features are known.

`make planted-truth`, or `python benchmarks/planted_truth.py [--steps 2000] [--workers 2] [--only verdicts]`. Pairs of models are planted, an
autoencoder is trained on each side, and the flow's verdicts are compared with what is true. The plot goes to docs/images/.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import planted
import planted_verdicts
import plotly.graph_objects as go
import torch
from images import IMAGES, write_image
from plotly.subplots import make_subplots
from scipy import sparse

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.features.activations import Activations
from feature_lineage.report.figures import COLOURS

SHARED = {"kept": 64, "rotated": 16, "split": 16, "removed": 16, "new": 16}
NOTHING = {"removed": 64, "new": 64}
N, FEATURES, BATCH, JUDGED, LR = 64, 192, 1024, 100_000, 2e-2
DENSITY, RARE, COSINE = (3e-4, 1e-1), (1e-4, 1e-1), (0.0, 0.98)
CHOSEN = "jumprelu"
VARIANTS = ("jumprelu", "l1", "topk", "batchtopk")
SEEDS = (0, 1, 2)
SUPPORT = [0, 10, 30, 100, 300, 1000, 3000, np.inf]
NEIGHBOUR = [0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]


def train(family: planted.Family, variant: str, seed: int, steps: int) -> SparseAutoencoder:
    """A dictionary of a planted model, steered to the L0 that was planted."""
    l0 = family.codes.nnz / family.codes.shape[0]
    with tempfile.TemporaryDirectory() as folder:
        return planted.train(
            family, steps * BATCH, BATCH, Path(folder) / "checkpoint.safetensors",
            FEATURES, seed, lr=LR, variant=variant, l1=5e-3, l1_warmup_steps=steps // 20,
            l0=l0 if variant in ("l1", "jumprelu") else max(1, round(l0)), normalize=True, init="transpose",
        )  # fmt: skip


def verdict_pair(bed: str, steps: int, seed: int = 0) -> dict[str, Any]:
    """Plant a pair of models, train two dictionaries of each, judge what became of each feature."""
    torch.set_num_threads(1)
    began = time.monotonic()
    trained = steps * BATCH
    width, counts = planted_verdicts.BEDS[bed]
    families = planted.plant(trained + JUDGED, width, counts, density=DENSITY, seed=seed)
    with contextlib.redirect_stderr(io.StringIO()):
        models = [
            [train(family, CHOSEN, 2 * seed + number + again, steps) for again in (0, 100)]
            for number, family in enumerate(families)
        ]
        found = planted_verdicts.judge_all(families, models, trained, seed)
    return found | {"seconds": time.monotonic() - began}


def pair(
    name: str, variant: str, counts: dict[str, int], seed: int, density: Any, cosine: Any, steps: int
) -> dict[str, Any]:
    """Plant a pair of models, train, judge."""
    torch.set_num_threads(1)
    began = time.monotonic()
    trained = steps * BATCH
    families = planted.plant(trained + JUDGED, N, counts, density=density, seed=seed, cosine=cosine)
    with contextlib.redirect_stderr(io.StringIO()):
        autoencoders = [train(family, variant, 2 * seed + number, steps) for number, family in enumerate(families)]
        active = [family.codes.nnz / (trained + JUDGED) for family in families]
        verdicts = planted.judge(families, tuple(autoencoders), trained)
        a, b = (planted.encode(*both, trained) for both in zip(autoencoders, families, strict=True))
        half = b.tokens // 2
        shifted = Activations(sparse.csr_array(sparse.vstack([b.matrix[half:], b.matrix[:half]])))
        null = int((planted.flow(a, shifted, 0.8)["fate"] == "persisting").sum())
    about = {"l0": np.mean(active), "learned_l0": (a.matrix.nnz + b.matrix.nnz) / (a.tokens + b.tokens)}
    return about | {"verdicts": verdicts, "null": null, "seconds": time.monotonic() - began}


def together(found: list[dict[str, Any]]) -> planted.Verdicts:
    """The verdicts of several pairs as one."""
    return planted.Verdicts(*(pd.concat(part) for part in zip(*(one["verdicts"] for one in found), strict=True)))


def line(name: str, values: list[Any], width: int = 22) -> str:
    """A line of a table."""
    shown = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in values]
    return f"{name:{width}}" + "".join(f"{value:>12}" for value in shown)


def print_verdicts(bed: str, found: dict[str, Any]) -> None:
    """What became of the recovered features, precision and recall of each verdict, and the numbers of each edge."""
    words, (width, counts) = planted_verdicts.VERDICTS, planted_verdicts.BEDS[bed]
    features = planted_verdicts.recovered(found["edge"])
    print(f"\n=== verdicts, {bed} bed: {width} elements, {counts}; features that recover a true one\n")
    print(
        line(
            "whose, what became of it", ["features", "expected", *words, "same", "median r", "mean ratio", "cosine"], 26
        )
    )
    for (side, kind), rows in features.groupby(["side", "kind"]):
        values = [len(rows), rows["expected"].iloc[0], *(int((rows["verdict"] == word).sum()) for word in words)]
        values += [
            int((rows["direction"] == "same").sum()),
            *(float(rows[name].median()) for name in ("r", "mean_ratio", "decoder_cosine")),
        ]
        print(line(f"{side}'s {kind}", values, 26))
    print("\n" + line("verdict", ["expected", "called", "precision", "recall"]))
    for row in planted_verdicts.rates(features).to_dict("records"):
        print(line(row.pop("verdict"), list(row.values())))
    there = planted_verdicts.is_there(features[features["kind"] == "kept"])
    print(f"\nkept: kept, or found in the same direction: {there.mean():.3f}")
    print(f"parent's kept, on the child without what changed: {found['silenced']:.3f} read above .8")
    names = {"edge": ("parent", "child"), "copy": ("parent", "child"), "placebo": ("parent",)}
    columns = [
        (f"{name} {side[0].upper()}", found[name].numbers[side]) for name, sides in names.items() for side in sides
    ]
    print("\n" + line("all living features", [name for name, _ in columns], 26))
    for name in planted_verdicts.NUMBERS:
        print(line(name, [of.get(name, "-") if of[name] is not None else "-" for _, of in columns], 26))
    for name in ("pw_mcc", "mean_max_cosine"):
        values = [found[edge].numbers[name] for edge in ("edge", "copy")] + [found["parent"]["pairs"][0][name]]
        print(line(name, [values[0], "", values[1], "", "ceiling:", values[2]], 26))


def curve(verdicts: planted.Verdicts, column: str, edges: list[float]) -> pd.DataFrame:
    """Precision, recall and share recovered by bins of a column, each with the number of features it rests on."""
    rows = []
    for low, high in pairwise(edges):
        part = planted.Verdicts(*(table[(table[column] > low) & (table[column] <= high)] for table in verdicts))
        called = int((part.learned["fate"] == "persisting").sum())
        planted_here = int((part.true["persists"] & (part.true["support"] > 0)).sum())
        rows.append({"low": low, "high": high, "called": called, "planted": planted_here} | planted.rates(part))
    return pd.DataFrame(rows)


def plot(curves: dict[str, pd.DataFrame]) -> go.Figure:
    """Precision, recall and share recovered against support and against collinearity."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=tuple(curves), shared_yaxes=True)
    for column, table in enumerate(curves.values(), start=1):
        labels = [
            f"> {low:g}" if np.isinf(high) else f"{low:g}–{high:g}"
            for low, high in zip(table["low"], table["high"], strict=True)
        ]
        for number, (value, count) in enumerate(
            {"precision": "called", "recall": "planted", "recovered": "planted"}.items()
        ):
            figure.add_scatter(
                x=labels, y=table[value], name=value, legendgroup=value, showlegend=column == 1, mode="lines+markers",
                customdata=table[count], hovertemplate="%{y:.3f}, of %{customdata} features", row=1, col=column,
                line={"color": COLOURS[number], "dash": "dot" if value == "recovered" else "solid"},
            )  # fmt: skip
    figure.add_hline(y=0.95, line={"color": "#666", "width": 1, "dash": "dash"})
    figure.update_yaxes(range=[0, 1.03])
    figure.update_layout(
        title={"text": "Planted features: where “persisting” can be trusted"},
        template="plotly_white",
        width=1000,
        height=420,
    )
    return figure


def main() -> None:
    """Plant, train, judge, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--only", choices=("persistence", "verdicts"), help="one half of the tables")
    options = parser.parse_args()
    if options.only != "persistence":
        with ProcessPoolExecutor(options.workers) as workers:
            found = dict(
                zip(
                    planted_verdicts.BEDS,
                    workers.map(verdict_pair, planted_verdicts.BEDS, [options.steps] * 2),
                    strict=True,
                )
            )
        for bed, one in found.items():
            print_verdicts(bed, one)
    if options.only != "verdicts":
        print_persistence(options)


def print_persistence(options: argparse.Namespace) -> None:
    """Pairs of the bed, of features that share nothing, rarer and collinear ones, and of the other kinds of dictionary."""
    jobs = [("planted", CHOSEN, SHARED, seed, DENSITY, None) for seed in SEEDS]
    jobs += [("nothing shared", CHOSEN, NOTHING, 0, DENSITY, None)]
    jobs += [("rarer", CHOSEN, SHARED, seed, RARE, None) for seed in SEEDS]
    jobs += [("collinear", CHOSEN, SHARED, seed, DENSITY, COSINE) for seed in SEEDS]
    jobs += [(variant, variant, SHARED, 0, DENSITY, None) for variant in VARIANTS if variant != CHOSEN]
    found: dict[str, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(options.workers) as workers:
        started = [(job, workers.submit(pair, *job, options.steps)) for job in jobs]
        for job, future in started:
            found.setdefault(job[0], []).append(future.result())
            print(f"{job[0]}, {job[1]}, seed {job[3]}: {future.result()['seconds']:.0f} s", file=sys.stderr, flush=True)

    print(
        f"{N} elements, {sum(SHARED.values())} true features, density {DENSITY[0]:g} to {DENSITY[1]:g} log-uniform (rarer: {RARE[0]:g}), "
        f"noise 0.02; autoencoders of {FEATURES} features,\n{options.steps * BATCH:,} tokens; {JUDGED:,} other tokens judged, threshold 0.8\n"
    )
    named = {f"{CHOSEN}, seed {seed}": [one] for seed, one in zip(SEEDS, found["planted"], strict=True)}
    named |= {name: found[name] for name in (*(v for v in VARIANTS if v != CHOSEN), "rarer", "collinear")}
    heads = ["precision", "recall", "recovered", "of these", "true L0", "L0", "null"]
    print(line("", heads))
    for name, ones in named.items():
        l0s = [float(np.mean([one[key] for one in ones])) for key in ("l0", "learned_l0")]
        print(line(name, [*planted.rates(together(ones)).values(), *l0s, sum(one["null"] for one in ones)]))
    nothing = found["nothing shared"][0]
    flagged = int((nothing["verdicts"].learned["fate"] == "persisting").sum())
    print(f"\nnothing shared: {flagged} called persisting; shifted by half the sample: {nothing['null']}")

    whole = together(found["planted"])
    print("\n" + line("what became of it", ["features", "recovered", "called"]))
    for kind, rows in whole.true[whole.true["support"] > 0].groupby("kind"):
        values = [len(rows), float(rows["recovered"].mean()), float(rows.loc[rows["recovered"], "called"].mean())]
        print(line(str(kind), values))
    curves = {
        "active tokens in the sample": curve(together(found["rarer"]), "support", SUPPORT),
        "largest cosine with another true feature": curve(together(found["collinear"]), "neighbour", NEIGHBOUR),
    }
    for title, table in curves.items():
        print("\n" + line(title, ["called", "precision", "planted", "recall", "recovered"], 42))
        for row in table.to_dict("records"):
            values = [row[key] for key in ("called", "precision", "planted", "recall", "recovered")]
            print(line(f"  {row['low']:g} to {row['high']:g}", values, 42))

    figure = plot(curves)
    print("\n" + write_image(figure, "planted-truth", options.images))
    total = planted.rates(whole)
    print(f"\nprecision {total['precision']:.2f} recall {total['recall']:.2f}")


if __name__ == "__main__":
    main()
