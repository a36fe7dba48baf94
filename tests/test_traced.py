"""Verdicts in the flow's tables, features traced down the lineage, and what is said of an edge as a whole: by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from feature_lineage.flow import fates, traced
from feature_lineage.flow.drift import Quality
from feature_lineage.flow.intervals import Compared
from feature_lineage.flow.summary import about_edge, new_features, summarise_verdicts
from feature_lineage.flow.verdicts import JUDGED

ORDER, EDGES = (
    ["base", "lua", "bible", "both"],
    [("base", "lua"), ("base", "bible"), ("lua", "both"), ("bible", "both")],
)


def side(name, verdicts, r=None, match=None, match_r=None, **more):
    """Rows of one side: verdicts as listed, None for the dead."""
    count = len(verdicts)
    columns = {field.name: pa.nulls(count, field.type) for field in JUDGED}
    columns |= {"side": pa.array([name] * count), "feature": pa.array(np.arange(count, dtype=np.int32))}
    given = {"verdict": verdicts, "r": r, "match": match, "match_r": match_r} | more
    columns |= {key: pa.array(values, JUDGED.field(key).type) for key, values in given.items() if values is not None}
    return pa.table(columns, schema=JUDGED)


@pytest.fixture
def judged():
    """A diamond of three features each, the last one dead in base."""
    back = side("child", ["kept", "lost", "found"], [0.9, 0.1, 0.2])

    def edge(*parent, **more):
        return pa.concat_tables([side("parent", *parent, **more), back])

    return {
        ("base", "lua", 0): edge(["kept", "found", None], [0.95, 0.3, 0.0], [2, 0, 1], [0.5, 0.9, 0.99]),
        ("base", "bible", 0): edge(["drifted", "lost", None], [0.6, 0.2, 0.0], [1, 1, None], [0.7, 0.85, None]),
        ("lua", "both", 0): edge(["found", "kept", "lost"], [0.1, 0.9, 0.0], [1, 2, 0], [0.92, 0.95, 0.3]),
        ("bible", "both", 0): edge(["kept", "kept", "lost"], [0.9, 0.9, 0.0], [0, 0, 0], [0.3, 0.81, 0.3]),
        ("base", "both", 0): side("parent", ["kept", "lost", None], [0.85, 0.1, 0.0]),
    }


def lineages():
    rows = [
        {"model": m, "seed": 0, "feature": f, "density": 0.1, "origin": m, "chain": [], "fates": []}
        for m in ORDER
        for f in range(3)
    ]
    return pa.Table.from_pylist(rows, fates.LINEAGES)


def test_features_are_traced_by_what_they_do(judged):
    table = traced.with_traced(lineages(), judged, ORDER, EDGES, 0.8)
    assert table.schema == traced.LINEAGES
    steps = {(row["model"], row["feature"]): row["traced"] for row in table.to_pylist()}
    # Kept by its own number where its own dictionary reads it, the merge included, though no other dictionary has it.
    assert steps["base", 0] == [
        {"model": "lua", "verdict": "kept", "feature": 0, "r": 0.95},
        {"model": "bible", "verdict": "drifted", "feature": None, "r": 0.6},
        {"model": "both", "verdict": "kept", "feature": 0, "r": 0.85},
    ]
    # Found in lua as 0, which is found in both as 1, a better match than through bible; its own dictionary reads r = .1 there.
    assert steps["base", 1] == [
        {"model": "lua", "verdict": "found", "feature": 0, "r": 0.3},
        {"model": "bible", "verdict": "lost", "feature": None, "r": 0.2},
        {"model": "both", "verdict": "found", "feature": 1, "r": 0.1},
    ]
    assert steps["base", 2] == [], "the dead go nowhere"
    assert steps["lua", 0] == [{"model": "both", "verdict": "found", "feature": 1, "r": 0.1}]
    assert steps["both", 0] == []


def test_a_descendant_that_a_dictionary_does_not_read_is_reached_by_matches_alone():
    order, edges = ["a", "b", "c"], [("a", "b"), ("b", "c")]
    back = side("child", ["kept"] * 2)
    first = side("parent", ["found", "lost"], [0.1, 0.1], [1, 0], [0.9, 0.5])
    second = side("parent", ["lost", "found"], [0.1, 0.2], [0, 1], [0.4, 0.85])
    judged = {("a", "b", 0): pa.concat_tables([first, back]), ("b", "c", 0): pa.concat_tables([second, back])}
    rows = [
        {"model": m, "seed": 0, "feature": f, "density": 0.1, "origin": m, "chain": [], "fates": []}
        for m in order
        for f in range(2)
    ]
    table = traced.with_traced(pa.Table.from_pylist(rows, fates.LINEAGES), judged, order, edges, 0.8)
    found = table["traced"].to_pylist()
    assert found[0][1] == {"model": "c", "verdict": "found", "feature": 1, "r": 0.85}
    assert [step["model"] for step in found[1]] == ["b"], "of c nothing is known"


def test_each_row_of_the_table_of_features_has_its_verdict(judged):
    along = {pair: table for pair, table in judged.items() if pair[:2] in EDGES}
    rows = []
    for parent, child in EDGES:
        for model in (parent, child):
            for f in range(3):
                empty = dict.fromkeys(fates.FEATURES.names)
                rows.append(
                    empty | {"parent": parent, "child": child, "seed": 0, "model": model, "feature": f, "r": 0.5}
                )
    new = new_features([Compared(*pair, table) for pair, table in along.items()])
    table = traced.with_verdicts(pa.Table.from_pylist(rows, fates.FEATURES), along, new)
    assert table.schema == traced.FEATURES and table.num_rows == len(rows)
    found = table.to_pylist()

    def column(name, *place):
        return [row[name] for row in found if (row["parent"], row["child"], row["model"]) == place]

    assert column("verdict", "base", "lua", "base") == ["kept", "found", None]
    assert column("drift_r", "lua", "both", "both") == [0.9, 0.1, 0.2]
    assert column("new", "base", "lua", "lua") == [False, True, True]
    assert column("new", "base", "lua", "base") == [None] * 3
    assert {row["r"] for row in found} == {0.5}, "the paper's r stays"


def test_a_merges_feature_is_new_if_no_parent_has_it():
    first = side("child", ["kept", "lost", "drifted", None])
    second = side("child", ["lost", "kept", "found", None])
    edges = [Compared("a", "m", 0, first), Compared("b", "m", 0, second)]
    assert new_features(edges)["m", 0].tolist() == [False, False, True, False]
    (row,) = summarise_verdicts(edges, {}, {"m": None}, 0.8)["new"]
    assert row == {"child": "m", "seed": 0, "living": 3, "new": 1, "share": pytest.approx(1 / 3)}


def test_the_margin_is_the_median_over_living_features(judged):
    table = pa.concat_tables(
        [
            side(
                "parent",
                ["kept", "lost", None, "lost"],
                reproducible=[True, False, True, True],
                held_out_verdict=["lost", "kept", "kept", None],
                held_out_match_r=[0.9, 0.9, 0.9, 0.9],
                margin=[0.1, -0.3, 9.0, -0.1],
            ),
            side("child", ["kept"]),
        ]
    )
    (row,) = summarise_verdicts([Compared("a", "b", 0, table)], {}, {"b": None}, 0.8)["stability"]
    assert (row["living"], row["reproducible"], row["margin"], row["side"]) == (3, 2, -0.1, "parent")
    assert row["persisting_share"] == 1.0, "of the one that lives in the held-out half"


def test_an_edge_is_described_beside_dictionaries_of_one_model():
    readings = [(Quality(40.0, 0.9), Quality(70.0, 0.6)), (Quality(40.0, 0.9), Quality(50.0, 0.8))]
    same = {"pairs": [{"pw_mcc": 0.4, "mean_max_cosine": 0.5}, {"pw_mcc": 0.6, "mean_max_cosine": 0.7}], "high": 0.62}
    found = about_edge(readings, {"pw_mcc": 0.3, "mean_max_cosine": 0.4}, same)
    assert found["cosines"] == {
        "pw_mcc": 0.3, "mean_max_cosine": 0.4, "ceiling_pw_mcc": 0.5, "ceiling_mean_max_cosine": pytest.approx(0.6), "high": 0.62,
    }  # fmt: skip
    assert [len(side["poor"]) for side in found["readings"]] == [2, 0]
    assert found["readings"][0]["other"] == {"l0": 70.0, "variance_explained": 0.6}
    alone = about_edge(readings[:1], {}, None, ["parent"])
    assert len(alone["readings"]) == 1 and set(alone["cosines"].values()) == {None}


def test_drift_and_its_curves_are_of_every_edge_and_placebo(judged):
    edges = {("base", "lua", 0): judged["base", "lua", 0]}
    placebo = {("base", "base-placebo-lua", 0): side("parent", ["kept", "lost", None], [0.99, 0.4, 0.99])}
    table = traced.drift_table(edges)
    assert table.schema == traced.DRIFTS and table["side"].to_pylist() == ["parent"] * 3 + ["child"] * 3
    curves = traced.drift_curves(edges, placebo).to_pandas()
    at = curves[(curves["side"] == "parent") & (curves["threshold"] == 0.4)]
    assert at.set_index("placebo")["kept_share"].to_dict() == {False: 0.5, True: 0.5}
    assert set(curves["living"]) == {2, 3} and set(curves.loc[curves["placebo"], "side"]) == {"parent"}


# --- edges of which one model alone has a dictionary ---------------------------------------------------------


def test_an_edge_without_a_match_has_rows_of_the_side_that_has_a_dictionary():
    parent = side("parent", ["kept", "lost", None], [0.9, 0.1, 0.0])
    child = side("child", ["kept", "drifted", None], [0.95, 0.6, 0.0])
    judged = {("base", "lua", 0): parent, ("bible", "both", 0): child}
    densities = {("base", 0): np.array([0.1, 0.2, 0.0]), ("both", 0): np.array([0.3, 0.4, 0.0])}
    new = new_features([Compared(*pair, table) for pair, table in judged.items()])
    assert {key: values.tolist() for key, values in new.items()} == {("both", 0): [False, True, False]}
    found = traced.with_verdicts(fates.FEATURES.empty_table(), judged, new, densities)
    assert found.schema == traced.FEATURES
    rows = found.to_pylist()
    assert [row["model"] for row in rows] == ["base"] * 3 + ["both"] * 3
    assert [row["fate"] for row in rows] == ["unmatched", "unmatched", "dead"] * 2
    assert [row["verdict"] for row in rows] == ["kept", "lost", None, "kept", "drifted", None]
    assert [row["density"] for row in rows] == [0.1, 0.2, 0.0, 0.3, 0.4, 0.0]
    assert [row["new"] for row in rows] == [None] * 3 + [False, True, False]
    assert {row["ancestor"] for row in rows} == {row["descendant"] for row in rows} == {None}


def test_a_root_is_traced_past_a_model_without_a_dictionary():
    """base reads lua and both; lua has no dictionary, so that nothing is carried through it, and both's own say nothing of base."""
    judged = {
        ("base", "lua", 0): side("parent", ["kept", "lost", None], [0.9, 0.1, 0.0]),
        ("base", "both", 0): side("parent", ["drifted", "lost", None], [0.6, 0.1, 0.0]),
        ("lua", "both", 0): side("child", ["kept", "lost", None], [0.9, 0.1, 0.0]),
    }
    table = lineages().filter(pc.is_in(lineages()["model"], pa.array(["base", "both"])))
    found = traced.with_traced(table, judged, ["base", "lua", "both"], [("base", "lua"), ("lua", "both")], 0.8)
    steps = {(row["model"], row["feature"]): row["traced"] for row in found.to_pylist()}
    assert [(step["model"], step["verdict"], step["feature"]) for step in steps["base", 0]] == [
        ("lua", "kept", 0), ("both", "drifted", None),
    ]  # fmt: skip
    assert steps["both", 0] == []
