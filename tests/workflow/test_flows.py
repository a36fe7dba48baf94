"""The flow of the tiny study, as its files tell it."""

from __future__ import annotations

import numpy as np

from feature_lineage.store.formats import read_json, read_provenance, read_table


def around(share, replicates):
    """The 95 % interval: the share ± 1.96 root mean square deviations of its replicates."""
    deviation = 1.96 * np.sqrt(np.mean((replicates - share) ** 2))
    return np.clip((share - deviation, share + deviation), 0, 1)


def test_the_flow_is_in_files_that_agree(study):
    flows = study.results / "flows"
    edges = read_table(flows / "edges.parquet").to_pandas()
    curves = read_table(flows / "curves.parquet").to_pandas()
    strata = read_table(flows / "strata.parquet").to_pandas()
    assert len(edges) == 4
    for edge in edges.itertuples():
        replicates = read_table(
            flows / "bootstrap" / "validation" / f"{edge.parent}.seed0--{edge.child}.seed0.parquet"
        ).to_pandas()
        assert len(replicates) == 20
        shares = replicates["parent_persisting"] / replicates["parent_living"]
        expected = around(edge.persisting_share, shares)
        np.testing.assert_allclose((edge.persisting_low, edge.persisting_high), expected)
        shares = 1 - replicates["child_persisting"] / replicates["child_living"]
        expected = around(edge.emerging_share, shares)
        np.testing.assert_allclose((edge.emerging_low, edge.emerging_high), expected)
        of_edge = (curves["parent"] == edge.parent) & (curves["child"] == edge.child)
        (at,) = curves[of_edge & (curves["side"] == "parent") & (curves["threshold"] == 0.8)].itertuples()
        assert at.persisting_share == edge.persisting_share
        assert at.mutual_share == edge.mutual / (edge.parent_features - edge.parent_dead)
        mine = strata[(strata["parent"] == edge.parent) & (strata["child"] == edge.child) & (strata["side"] == "child")]
        for kind in ("density", "token", "corpus"):
            found = mine[mine["kind"] == kind]
            assert found["features"].sum() == edge.child_features - edge.child_dead
            assert found["persisting"].sum() == edge.child_persisting
        assert set(mine[mine["kind"] == "corpus"]["stratum"]) <= {"prose", "code"}
    assert read_json(flows / "summary.json")["edges"] == read_table(flows / "edges.parquet").to_pylist()
    for file in ("curves.parquet", "strata.parquet"):
        assert read_provenance(flows / file)["parameters"]["threshold"] == 0.8
    assert (study.results / "figures" / "curves.html").is_file()


def test_correlations_of_real_features_equal_a_dense_reference(study):
    record = read_provenance(study.results / "features" / "base" / "seed0" / "validation" / "activations.parquet")
    for parent, child in (("base", "coder"), ("writer", "both")):
        dense = []
        for model in (parent, child):
            table = read_table(study.results / "features" / model / "seed0" / "validation" / "activations.parquet")
            dense.append(np.zeros((record["tokens"], record["features"])))
            dense[-1][table["token"], table["feature"]] = table["activation"]
        with np.errstate(invalid="ignore"):
            r = np.corrcoef(*dense, rowvar=False)[: record["features"], record["features"] :]
        table = read_table(study.results / "correlations" / "validation" / f"{parent}.seed0--{child}.seed0.parquet")
        table = table.to_pandas()
        np.testing.assert_allclose(table["r"], r[table["feature_a"], table["feature_b"]], atol=1e-6)
        assert (table["r"] > 0.3).sum() == (r > 0.3).sum() > 20
        best = table.groupby("feature_a")["r"].max()
        np.testing.assert_allclose(best, np.nanmax(r[best.index], axis=1), atol=1e-6)
        assert len(best) == (~np.isnan(r).all(1)).sum()


def test_a_study_without_the_bootstrap_has_no_intervals(copy):
    copy.config["flow"]["bootstrap"] = 0
    run = copy.snakemake("-c2")
    assert run.code == 0, run
    edges = read_table(copy.results / "flows" / "edges.parquet")
    assert set(edges["persisting_low"].to_pylist()) == {None}
    assert "95 % interval " not in (copy.results / "report" / "index.html").read_text()
