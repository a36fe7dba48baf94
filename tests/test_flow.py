import json

import numpy as np
import pyarrow as pa
import pytest

from feature_lineage.artifacts import write_table
from feature_lineage.correlation import CORRELATIONS
from feature_lineage.features import STATISTICS
from feature_lineage.flow import EDGES, FEATURES, LINEAGES, Edge, best_matches, summarise, trace, trace_seeds

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
    assert found.origins == {"a": {}, "b": {}}


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


def test_equal_parents_the_first_is_taken():
    pairs = {("base", "lua"): [(0, 0, 0.9)], ("base", "stories"): [(1, 1, 0.9)]}
    pairs |= {("lua", "both"): [(0, 0, 0.9)], ("stories", "both"): [(1, 0, 0.9)]}
    assert lineage(trace(edges(pairs), DENSITIES, ORDER, 0.8, 0), "both")[0][1][0] == ("lua", 0, 0.9)


def test_origins_count_the_living(tables):
    assert tables.origins == {
        "base": {"base": 3},
        "lua": {"base": 1, "lua": 3},
        "stories": {"base": 2, "stories": 2},
        "both": {"base": 1, "lua": 1, "stories": 1, "both": 1},
    }


def test_bands_of_the_summary(tables):
    summary = summarise(tables, 0.8)
    assert sorted(tuple(band.values()) for band in summary["bands"]) == [
        ("base", "lua", "base", 1),
        ("base", "stories", "base", 2),
        ("lua", "both", "lua", 1),
        ("stories", "both", "base", 1),
        ("stories", "both", "stories", 1),
    ]
    assert list(summary["bands"][0]) == ["parent", "child", "origin", "features"]
    for model, origins in tables.origins.items():
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
    assert summarise(found, 0.8) == {
        "threshold": 0.8,
        "models": ["base"],
        "edges": [],
        "origins": {"base": {"base": 3}},
        "bands": [],
    }


# --- several seeds, from files -----------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Correlations and statistics of two seeds as files, in the order that the workflow hands over."""
    seeds = {0: PAIRS, 5: PAIRS | {("base", "lua"): [(0, 2, 0.9), (1, 1, 0.99), (2, 3, 0.9)]}}
    paths = {"correlations": [], "statistics": []}
    for seed, pairs in seeds.items():
        for (a, b), found in pairs.items():
            path = tmp_path / f"{a}.seed{seed}--{b}.seed{seed}.parquet"
            write_table(path, correlations(found), CORRELATIONS, {})
            paths["correlations"].append(path)
        for model in ORDER:
            density = DENSITIES[model]
            rows = [
                {"feature": i, "active": int(d * 10), "density": float(d), "mean": 0.0, "max": 0.0}
                for i, d in enumerate(density)
            ]
            path = tmp_path / f"{model}.seed{seed}.parquet"
            write_table(path, pa.Table.from_pylist(rows, STATISTICS), STATISTICS, {})
            paths["statistics"].append(path)
    return list(seeds), seeds, paths


def test_seeds_are_compared_with_their_own_files(files):
    seeds, pairs, paths = files
    found = trace_seeds(seeds, ORDER, list(PAIRS), paths["correlations"], paths["statistics"], 0.8)
    for number, seed in enumerate(seeds):
        alone = trace(edges(pairs[seed]), DENSITIES, ORDER, 0.8, seed)
        for name in ("edges", "features", "lineages"):
            whole, part = getattr(found, name), getattr(alone, name)
            rows = whole.num_rows // len(seeds)
            assert whole.slice(number * rows, rows).equals(part), name
    counts = [row["parent_persisting"] for row in select(found.edges, parent="base", child="lua")]
    assert counts == [2, 3]


def test_summary_of_several_seeds_has_edges_of_all_and_bands_of_the_first(files):
    seeds, _, paths = files
    found = trace_seeds(seeds, ORDER, list(PAIRS), paths["correlations"], paths["statistics"], 0.8)
    summary = summarise(found, 0.8)
    first = summarise(trace(edges(), DENSITIES, ORDER, 0.8, 0), 0.8)
    assert len(summary["edges"]) == 8
    assert summary["edges"][:4] == first["edges"]
    assert (summary["bands"], summary["origins"]) == (first["bands"], first["origins"])
