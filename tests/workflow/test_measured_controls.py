"""The controls: what each switch adds and takes away, and the artefacts of a study with two seeds and with one."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from feature_lineage.controls.summary import SCHEMAS
from feature_lineage.store.formats import read_json

SUMMARY = "results/tiny/controls/summary.json"
EDGES = (("base", "coder"), ("base", "writer"), ("coder", "both"), ("writer", "both"))
SWITCHES = ("ceiling", "alignment_null", "neurons", "as_published")
JOBS = {
    "ceiling": set(),
    "alignment_null": {f"correlate_shifted {parent} {child} 0" for parent, child in EDGES}
    | {"join_control alignment_null"},
    "neurons": {f"correlate_neurons {parent} {child}" for parent, child in EDGES} | {"join_control neurons"},
    "as_published": {f"correlate_published {parent} {child} 0" for parent, child in EDGES}
    | {"join_control as_published"},
}
BETWEEN = {f"correlate validation {model} 0 {model} 1" for model in ("base", "coder", "writer", "both")}
SHARED = {  # the figures of the flow say the ceiling
    "summarise_controls",
    "plot_verdicts",
    "plot_sankey",
    "tabulate_figures",
    "write_report",
}
DRAWN = {"plot_curves"}  # the curves show the threshold of the null


def switched(workplace, *on):
    workplace.config["controls"] |= {name: name in on for name in SWITCHES}
    return workplace


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_adds_its_own_jobs_and_reruns_none_that_stand(copy, name):
    assert set(switched(copy, name).plan()) == JOBS[name] | SHARED | (DRAWN if name == "alignment_null" else set())


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_off_takes_its_jobs_away(copy, name):
    on = [other for other in SWITCHES if other != name]
    drawn = DRAWN if "alignment_null" in on else set()
    assert set(switched(copy, *on).plan()) == SHARED.union(drawn, *(JOBS[other] for other in on))


def test_all_off_leaves_nothing_to_do(copy):
    assert switched(copy).plan() == {}


def test_a_second_seed_adds_the_correlations_between_seeds(copy):
    switched(copy, "ceiling").config["autoencoder"]["seeds"] = [0, 1]
    assert {"measure_ceiling", *BETWEEN} <= set(copy.plan(SUMMARY))
    switched(copy, "alignment_null")
    assert not {"measure_ceiling", *BETWEEN} & set(copy.plan(SUMMARY))


def columns(path):
    return pq.read_schema(path).remove_metadata()


def test_with_one_seed_the_ceiling_is_not_measured_and_the_rest_is(copy):
    run = switched(copy, *SWITCHES).snakemake("-c2")
    assert run.code == 0, run
    folder = copy.results / "controls"
    for name in ("alignment_null", "neurons", "as_published"):
        assert columns(folder / f"{name}.parquet") == SCHEMAS[name]
        table = pq.read_table(folder / f"{name}.parquet").to_pandas()
        assert set(zip(table["parent"], table["child"], strict=True)) == set(EDGES)
    assert not (folder / "ceiling.parquet").exists()
    found = read_json(folder / "summary.json")
    assert found["not_measured"] == {"ceiling": "it needs two autoencoder.seeds, there is one"}
    assert len(found["edges"]) == 2 * len(EDGES)
    flows = {(row["parent"], row["child"]): row for row in read_json(copy.results / "flows" / "summary.json")["edges"]}
    for row in found["edges"]:
        edge = flows[row["parent"], row["child"]]
        assert row["persisting"] == edge[f"{row['side']}_persisting"], "the flow's own count"
        assert row["ceiling"] is None
        assert None not in (row["null_threshold"], row["neurons"], row["as_published"])
    page = (copy.results / "report" / "index.html").read_text()
    assert 'id="controls"' in page
    assert "Not measured: ceiling (it needs two autoencoder.seeds, there is one)." in page
    assert copy.plan() == {}
    assert set(switched(copy, "ceiling", "alignment_null", "as_published").plan()) == SHARED, (
        "one less reruns none that stand"
    )
    switched(copy, *SWITCHES).config["autoencoder"]["seeds"] = [0, 1]
    assert {"measure_ceiling", *BETWEEN} <= set(copy.plan(SUMMARY)), "a seed more is seen where a summary stands"


def test_with_two_seeds_the_ceiling_is_measured(copy):
    models = copy.config["models"]
    copy.config["models"] = {name: models[name] for name in ("base", "coder")}
    switched(copy, "ceiling").config["autoencoder"]["seeds"] = [0, 1]
    run = copy.snakemake("-c2", SUMMARY)
    assert run.code == 0, run
    path = copy.results / "controls" / "ceiling.parquet"
    assert columns(path) == SCHEMAS["ceiling"]
    table = pq.read_table(path).to_pandas()
    assert list(table["model"]) == ["base", "base", "coder", "coder"]
    assert set(table["seed_a"]) == {0}
    assert set(table["seed_b"]) == {1}
    found = read_json(copy.root / SUMMARY)
    assert [row["model"] for row in found["ceilings"]] == ["base", "coder"]
    assert {(row["seed"], row["side"]) for row in found["edges"]} == {
        (s, k) for s in (0, 1) for k in ("parent", "child")
    }
    assert all(row["ceiling"] is not None for row in found["edges"])
    assert set(found["not_measured"]) == {"alignment_null", "neurons", "as_published"}
