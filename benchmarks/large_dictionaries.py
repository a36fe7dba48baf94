"""Steps on dictionaries of 65,536 features: wall time, CPU time and peak memory of each, alone and in a process of its own.

`python benchmarks/large_dictionaries.py [--tokens 3000000] [--features 65536] [--l0 30] [--steps correlate judge_features …]`. The
activations are those of `correlation.py`. Each side's reading of the other model is the other file: half of the features are noisy
copies, the rest share nothing. Tokens follow Zipf's law and do not depend on the activations, so that a feature fires on more different
tokens than in text. Directions are random unit vectors, half of the second side's noisy copies of the first's. `--folder` keeps what
was made for another run.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from autoencoder import machine
from correlation import make

from feature_lineage.features.activations import ActivationFile
from feature_lineage.features.collect import STATISTICS
from feature_lineage.flow.bootstrap import REPLICATES, bootstrap_flow, sample_documents
from feature_lineage.flow.correlation import CORRELATIONS, correlate
from feature_lineage.flow.direction import Directions
from feature_lineage.flow.intervals import REPLICATES as COUNTED
from feature_lineage.flow.intervals import Drawn, bootstrap_verdicts
from feature_lineage.flow.stability import judged_documents
from feature_lineage.flow.traced import FEATURES, LINEAGES
from feature_lineage.flow.verdicts import JUDGED, Activations, Half, Limits, Stable, judge_features
from feature_lineage.meaning.categories import CATEGORISED, CLASSES, categorise_features
from feature_lineage.meaning.contexts import CONTEXTS, collect_contexts
from feature_lineage.meaning.logit_effects import EFFECTS
from feature_lineage.meaning.main_token import TOKENS, weigh_tokens
from feature_lineage.report.browser import Browsed, Features, write_browser
from feature_lineage.store.formats import read_table, write_table

VOCABULARY = 151_936
LENGTH = 64  # tokens of a window
DOCUMENT = 300  # tokens of one, about
ELEMENTS = 1024  # of a direction
REPEATS = 200
FLOOR, THRESHOLD, LEAST = 0.3, 0.7, 10
CORPORA = ["english", "python"]


class Made:
    """What the steps read, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = folder / "a.parquet", folder / "b.parquet"
        source = ActivationFile(self.paths[0])
        self.counted, self.features = source.tokens, source.features

    def table(self, name: str) -> pa.Table:
        """What an earlier step wrote."""
        return read_table(self.folder / f"{name}.parquet")

    def tokens(self) -> np.ndarray:
        """Token numbers, int32 [windows, length]; the rank of a token is its number."""
        ranks = np.random.default_rng(5).random(self.counted)
        return (VOCABULARY**ranks - 1).astype(np.int32).reshape(-1, self.length())

    def length(self) -> int:
        """Tokens of a window: `LENGTH`, or the largest number that divides it and the sample."""
        return math.gcd(self.counted, LENGTH)

    def documents(self) -> tuple[np.ndarray, np.ndarray]:
        """Document of each token and corpus of each document."""
        count = max(2, self.counted // DOCUMENT)
        random = np.random.default_rng(6)
        ends = np.sort(random.choice(np.arange(1, self.counted), count - 1, replace=False))
        return np.searchsorted(ends, np.arange(self.counted), side="right"), np.arange(count) % len(CORPORA)

    def activations(self) -> Activations:
        """Both sides, each read on the other."""
        return Activations(self.paths, self.paths[::-1])

    def directions(self) -> list[Directions]:
        """Random unit vectors, half of them shared."""
        random = np.random.default_rng(7)
        found: list[Directions] = []
        for _ in range(2):
            vectors = [random.standard_normal((self.features, ELEMENTS)) for _ in range(2)]
            if found:
                shared = self.features // 2
                for rows, before in zip(vectors, found[0], strict=True):
                    rows[:shared] += 32 * before[:shared]
            for rows in vectors:
                rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            found.append(Directions(*vectors))
        return found


def _correlate(made: Made) -> tuple[pa.Table, pa.Schema]:
    return correlate(*map(ActivationFile, made.paths), FLOOR, min_active=LEAST), CORRELATIONS


def _judge_features(made: Made) -> tuple[pa.Table, pa.Schema]:
    document, corpus = made.documents()
    r = np.random.default_rng(8).random((2, made.features, 2))
    judged = judge_features(
        made.activations(),
        made.table("correlate"),
        made.directions(),
        [Stable(one, one, 0.7) for one in r],
        Half(document, ~judged_documents(document, corpus)),
        Limits(threshold=THRESHOLD, min_active=LEAST),
    )
    return judged.features, JUDGED


def _bootstrap_flow(made: Made) -> tuple[pa.Table, pa.Schema]:
    document, corpus = made.documents()
    drawn = sample_documents(corpus, REPEATS, 0)
    return bootstrap_flow(*made.paths, made.table("correlate"), document, drawn, THRESHOLD, LEAST), REPLICATES


def _bootstrap_verdicts(made: Made) -> tuple[pa.Table, pa.Schema]:
    document, corpus = made.documents()
    held_out = ~judged_documents(document, corpus)
    half = np.zeros((len(corpus), REPEATS), np.int64)
    half[held_out] = sample_documents(corpus[held_out], REPEATS, 1)
    drawn = Drawn(document, sample_documents(corpus, REPEATS, 0), half)
    limits = Limits(threshold=THRESHOLD, min_active=LEAST)
    tables = made.table("correlate"), made.table("judge_features")
    return bootstrap_verdicts(made.activations(), *tables, drawn, limits), COUNTED


def _categorise_features(made: Made) -> tuple[pa.Table, pa.Schema]:
    tokens = made.tokens()
    classes = np.random.default_rng(9).integers(0, len(CLASSES), tokens.shape).astype(np.uint8)
    return categorise_features(made.paths[0], tokens, classes, VOCABULARY), CATEGORISED


def _collect_contexts(made: Made) -> tuple[pa.Table, pa.Schema]:
    return collect_contexts(made.paths[0], (made.counted // made.length(), made.length())), CONTEXTS


def _weigh_tokens(made: Made) -> tuple[pa.Table, pa.Schema]:
    tokens = made.tokens()
    return weigh_tokens(made.paths[0], tokens, np.arange(len(tokens)) % len(CORPORA), CORPORA), TOKENS


def _flow(made: Made, random: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """Made-up verdicts and lineages of model `a`, with the columns of `trace_flows`."""
    count = made.features
    match = pa.array(random.integers(0, count, count), pa.int32())
    own = {
        "parent": ["a"] * count,
        "child": ["b"] * count,
        "model": ["a"] * count,
        "verdict": random.choice(["kept", "lost"], count).tolist(),
        "drift_r": random.random(count),
        "fate": random.choice(["persisting", "disappearing"], count).tolist(),
        "descendant": match,
        "r": random.random(count),
    }
    shared = {"seed": np.zeros(count, np.int64), "feature": np.arange(count, dtype=np.int32)}
    empty = [[]] * count
    chains = {"model": ["a"] * count, "origin": ["a"] * count, "chain": empty, "fates": empty, "traced": empty}
    tables = []
    for columns, schema in ((own | shared, FEATURES), (chains | shared, LINEAGES)):
        missing = {name: pa.nulls(count, schema.field(name).type) for name in schema.names}
        tables.append(pa.table(missing | columns, schema=schema))
    return tables[0], tables[1]


def _write_browser(made: Made) -> None:
    random = np.random.default_rng(10)
    count = made.features
    chosen = pa.StructArray.from_arrays(
        [pa.array(random.integers(0, VOCABULARY, 8 * count), pa.int32()), pa.array(random.random(8 * count), pa.float32())],
        ["token", "effect"],
    )  # fmt: skip
    effects = pa.ListArray.from_arrays(np.arange(0, 8 * count + 1, 8, dtype=np.int32), chosen)
    missing = {field.name: pa.nulls(count, field.type) for field in (*STATISTICS, *EFFECTS)}
    shown = {
        "active": pa.array(random.integers(1, 1000, count)),
        "density": pa.array(random.random(count)),
        "max": pa.array(random.random(count)),
    }
    statistics = pa.table({name: shown.get(name, missing[name]) for name in STATISTICS.names})
    effects = pa.table(
        {name: effects if name in ("promoted", "suppressed") else missing[name] for name in EFFECTS.names}
    )
    flow, lineages = _flow(made, random)
    tables = [made.table(name) for name in ("weigh_tokens", "collect_contexts", "categorise_features")]
    browsed = Browsed(
        shown=[("a", 0)],
        features=[Features("a", 0, statistics, *tables, effects, None)],
        flow=flow,
        lineages=lineages,
        sample={
            "tokens": made.tokens(),
            "corpus": np.arange(made.counted // made.length()) % len(CORPORA),
        },
        corpora=CORPORA,
        vocabulary=[f" {number}" for number in range(VOCABULARY)],
    )
    write_browser(made.folder / "browser", browsed, ["a", "b"])


STEPS: dict[str, Callable[[Made], tuple[pa.Table, pa.Schema] | None]] = {
    "correlate": _correlate,
    "judge_features": _judge_features,
    "bootstrap_flow": _bootstrap_flow,
    "bootstrap_verdicts": _bootstrap_verdicts,
    "categorise_features": _categorise_features,
    "collect_contexts": _collect_contexts,
    "weigh_tokens": _weigh_tokens,
    "write_browser": _write_browser,
}


def work(step: str, folder: Path) -> None:
    """One step, in this process: prints wall and CPU seconds, imports left out, and the peak memory of the process in GiB."""
    wall, cpu = time.perf_counter(), time.process_time()
    result: Any = STEPS[step](Made(folder))
    if result is not None:
        write_table(folder / f"{step}.parquet", *result, {"step": step})
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(time.perf_counter() - wall, time.process_time() - cpu, int(peak[1]) / 2**20 if peak else math.nan)


def measure(step: str, folder: Path) -> str:
    """A step in a process of its own: its row."""
    command = [sys.executable, __file__, "--work", step, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return f"{step:22} stopped with status {done.returncode}"
    return "{:22} {:8.0f} {:8.0f} {:10.2f}".format(step, *map(float, done.stdout.split()))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=3_000_000)
    parser.add_argument("--features", type=int, default=65_536)
    parser.add_argument("--l0", type=float, default=30)
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS))
    parser.add_argument("--folder", type=Path, help="where the files are made, or were")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "b.parquet").exists():
            with np.errstate(invalid="ignore"):
                make(folder, options.tokens, options.features, options.l0)
        print(f"{machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
        print(
            f"{options.tokens:,} tokens, 2 × {options.features:,} features, L0 {options.l0:g}, vocabulary {VOCABULARY:,}"
        )
        print(f"{'step':22} {'wall, s':>8} {'CPU, s':>8} {'peak, GiB':>10}")
        for step in options.steps:
            print(measure(step, folder), flush=True)


if __name__ == "__main__":
    main()
