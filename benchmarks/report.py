"""How long the report takes to show and to filter 4 x 16,384 features, in a headless Chromium, opened from disk.

`make bench-report`, or `python benchmarks/report.py [--features 16384] [--rounds 5]`. Features, fates and contexts are made up; the page
around them is the one of the tests. Times are the page's own (`performance.now`), from a key pressed to the table drawn anew.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from autoencoder import machine

from feature_lineage.flow import fates as flow
from feature_lineage.meaning.categories import CATEGORIES
from feature_lineage.report.browser import Features

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from chromium import Page
from reports import SUMMARY, content, write

MODELS = ["base", "lua", "bible", "luabible"]
EDGES = [("base", "lua"), ("base", "bible"), ("lua", "luabible"), ("bible", "luabible")]
CORPORA = ["english", "python", "lua", "bible"]
VOCABULARY, WINDOWS, LENGTH, CONTEXTS = 32_000, 20_000, 24, 10
FILTER = """new Promise((done) => {
  const field = document.getElementById("filters").elements[%r];
  const start = performance.now();
  new MutationObserver((_, watch) => { watch.disconnect(); requestAnimationFrame(() => done(performance.now() - start)); })
    .observe(document.getElementById("found"), { childList: true, characterData: true, subtree: true });
  field.value = %r;
  field.dispatchEvent(new InputEvent("input", { bubbles: true }));
})"""


def lists(values: pa.Array, length: int) -> pa.Array:
    """Lists of equal length."""
    return pa.ListArray.from_arrays(np.arange(0, len(values) + 1, length, dtype=np.int32), values)


def features(random: np.random.Generator, count: int) -> Iterator[Features]:
    """What the browser shows, model by model."""

    def tokens(each: int, value: str, kind: pa.DataType) -> pa.Array:
        columns = [
            pa.array(random.integers(0, VOCABULARY, count * each), pa.int32()),
            pa.array(random.random(count * each), kind),
        ]
        return lists(pa.StructArray.from_arrays(columns, ["token", value]), each)

    number = np.arange(count, dtype=np.int32)
    for model in MODELS:
        yield Features(
            model,
            0,
            pa.table({"feature": number, "active": random.integers(1, 1000, count), "density": random.random(count) / 20, "max": random.random(count)}),
            pa.table({"token_share": random.random(count), "corpus": random.choice(CORPORA, count).tolist(), "corpus_share": random.random(count)}),
            pa.table(
                {
                    "feature": np.repeat(number, CONTEXTS),
                    "rank": np.tile(np.arange(CONTEXTS, dtype=np.int16), count),
                    "window": random.integers(0, WINDOWS, count * CONTEXTS).astype(np.int32),
                    "peak": np.ones(count * CONTEXTS, np.float32),
                    "position": lists(pa.array(random.integers(0, LENGTH, count * CONTEXTS * 4), pa.int16()), 4),
                    "activation": lists(pa.array(random.random(count * CONTEXTS * 4), pa.float32()), 4),
                }
            ),
            pa.table({"category": random.choice(CATEGORIES, count).tolist(), "share": random.random(count), "tokens": tokens(5, "share", pa.float64())}),
            pa.table({"promoted": tokens(8, "effect", pa.float32()), "suppressed": tokens(8, "effect", pa.float32())}),
            None,
        )  # fmt: skip


def fates(random: np.random.Generator, count: int) -> tuple[pa.Table, pa.Table]:
    """Fates on every edge, and chains of ancestors."""
    number = np.arange(count, dtype=np.int32)
    edges, lineages = [], []
    for parent, child in EDGES:
        for model in (parent, child):
            r = random.random(count)
            match = pa.array(random.integers(0, count, count), pa.int32()), pa.nulls(count, pa.int32())
            descendant, ancestor = match if model == parent else match[::-1]
            fate = np.where(r > 0.8, "persisting", "disappearing" if model == parent else "emerging").tolist()
            columns = {
                "parent": [parent] * count,
                "child": [child] * count,
                "seed": [0] * count,
                "model": [model] * count,
            }
            edges.append(pa.table(columns | {"feature": number, "fate": fate, "ancestor": ancestor, "descendant": descendant, "r": r}))  # fmt: skip
    kind = flow.LINEAGES.field("chain").type
    for model in MODELS:
        old = (random.random(count) > 0.8) & (model != "base")
        chain = pa.array([[{"model": "base", "feature": 3, "r": 0.9}] * bool(one) for one in old], kind)
        columns = {"model": [model] * count, "seed": [0] * count, "feature": number, "chain": chain}
        lineages.append(pa.table(columns | {"origin": np.where(old, "base", model).tolist()}))
    return pa.concat_tables(edges), pa.concat_tables(lineages)


def main() -> None:
    """Write the report, open it, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    lines, chains = fates(random, options.features)
    sample = {
        "tokens": random.integers(0, VOCABULARY, (WINDOWS, LENGTH)).astype(np.int32),
        "corpus": random.integers(0, len(CORPORA), WINDOWS),
    }
    made = {
        "summary": SUMMARY | {"models": MODELS},
        "shown": [(model, 0) for model in MODELS],
        "features": features(random, options.features),
        "flow": lines,
        "lineages": chains,
        "sample": sample,
        "corpora": CORPORA,
        "vocabulary": [f"tok{k} " if k % 3 else f" {k}" for k in range(VOCABULARY)],
    }
    with tempfile.TemporaryDirectory() as name:
        started = time.perf_counter()
        write(Path(name, "report"), **content() | made)
        size = sum(path.stat().st_size for path in Path(name, "report").rglob("*") if path.is_file()) / 1e6
        print(f"{machine()}\nwritten in {time.perf_counter() - started:.1f} s, {size:.0f} MB")
        page = Page(Path(name, "profile"))
        index = Path(name, "report", "index.html")
        paints, sankeys = [], []
        for _ in range(options.rounds):
            page.open(index)
            page.wait("document.querySelector('#sankey .sankey-link')")
            sankeys.append(page.run("performance.now()"))
            paints.append(page.run("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        show("first contentful paint", paints)
        show("Sankey drawn (polled every 30 ms)", sankeys)
        page.open(index, "#browse?model=*&seed=0")
        page.wait(f"document.getElementById('found').textContent.includes('{len(MODELS) * options.features:,}')")
        for field, values in {
            "category": ["word", "number"],
            "fate": ["persisting", "emerging"],
            "q": ["tok77", "#123"],
        }.items():
            times = [page.run(FILTER % (field, value)) for _ in range(options.rounds) for value in values]
            page.run(FILTER % (field, ""))
            show(f"filter by {'search' if field == 'q' else field}, all {len(MODELS)} models", times)
        assert not page.errors, page.errors
        page.close()


def show(what: str, milliseconds: list[float]) -> None:
    """One line of the table."""
    print(f"{what:45} {statistics.median(milliseconds):6.0f} ms, at most {max(milliseconds):.0f}", flush=True)


if __name__ == "__main__":
    main()
