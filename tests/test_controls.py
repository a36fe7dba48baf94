"""Controls of the flow against naive float64 references, and on inputs whose answer is known."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from feature_lineage.controls import alignment_null as alignment_null_module
from feature_lineage.controls import as_published
from feature_lineage.controls import summary as controls
from feature_lineage.controls.alignment_null import NULL, correlate_shifted, offsets, shifted_tokens
from feature_lineage.controls.as_published import (
    AS_PUBLISHED,
    best_where_both_fire,
    correlate_published,
    string_means,
    string_numbers,
)
from feature_lineage.controls.ceiling import CEILING, CEILING_CURVES, ceiling_curves, measure_ceiling
from feature_lineage.controls.neurons import NEURONS, correlate_neurons, neuron_rows
from feature_lineage.controls.sides import Side, read_comparisons, sides, without_dead
from feature_lineage.controls.summary import summarise_controls
from feature_lineage.errors import InputError
from feature_lineage.features.activations import Activations
from feature_lineage.features.collect import STATISTICS
from feature_lineage.flow.correlation import CORRELATIONS, correlate
from feature_lineage.store.formats import write_table

WINDOWS, LENGTH = 120, 8
TOKENS = WINDOWS * LENGTH


def activations(dense):
    return Activations(sparse.csr_array(np.asarray(dense, np.float64)))


def draw(seed, tokens=TOKENS, features=20, low=0.02, high=0.2):
    """Sparse non-negative activations, float32 values."""
    random = np.random.default_rng(seed)
    fires = random.random((tokens, features)) < random.uniform(low, high, features)
    return (fires * random.exponential(1.0, (tokens, features))).astype(np.float32).astype(np.float64)


def select(rows, **values):
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


# --- one side ----------------------------------------------------------------------------------------------


def test_share_is_of_the_living_and_above_the_threshold():
    side = Side(np.array([True, True, True, True, False]), np.array([0.9, 0.8, 0.1, np.nan, 0.95]))
    row = side.row(0.8)
    assert (row["features"], row["persisting"], row["share"]) == (4, 1, 0.25)
    assert row["median_r"] == 0.8, "of those that have a match"
    assert side.share(0.5) == 0.5


def test_nothing_alive_has_no_share():
    side = Side(np.zeros(3, bool), np.full(3, np.nan))
    assert side.row(0.8) == {"features": 0, "persisting": 0, "share": None, "median_r": None}


def test_sides_of_correlations():
    rows = [(0, 0, 0.9), (0, 1, 0.5), (1, 1, 0.7)]
    table = pa.Table.from_pylist(
        [{"feature_a": a, "feature_b": b, "r": r, "both": 1, "either": 2} for a, b, r in rows], CORRELATIONS
    )
    a, b = sides(table, np.array([True, True, False]), np.array([True, True]))
    np.testing.assert_array_equal(a.r, [0.9, 0.7, np.nan])
    np.testing.assert_array_equal(b.r, [0.9, 0.7])
    assert a.alive.tolist() == [True, True, False]
    assert (a.share(0.8), b.share(0.8)) == (0.5, 0.5)
    a, b = sides(table, np.array([False, True, True]), np.array([True, True]))
    np.testing.assert_array_equal(a.r, [np.nan, 0.7, np.nan])
    np.testing.assert_array_equal(b.r, [np.nan, 0.7], "the dead are no match either")
    a, b = sides(table, np.array([True, True, False]), np.array([True, False]))
    np.testing.assert_array_equal(a.r, [0.9, np.nan, np.nan])
    np.testing.assert_array_equal(b.r, [0.9, np.nan])


def test_features_that_fire_on_too_few_tokens_never_fire():
    a = draw(0, features=30, low=0.002)
    active = (a > 0).sum(0)
    least = int(np.sort(active)[15])
    found = without_dead(activations(a), least).matrix.toarray()
    np.testing.assert_array_equal(found, np.where(active >= least, a, 0))
    assert found.any(0).sum() >= 15
    assert (without_dead(activations(a), 1).matrix.toarray() == a).all()


# --- seed ceiling ------------------------------------------------------------------------------------------


def compared(a, b):
    return sides(correlate(activations(a), activations(b), 0.3), (a > 0).any(0), (b > 0).any(0))


def test_ceiling_of_an_autoencoder_with_itself_is_one():
    a = draw(0)
    a[:, 3] = 0
    table = measure_ceiling({(("base", 0), ("base", 1)): compared(a, a)}, 0.8)
    assert table.schema == CEILING
    assert table.to_pylist() == [
        {
            "model": "base", "seed_a": 0, "seed_b": 1, "side": side, "features": 19, "persisting": 19, "share": 1.0,
            "median_r": pytest.approx(1),
        }
        for side in "ab"
    ]  # fmt: skip


def test_ceiling_counts_both_sides_apart():
    a, b = draw(0, features=10), draw(1, features=16)
    b[:, :4] = 2 * a[:, :4]
    first, second = measure_ceiling({(("base", 0), ("base", 7)): compared(a, b)}, 0.8).to_pylist()
    assert (first["side"], first["features"], first["persisting"], first["share"]) == ("a", 10, 4, 0.4)
    assert (second["side"], second["features"], second["persisting"], second["share"]) == ("b", 16, 4, 0.25)
    assert (first["seed_a"], first["seed_b"]) == (0, 7)


def test_ceiling_as_a_curve_is_the_mean_of_both_sides_at_each_threshold():
    a, b, c = draw(0, features=10), draw(1, features=16), draw(2, features=12)
    b[:, :4] = 2 * a[:, :4]
    pairs = {(("base", 0), ("base", 7)): compared(a, b), (("base", 0), ("base", 8)): compared(a, c)}
    table = ceiling_curves(pairs, 0.295)
    assert table.schema == CEILING_CURVES
    found = dict(zip(table["threshold"].to_pylist(), table["share"].to_pylist(), strict=True))
    assert list(found) == [k / 100 for k in range(30, 101)]
    for threshold in (0.3, 0.8, 1.0):
        shares = [row["share"] for row in measure_ceiling(pairs, threshold).to_pylist()]
        assert found[threshold] == pytest.approx(sum(shares) / 4)
    assert found[0.8] == pytest.approx((0.4 + 0.25) / 4)


def test_comparisons_are_read_from_files(tmp_path):
    a, b = draw(0, features=6), draw(1, features=5)
    b[:, 0] = a[:, 2]
    write_table(tmp_path / "r.parquet", correlate(activations(a), activations(b), 0.3), CORRELATIONS, {})
    statistics = {}
    for name, dense in ((("base", 3), a), (("lua", 3), b)):
        count = dense.shape[1]
        columns = [
            np.arange(count, dtype=np.int32), (dense > 0).sum(0), (dense > 0).mean(0), np.zeros(count), np.zeros(count)
        ]  # fmt: skip
        statistics[name] = tmp_path / f"{name[0]}.parquet"
        write_table(statistics[name], pa.table(columns, schema=STATISTICS), STATISTICS, {})
    edge = (("base", 3), ("lua", 3))
    found = read_comparisons([edge], [tmp_path / "r.parquet"], statistics, 1)
    assert list(found) == [edge]
    for read, direct in zip(found[edge], compared(a, b), strict=True):
        np.testing.assert_array_equal(read.r, direct.r)
        np.testing.assert_array_equal(read.alive, direct.alive)
    least = int((a > 0).sum(0)[2]) + 1
    few, _ = read_comparisons([edge], [tmp_path / "r.parquet"], statistics, least)[edge]
    np.testing.assert_array_equal(few.alive, (a > 0).sum(0) >= least)
    assert few.r[2] != 1


# --- alignment null ----------------------------------------------------------------------------------------


def test_offsets_are_a_half_and_two_of_the_seed_far_from_no_shift():
    found = offsets(5)
    assert found == offsets(5)
    assert found != offsets(6)
    assert found[0] == 0.5
    assert len({*found}) == 3
    assert all(0.25 <= offset <= 0.75 for offset in found)


def test_windows_are_rolled_whole_within_their_corpus():
    corpus = np.repeat([0, 1, 2], [4, 6, 2])
    places = shifted_tokens(corpus, 3, 0.5).reshape(-1, 3)
    assert sorted(places.ravel()) == list(range(36))
    assert (places % 3 == np.arange(3)).all(), "a token keeps its position in the window"
    windows = places[:, 0] // 3
    assert (places // 3 == windows[:, None]).all()
    assert (corpus[windows] == corpus).all()
    assert windows.tolist() == [2, 3, 0, 1, 7, 8, 9, 4, 5, 6, 11, 10]
    assert (windows != np.arange(12)).all()


@pytest.mark.parametrize("offset", [0.001, 0.999])
def test_no_window_stays_in_its_place_however_small_the_corpus(offset):
    for count in (2, 3, 50):
        places = shifted_tokens(np.zeros(count, int), 1, offset)
        assert (places != np.arange(count)).all()


def test_a_corpus_of_one_window_cannot_be_shifted():
    with pytest.raises(InputError, match=r"controls\.alignment_null.*corpus 1.*flow\.tokens"):
        shifted_tokens(np.array([0, 0, 1]), 4, 0.5)


def null(a, b, corpus=None, document=None, shares=(0.5, 0.3)):
    corpus = np.repeat([0, 1], WINDOWS // 2) if corpus is None else corpus
    document = np.arange(TOKENS).reshape(WINDOWS, LENGTH) // 20 if document is None else document
    return correlate_shifted(activations(a), activations(b), corpus, document, shares, 0.8)


def test_planted_identical_features_persist_and_do_not_under_the_shift():
    a = draw(0)
    assert compared(a, a)[0].share(0.8) == 1
    rows = null(a, a)
    assert [(row["offset"], row["side"]) for row in rows] == [
        (0.5, "parent"),
        (0.5, "child"),
        (0.3, "parent"),
        (0.3, "child"),
    ]
    assert all((row["features"], row["false_matches"], row["false_match_rate"]) == (20, 0, 0) for row in rows)
    assert all(0 < row["q50"] < row["threshold"] <= row["q100"] < 0.5 for row in rows)


def test_null_is_the_naive_one_and_its_threshold_holds_one_percent():
    a, b = draw(0, features=150), draw(1, features=210)
    a[:, 5], b[:, 7] = 0, 0
    rows = null(a, b, shares=(0.5,))
    order = np.concatenate([np.roll(np.arange(60), 30), np.roll(np.arange(60, 120), 30)])
    shifted = b.reshape(WINDOWS, LENGTH, -1)[order].reshape(TOKENS, -1)
    r = np.corrcoef(np.delete(a, 5, 1).T, np.delete(shifted, 7, 1).T)[:149, 149:]
    for row, best in zip(rows, (r.max(1), r.max(0)), strict=True):
        assert row["features"] == len(best)
        for quantile in alignment_null_module.QUANTILES:
            assert row[f"q{100 * quantile:g}"] == pytest.approx(np.quantile(best, quantile), abs=1e-9)
        assert (best > row["threshold"] + 1e-9).mean() <= 0.01
        smaller = np.sort(best)[np.searchsorted(np.sort(best), row["threshold"] - 1e-9) - 1]
        assert (best > smaller + 1e-9).mean() > 0.01, "no smaller one would hold it"


def test_what_a_whole_corpus_shares_counts_as_chance():
    # One feature of each model fires all over the second corpus: rolled within corpora it still matches.
    random = np.random.default_rng(0)
    a, b = draw(0), draw(1)
    for dense in (a, b):
        dense[:, 0] = 0
        dense[TOKENS // 2 :, 0] = random.uniform(4, 5, TOKENS // 2)
    rows = null(a, b)
    assert all(row["false_matches"] == 1 for row in rows)
    mixed = null(a, b, corpus=np.zeros(WINDOWS, int), shares=(0.5,))
    assert all(row["false_matches"] == 0 for row in mixed)


def test_tokens_that_stay_in_their_document_are_told():
    document = np.zeros((WINDOWS, LENGTH), int)
    document[:15] = 1  # a quarter of the first corpus
    (row, _) = null(draw(0), draw(1), document=document, shares=(0.5,))
    # of 120 windows the 15 and the 15 that take their place are beside another document
    assert row["same_document"] == pytest.approx(90 / 120)
    (row, _) = null(draw(0), draw(1), shares=(0.5,))
    assert row["same_document"] == 0


def test_null_rows_fit_their_schema():
    edge = {"parent": "base", "child": "lua", "seed": 0}
    table = pa.Table.from_pylist([edge | row for row in null(draw(0), draw(1))], NULL)
    assert not any(column.null_count for column in table.columns)


# --- raw neurons -------------------------------------------------------------------------------------------


def neurons(x, y, batch=37):
    pairs = [(x[i : i + batch], y[i : i + batch]) for i in range(0, len(x), batch)]
    return correlate_neurons(iter(pairs), len(x))


def test_neurons_are_correlated_exactly_over_batches():
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(300, 9, generator=random), torch.randn(300, 7, generator=random)
    y[:, 0] = -x[:, 3]
    x[:, 1] += 1e6  # a mean far above the deviation
    y[:, 2] = x[:, 1] * 2 + 0.5 * y[:, 2]
    r = neurons(x, y)
    wanted = np.corrcoef(x.double().numpy().T, y.double().numpy().T)[:9, 9:]
    np.testing.assert_allclose(r, wanted, atol=1e-9)
    assert r[3, 0] == pytest.approx(-1)
    np.testing.assert_allclose(neurons(x, y, batch=300), r, atol=1e-12)


def test_constant_neurons_have_no_correlation_and_are_not_counted():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    y = x.clone()
    x[:, 1], y[:, 2] = 0.1, 0.0
    r = neurons(x, y, batch=50)
    assert np.isnan(r[1]).all()
    assert np.isnan(r[:, 2]).all()
    parent, child = neuron_rows(r, 0.8)
    assert (parent["side"], parent["neurons"], parent["persisting"]) == ("parent", 3, 2)
    assert (child["side"], child["neurons"], child["persisting"]) == ("child", 3, 2)
    pa.Table.from_pylist([{"parent": "a", "child": "b"} | row for row in (parent, child)], NEURONS)


def test_neurons_are_matched_by_r_and_not_by_its_size():
    parent, child = neuron_rows(np.array([[-0.95, 0.3], [0.85, 0.2]]), 0.8)
    assert (parent["persisting"], parent["share"], parent["median_r"]) == (1, 0.5, pytest.approx(0.575))
    assert (child["persisting"], child["median_r"]) == (1, pytest.approx(0.575))


# --- as published ------------------------------------------------------------------------------------------


def naive_means(dense, strings):
    """Mean over the tokens of a string on which a feature fires, NaN where there is none."""
    means = np.full((strings.max() + 1, dense.shape[1]), np.nan)
    for string in range(len(means)):
        for feature in range(dense.shape[1]):
            values = dense[strings == string, feature]
            if (values > 0).any():
                means[string, feature] = values[values > 0].mean()
    return means


def naive_best(a, b, minimum):
    """A loop over pairs: Pearson over the rows on which both are there; `a` and `b` have NaN where a feature does not fire."""
    r = np.full((a.shape[1], b.shape[1]), np.nan)
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            both = ~np.isnan(a[:, i]) & ~np.isnan(b[:, j])
            x, y = a[both, i], b[both, j]
            if both.sum() >= minimum and np.ptp(x) > 1e-4 * x.max() and np.ptp(y) > 1e-4 * y.max():
                r[i, j] = np.corrcoef(x, y)[0, 1]
    kept = np.where(np.isnan(r), -np.inf, r)
    return [np.where(np.isneginf(best), np.nan, best) for best in (kept.max(1), kept.max(0))]


def test_string_means_are_over_the_tokens_that_fire():
    a, strings = draw(3, tokens=300), np.random.default_rng(0).integers(0, 40, 300)
    strings[:40] = np.arange(40)
    found = string_means(activations(a), strings).matrix.toarray()
    np.testing.assert_allclose(found, np.nan_to_num(naive_means(a, strings)), rtol=1e-12)


def test_strings_are_what_a_token_decodes_to_on_its_own():
    names = {4: "the", 7: "�", 8: " the", 9: "�"}
    tokenizer = SimpleNamespace(decode=lambda ids: names[ids[0]])
    found = string_numbers(np.array([[7, 4], [9, 8], [4, 4]]), tokenizer)
    assert found.shape == (6,)
    assert sorted(set(found)) == [0, 1, 2]
    assert found[0] == found[2]
    assert found[1] == found[4] == found[5] != found[3]


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_both_firing_is_the_loop_over_pairs(monkeypatch, block):
    a, b = draw(1, tokens=200, features=18), draw(2, tokens=200, features=14)
    a[:, 3] = 0  # dead
    fires = np.random.default_rng(4).random(200) < 0.3
    a[:, 4] = fires * (0.1 + 1e-8 * np.random.default_rng(3).random(200))  # one value but for rounding
    b[:, 5] = (np.random.default_rng(0).random(200) < 0.1) * 1e4 + 0.0
    b[:, 6] = 3 * a[:, 6]
    monkeypatch.setattr(as_published, "BLOCK_BYTES", block * 8 * 14)
    found = best_where_both_fire(activations(a), activations(b), [2, 3, 5, 10])
    for number, minimum in enumerate([2, 3, 5, 10]):
        wanted = naive_best(np.where(a > 0, a, np.nan), np.where(b > 0, b, np.nan), minimum)
        for side, best in zip(found, wanted, strict=True):
            np.testing.assert_allclose(side[number], best, atol=1e-6)
    assert np.isnan(found[0][:, 3:5]).all()
    assert np.isnan(found[1][:, 5]).all()


def test_two_shared_rows_always_match_or_oppose():
    a = np.array([[1.0, 2.0, 0.0], [3.0, 0.0, 1.0]]).T
    b = np.array([[5.0, 5.5, 9.0], [1.0, 4.0, 0.5]]).T
    best_a, best_b = best_where_both_fire(activations(a), activations(b), [2, 3])
    np.testing.assert_allclose(best_a[0], [1, 1])
    np.testing.assert_allclose(best_b[0], [1, 1])
    assert np.isnan(best_a[1]).all()


@pytest.fixture(scope="module")
def published():
    a, b = draw(5, tokens=600, features=25), draw(6, tokens=600, features=20)
    a[:, 2] = b[:, 9] = 0
    b[:, :5] = a[:, 5:10] + 0.2 * draw(7, tokens=600, features=5)
    strings = np.r_[np.arange(60), np.random.default_rng(1).integers(0, 60, 540)]
    table = correlate(activations(a), activations(b), 0.3)
    return a, b, strings, correlate_published(activations(a), activations(b), table, strings, 0.8)


def test_published_counts_are_those_of_a_plain_loop(published):
    a, b, strings, rows = published
    means = naive_means(a, strings), naive_means(b, strings)
    tokens = np.where(a > 0, a, np.nan), np.where(b > 0, b, np.nan)
    for variant, pair in (("strings where both fire", means), ("tokens where both fire", tokens)):
        for minimum in (2, 3, 5, 10):
            for side, best, count in zip(("parent", "child"), naive_best(*pair, minimum), (24, 19), strict=True):
                (row,) = select(rows, variant=variant, minimum=minimum, side=side)
                assert row["features"] == count
                assert row["persisting"] == (best > 0.8).sum()
                assert row["share"] == row["persisting"] / count
                if not np.isnan(best).all():
                    assert row["median_r"] == pytest.approx(np.nanmedian(best), abs=1e-6)


def test_rows_of_all_tokens_and_of_all_strings(published):
    a, b, strings, rows = published
    means = [np.nan_to_num(naive_means(dense, strings)) for dense in (a, b)]
    for variant, pair in (("ours", (a, b)), ("strings", means)):
        r = np.corrcoef(np.delete(pair[0], 2, 1).T, np.delete(pair[1], 9, 1).T)[:24, 24:]
        for side, best in zip(("parent", "child"), (r.max(1), r.max(0)), strict=True):
            (row,) = select(rows, variant=variant, minimum=None, side=side)
            assert row["persisting"] == (best > 0.8).sum()
            assert row["median_r"] == pytest.approx(np.median(best), abs=1e-9)
    assert len(rows) == 2 * (2 + 2 * 4)
    edge = {"parent": "base", "child": "lua", "seed": 0}
    pa.Table.from_pylist([edge | row for row in rows], AS_PUBLISHED)


def test_independent_features_match_as_published_and_not_by_ours():
    a, b = draw(8, features=60, low=0.003, high=0.01), draw(9, features=60, low=0.003, high=0.01)
    table = correlate(activations(a), activations(b), 0.3)
    strings = np.random.default_rng(2).permutation(np.arange(TOKENS) // 10)
    rows = correlate_published(activations(a), activations(b), table, strings, 0.8)
    assert select(rows, variant="ours", side="parent")[0]["share"] < 0.1
    assert select(rows, variant="strings where both fire", minimum=2, side="parent")[0]["share"] > 0.5


# --- together ----------------------------------------------------------------------------------------------


@pytest.fixture
def tables():
    share = {"persisting": 1, "median_r": 0.5}
    edge = {"parent": "base", "child": "lua"}
    quantiles = {f"q{100 * quantile:g}": 0.1 for quantile in alignment_null_module.QUANTILES}
    ceiling = [("base", "a", 0.5), ("base", "b", 0.3), ("lua", "a", 0.8), ("lua", "b", None)]
    null = [("parent", 0.01, 0.55), ("parent", 0.03, 0.45), ("child", 0.0, 0.95)]
    return {
        "ceiling": pa.Table.from_pylist(
            [
                share | {"model": model, "seed_a": 0, "seed_b": 1, "side": side, "features": 4, "share": found}
                for model, side, found in ceiling
            ],
            CEILING,
        ),
        "alignment_null": pa.Table.from_pylist(
            [
                edge | quantiles | {
                    "seed": 0, "offset": 0.5, "same_document": 0.0, "side": side, "features": 4, "false_matches": 0,
                    "false_match_rate": rate, "threshold": threshold,
                }
                for side, rate, threshold in null
            ],
            NULL,
        ),
        "neurons": pa.Table.from_pylist(
            [edge | share | {"side": side, "neurons": 4, "share": 0.75} for side in ("parent", "child")], NEURONS
        ),
        "as_published": pa.Table.from_pylist(
            [
                edge | share | {
                    "seed": seed, "variant": variant, "minimum": minimum, "side": side, "features": 4,
                    "share": 1.0 if (variant, minimum) == ("strings where both fire", 2) else 0.125,
                }
                for seed in (0, 1)
                for variant, minimum in (("ours", None), ("strings where both fire", 2), ("strings where both fire", 3))
                for side in ("parent", "child")
            ],
            AS_PUBLISHED,
        ),
    }  # fmt: skip


ALIVE = np.ones(4, bool)
EDGES = {
    (("base", 0), ("lua", 0)): (
        Side(ALIVE, np.array([0.9, 0.6, 0.5, 0.1])),
        Side(ALIVE, np.array([0.9, 0.85, 0, 0.2])),
    ),
}


def test_summary_puts_each_control_beside_its_edge(tables):
    found = summarise_controls(EDGES, tables, 0.8, {})
    parent, child = found["edges"]
    assert (parent["parent"], parent["child"], parent["seed"], parent["side"]) == ("base", "lua", 0, "parent")
    assert (parent["features"], parent["persisting"], parent["share"]) == (4, 1, 0.25)
    assert parent["ceiling"] == pytest.approx(0.4), "the parent's, over pairs and sides"
    assert parent["share_of_ceiling"] == pytest.approx(0.25 / 0.4)
    assert (parent["false_match_rate"], parent["null_threshold"]) == (0.03, 0.55), "the highest of the offsets"
    assert parent["share_at_null_threshold"] == 0.5
    assert (parent["neurons"], parent["as_published"]) == (0.75, 1.0)
    assert (child["side"], child["share"], child["ceiling"]) == ("child", 0.5, 0.8), "the child's own ceiling"
    assert child["share_of_ceiling"] == pytest.approx(0.5 / 0.8)
    assert child["share_at_null_threshold"] == 0
    assert found["ceilings"] == [
        {"model": "base", "ceiling": pytest.approx(0.4)},
        {"model": "lua", "ceiling": 0.8},
    ]
    assert len(found["variants"]) == 12
    assert set(parent) - {"parent", "child", "seed", "side", "persisting"} == set(found["definitions"])
    json.dumps(found, allow_nan=False)


def test_what_is_not_measured_is_told_and_leaves_the_rest(tables):
    tables.pop("ceiling")
    found = summarise_controls(EDGES, tables, 0.8, {"ceiling": "one seed"})
    assert found["not_measured"] == {"ceiling": "one seed"}
    assert [row["ceiling"] for row in found["edges"]] == [None, None]
    assert [row["share_of_ceiling"] for row in found["edges"]] == [None, None]
    assert found["edges"][0]["null_threshold"] == 0.55
    bare = summarise_controls(EDGES, {}, 0.8, dict.fromkeys(controls.SCHEMAS, "switched off"))
    assert bare["edges"][0]["share"] == 0.25
    assert all(bare["edges"][0][name] is None for name in ("ceiling", "null_threshold", "neurons", "as_published"))


def test_a_ceiling_of_zero_has_no_share_of_it(tables):
    rows = [row | {"share": 0.0} for row in tables["ceiling"].to_pylist()]
    found = summarise_controls(EDGES, tables | {"ceiling": pa.Table.from_pylist(rows, CEILING)}, 0.8, {})
    assert [row["share_of_ceiling"] for row in found["edges"]] == [None, None]
