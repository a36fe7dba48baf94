"""Drift: each measure against a plain float64 computation, the shares against counting, and what is degenerate."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from scipy import sparse

from feature_lineage.features import activations as reader
from feature_lineage.features.collect import ACTIVATIONS
from feature_lineage.flow import drift as module
from feature_lineage.flow.bootstrap import sample_documents
from feature_lineage.flow.drift import (
    DRIFT,
    Quality,
    Reading,
    bootstrap_drift,
    drift,
    drift_curves,
    drift_table,
    is_alive,
    is_kept,
    is_new,
    kept_interval,
    measure_drift,
    poor,
    summarise_drift,
)
from feature_lineage.flow.drift import FEATURES as FEATURES_OF
from feature_lineage.store.formats import write_table

TOKENS, FEATURES = 400, 12


def write(path, dense):
    rows = sparse.coo_array(sparse.csr_array(dense.astype(np.float32)))
    table = pa.table([rows.row.astype(np.int32), rows.col.astype(np.int32), rows.data], schema=ACTIVATIONS)
    write_table(path, table, ACTIVATIONS, {"tokens": dense.shape[0], "features": dense.shape[1]})
    return path


@pytest.fixture
def pair(tmp_path, monkeypatch):
    """Two readings of one sample, with everything that is degenerate: (paths, dense matrices float64)."""
    monkeypatch.setattr(reader, "BLOCK", 97)
    random = np.random.default_rng(0)
    own = np.where(random.random((TOKENS, FEATURES)) < 0.2, random.gamma(2.0, 1.0, (TOKENS, FEATURES)), 0)
    noise = np.where(random.random((TOKENS, FEATURES)) < 0.1, random.gamma(2.0, 1.0, (TOKENS, FEATURES)), 0)
    other = np.where(random.random((TOKENS, FEATURES)) < 0.8, own * 1.5, 0) + noise
    own[:, 0] = other[:, 1] = 0  # dead on one side each,
    own[:, 2] = other[:, 2] = 0  # and on both
    own[:, 3] = 2.0  # constant
    other[:, 4] = own[:, 4]  # equal
    own[:, 5], other[:, 5] = 0, 0
    own[7, 5] = other[7, 5] = 1.25  # on one token
    own[:, 6] = 1e6 + random.random(TOKENS)  # nearly constant
    other[:, 6] = own[:, 6] + 0.1 * random.random(TOKENS)
    own, other = (matrix.astype(np.float32).astype(np.float64) for matrix in (own, other))
    return (write(tmp_path / "own.parquet", own), write(tmp_path / "other.parquet", other)), (own, other)


def plain(own, other):
    """The definitions as they are written, feature by feature."""
    for x, y in zip(own.T, other.T, strict=True):
        a, b = x > 0, y > 0
        changes = np.ptp(x) > 0 and np.ptp(y) > 0
        yield {
            "active": a.sum(),
            "active_other": b.sum(),
            "active_both": (a & b).sum(),
            "r": np.corrcoef(x, y)[0, 1] if changes else None,
            "density_ratio": b.mean() / a.mean() if a.any() else None,
            "mean_ratio": y[b].mean() / x[a].mean() if a.any() and b.any() else None,
            "jaccard": (a & b).sum() / (a | b).sum() if (a | b).any() else None,
        }


def test_each_measure_is_its_definition(pair):
    paths, dense = pair
    found = drift(*paths).to_pylist()
    assert [row["feature"] for row in found] == list(range(FEATURES))
    for row, expected in zip(found, plain(*dense), strict=True):
        for name, value in expected.items():
            if value is None:
                assert row[name] is None, (row["feature"], name)
            else:
                assert row[name] == pytest.approx(value, rel=1e-6, abs=1e-9), (row["feature"], name)
    assert found[6]["r"] == pytest.approx(np.corrcoef(dense[0][:, 6], dense[1][:, 6])[0, 1], abs=1e-6)


def test_both_sides_are_the_two_readings(pair):
    paths, _ = pair
    found = measure_drift(paths, paths[::-1])
    for side, expected in (("parent", drift(*paths)), ("child", drift(*paths[::-1]))):
        assert found.filter(pc.equal(found["side"], side)).drop(["side"]).equals(expected)


def test_a_copy_keeps_everything(pair):
    paths, dense = pair
    table = drift(paths[0], paths[0])
    for row, x in zip(table.to_pylist(), dense[0].T, strict=True):
        if np.ptp(x) > 0:
            assert row["r"] == pytest.approx(1, abs=1e-12)
            assert row["density_ratio"] == row["mean_ratio"] == row["jaccard"] == 1
        else:
            assert row["r"] is None
    assert is_kept(table, 0.999999).tolist() == [bool(np.ptp(x) > 0) for x in dense[0].T]


def test_what_is_silent_on_a_side_is_not_kept_and_what_is_rare_does_not_live(pair):
    paths, dense = pair
    found = drift(*paths)
    assert not is_kept(found, -0.99)[[0, 1, 2, 3]].any() and is_kept(found, 0.8)[[4, 5]].all()
    assert is_alive(found, 2).tolist() == [int((x > 0).sum()) >= 2 for x in dense[0].T]
    assert not is_alive(found, 0)[[0, 2]].any()


def test_a_feature_of_a_merge_is_new_if_no_parent_has_it():
    def side(*r):
        rows = [{"feature": feature, "active": 9, "r": value} for feature, value in enumerate(r)]
        return pa.Table.from_pylist(rows, FEATURES_OF)

    readings = {"left": side(0.9, 0.1, None, 0.8), "right": side(0.1, 0.95, 0.3, 0.79)}
    assert is_new(readings, 0.8).tolist() == [False, False, True, True]
    assert is_new({"left": readings["left"]}, 0.8).tolist() == [False, True, True, True]


def counted(paths, *arguments):
    """The parent's side of replicates; the child's is the same seen from there."""
    found = bootstrap_drift(paths, paths[::-1], *arguments)
    assert found.equals(pa.concat_tables([found.filter(pc.equal(found["side"], side)) for side in ("parent", "child")]))
    return found.filter(pc.equal(found["side"], "parent")).drop(["side"])


def test_replicates_are_counted_on_repeated_documents(pair):
    paths, (own, other) = pair
    document = np.repeat(np.arange(20), TOKENS // 20)
    sampled = sample_documents(np.zeros(20, int), 15, seed=3)
    found = counted(paths, document, sampled, 0.7, 5)
    for k, (living, kept) in enumerate(zip(*(found[name].to_pylist() for name in ("living", "kept")), strict=True)):
        rows = np.concatenate([np.flatnonzero(document == d) for d in range(20) for _ in range(sampled[d, k])])
        x, y = own[rows], other[rows]
        alive = (x > 0).sum(0) >= 5
        # Feature 6 is nearly constant: sums per document cannot tell it from one that is.
        same = [
            np.ptp(x[:, f]) > 0 and np.ptp(y[:, f]) > 0 and np.corrcoef(x[:, f], y[:, f])[0, 1] > 0.7
            for f in range(FEATURES)
            if f != 6
        ]
        assert (living, kept) == (alive.sum(), (np.delete(alive, 6) & same).sum())
    shares = found["kept"].to_numpy() / found["living"].to_numpy()
    assert kept_interval(found) == tuple(np.quantile(shares, [0.025, 0.975]))
    assert kept_interval(counted(paths, document, sampled, 0.7, TOKENS * 100)) is None


def test_replicates_in_turns_are_the_same(pair, monkeypatch):
    paths, _ = pair
    document = np.repeat(np.arange(20), TOKENS // 20)
    sampled = sample_documents(np.zeros(20, int), 15, seed=3)
    whole = counted(paths, document, sampled, 0.7, 5)
    monkeypatch.setattr(module, "MEMORY", 8 * 9 * FEATURES * 4)
    assert counted(paths, document, sampled, 0.7, 5).equals(whole)


def test_a_diamond_is_counted_edge_by_edge(pair):
    """base -> left, right -> both, all with the same two readings: what is counted is what the tables hold."""
    paths, _ = pair
    edges = [("base", "left"), ("base", "right"), ("left", "both"), ("right", "both")]
    table, swapped = drift(*paths), drift(*paths[::-1])
    good, bad = Quality(10.0, 0.9), Quality(10.0, 0.1)
    readings = [
        reading
        for edge in edges
        for reading in (
            Reading(*edge, 0, "parent", table, good, good),
            Reading(*edge, 0, "child", swapped, good, bad),
        )
    ]
    rows, counts = drift_table(readings), summarise_drift(readings, 0.8, 2)
    assert rows.schema == DRIFT and rows.num_rows == 2 * len(edges) * FEATURES
    assert [(row["parent"], row["child"], row["side"]) for row in counts] == [
        (*edge, side) for edge in edges for side in ("parent", "child")
    ]
    for row in counts:
        one = table if row["side"] == "parent" else swapped
        alive = is_alive(one, 2)
        assert (row["living"], row["kept"]) == (alive.sum(), (alive & is_kept(one, 0.8)).sum())
        assert row["share"] == row["kept"] / row["living"] and row["interval"] is None
        assert row["new"] == (row["living"] - row["kept"] if row["side"] == "child" else None)
        assert bool(row["poor"]) == (row["side"] == "child")
    curve = drift_curves(readings[:1], 2).to_pydict()
    r = np.array(
        [value for value, lives in zip(table["r"].to_pylist(), is_alive(table, 2), strict=True) if lives], float
    )
    for threshold, share in zip(curve["threshold"], curve["kept_share"], strict=True):
        assert share == np.mean(np.nan_to_num(r, nan=-1.0) > threshold)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (Quality(40.0, 0.8), []),
        (Quality(60.0, 0.65), []),
        (Quality(61.0, 0.8), ["L0 is 61.0 where it is 40.0"]),
        (Quality(19.0, 0.8), ["L0 is 19.0"]),
        (Quality(40.0, 0.63), ["explains 63% of the variance where it explains 80%"]),
        (Quality(100.0, -2.0), ["L0 is 100.0", "explains -200%"]),
    ],
)
def test_a_poor_reading_says_why(other, why):
    found = poor(Quality(40.0, 0.8), other)
    assert len(found) == len(why)
    assert all(word in said for word, said in zip(why, found, strict=True))
