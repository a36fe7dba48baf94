"""Drift: each measure against a plain float64 computation, the shares against counting, and what is degenerate."""

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from feature_lineage.features import activations as reader
from feature_lineage.features.collect import ACTIVATIONS
from feature_lineage.flow.bootstrap import sample_documents
from feature_lineage.flow.drift import (
    DRIFT,
    Quality,
    is_alive,
    is_kept,
    is_new,
    measure_drift,
    poor,
    resample_drift,
)
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


def table(rows, side="parent"):
    return pa.Table.from_pylist([{"parent": "a", "child": "b", "seed": 0, "side": side} | row for row in rows], DRIFT)


def test_each_measure_is_its_definition(pair):
    paths, dense = pair
    found = measure_drift(*paths)
    assert [row["feature"] for row in found] == list(range(FEATURES))
    for row, expected in zip(found, plain(*dense), strict=True):
        for name, value in expected.items():
            if value is None:
                assert row[name] is None, (row["feature"], name)
            else:
                assert row[name] == pytest.approx(value, rel=1e-6, abs=1e-9), (row["feature"], name)
    assert found[6]["r"] == pytest.approx(np.corrcoef(dense[0][:, 6], dense[1][:, 6])[0, 1], abs=1e-6)


def test_a_copy_keeps_everything(pair):
    paths, dense = pair
    found = measure_drift(paths[0], paths[0])
    for row, x in zip(found, dense[0].T, strict=True):
        if np.ptp(x) > 0:
            assert row["r"] == pytest.approx(1, abs=1e-12)
            assert row["density_ratio"] == row["mean_ratio"] == row["jaccard"] == 1
        else:
            assert row["r"] is None
    assert is_kept(table(found), 0.999999).tolist() == [bool(np.ptp(x) > 0) for x in dense[0].T]


def test_what_is_silent_on_a_side_is_not_kept_and_what_is_rare_does_not_live(pair):
    paths, dense = pair
    found = table(measure_drift(*paths))
    assert not is_kept(found, -0.99)[[0, 1, 2, 3]].any() and is_kept(found, 0.8)[[4, 5]].all()
    assert is_alive(found, 2).tolist() == [int((x > 0).sum()) >= 2 for x in dense[0].T]
    assert not is_alive(found, 0)[[0, 2]].any()


def test_a_feature_of_a_merge_is_new_if_no_parent_has_it():
    def side(*r):
        return table(
            [dict.fromkeys(DRIFT.names[4:], None) | {"feature": k, "r": value} for k, value in enumerate(r)], "child"
        )

    readings = {"left": side(0.9, 0.1, None, 0.8), "right": side(0.1, 0.95, 0.3, 0.79)}
    assert is_new(readings, 0.8).tolist() == [False, False, True, True]
    assert is_new({"left": readings["left"]}, 0.8).tolist() == [False, True, True, True]


def test_replicates_are_counted_on_repeated_documents(pair):
    paths, (own, other) = pair
    document = np.repeat(np.arange(20), TOKENS // 20)
    sampled = sample_documents(np.zeros(20, int), 15, seed=3)
    found = resample_drift(*paths, document, sampled, 0.7, 5)
    for k in range(15):
        rows = np.concatenate([np.flatnonzero(document == d) for d in range(20) for _ in range(sampled[d, k])])
        x, y = own[rows], other[rows]
        alive = (x > 0).sum(0) >= 5
        kept = [
            alive[f] and np.ptp(x[:, f]) > 0 and np.ptp(y[:, f]) > 0 and np.corrcoef(x[:, f], y[:, f])[0, 1] > 0.7
            for f in range(FEATURES)
            if f != 6  # nearly constant: sums per document lose its digits
        ]
        alive[6] = False
        part = resample_drift(*paths, document, sampled[:, [k]], 0.7, 5, [f for f in range(FEATURES) if f != 6])
        assert (part.living[0], part.kept[0]) == (alive.sum(), sum(kept))
    low, high = found.interval()
    shares = found.kept / found.living
    assert (low, high) == tuple(np.quantile(shares, [0.025, 0.975]))
    assert resample_drift(*paths, document, sampled, 0.7, TOKENS * 100).interval() is None


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
