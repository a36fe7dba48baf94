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


def dense(path):
    """Activations of a reading, float64 [tokens, features]."""
    record, table = read_provenance(path), read_table(path)
    found = np.zeros((record["tokens"], record["features"]))
    found[table["token"], table["feature"]] = table["activation"]
    return found


def test_drift_and_verdicts_of_real_features_equal_a_dense_reference(study):
    """Both sides of two edges: each measure by its definition, and the verdict that follows from it and from the best match."""
    drift = read_table(study.results / "flows" / "drift.parquet").to_pandas()
    features = read_table(study.results / "flows" / "features.parquet").to_pandas()
    verdicts = set()
    for parent, child in (("base", "coder"), ("writer", "both")):
        for side, model, read in (("parent", parent, child), ("child", child, parent)):
            own = dense(study.results / "features" / model / "seed0" / "validation" / "activations.parquet")
            other = dense(
                study.results / "readings" / f"{model}--{read}" / "seed0" / "validation" / "activations.parquet"
            )
            rows = drift[(drift["parent"] == parent) & (drift["child"] == child) & (drift["side"] == side)]
            judged = features[
                (features["parent"] == parent) & (features["child"] == child) & (features["model"] == model)
            ]
            assert rows["feature"].tolist() == judged["feature"].tolist() == list(range(own.shape[1]))
            for row, word, x, y in zip(rows.itertuples(), judged.itertuples(), own.T, other.T, strict=True):
                a, b = x > 0, y > 0
                changes = np.ptp(x) > 0 and np.ptp(y) > 0
                r = np.corrcoef(x, y)[0, 1] if changes else np.nan
                np.testing.assert_allclose(row.r, r, atol=1e-6)
                if a.any():
                    np.testing.assert_allclose(row.density_ratio, b.sum() / a.sum(), atol=1e-6)
                    np.testing.assert_allclose(row.jaccard, (a & b).sum() / (a | b).sum(), atol=1e-6)
                if a.any() and b.any():
                    np.testing.assert_allclose(row.mean_ratio, y[b].mean() / x[a].mean(), rtol=1e-6)
                expected = "lost"
                if changes and r > 0.8:
                    expected = "kept"
                elif word.r > 0.8:
                    expected = "found"
                elif changes and r > 0.5:
                    expected = "drifted"
                assert word.verdict == expected if a.any() else word.verdict is None or np.isnan(word.verdict), (
                    row,
                    word,
                )
                verdicts.add(word.verdict)
    assert {"kept", "drifted"} <= verdicts


def test_verdicts_are_counted_as_they_stand(study):
    features = read_table(study.results / "flows" / "features.parquet").to_pandas()
    replicates = {}
    for row in read_table(study.results / "flows" / "verdicts.parquet").to_pylist():
        model = row[row["side"]]
        words = features[
            (features["parent"] == row["parent"]) & (features["child"] == row["child"]) & (features["model"] == model)
        ]["verdict"]
        assert row["features"] == "all", "one seed has no reproducible features"
        assert (row["living"], row["count"]) == (words.notna().sum(), (words == row["verdict"]).sum())
        assert row["low"] <= row["share"] <= row["high"] and row["placebo"] is None
        place = f"{row['parent']}--{row['child']}.seed0"
        path = study.results / "flows" / "verdicts" / "validation" / place / "replicates.parquet"
        table = replicates.setdefault(place, read_table(path).to_pandas())
        drawn = table[table["side"] == row["side"]]
        low, high = np.quantile(drawn[row["verdict"]] / drawn["living"], [0.025, 0.975])
        np.testing.assert_allclose((row["low"], row["high"]), (min(low, row["share"]), max(high, row["share"])))
