"""Placebos: their schedule, and edges counted beside them."""

import numpy as np
import pyarrow as pa
import pytest

from feature_lineage.controls.placebo import PLACEBO, measure_placebo
from feature_lineage.flow.intervals import REPLICATES, ROWS, Compared, count_verdicts
from feature_lineage.flow.verdicts import JUDGED, VERDICTS
from feature_lineage.models.training import Data, placebo_schedule
from feature_lineage.study.keys import FineTuning

LIVING = 40


def judged(words, side="parent", reproducible=None, held_out=None, match_r=None):
    """A table of verdicts as they are listed; None is dead."""
    count = len(words)
    columns = {name: pa.nulls(count, JUDGED.field(name).type) for name in JUDGED.names}
    columns |= {"side": pa.array([side] * count), "verdict": pa.array(words, pa.string())}
    columns["feature"] = pa.array(np.arange(count, dtype=np.int32))
    if reproducible is not None:
        columns["reproducible"] = pa.array(reproducible, pa.bool_())
        columns["held_out_verdict"] = pa.array(held_out, pa.string())
    if match_r is not None:
        columns["match_r"] = pa.array(match_r, pa.float64())
    return pa.table(columns, schema=JUDGED)


def replicates(kept, living, side="parent", features="all"):
    """Of each replicate the kept ones; the rest are lost."""
    rows = [
        {
            "side": side,
            "features": features,
            "replicate": k,
            "living": n,
            "kept": a,
            "found": 0,
            "drifted": 0,
            "lost": n - a,
        }
        for k, (a, n) in enumerate(zip(kept, living, strict=True))
    ]
    return pa.Table.from_pylist(rows, REPLICATES)


@pytest.fixture
def edge():
    random = np.random.default_rng(0)
    words = ["kept"] * 10 + ["found"] * 4 + ["drifted"] * 6 + ["lost"] * 20 + [None] * 5
    kept = random.integers(5, 16, 50)
    return Compared("base", "lua", 0, judged(words), replicates(kept, [LIVING] * 50)), kept


@pytest.fixture
def placebo():
    random = np.random.default_rng(1)
    words = ["kept"] * 38 + ["drifted"] + ["lost"] + [None] * 5
    kept = random.integers(34, 41, 50)
    return Compared("base", "base-placebo-lua", 0, judged(words), replicates(kept, [LIVING] * 50)), kept


def test_verdicts_are_counted_beside_the_placebos(edge, placebo):
    rows = {row["verdict"]: row for row in count_verdicts(edge[0], placebo[0])}
    assert pa.Table.from_pylist(list(rows.values()), ROWS).num_rows == 4
    assert [rows[word]["count"] for word in VERDICTS] == [10, 4, 6, 20] and rows["kept"]["living"] == LIVING
    kept = rows["kept"]
    assert (kept["share"], kept["placebo_share"], kept["placebo"]) == (0.25, 0.95, "base-placebo-lua")
    assert kept["difference"] == pytest.approx(-0.7)
    quantiles = [0.025, 0.975]
    assert (kept["low"], kept["high"]) == pytest.approx(tuple(np.quantile(edge[1] / LIVING, quantiles)))
    between = (edge[1] - placebo[1]) / LIVING
    assert (kept["difference_low"], kept["difference_high"]) == pytest.approx(tuple(np.quantile(between, quantiles)))
    assert rows["found"]["placebo_share"] is None, "a placebo without a dictionary finds nothing"
    assert rows["lost"]["placebo_share"] == 1 / LIVING


def test_an_interval_contains_its_share(edge):
    high = Compared("a", "b", 0, edge[0].judged, replicates([30] * 10, [LIVING] * 10))
    (kept, *_) = count_verdicts(high)
    assert (kept["low"], kept["share"], kept["high"]) == (0.25, 0.25, 0.75)


def test_without_placebo_replicates_or_living_features_there_are_no_numbers(edge):
    (kept, *_) = count_verdicts(edge[0]._replace(replicates=None))
    assert (kept["low"], kept["placebo"], kept["placebo_share"], kept["difference"]) == (None, None, None, None)
    (dead, *_) = count_verdicts(Compared("a", "b", 0, judged([None] * 3), replicates([0], [0])))
    assert (dead["living"], dead["share"], dead["low"]) == (0, None, None)


def test_reproducible_features_are_counted_by_their_verdict_on_the_held_out_half():
    words = ["kept", "kept", "lost", "drifted", None]
    held_out = ["lost", "kept", "kept", None, "kept"]
    table = judged(words, reproducible=[True, True, False, True, True], held_out=held_out)
    rows = [row for row in count_verdicts(Compared("a", "b", 0, table)) if row["features"] == "reproducible"]
    assert {row["verdict"]: row["count"] for row in rows} == {"kept": 1, "found": 0, "drifted": 0, "lost": 1}
    assert rows[0]["living"] == 2, "one is dead, one does not live in the half"


def test_a_row_of_the_table_of_placebos(placebo):
    reading = {"own": {"l0": 40.0, "variance_explained": 0.9}, "other": {"l0": 41.0, "variance_explained": 0.88}}
    weights = {"all": 0.1, "hooked_block": 0.2}
    row = measure_placebo(placebo[0], ("lua", "bible"), reading, weights, 0.8)
    assert pa.Table.from_pylist([row], PLACEBO).to_pylist() == [row] and set(row) == set(PLACEBO.names)
    assert (row["share"], row["kept"], row["drifted"], row["lost"], row["found"]) == (0.95, 38, 1, 1, None)
    assert (row["own_l0"], row["l0"], row["weights_hooked_block"], row["persisting_share"]) == (40.0, 41.0, 0.2, None)
    both = pa.concat_tables(
        [judged(["kept", "found", None], match_r=[0.9, 0.85, 0.95]), judged(["kept"], side="child", match_r=[0.9])]
    )
    own = measure_placebo(Compared("base", "p", 0, both), ("lua",), reading, weights, 0.87)
    assert (own["found"], own["persisting_share"]) == (1, 0.5)


def corpus(tmp_path, name, tokens):
    from feature_lineage.store.formats import write_json

    folder = tmp_path / name
    folder.mkdir()
    np.save(folder / "0.npy", np.zeros(tokens, np.uint16))
    size = (folder / "0.npy").stat().st_size
    write_json(folder / "index.json", {"shards": [{"file": "0.npy", "tokens": tokens, "bytes": size}]}, {})
    return folder


@pytest.mark.parametrize(
    ("tokens", "like", "own", "expected"),
    [
        (320, None, 6400, (320, 2.0)),  # as the fine-tune
        (320, None, 160, (160, 2.75)),  # fewer tokens than that: they are passed more often, up to the sixth step
        (None, 640, 6400, (640, 2.0)),  # the fine-tune takes all that there is
    ],
)
def test_a_placebo_takes_as_many_steps_as_its_fine_tune(tmp_path, monkeypatch, tokens, like, own, expected):
    from feature_lineage.text import windows

    monkeypatch.setattr(windows, "read_index", lambda path: {"shards": [{"file": "0.npy"}]})
    there = Data({"own": corpus(tmp_path, "own", own)}, {}, False, 0)
    theirs = Data({"like": corpus(tmp_path, "like", like)}, {}, False, 0) if like else None
    schedule = FineTuning(tokens=tokens, epochs=2.0, block=32, batch=4, warmup_steps=1)
    found = placebo_schedule(schedule, theirs, there)
    assert (found.tokens, found.epochs) == expected
    assert found.model_copy(update={"tokens": tokens, "epochs": 2.0}) == schedule
    assert found.most_steps(1) == FineTuning(tokens=tokens or like, epochs=2.0, block=32, batch=4).most_steps(1)
