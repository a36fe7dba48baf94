import json

import numpy as np
import pyarrow as pa
import pytest
from scipy.optimize import linear_sum_assignment

from feature_lineage.features.collect import STATISTICS
from feature_lineage.flow.bootstrap import REPLICATES
from feature_lineage.flow.correlation import CORRELATIONS
from feature_lineage.flow.fates import (
    CURVES,
    EDGES,
    FEATURES,
    LINEAGES,
    Edge,
    Seed,
    read_seeds,
    threshold_curves,
    trace,
    trace_flows,
)
from feature_lineage.flow.matching import best_matches, mutual_best, one_to_one
from feature_lineage.flow.strata import STRATA, density_band, strata
from feature_lineage.flow.summary import summarise_flows, with_intervals
from feature_lineage.meaning.main_token import TOKENS
from feature_lineage.store.formats import write_table
from feature_lineage.study.measures import Flow

ORDER = ["base", "lua", "stories", "both"]
# Share of tokens on which each feature fires; 0 is a dead feature.
DENSITIES = {
    "base": np.array([0.4, 0.3, 0.2, 0.0]),
    "lua": np.array([0.5, 0.1, 0.1, 0.1]),
    "stories": np.array([0.0, 0.2, 0.2, 0.2, 0.1]),
    "both": np.array([0.3, 0.3, 0.3, 0.3]),
}
# (feature of the parent, feature of the child, correlation)
PAIRS = {
    ("base", "lua"): [(0, 0, 0.95), (0, 1, 0.4), (1, 1, 0.8), (1, 2, 0.5), (2, 0, 0.85)],
    ("base", "stories"): [(0, 1, 0.9), (1, 1, 0.7), (2, 2, 0.81)],
    ("lua", "both"): [(0, 0, 0.92), (3, 1, 0.9), (2, 3, 0.3)],
    ("stories", "both"): [(1, 0, 0.97), (2, 1, 0.85), (3, 2, 0.99)],
}


def correlations(pairs):
    rows = [{"feature_a": a, "feature_b": b, "r": r, "both": 1, "either": 2} for a, b, r in pairs]
    return pa.Table.from_pylist(rows, CORRELATIONS)


def edges(pairs=PAIRS):
    return [Edge(a, b, DENSITIES[a], DENSITIES[b], correlations(found)) for (a, b), found in pairs.items()]


@pytest.fixture
def tables():
    return trace(edges(), DENSITIES, ORDER, 0.8, 7)


def select(table, **values):
    return [row for row in table.to_pylist() if all(row[key] == value for key, value in values.items())]


# --- best matches ------------------------------------------------------------------------------------------


def test_best_matches_of_both_sides():
    down, up = best_matches(correlations(PAIRS["base", "lua"]), 4, 4)
    assert list(down.best) == [0, 1, 0, -1]
    assert list(up.best) == [0, 1, 1, -1]
    np.testing.assert_array_equal(down.r, [0.95, 0.8, 0.85, np.nan])
    np.testing.assert_array_equal(up.r, [0.95, 0.8, 0.5, np.nan])


def test_best_match_does_not_depend_on_the_order_of_rows():
    rng = np.random.default_rng(0)
    pairs = [(a, b, float(r)) for a, b, r in zip(*np.divmod(np.arange(600), 20), rng.random(600).round(2), strict=True)]
    dense = np.array([r for *_, r in pairs]).reshape(30, 20)
    for _ in range(3):
        down, up = best_matches(correlations(pairs), 30, 20)
        # of equal correlations the lowest number, as argmax has it
        np.testing.assert_array_equal(down.best, dense.argmax(1))
        np.testing.assert_array_equal(up.best, dense.argmax(0))
        np.testing.assert_array_equal(down.r, dense.max(1))
        np.testing.assert_array_equal(up.r, dense.max(0))
        rng.shuffle(pairs)


def test_negative_correlations_are_no_match_but_recorded():
    down, _ = best_matches(correlations([(0, 0, -0.9), (0, 1, -0.2)]), 1, 2)
    assert (down.best[0], down.r[0]) == (1, -0.2)


def random_pairs(seed, features_a=40, features_b=30, share=0.3, digits=3):
    """Pairs of a sparse random table, and the same as a dense matrix with -1 where there is none."""
    rng = np.random.default_rng(seed)
    r = rng.uniform(0.3, 1, (features_a, features_b)).round(digits)
    r[rng.random(r.shape) > share] = -1
    return [(int(a), int(b), float(r[a, b])) for a, b in zip(*np.nonzero(r > 0), strict=True)], r


def test_mutual_best_by_hand():
    down, up = best_matches(correlations(PAIRS["base", "lua"]), 4, 4)
    assert list(mutual_best(down, up)) == [True, True, False, False]  # 2's best is 0, whose best is 0


@pytest.mark.parametrize("seed", range(5))
def test_mutual_best_is_the_largest_of_its_row_and_of_its_column(seed):
    pairs, r = random_pairs(seed, digits=16)
    found = mutual_best(*best_matches(correlations(pairs), *r.shape))
    expected = [(r[a].max() > 0) and r[:, r[a].argmax()].max() == r[a].max() for a in range(len(r))]
    assert list(found) == expected
    assert 0 < sum(expected) < (r.max(1) > 0).sum()


# --- one to one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (1, 20), (20, 1)])
def test_assignment_is_that_of_a_dense_solver(threshold, shape):
    pairs, r = random_pairs(shape[0], *shape, digits=16)
    a, b = one_to_one(correlations(pairs), threshold)
    dense = np.where(r > threshold, r, 0)
    rows, columns = linear_sum_assignment(dense, maximize=True)
    expected = {(i, j) for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if dense[i, j]}
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == expected
    assert len(set(a.tolist())) == len(set(b.tolist())) == len(a)


def test_assignment_takes_the_largest_sum_and_not_the_largest_pair():
    # Best matches first would take .95 and leave the others without a partner.
    a, b = one_to_one(correlations([(0, 0, 0.95), (0, 1, 0.9), (1, 0, 0.9)]), 0.8)
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == {(0, 1), (1, 0)}


def test_assignment_is_among_pairs_above_the_threshold():
    pairs = [(0, 0, 0.8), (5, 7, 0.9)]
    assert [side.tolist() for side in one_to_one(correlations(pairs), 0.8)] == [[5], [7]]
    assert [side.tolist() for side in one_to_one(correlations(pairs), 0.9)] == [[], []]


def test_three_measures_are_ordered():
    for seed in range(5):
        pairs, r = random_pairs(seed)
        density = np.ones(len(r)), np.ones(r.shape[1])
        found = trace(
            [Edge("a", "b", *density, correlations(pairs))], dict(zip("ab", density, strict=True)), "ab", 0.7, 0
        )
        (row,) = found.edges.to_pylist()
        assert 0 < row["mutual"] <= row["one_to_one"] <= min(row["parent_persisting"], row["child_persisting"])


# --- edges -------------------------------------------------------------------------------------------------


def test_counts_of_each_edge(tables):
    assert tables.edges.schema == EDGES
    names = ["parent", "child", "parent_features", "parent_dead", "parent_persisting", "disappearing"]
    names += ["child_features", "child_dead", "child_persisting", "emerging"]
    assert [tuple(row[name] for name in names) for row in tables.edges.to_pylist()] == [
        ("base", "lua", 4, 1, 2, 1, 4, 0, 1, 3),  # two features of base have one and the same descendant
        ("base", "stories", 4, 1, 2, 1, 5, 1, 2, 2),
        ("lua", "both", 4, 0, 2, 2, 4, 0, 2, 2),
        ("stories", "both", 5, 1, 3, 1, 4, 0, 3, 1),
    ]
    first = tables.edges.to_pylist()[0]
    assert (first["threshold"], first["seed"]) == (0.8, 7)
    assert first["persisting_share"] == pytest.approx(2 / 3), "of the living"
    assert first["emerging_share"] == pytest.approx(3 / 4)


def test_threshold_is_strict():
    for r, persists in ((0.8, 0), (np.nextafter(0.8, 1), 1)):
        found = trace(edges({("base", "lua"): [(1, 1, r)]}), DENSITIES, ["base", "lua"], 0.8, 0)
        assert found.edges["parent_persisting"].to_pylist() == [persists]
        assert found.edges["child_persisting"].to_pylist() == [persists]


def test_living_features_persist_disappear_or_emerge(tables):
    for row in tables.edges.to_pylist():
        assert row["parent_persisting"] + row["disappearing"] + row["parent_dead"] == row["parent_features"]
        assert row["child_persisting"] + row["emerging"] + row["child_dead"] == row["child_features"]


def test_higher_threshold_never_lets_more_persist():
    counts = [
        sum(trace(edges(), DENSITIES, ORDER, threshold, 0).edges["child_persisting"].to_pylist())
        for threshold in (0.1, 0.3, 0.5, 0.8, 0.9, 0.95, 0.99)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0


def test_models_whose_features_are_all_dead_have_no_share():
    dead = np.zeros(3)
    found = trace([Edge("a", "b", dead, dead, correlations([]))], {"a": dead, "b": dead}, ["a", "b"], 0.8, 0)
    (row,) = found.edges.to_pylist()
    assert (row["parent_dead"], row["disappearing"], row["emerging"]) == (3, 0, 0)
    assert row["persisting_share"] is None
    assert row["emerging_share"] is None
    assert summary_of(found, ["a", "b"])["origins"] == {"a": {}, "b": {}}


# --- features ----------------------------------------------------------------------------------------------


def test_fate_of_each_feature(tables):
    assert tables.features.schema == FEATURES
    found = select(tables.features, parent="base", child="lua", model="base")
    assert [row["fate"] for row in found] == ["persisting", "disappearing", "persisting", "dead"]
    assert [row["descendant"] for row in found] == [0, 1, 0, None], "the best match, whether it is good enough or not"
    assert [row["r"] for row in found] == [0.95, 0.8, 0.85, None]
    assert {row["ancestor"] for row in found} == {None}
    found = select(tables.features, parent="base", child="stories", model="stories")
    assert [row["fate"] for row in found] == ["dead", "persisting", "persisting", "emerging", "emerging"]
    assert [row["ancestor"] for row in found] == [None, 0, 2, None, None]
    assert [row["feature"] for row in found] == [0, 1, 2, 3, 4]
    assert [row["density"] for row in found] == list(DENSITIES["stories"])


def test_partners_of_each_feature(tables):
    of_edge = {"parent": "base", "child": "lua"}
    above = select(tables.features, model="base", **of_edge), select(tables.features, model="lua", **of_edge)
    assert [[row["mutual"] for row in side] for side in above] == [[True, False, False, False]] * 2
    assert [[row["one_to_one"] for row in side] for side in above] == [[0, None, None, None]] * 2
    (edge,) = select(tables.edges, **of_edge)
    assert (edge["mutual"], edge["one_to_one"]) == (1, 1)
    for edge in tables.edges.to_pylist():
        for side in ("parent", "child"):
            found = select(tables.features, parent=edge["parent"], child=edge["child"], model=edge[side])
            assert sum(row["mutual"] for row in found) == edge["mutual"]
            assert sum(row["one_to_one"] is not None for row in found) == edge["one_to_one"]
    pairs = select(tables.features, parent="stories", child="both", model="stories")
    assert [row["one_to_one"] for row in pairs] == [None, 0, 1, 2, None]


def test_fates_add_up_to_the_counts(tables):
    for row in tables.edges.to_pylist():
        of_edge = {"parent": row["parent"], "child": row["child"]}
        for side, fates in (
            ("parent", {"persisting": "parent_persisting", "disappearing": "disappearing", "dead": "parent_dead"}),
            ("child", {"persisting": "child_persisting", "emerging": "emerging", "dead": "child_dead"}),
        ):
            for fate, count in fates.items():
                assert len(select(tables.features, model=row[side], fate=fate, **of_edge)) == row[count]


# --- lineages ----------------------------------------------------------------------------------------------


def lineage(tables, model):
    return [
        (row["origin"], [(step["model"], step["feature"], step["r"]) for step in row["chain"]])
        for row in select(tables.lineages, model=model)
    ]


def test_chains_follow_the_better_parent_of_a_merge(tables):
    assert tables.lineages.schema == LINEAGES
    assert lineage(tables, "both") == [
        ("base", [("stories", 1, 0.97), ("base", 0, 0.9)]),  # lua's .92 is less
        ("lua", [("lua", 3, 0.9)]),  # stories' .85 is less, though it would lead to base
        ("stories", [("stories", 3, 0.99)]),
        ("both", []),  # .3 is too little
    ]


def test_chains_of_one_parent(tables):
    assert lineage(tables, "base") == [("base", [])] * 3 + [(None, [])]
    assert lineage(tables, "lua") == [("base", [("base", 0, 0.95)]), ("lua", []), ("lua", []), ("lua", [])]
    assert lineage(tables, "stories")[0] == (None, [])


def test_fates_on_the_edges_below(tables):
    def fates(model):
        rows = select(tables.lineages, model=model)
        return [[(f["child"], f["fate"], f["descendant"], f["r"]) for f in row["fates"]] for row in rows]

    assert fates("base") == [
        [("lua", "persisting", 0, 0.95), ("stories", "persisting", 1, 0.9)],
        [("lua", "disappearing", 1, 0.8), ("stories", "disappearing", 1, 0.7)],
        [("lua", "persisting", 0, 0.85), ("stories", "persisting", 2, 0.81)],
        [("lua", "dead", None, None), ("stories", "dead", None, None)],
    ]
    assert fates("both") == [[], [], [], []]
    for edge in tables.edges.to_pylist():
        found = [f["fate"] for row in select(tables.lineages, model=edge["parent"]) for f in row["fates"]
                 if f["child"] == edge["child"]]  # fmt: skip
        assert found.count("persisting") == edge["parent_persisting"]


def test_equal_parents_the_first_is_taken():
    pairs = {("base", "lua"): [(0, 0, 0.9)], ("base", "stories"): [(1, 1, 0.9)]}
    pairs |= {("lua", "both"): [(0, 0, 0.9)], ("stories", "both"): [(1, 0, 0.9)]}
    assert lineage(trace(edges(pairs), DENSITIES, ORDER, 0.8, 0), "both")[0][1][0] == ("lua", 0, 0.9)


def summary_of(tables, models=ORDER):
    return summarise_flows(tables.edges, tables.lineages, models, 0.8)


def test_origins_count_the_living(tables):
    assert summary_of(tables)["origins"] == {
        "base": {"base": 3},
        "lua": {"base": 1, "lua": 3},
        "stories": {"base": 2, "stories": 2},
        "both": {"base": 1, "lua": 1, "stories": 1, "both": 1},
    }


def test_bands_of_the_summary(tables):
    summary = summary_of(tables)
    assert sorted(tuple(band.values()) for band in summary["bands"]) == [
        ("base", "lua", "base", 1),
        ("base", "stories", "base", 2),
        ("lua", "both", "lua", 1),
        ("stories", "both", "base", 1),
        ("stories", "both", "stories", 1),
    ]
    assert list(summary["bands"][0]) == ["parent", "child", "origin", "features"]
    for model, origins in summary["origins"].items():
        inherited = sum(band["features"] for band in summary["bands"] if band["child"] == model)
        assert inherited == sum(count for origin, count in origins.items() if origin != model)
    assert summary["models"] == ORDER
    assert summary["threshold"] == 0.8
    assert summary["edges"] == tables.edges.to_pylist()
    json.dumps(summary, allow_nan=False)


def test_one_model_has_no_edges():
    found = trace([], {"base": DENSITIES["base"]}, ["base"], 0.8, 0)
    assert (found.edges.num_rows, found.features.num_rows, found.lineages.num_rows) == (0, 0, 4)
    assert (found.edges.schema, found.features.schema) == (EDGES, FEATURES)
    assert summary_of(found, ["base"]) == {
        "threshold": 0.8,
        "models": ["base"],
        "lineage": [],
        "edges": [],
        "origins": {"base": {"base": 3}},
        "bands": [],
    }


# --- several seeds, from files -----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Correlations and statistics of two seeds as files."""
    seeds = {0: PAIRS, 5: PAIRS | {("base", "lua"): [(0, 2, 0.9), (1, 1, 0.99), (2, 3, 0.9)]}}
    paths = {"correlations": {}, "statistics": {}}
    for seed, pairs in seeds.items():
        for (a, b), found in pairs.items():
            path = tmp_path / f"{a}.seed{seed}--{b}.seed{seed}.parquet"
            write_table(path, correlations(found), CORRELATIONS, {})
            paths["correlations"][a, b, seed] = path
        for model in ORDER:
            density = DENSITIES[model]
            rows = [
                {"feature": i, "active": int(d * 10), "density": float(d), "mean": 0.0, "max": 0.0}
                for i, d in enumerate(density)
            ]
            path = tmp_path / f"{model}.seed{seed}.parquet"
            write_table(path, pa.Table.from_pylist(rows, STATISTICS), STATISTICS, {})
            paths["statistics"][model, seed] = path
    return list(seeds), seeds, paths


def read(files, min_active=1):
    paths = files[2]
    return read_seeds(paths["statistics"], paths["correlations"], min_active)


def test_seeds_are_compared_with_their_own_files(files):
    seeds, pairs, _ = files
    found = trace_flows(read(files), ORDER, 0.8)
    for number, seed in enumerate(seeds):
        alone = trace(edges(pairs[seed]), DENSITIES, ORDER, 0.8, seed)
        for name in ("edges", "features", "lineages"):
            whole, part = getattr(found, name), getattr(alone, name)
            rows = whole.num_rows // len(seeds)
            assert whole.slice(number * rows, rows).equals(part), name
    counts = [row["parent_persisting"] for row in select(found.edges, parent="base", child="lua")]
    assert counts == [2, 3]


def test_summary_of_several_seeds_has_edges_of_all_and_bands_of_the_first(files):
    found = trace_flows(read(files), ORDER, 0.8)
    summary = summary_of(found)
    first = summary_of(trace(edges(), DENSITIES, ORDER, 0.8, 0))
    assert len(summary["edges"]) == 8
    assert summary["edges"][:4] == first["edges"]
    assert (summary["bands"], summary["origins"]) == (first["bands"], first["origins"])


def test_features_on_too_few_tokens_are_counted(files):
    """Those that fire, but on fewer tokens than it takes; those that never fire are dead and not among them."""
    for min_active in (1, 2, 3, 100):
        found = trace_flows(read(files, min_active), ORDER, 0.8).edges
        for row in found.to_pylist():
            active = {model: np.round(10 * DENSITIES[model]).astype(int) for model in ORDER}
            for side in ("parent", "child"):
                rare = (active[row[side]] > 0) & (active[row[side]] < min_active)
                assert row[f"{side}_rare"] == rare.sum()
                assert row[f"{side}_dead"] == (active[row[side]] < min_active).sum()
            assert row["min_active"] == min_active


def test_by_default_a_feature_of_a_few_tokens_does_not_persist():
    """Two features that share their only token correlate at 1. The same for two to nine tokens; the tenth makes a feature."""
    assert Flow().min_active == 10


def test_features_on_too_few_tokens_are_dead_and_nobodys_match(files):
    # Of 10 tokens: base has 4, 3, 2, 0; lua 5, 1, 1, 1; of base's matches in lua, 0 alone is left.
    tables = trace_flows(read(files, min_active=2), ORDER, 0.8)
    found = select(tables.features, parent="base", child="lua", seed=5)
    assert [row["fate"] for row in found if row["model"] == "base"] == ["disappearing"] * 3 + ["dead"]
    assert [row["fate"] for row in found if row["model"] == "lua"] == ["emerging", "dead", "dead", "dead"]
    assert {row["r"] for row in found} == {None}
    (edge,) = select(tables.edges, parent="base", child="lua", seed=0)
    assert (edge["parent_persisting"], edge["child_persisting"], edge["child_dead"]) == (2, 1, 3)
    assert edge["emerging_share"] == 0


# --- intervals, curves, strata -----------------------------------------------------------------------------


def test_intervals_are_those_of_the_replicates_of_their_edge(tables):
    rng = np.random.default_rng(0)
    replicates = []
    for _ in range(4):
        living = rng.integers(10, 20, (2, 50))
        counts = (living[0], rng.integers(0, living[0]), living[1], rng.integers(0, living[1]))
        replicates.append(pa.table([np.arange(50, dtype=np.int32), *counts], schema=REPLICATES))
    found = with_intervals(tables.edges, replicates)
    assert found.schema == EDGES
    for row, before, table in zip(found.to_pylist(), tables.edges.to_pylist(), replicates, strict=True):
        persisting = table["parent_persisting"].to_numpy() / table["parent_living"].to_numpy()
        emerging = 1 - table["child_persisting"].to_numpy() / table["child_living"].to_numpy()
        for name, shares in (("persisting", persisting), ("emerging", emerging)):
            share = row[f"{name}_share"]
            reach = 1.96 * np.linalg.norm(shares - share) / np.sqrt(len(shares))
            expected = np.clip([share - reach, share + reach], 0, 1)
            assert (row[f"{name}_low"], row[f"{name}_high"]) == pytest.approx(expected)
        assert {key: row[key] for key in row if before[key] is not None} == {
            k: v for k, v in before.items() if v is not None
        }


def test_without_replicates_there_are_no_intervals(tables):
    assert with_intervals(tables.edges, []).equals(tables.edges)
    assert set(tables.edges["persisting_low"].to_pylist()) == {None}


def test_edges_without_living_features_have_no_interval(tables):
    none = pa.table([np.arange(3, dtype=np.int32), *[np.zeros(3, np.int64)] * 4], schema=REPLICATES)
    assert with_intervals(tables.edges, [none] * 4).equals(tables.edges)


def test_curves_by_brute_force():
    pairs, r = random_pairs(3, digits=2)
    alive_a, alive_b = np.ones(len(r)), np.ones(r.shape[1])
    alive_a[r.max(1) < 0] = alive_b[r.max(0) < 0] = 0
    assert alive_a.sum() > 0
    table = threshold_curves([Seed(4, {}, [Edge("a", "b", alive_a, alive_b, correlations(pairs))])], 0.3)
    assert table.schema == CURVES
    frame = table.to_pandas()
    assert len(frame) == 2 * 71
    assert frame["threshold"].unique().tolist() == [k / 100 for k in range(30, 101)]
    assert set(zip(frame["parent"], frame["child"], frame["seed"], strict=True)) == {("a", "b", 4)}
    for row in frame.itertuples():
        axis, alive = (1, alive_a.sum()) if row.side == "parent" else (0, alive_b.sum())
        assert row.persisting_share == sum(r.max(axis) > row.threshold) / alive
        dense = np.where(r > row.threshold, r, 0)
        assigned = dense[linear_sum_assignment(dense, maximize=True)]
        assert row.one_to_one_share == (assigned > 0).sum() / alive
        down, up = best_matches(correlations([p for p in pairs if p[2] > row.threshold]), *r.shape)
        assert row.mutual_share == mutual_best(down, up).sum() / alive


def test_the_curve_passes_through_the_edges_shares(files):
    seeds = read(files)
    frame = threshold_curves(seeds, 0.3).to_pandas()
    for edge in trace_flows(seeds, ORDER, 0.8).edges.to_pylist():
        at = frame[
            (frame["threshold"] == 0.8) & (frame["parent"] == edge["parent"]) & (frame["child"] == edge["child"])
        ]
        sides = at[at["seed"] == edge["seed"]].set_index("side")
        assert sides["persisting_share"]["parent"] == edge["persisting_share"]
        assert sides["persisting_share"]["child"] == pytest.approx(1 - edge["emerging_share"])
        assert sides["one_to_one_share"]["parent"] == edge["one_to_one"] / (
            edge["parent_features"] - edge["parent_dead"]
        )


@pytest.mark.parametrize(("floor", "first"), [(0, 0), (0.3, 0.3), (0.29, 0.29), (0.305, 0.31), (0.99, 0.99)])
def test_curves_start_at_the_floor(floor, first):
    seeds = [Seed(0, {}, edges({("base", "lua"): PAIRS["base", "lua"]}))]
    found = sorted(set(threshold_curves(seeds, floor)["threshold"].to_pylist()))
    assert (found[0], found[-1]) == (first, 1)
    np.testing.assert_allclose(np.diff(found), 0.01)


def test_curves_of_dead_models_and_of_no_edge():
    dead = np.zeros(3)
    table = threshold_curves([Seed(0, {}, [Edge("a", "b", dead, np.ones(3), correlations([]))])], 0.9)
    by_side = {side: set(select_column(table, side)) for side in ("parent", "child")}
    assert by_side == {"parent": {None}, "child": {0.0}}
    assert threshold_curves([Seed(0, {}, [])], 0.9).schema == CURVES


def select_column(table, side):
    return [row["persisting_share"] for row in select(table, side=side)]


@pytest.mark.parametrize(
    ("density", "band"),
    [
        (1.0, "1e-1 to 1"),
        (0.1, "1e-1 to 1"),
        (0.0999, "1e-2 to 1e-1"),
        (0.001, "1e-3 to 1e-2"),
        (1e-6, "1e-6 to 1e-5"),
        (9.99e-7, "below 1e-6, ultralow"),
        (1e-9, "below 1e-6, ultralow"),
    ],
)
def test_density_bands(density, band):
    assert density_band(density) == band


def attributes(count, seed):
    rng = np.random.default_rng(seed)
    share = rng.choice([0.55, 0.899, 0.9, 1.0, np.nan], count)
    token = pa.array(np.arange(count, dtype=np.int32), mask=np.isnan(share))
    corpus = rng.choice(["lua", "bible"], count).tolist()
    columns = [np.arange(count, dtype=np.int32), np.ones(count), token, pa.array(share, from_pandas=True), corpus]
    return pa.table([*columns, np.ones(count)], schema=TOKENS)


def test_strata_of_each_kind_add_up_to_the_living_and_the_persisting(tables):
    tokens = {(model, 7): attributes(len(density), number) for number, (model, density) in enumerate(DENSITIES.items())}
    table = strata(tables.features, tokens)
    assert table.schema == STRATA
    for edge in tables.edges.to_pylist():
        for side in ("parent", "child"):
            of_side = {"parent": edge["parent"], "child": edge["child"], "seed": 7, "side": side}
            for kind in ("density", "token", "corpus"):
                found = select(table, kind=kind, **of_side)
                assert sum(row["features"] for row in found) == edge[f"{side}_features"] - edge[f"{side}_dead"]
                assert sum(row["persisting"] for row in found) == edge[f"{side}_persisting"]
                assert all(row["share"] == row["persisting"] / row["features"] for row in found)
            features = select(tables.features, model=edge[side], parent=edge["parent"], child=edge["child"])
            by_hand = {}
            for feature, attribute in zip(features, tokens[edge[side], 7].to_pylist(), strict=True):
                if feature["fate"] != "dead":
                    single = attribute["token_share"] is not None and attribute["token_share"] >= 0.9
                    for key in (("token", "single" if single else "several"), ("corpus", attribute["corpus"])):
                        by_hand.setdefault(key, []).append(feature["fate"] == "persisting")
            for (kind, stratum), persist in by_hand.items():
                (row,) = select(table, kind=kind, stratum=stratum, **of_side)
                assert (row["features"], row["persisting"]) == (len(persist), sum(persist))


def test_no_edge_has_no_strata():
    assert strata(FEATURES.empty_table(), {}).equals(STRATA.empty_table())
