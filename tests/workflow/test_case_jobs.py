"""Cases, contexts, categories and exported figures of the tiny study, as a user meets them."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import tiny_study

from feature_lineage.features.activations import read_activations
from feature_lineage.meaning.categories import CATEGORIES
from feature_lineage.report.export import find_browser
from feature_lineage.store.formats import read_json, read_provenance, read_table, read_tensors

MODELS = ("base", "coder", "writer", "both")


def features(study, model):
    return study.results / "features" / model / "seed0" / "validation"


def test_a_case_agrees_with_the_files_that_it_is_made_from(study):
    folder = study.results / "cases" / "article"
    case = read_json(folder / "case.json")
    assert set(case["tokens"]) <= {" the", "the"} and case["tokens"]
    tracking = read_table(folder / "tracking.parquet").to_pylist()
    nodes = case["nodes"]
    assert [node["model"] for node in nodes] == ["base", "coder", "writer", "both", "both"]
    assert [row["feature"] for row in tracking] == [node["feature"] for node in nodes]
    flow = read_table(study.results / "flows" / "features.parquet").to_pandas()
    tracked = {node["model"]: node["feature"] for node in nodes if node["kept"]}
    for node in nodes[1:]:
        of_edge = (flow["parent"] == node["parent"]) & (flow["child"] == node["model"])
        of_parent = (flow["model"] == node["parent"]) & (flow["feature"] == tracked[node["parent"]])
        (row,) = flow[of_edge & of_parent].itertuples()
        assert (row.descendant, row.r, row.fate) == (node["feature"], node["r"], node["fate"])
    columns = [
        read_activations(features(study, model) / "activations.parquet").matrix[:, [feature]].toarray().ravel()
        for model, feature in tracked.items()
    ]
    r = np.corrcoef(columns)[np.triu_indices(len(columns), 1)]
    np.testing.assert_allclose(case["mean_correlation"], r.mean())
    for file in ("case.json", "tracking.parquet"):
        assert read_provenance(folder / file)["parameters"]["case"] == {"tokens": [" the", "the"]}


def test_every_living_feature_has_contexts_and_a_category(study):
    tokens = read_tensors(study.results / "samples" / "validation.safetensors")["tokens"]
    for model in MODELS:
        dense = read_activations(features(study, model) / "activations.parquet").matrix.toarray()
        contexts = read_table(features(study, model) / "contexts.parquet").to_pandas()
        peaks = dense.reshape(*tokens.shape, -1).max(axis=1)
        assert contexts.groupby("feature").size().to_dict() == {
            feature: min(10, count) for feature, count in enumerate((peaks > 0).sum(0)) if count
        }
        first = contexts[contexts["rank"] == 0]
        np.testing.assert_array_equal(first["peak"], peaks.max(0)[first["feature"]].astype(np.float32))
        found = read_table(features(study, model) / "categories.parquet").to_pandas()
        assert found["category"].isna().tolist() == (dense.max(0) == 0).tolist()
        assert set(found["category"].dropna()) <= set(CATEGORIES)


def test_categories_add_up_to_the_living_features_of_each_side(study):
    counts = read_table(study.results / "flows" / "categories.parquet").to_pandas()
    assert set(counts["corpus"]) <= {"prose", "code"}
    for edge in read_table(study.results / "flows" / "edges.parquet").to_pylist():
        for side, fates in (("parent", ("persisting", "disappearing")), ("child", ("persisting", "emerging"))):
            mine = counts[
                (counts["parent"] == edge["parent"]) & (counts["child"] == edge["child"]) & (counts["side"] == side)
            ]
            found = {fate: int(mine[mine["fate"] == fate]["features"].sum()) for fate in fates}
            assert found == {fates[0]: edge[f"{side}_persisting"], fates[1]: edge[fates[1]]}
            assert set(mine["fate"]) <= set(fates)


def test_a_case_that_matches_nothing_names_what_is_alike(copy):
    copy.config["cases"]["typo"] = {"tokens": [" Thee"]}
    run = copy.snakemake("-c2", "cases")
    assert run.refused(), run
    assert "cases.typo: no token of the sample is" in run.output and "alike are:" in run.output
    assert not (copy.results / "cases" / "typo" / "case.json").exists()


def test_without_a_browser_figures_have_their_numbers_and_no_image(study):
    folder = study.results / "figures"
    assert {path.stem for path in folder.glob("*.csv")} == {
        "verdicts",
        "sankey",
        "curves",
        "training",
        "autoencoders",
        "sweep-both",
        "scores",
    }
    assert not [*folder.glob("*.svg"), *folder.glob("*.png")]
    assert "No browser: figures are left without SVG and PNG; install Chromium" in (study.root / "run.txt").read_text()
    with (folder / "curves.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    curves = read_table(study.results / "flows" / "curves.parquet").to_pandas()
    shares = curves[curves["side"] == "child"]["mutual_share"]
    found = [float(row["y"]) for row in rows if row["side"] == "child" and row["measure"] == "mutual_share"]
    np.testing.assert_array_equal(found, shares)


def test_a_browser_installed_later_draws_the_images_and_puts_them_into_the_report(copy, monkeypatch):
    if (browser := find_browser()) is None:
        pytest.skip("there is no browser; install Chromium")
    with_browser = tiny_study.environment() | {"BROWSER_PATH": browser}
    monkeypatch.setattr(tiny_study, "environment", lambda: with_browser)
    assert set(copy.plan()) == {"export_figures", "write_report"}
    run = copy.snakemake("-c2")
    assert run.code == 0, run
    names = {path.stem for path in (copy.results / "figures").glob("*.csv")}
    for kind in ("svg", "png"):
        assert {path.stem for path in (copy.results / "figures").glob(f"*.{kind}")} == names
        assert {path.stem for path in (copy.results / "report" / "figures").glob(f"*.{kind}")} == names
