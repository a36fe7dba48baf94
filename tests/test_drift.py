"""Drift: each measure against a plain float64 computation, and what is degenerate."""

import numpy as np
import pytest
from edge import PARENT, TOKENS, correlation, make_edge
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from test_feature_tokens import write_activations

from feature_lineage.errors import InputError
from feature_lineage.features import activations as reader
from feature_lineage.flow.drift import DRIFT, Quality, drift, poor


def plain(own, other):
    """The definitions as they are written, feature by feature."""
    for x, y in zip(own.T, other.T, strict=True):
        a, b = x > 0, y > 0
        r = correlation(x, y)
        yield {
            "active": a.sum(),
            "active_other": b.sum(),
            "active_both": (a & b).sum(),
            "r": None if np.isnan(r) else r,
            "density_ratio": b.mean() / a.mean() if a.any() else None,
            "mean_ratio": y[b].mean() / x[a].mean() if a.any() and b.any() else None,
            "jaccard": (a & b).sum() / (a | b).sum() if (a | b).any() else None,
        }


def check(found, own, other):
    assert found.schema == DRIFT
    assert found["feature"].to_pylist() == list(range(own.shape[1]))
    for row, expected in zip(found.to_pylist(), plain(own, other), strict=True):
        for name, value in expected.items():
            if value is None:
                assert row[name] is None, (row, name)
            else:
                assert row[name] == pytest.approx(value, rel=1e-9, abs=1e-9), (row, name)


@pytest.mark.parametrize("block", [1, 97, TOKENS, 1000])
def test_each_measure_is_its_definition(tmp_path, monkeypatch, block):
    monkeypatch.setattr(reader, "BLOCK", block)
    edge = make_edge(tmp_path)
    for side in (0, 1):
        check(drift(edge.files.own[side], edge.files.other[side]), edge.own[side], edge.other[side])


def test_what_is_silent_or_constant_on_a_model_has_no_r(tmp_path):
    edge = make_edge(tmp_path)
    rows = drift(edge.files.own[0], edge.files.other[0]).to_pylist()
    assert [row["r"] for row in rows[:4]] == [None] * 4
    assert [row["density_ratio"] is None for row in rows[:4]] == [True, False, True, False]
    assert rows[1]["density_ratio"] == 0 and rows[1]["mean_ratio"] is None and rows[1]["jaccard"] == 0
    assert rows[2]["jaccard"] is None
    for equal in rows[4:6]:
        assert equal["r"] == pytest.approx(1, abs=1e-12)
        assert equal["density_ratio"] == equal["mean_ratio"] == equal["jaccard"] == 1


def test_nearly_constant_features_lose_no_digits(tmp_path):
    random = np.random.default_rng(1)
    own = (1e6 + random.random((TOKENS, 3))).astype(np.float32).astype(np.float64)
    other = (own + [0, 0.1, 1] * random.random((TOKENS, 3))).astype(np.float32).astype(np.float64)
    paths = [write_activations(tmp_path / f"{name}.parquet", dense) for name, dense in (("a", own), ("b", other))]
    for row, expected in zip(drift(*paths).to_pylist(), plain(own, other), strict=True):
        assert row["r"] == pytest.approx(expected["r"], abs=1e-6)


def test_a_constant_feature_correlates_with_nothing_whatever_its_value(tmp_path):
    """Sums of a value that is no binary fraction are rounded; what rounding leaves over a deviation of 0 is no correlation."""
    random = np.random.default_rng(2)
    own = np.tile(random.random(50).astype(np.float32), (TOKENS, 1))
    other = np.where(random.random((TOKENS, 50)) < 0.6, random.random((TOKENS, 50)), 0).astype(np.float32)
    paths = [write_activations(tmp_path / f"{name}.parquet", dense) for name, dense in (("a", own), ("b", other))]
    for pair in (paths, paths[::-1], [paths[0], paths[0]]):
        assert drift(*pair)["r"].null_count == 50


def test_a_copy_keeps_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK", 97)
    edge = make_edge(tmp_path)
    for path, dense in zip(edge.files.own, edge.own, strict=True):
        for row, x in zip(drift(path, path).to_pylist(), dense.T, strict=True):
            if np.ptp(x) > 0:
                assert row["r"] == pytest.approx(1, abs=1e-12)
                assert row["density_ratio"] == row["mean_ratio"] == row["jaccard"] == 1
            else:
                assert row["r"] is None


ACTIVITY = arrays.arrays(
    np.float32,
    st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 3)),
    elements=st.sampled_from([0, 0, 0, 0.1, 0.7, 1, 3]),
)


@settings(max_examples=60, deadline=None)
@given(ACTIVITY)
def test_few_tokens_of_few_values(tmp_path_factory, both):
    folder = tmp_path_factory.mktemp("drift")
    paths = [write_activations(folder / f"{name}.parquet", dense) for name, dense in zip("ab", both, strict=True)]
    check(drift(*paths), *both.astype(np.float64))


def test_samples_of_other_sizes_are_refused(tmp_path):
    dense = make_edge(tmp_path).own[0]
    with pytest.raises(InputError, match="has 399 tokens, the sample 400"):
        drift(tmp_path / "a.parquet", write_activations(tmp_path / "short.parquet", dense[1:]))
    assert dense.shape[1] == PARENT


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
