"""Correlations of all pairs of features: ours, a dense product, scipy's sparse one and the published method, in one run.

`make bench-correlation`, or `python benchmarks/correlation.py [--tokens 3000000] [--features 16384] [--l0 30]`. The activations are
made up: densities log-uniform over four orders of magnitude, half of the second side's features noisy copies of the first's. Ours
is timed as the workflow runs it, from file to table, in a process of its own for its peak memory. Dense (float64 X^T Y, streamed
over tokens), scipy (one thread, sums alone) and the published method (a Python loop over pairs) are timed on a slice and multiplied.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import torch
from autoencoder import machine
from images import write_image
from plotly.subplots import make_subplots
from scipy import sparse

from feature_lineage.features.activations import ActivationFile
from feature_lineage.features.collect import ACTIVATIONS
from feature_lineage.report.figures import COLOURS
from feature_lineage.store.formats import write_table

HERE = Path(__file__).resolve().parent
STEP = 1 << 15  # tokens drawn at once
BLOCK = 1024  # features of one of scipy's products
STRINGS = 32_000  # of the published method, and tokens that it was run on
PUBLISHED_TOKENS = 24_000


def densities(features: int, l0: float) -> np.ndarray:
    """Log-uniform over four orders of magnitude, scaled to the mean number of active features."""
    density = np.exp(np.random.default_rng(0).uniform(np.log(1e-5), np.log(1e-1), features))
    for _ in range(20):
        density = np.minimum(density * (l0 / density.sum()), 0.5)
    return density


def draw(random: np.random.Generator, tokens: int, density: np.ndarray) -> np.ndarray:
    """Where each feature fires: sorted unique token * features + feature."""
    counts = random.binomial(tokens, density)
    feature = np.repeat(np.arange(len(density)), counts)
    return np.unique(random.integers(0, tokens, len(feature)) * len(density) + feature)


def batch(keys: np.ndarray, values: np.ndarray, first: int, features: int) -> pa.RecordBatch:
    """Activations of the tokens from `first` on, as in a file."""
    token, feature = np.divmod(keys, features)
    columns = [(token + first).astype(np.int32), feature.astype(np.int32), values.astype(np.float32)]
    return pa.record_batch(columns, schema=ACTIVATIONS)


def side(which: str, tokens: int, features: int, l0: float) -> Iterator[pa.RecordBatch]:
    """Activations of one side; the second repeats four in five of those of half of the first's features."""
    density = densities(features, l0)
    copied = np.arange(features) < features // 2
    for number, first in enumerate(range(0, tokens, STEP)):
        size = min(STEP, tokens - first)
        random = np.random.default_rng([1, number])
        keys = draw(random, size, density)
        values = random.exponential(1.0, len(keys))
        if which == "b":
            random = np.random.default_rng([2, number])
            kept = copied[keys % features] & (random.random(len(keys)) < 0.8)
            new = draw(random, size, np.where(copied, 0.2, 1.0) * density)
            values = np.concatenate(
                [values[kept] * random.uniform(0.8, 1.2, kept.sum()), random.exponential(1.0, len(new))]
            )
            keys, places = np.unique(np.concatenate([keys[kept], new]), return_index=True)
            values = values[places]
        yield batch(keys, values, first, features)


def make(folder: Path, tokens: int, features: int, l0: float) -> tuple[Path, Path]:
    """Both sides as files."""
    record = {"tokens": tokens, "features": features}
    for which in "ab":
        write_table(folder / f"{which}.parquet", side(which, tokens, features, l0), ACTIVATIONS, record)
    return folder / "a.parquet", folder / "b.parquet"


def ours(paths: tuple[Path, Path], threads: int) -> tuple[float, float, int]:
    """Seconds, peak memory in GiB and pairs of our correlations."""
    command = [sys.executable, str(HERE / "correlation_ours.py"), *map(str, paths), str(threads)]
    seconds, peak, pairs = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return float(seconds), float(peak), int(pairs)


def products(paths: tuple[Path, Path]) -> float:
    """Σ_t nnz_a(t) nnz_b(t) in billions."""
    a, b = (np.zeros(ActivationFile(path).tokens) for path in paths)
    for path, counts in zip(paths, (a, b), strict=True):
        for token, _, _ in ActivationFile(path).pieces():
            np.add(counts, np.bincount(token, minlength=len(counts)), out=counts)
    return float(a @ b) / 1e9


def dense(a: ActivationFile, b: ActivationFile, slice_tokens: int) -> float:
    """Seconds for all tokens of a dense float64 X^T Y, from a slice of them at full width."""
    sums = torch.zeros(a.features, b.features, dtype=torch.float64)

    def add(first: int, last: int) -> None:
        x, y = (torch.from_numpy(s.read(first, last).toarray().astype(np.float64)) for s in (a, b))
        sums.addmm_(x.T, y)

    add(0, 64)  # warms up
    started = time.perf_counter()
    add(64, 64 + slice_tokens)
    return (time.perf_counter() - started) * a.tokens / slice_tokens


def scipy_product(a: ActivationFile, b: ActivationFile) -> float:
    """Seconds of one thread of scipy's sparse product for all tokens, sums alone, from a sixteenth of them at full width."""
    last = max(1, a.tokens // 16)
    by_feature, by_token = (s.read(0, last).astype(np.float64) for s in (a, b))
    by_feature = by_feature.T.tocsr()
    sums = np.zeros((BLOCK, b.features))
    started = time.perf_counter()
    for first in range(0, a.features, BLOCK):
        found = (by_feature[first : first + BLOCK] @ by_token).toarray()
        sums[: len(found)] += found
    return (time.perf_counter() - started) * a.tokens / last


def published(a: ActivationFile, b: ActivationFile, pairs: int) -> float:
    """Seconds for all pairs of a Python loop over vectors of mean activation per token string, from a slice of the pairs."""
    random = np.random.default_rng(3)
    tokens = min(PUBLISHED_TOKENS, a.tokens)
    string = np.minimum(random.zipf(1.3, tokens), STRINGS) - 1
    by_string = sparse.csr_array((np.ones(tokens), (string, np.arange(tokens))), shape=(STRINGS, tokens))
    by_string = sparse.diags_array(1 / np.maximum(1, np.bincount(string, minlength=STRINGS))) @ by_string
    means = []
    for source in (a, b):
        table = sparse.csc_array(by_string @ source.read(0, tokens).astype(np.float64))
        ends = zip(table.indptr, table.indptr[1:], strict=False)
        means.append([dict(zip(table.indices[i:j].tolist(), table.data[i:j], strict=True)) for i, j in ends])
    chosen = random.integers(0, (a.features, b.features), (pairs, 2)).tolist()
    started = time.perf_counter()
    for i, j in chosen:
        x, y = means[0][i], means[1][j]
        shared = [string for string in x if string in y]
        if len(shared) >= 2:
            np.corrcoef([x[string] for string in shared], [y[string] for string in shared])
    return (time.perf_counter() - started) / pairs * a.features * b.features


def growth(options: argparse.Namespace, whole: Row) -> list[Row]:
    """Our time and memory over tokens, features and L0, from an eighth of the tokens on; `whole` is the last of the tokens'."""
    tokens, features, l0 = options.tokens // 8, options.features, options.l0
    sizes = [(n * tokens, features, l0) for n in (1, 2, 4)]
    sizes += [(tokens, features // 4, l0), (tokens, features // 2, l0)]
    sizes += [(tokens, features, l0 / 2), (tokens, features, l0 * 2)]
    print("\n" + HEAD)
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as name, np.errstate(invalid="ignore"):
            rows.append(measure(*size, make(Path(name), *size), options.threads))
        print(rows[-1].line(), flush=True)
    print(whole.line())
    return [*rows, whole]


def plot(rows: list[Row]) -> go.Figure:
    """Seconds and peak memory against each of the three sizes, the other two as in the first row."""
    first = rows[0]
    figure = make_subplots(rows=1, cols=3, subplot_titles=("tokens", "features of each side", "L0"))
    for column, size in enumerate(("tokens", "features", "l0"), start=1):
        others = [name for name in ("tokens", "features", "l0") if name != size]
        curve = sorted(row for row in rows if all(getattr(row, name) == getattr(first, name) for name in others))
        for number, (name, value) in enumerate({"seconds": "seconds", "peak memory, GiB": "peak"}.items()):
            x, y = zip(
                *(
                    (getattr(row, size), getattr(row, value))
                    for row in sorted(curve, key=lambda row: getattr(row, size))
                ),
                strict=True,
            )
            figure.add_scatter(
                x=x, y=y, name=name, legendgroup=name, showlegend=column == 1, mode="lines+markers",
                line={"color": COLOURS[number]}, row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(type="log", tickvals=sorted({getattr(row, size) for row in curve}), col=column)
    figure.update_yaxes(type="log", range=[-0.3, 2])
    figure.update_layout(
        title={
            "text": f"Exact correlations; where not varied: {first.tokens:,} tokens, {first.features:,} features, L0 {first.l0:g}"
        },
        template="plotly_white",
        width=1000,
        height=380,
    )
    return figure


HEAD = f"{'tokens':>11} {'features':>8} {'L0':>5} {'products, 1e9':>13} {'s':>7} {'ns a product':>12} {'GiB':>5} {'pairs':>9}"


class Row(NamedTuple):
    """One row of the table of growth: sizes, billions of products, seconds, peak memory in GiB, pairs kept."""

    tokens: int
    features: int
    l0: float
    products: float
    seconds: float
    peak: float
    pairs: int

    def line(self) -> str:
        """The row as text."""
        return (
            f"{self.tokens:11,} {self.features:8,} {self.l0:5g} {self.products:13.3f} {self.seconds:7.1f} "
            f"{self.seconds / self.products:12.1f} {self.peak:5.2f} {self.pairs:9,}"
        )


def measure(tokens: int, features: int, l0: float, paths: tuple[Path, Path], threads: int) -> Row:
    """Measure ours on two files."""
    return Row(tokens, features, l0, products(paths), *ours(paths, threads))


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=3_000_000)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--l0", type=float, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dense-tokens", type=int, default=2048, help="slice of the dense product")
    parser.add_argument("--pairs", type=int, default=100_000, help="slice of the published method")
    parser.add_argument("--large", action="store_true", help="131,072 features and 30 million tokens, ours alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{machine()}, {options.threads} threads, torch {torch.__version__}")
    if options.large:
        print(HEAD)
        size = (30_000_000, 131_072, options.l0)
        with tempfile.TemporaryDirectory() as name:
            print(measure(*size, make(Path(name), *size), options.threads).line())
        return
    with tempfile.TemporaryDirectory() as name:
        size = (options.tokens, options.features, options.l0)
        paths = make(Path(name), *size)
        whole = measure(*size, paths, options.threads)
        a, b = map(ActivationFile, paths)
        others = {
            "scipy, one thread, sums alone *": scipy_product(a, b),
            f"dense float64 BLAS, {options.threads} threads, sums alone *": dense(a, b, options.dense_tokens),
            "published method *": published(a, b, options.pairs),
        }
    seconds = whole.seconds
    print(f"{HEAD}\n{whole.line()}\n\n{'':44} {'s':>12} {'of ours':>10}")
    print(f"{'ours, from file to table':44} {seconds:12.1f} {1:10.1f}")
    for name, value in others.items():
        print(f"{name:44} {value:12.1f} {value / seconds:10.1f}")
    print(
        f"* from a slice: a sixteenth of the tokens, {options.dense_tokens:,} tokens at full width, {options.pairs:,} of the pairs"
    )
    print("\n" + write_image(plot(growth(options, whole)), "correlation-growth"))
    print(f"\nours is {list(others.values())[1] / seconds:.1f} times dense")


if __name__ == "__main__":
    main()
