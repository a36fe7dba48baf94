"""Exact Pearson correlations against numpy on a dense copy, on random, real-shaped and adversarial inputs."""

import warnings

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from feature_lineage import correlation
from feature_lineage.artifacts import write_table
from feature_lineage.correlation import Activations, correlate, moments, read_activations
from feature_lineage.logs import InputError


def activations(dense):
    return Activations(sparse.csr_array(np.asarray(dense, np.float64)))


def heavy_tailed(random, tokens, features, low=1e-4, high=0.5):
    """Sparse non-negative activations whose densities span orders of magnitude."""
    density = np.exp(random.uniform(np.log(low), np.log(high), features))
    fires = random.random((tokens, features)) < density
    return (fires * random.exponential(1.0, (tokens, features))).astype(np.float32)


def dense_reference(a, b):
    """r of every pair, NaN where a side has no variance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both = np.corrcoef(np.asarray(a, np.float64).T, np.asarray(b, np.float64).T)
    r = both[: a.shape[1], a.shape[1] :]
    r[np.ptp(a, axis=0) == 0] = np.nan
    r[:, np.ptp(b, axis=0) == 0] = np.nan
    return r


def check(a, b, floor):
    """Every pair above the floor and every best match is there, nothing else, and each number is right."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = correlate(activations(a), activations(b), floor).to_pandas()
    r = dense_reference(a, b)
    wanted = {(i, j) for i, j in zip(*np.nonzero(np.nan_to_num(r, nan=-9) > floor), strict=True)}
    found = {(i, j): row for i, j, *row in table.itertuples(index=False)}
    assert len(found) == len(table)
    near = {(i, j) for i, j in zip(*np.nonzero(np.abs(r - floor) < 1e-9), strict=True)}
    assert wanted - near <= set(found)
    for (i, j), (value, both, either) in found.items():
        assert value == pytest.approx(r[i, j], abs=1e-6)
        assert both == np.sum((a[:, i] > 0) & (b[:, j] > 0))
        assert either == np.sum((a[:, i] > 0) | (b[:, j] > 0))
    for i in range(a.shape[1]):
        own = {j: value[0] for (k, j), value in found.items() if k == i}
        if np.isnan(r[i]).all():
            assert not own
        else:
            assert max(own.values()) == pytest.approx(np.nanmax(r[i]), abs=1e-9)
    for j in range(b.shape[1]):
        own = [value[0] for (_, k), value in found.items() if k == j]
        if np.isnan(r[:, j]).all():
            assert not own
        else:
            assert max(own) == pytest.approx(np.nanmax(r[:, j]), abs=1e-9)
    extra = {(i, j) for i, j in found if r[i, j] <= floor - 1e-9}
    for i, j in extra:  # only a best match may stand below the floor
        assert r[i, j] >= np.nanmax(r[i]) - 1e-9 or r[i, j] >= np.nanmax(r[:, j]) - 1e-9
    return table


@pytest.mark.parametrize("seed", range(6))
def test_random_activations(seed):
    random = np.random.default_rng(seed)
    a = heavy_tailed(random, 400, 30)
    b = heavy_tailed(random, 400, 25)
    b[:, :10] = a[:, :10] * random.uniform(0.5, 2) + heavy_tailed(random, 400, 10, 1e-3, 0.05)
    table = check(a, b, 0.3)
    assert (table["r"] > 0.8).any()


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_the_block_size_changes_nothing(monkeypatch, block):
    random = np.random.default_rng(1)
    a, b = heavy_tailed(random, 300, 20), heavy_tailed(random, 300, 15)
    whole = correlate(activations(a), activations(b), 0.1)
    monkeypatch.setattr(correlation, "BLOCK_BYTES", block * 8 * 15)
    assert correlate(activations(a), activations(b), 0.1).equals(whole)


def test_dense_constant_dead_and_single_token_features():
    random = np.random.default_rng(2)
    tokens = 200
    a = np.zeros((tokens, 7), np.float32)
    a[:, 0] = random.random(tokens) + 5  # fires always, varies
    a[:, 1] = 0.1  # constant, and 0.1 has no exact float
    a[3, 3] = 2.0  # one active token
    a[:, 4] = 1e4 + random.random(tokens)  # a mean far above its deviation
    a[:, 5] = (random.random(tokens) < 0.5) * 1e-20  # tiny
    a[:, 6] = (random.random(tokens) < 0.3) * 1e15  # huge
    b = a.copy()
    b[:, 0] = a[:, 0] * 2
    table = check(a, b, 0.8).set_index(["feature_a", "feature_b"])
    for feature in (0, 3, 4, 5, 6):
        assert table.loc[(feature, feature), "r"] == pytest.approx(1, abs=1e-6)
    assert not {1, 2} & set(table.index.get_level_values(0))


def test_a_model_without_any_activation():
    a, b = np.zeros((50, 4), np.float32), heavy_tailed(np.random.default_rng(0), 50, 3)
    assert check(a, b, 0.3).empty
    assert check(b, a, 0.3).empty


def test_best_matches_are_kept_below_the_floor_even_when_negative():
    a = np.array([[1, 0], [1, 0], [0, 1], [0, 0]], np.float32)
    b = np.array([[0], [0], [0], [1]], np.float32)
    table = check(a, b, 0.9)
    assert (table["r"] < 0).all()
    assert set(table["feature_a"]) == {0, 1}


def test_moments_are_exact_for_a_feature_far_from_zero():
    x = 1e6 + np.arange(1000) * 1e-3
    found = moments(activations(x[:, None]))
    assert found.deviation[0] == pytest.approx(np.std(x), rel=1e-9)
    assert found.active[0] == 1000


def test_samples_of_different_length_are_refused():
    with pytest.raises(InputError, match="one sample"):
        correlate(activations(np.eye(3)), activations(np.eye(4)), 0.3)


def test_files_are_read_back_and_checked(tmp_path):
    dense = heavy_tailed(np.random.default_rng(3), 60, 8)
    token, feature = np.nonzero(dense)
    schema = pa.schema([("token", pa.int32()), ("feature", pa.int32()), ("activation", pa.float32())])
    table = pa.table([token.astype(np.int32), feature.astype(np.int32), dense[token, feature]], schema=schema)
    write_table(tmp_path / "a.parquet", table, schema, {"tokens": 60, "features": 8})
    found = read_activations(tmp_path / "a.parquet")
    assert (found.matrix.toarray() == dense).all()
    write_table(tmp_path / "b.parquet", table, schema, {"tokens": 60, "features": int(feature.max())})
    with pytest.raises(InputError, match=r"b\.parquet"):
        read_activations(tmp_path / "b.parquet")
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet.*truncated"):
        read_activations(tmp_path / "a.parquet")
