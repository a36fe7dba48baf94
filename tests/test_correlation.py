"""Exact Pearson correlations against numpy on a dense copy, on random, real-shaped and adversarial inputs."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from feature_lineage.errors import InputError
from feature_lineage.features import activations as feature_activations
from feature_lineage.features.activations import ActivationFile, Activations, Moved, read_activations
from feature_lineage.features.collect import ACTIVATIONS
from feature_lineage.flow import correlation, products, sums
from feature_lineage.flow.correlation import CORRELATIONS, PARTIAL_SUMS, correlate, correlate_part, merge_parts
from feature_lineage.flow.moments import moments
from feature_lineage.store.formats import write_table


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


@st.composite
def pairs_of_sides(draw):
    """Two sides of a few features: whatever is silent, constant, nearly constant, dense, tied or far apart in scale."""
    tokens = draw(st.integers(1, 40))
    value = st.one_of(st.just(0.0), st.sampled_from([1.0, 2.0, 1e4, 1e4 + 1]), st.floats(2**-20, 2**20, width=32))
    column = st.one_of(
        st.lists(value, min_size=tokens, max_size=tokens),
        value.map(lambda constant: [constant] * tokens),
        st.tuples(value, st.integers(0, tokens - 1)).map(lambda at: [at[0] * (k == at[1]) for k in range(tokens)]),
    )
    sides = [draw(st.lists(column, min_size=1, max_size=4)) for _ in "ab"]
    return [np.array(side, np.float32).T for side in sides], draw(st.floats(0, 0.99))


@settings(max_examples=120, deadline=None)
@given(pairs_of_sides())
def test_whatever_the_activations(case):
    (a, b), floor = case
    check(a, b, floor)


def mixed(seed, tokens=1500):
    """Two sides with all kinds of features: rare, dense, nearly constant, constant, dead; some of b's follow a's."""
    random = np.random.default_rng(seed)
    a, b = heavy_tailed(random, tokens, 24), heavy_tailed(random, tokens, 18)
    b[:, :8] = a[:, :8] * random.uniform(0.5, 2) + heavy_tailed(random, tokens, 8, 1e-3, 0.05)
    drift = random.random(tokens)
    a[:, 20], b[:, 14] = 1e4 + drift, 500 + drift + 0.3 * random.random(tokens)
    a[:, 21] = b[:, 15] = 0.1
    a[:, 22] = b[:, 16] = 0
    return a, b


def save(path, dense):
    """A file of activations as `collect_features` writes it, in small row groups."""
    token, feature = np.nonzero(dense)
    columns = [token.astype(np.int32), feature.astype(np.int32), np.asarray(dense[token, feature], np.float32)]
    table = pa.table(columns, schema=ACTIVATIONS)
    batches = [table.slice(first, 700).combine_chunks().to_batches()[0] for first in range(0, len(table), 700)]
    write_table(path, batches, ACTIVATIONS, {"tokens": dense.shape[0], "features": dense.shape[1]})
    return ActivationFile(path)


def same_bytes(one, other):
    """Equal to the last bit, zeros' signs included."""
    return all(
        one[name].to_numpy().tobytes() == other[name].to_numpy().tobytes() for name in CORRELATIONS.names
    ) and len(one) == len(other)


@pytest.mark.parametrize("seed", range(3))
def test_all_kinds_of_features_at_once(seed):
    table = check(*mixed(seed), 0.2).set_index(["feature_a", "feature_b"])
    assert table.loc[(20, 14), "r"] > 0.9  # both nearly constant


@pytest.mark.parametrize("tokens", [1, 2, 5, 17])
def test_fewer_tokens_than_ranges(tokens):
    random = np.random.default_rng(tokens)
    check(heavy_tailed(random, tokens, 9, 0.1), heavy_tailed(random, tokens, 7, 0.1), 0.3)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("tile", "window", "block"), [(1, 1, 1), (7, 3000, 1), (5, 3000, 10**6), (1000, 10**9, 1)])
def test_what_is_held_in_memory_changes_no_byte(monkeypatch, threads, tile, window, block):
    a, b = (activations(side) for side in mixed(1))
    whole = correlate(a, b, 0.1)
    monkeypatch.setattr(sums, "TILE_BYTES", tile * 8 * b.features)
    monkeypatch.setattr(sums, "WINDOW_ENTRIES", window)
    monkeypatch.setattr(sums, "BLOCK_BYTES", block)
    assert same_bytes(correlate(a, b, 0.1, threads=threads), whole)


def test_more_and_smaller_ranges_give_the_same_within_rounding(monkeypatch):
    monkeypatch.setattr(sums, "LEAF_ENTRIES", 100)
    monkeypatch.setattr(feature_activations, "PIECE", 64)
    check(*mixed(2), 0.2)


@pytest.mark.parametrize("parts", [1, 2, 4, 16])
def test_a_split_by_tokens_changes_no_byte(tmp_path, monkeypatch, parts):
    monkeypatch.setattr(correlation, "PIECE", 1000)  # several batches of partial sums
    monkeypatch.setattr(sums, "TILE_BYTES", 5 * 8 * 18)
    a, b = (save(tmp_path / f"{name}.parquet", side) for name, side in zip("ab", mixed(3), strict=True))
    whole = correlate(a, b, 0.1)
    paths = [tmp_path / f"part{part}.parquet" for part in range(parts)]
    for part, path in enumerate(paths):
        write_table(path, correlate_part(a, b, part, parts), PARTIAL_SUMS, {})
    assert same_bytes(merge_parts(a, b, paths, 0.1), whole)
    if parts > 1:  # and the parts are shares of the work, not the whole of it
        totals = [np.abs(pq.read_table(path)["sum"].to_numpy()).sum() for path in paths]
        assert max(totals) < 0.9 * sum(totals)


def test_a_file_gives_the_bytes_of_memory(tmp_path):
    a, b = mixed(4)
    files = [save(tmp_path / f"{name}.parquet", side) for name, side in (("a", a), ("b", b))]
    assert same_bytes(correlate(*files, 0.2), correlate(activations(a), activations(b), 0.2))


def test_a_kill_leaves_no_temporary_file(tmp_path, monkeypatch):
    monkeypatch.setattr(products.tempfile, "tempdir", str(tmp_path))
    dense = mixed(0)[0]
    with products.Copy() as copy:
        copy.append(sparse.csr_array(dense))
        copy.append(sparse.csr_array(2 * dense))
        assert not list(tmp_path.iterdir())
        np.testing.assert_array_equal(copy.read(1, 3, 900).toarray(), 2 * dense[3:900])


def test_without_mkl_scipy_multiplies(monkeypatch):
    a, b = mixed(5)
    whole = correlate(activations(a), activations(b), 0.2)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    found = correlate(activations(a), activations(b), 0.2)
    assert found.drop_columns("r").equals(whole.drop_columns("r"))
    np.testing.assert_allclose(found["r"], whole["r"], rtol=0, atol=1e-12)


def test_equal_correlations_go_to_the_lowest_number():
    a = np.zeros((40, 6), np.float32)
    a[:5, 1] = a[:5, 3] = a[:5, 4] = 2
    a[30:, 5] = 1
    b = a.copy()
    table = check(a, b[:, [4, 5, 3]], 0.99)
    assert table.query("feature_b == 0")["feature_a"].tolist() == [1, 3, 4]
    low = correlate(activations(a[:, :5]), activations(b[:, [5]]), 0.9).to_pandas()  # all below the floor, all equal
    assert low["feature_a"].tolist() == [1, 3, 4]
    low = correlate(activations(b[:, [5]]), activations(a[:, :5]), 0.9).to_pandas()
    assert low["feature_b"].tolist() == [1, 3, 4]


PEAK = """
import sys
from pathlib import Path
from feature_lineage.features import activations
from feature_lineage.features.activations import ActivationFile
from feature_lineage.flow import sums
from feature_lineage.flow.correlation import correlate
sums.LEAF_ENTRIES, sums.WINDOW_ENTRIES, activations.PIECE = 1 << 15, 1 << 17, 1 << 14
a = ActivationFile(sys.argv[1])
correlate(a, a, 0.5, threads=2)
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_memory_does_not_grow_with_the_sample(tmp_path):
    random = np.random.default_rng(0)
    peaks = []
    for tokens in (20_000, 320_000):
        token = np.repeat(np.arange(tokens, dtype=np.int32), 20)
        feature = (np.arange(len(token)) % 20 * 10 + random.integers(0, 10, len(token))).astype(np.int32)
        table = pa.table([token, feature, random.random(len(token), np.float32) + 1], schema=ACTIVATIONS)
        path = tmp_path / f"{tokens}.parquet"
        batches = (table.slice(first, 1 << 15).to_batches()[0] for first in range(0, len(table), 1 << 15))
        write_table(path, batches, ACTIVATIONS, {"tokens": tokens, "features": 200})
        command = [sys.executable, "-c", PEAK, str(path)]
        environment = os.environ | {"PYTHONPATH": str(Path(correlation.__file__).parents[2])}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        peaks.append(int(done.stdout) / 1024)
    # MiB; one side alone has 6 million more activations, 73 MiB at 12 bytes each
    assert peaks[1] - peaks[0] < 70


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


def test_a_constant_feature_has_no_deviation_whatever_its_value(monkeypatch):
    monkeypatch.setattr(feature_activations, "PIECE", 300)  # sums of 0.1 are rounded
    found = moments(activations(np.full((1000, 3), [0.1, 1 / 3, 1e6 / 7])))
    assert (found.deviation == 0).all()
    assert found.mean == pytest.approx([0.1, 1 / 3, 1e6 / 7], rel=1e-15)


def test_features_that_fire_on_too_few_tokens_are_in_no_pair():
    a, b = mixed(6)
    rare_a, rare_b = ((side > 0).sum(0) < 20 for side in (a, b))
    assert rare_a.sum() > 2 and rare_b.sum() > 2
    found = correlate(activations(a), activations(b), 0.3, min_active=20)
    a[:, rare_a], b[:, rare_b] = 0, 0
    expected = correlate(activations(a), activations(b), 0.3)
    assert found.select(["feature_a", "feature_b", "both"]) == expected.select(["feature_a", "feature_b", "both"])
    np.testing.assert_allclose(found["r"], expected["r"], atol=1e-12)


def test_moved_tokens_are_those_of_a_moved_copy(tmp_path):
    a, b = mixed(7)
    places = np.roll(np.arange(len(b)).reshape(-1, 5), 70, axis=0).ravel()
    expected = correlate(activations(a), activations(b[places]), 0.2)
    for source in (activations(b), save(tmp_path / "b.parquet", b)):
        found = correlate(activations(a), Moved(source, places), 0.2)
        assert found.drop("r") == expected.drop("r")
        np.testing.assert_allclose(found["r"], expected["r"], atol=1e-12)
    assert correlate(activations(a), activations(b), 0.2).drop("r") != expected.drop("r")


def test_samples_of_different_length_are_refused():
    with pytest.raises(InputError, match="one sample"):
        correlate(activations(np.eye(3)), activations(np.eye(4)), 0.3)


def test_files_are_read_back_and_checked(tmp_path):
    dense = heavy_tailed(np.random.default_rng(3), 60, 8)
    token, feature = np.nonzero(dense)
    schema = ACTIVATIONS
    table = pa.table([token.astype(np.int32), feature.astype(np.int32), dense[token, feature]], schema=schema)
    write_table(tmp_path / "a.parquet", table, schema, {"tokens": 60, "features": 8})
    found = read_activations(tmp_path / "a.parquet")
    assert (found.matrix.toarray() == dense).all()
    write_table(tmp_path / "b.parquet", table, schema, {"tokens": 60, "features": int(feature.max())})
    with pytest.raises(InputError, match=r"b\.parquet"):
        read_activations(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"b\.parquet"):
        moments(ActivationFile(tmp_path / "b.parquet"))
    write_table(tmp_path / "c.parquet", table.take(np.arange(len(table))[::-1]), schema, {"tokens": 60, "features": 8})
    with pytest.raises(InputError, match=r"c\.parquet.*not ordered"):
        moments(ActivationFile(tmp_path / "c.parquet"))
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.parquet.*truncated"):
        read_activations(tmp_path / "a.parquet")
