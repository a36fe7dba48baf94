"""The controls that make models and autoencoders of their own: what each switch adds to a finished study, and what it comes to."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from tiny_study import Workplace, shared

from feature_lineage.controls.baselines import MEASURES
from feature_lineage.store.formats import read_json, read_provenance, read_tensors

EDGES = (("base", "coder"), ("base", "writer"), ("coder", "both"), ("writer", "both"))
JOBS = {
    "transfer": {"compare_transfers", *(f"transfer_autoencoder {a} 0 {b}" for a, b in EDGES)},
    "linear_merge": {
        "compare_merges",
        "merge_otherwise linear both",
        "evaluate_other_merge linear both",
        "transfer_to_other_merge linear both 0",
    },
    "untrained": {
        "compare_baseline untrained",
        "build_model base-untrained",
        "train_autoencoder base-untrained 0",
        "evaluate_autoencoder base-untrained 0",
        "collect_features base-untrained 0 validation",
        "correlate validation base 0 base-untrained 0",
    },
    "started_from_parent": {
        "compare_baseline started",
        *(f"train_started {a} {b} 0" for a, b in EDGES),
        *(f"evaluate_started {a} {b} 0" for a, b in EDGES),
        *(f"collect_started {a} {b} 0 validation" for a, b in EDGES),
        *(f"correlate validation {a} 0 {a}--{b} 0" for a, b in EDGES),
    },
}
ALL_ON = dict.fromkeys(JOBS, True)


@pytest.fixture(scope="module")
def controlled(tmp_path_factory, study) -> Workplace:
    """The finished study with all of these switches turned on afterwards, finished again."""
    root = shared(tmp_path_factory, "controlled")
    with FileLock(f"{root}.lock"):
        place = Workplace(root, study.config | {"controls": study.config["controls"] | ALL_ON})
        if not root.exists():
            study.copy(root)
            (root / "before.txt").write_text(stamps(place))
            run = place.snakemake("-c2")
            assert run.code == 0, run
        return place


def stamps(place):
    """When each artefact outside of `controls` was written."""
    files = [
        path
        for folder in ("models", "saes", "features", "correlations")
        for path in (place.results / folder).rglob("*")
    ]
    return "".join(
        f"{path.relative_to(place.results)} {path.stat().st_mtime_ns}\n" for path in sorted(files) if path.is_file()
    )


def rows(place, name):
    return pq.read_table(place.results / "controls" / f"{name}.parquet").to_pylist()


@pytest.mark.parametrize("switch", JOBS)
def test_a_switch_adds_its_own_jobs_and_reruns_none_that_stand(study, tmp_path, switch):
    place = study.copy(tmp_path / "place")
    place.config["controls"][switch] = True
    assert set(place.plan()) == JOBS[switch] | {"write_report"}


def test_every_seed_of_what_is_trained_is_compared(study, tmp_path):
    place = study.copy(tmp_path / "place")
    place.config["controls"] |= ALL_ON
    place.config["autoencoder"]["seeds"] = [0, 1]
    plan = set(place.plan())
    of_seeds = [job for switch in ("untrained", "started_from_parent") for job in JOBS[switch] if " 0" in job]
    assert {job.replace(" 0", " 1") for job in of_seeds} <= plan
    assert plan >= set().union(*JOBS.values())
    assert not {"transfer_to_other_merge linear both 1", "transfer_autoencoder base 1 coder"} & plan, (
        "of the first seed alone"
    )


def test_switches_turned_off_leave_nothing_to_do(controlled, tmp_path):
    assert controlled.plan() == {}
    place = controlled.copy(tmp_path / "place")
    place.config["controls"] = dict.fromkeys(place.config["controls"], False)
    assert set(place.plan()) == {"write_report"}, "without their tables"
    assert set((controlled.root / "before.txt").read_text().splitlines()) <= set(stamps(controlled).splitlines())


def test_untrained_model_has_the_roots_shape_and_other_weights(controlled):
    base, untrained = (
        read_tensors(controlled.results / "models" / m / "model.safetensors") for m in ("base", "base-untrained")
    )
    assert {name: tensor.shape for name, tensor in base.items()} == {name: t.shape for name, t in untrained.items()}
    embedding = "model.embed_tokens.weight"
    # what base began with would still correlate
    assert abs(np.corrcoef(base[embedding].ravel(), untrained[embedding].ravel())[0, 1]) < 0.05
    record, own = (
        read_provenance(controlled.results / "saes" / m / "seed0" / "sae_weights.safetensors")["parameters"]
        for m in ("base-untrained", "base")
    )
    assert record.pop("seed") != own.pop("seed")
    assert record == own, "trained exactly as all others are"


def test_tables_have_a_row_of_each_comparison(controlled):
    found = [(row["parent"], row["child"], row["seed"], row["side"]) for row in rows(controlled, "untrained")]
    assert found == [("base", "base-untrained", 0, "parent"), ("base", "base-untrained", 0, "child")]
    found = [(row["parent"], row["child"], row["seed"], row["side"]) for row in rows(controlled, "started")]
    assert found == [(a, b, 0, side) for a, b in EDGES for side in ("parent", "child")]
    for row in rows(controlled, "started"):
        assert 0 < row["same_number"] <= row["persisting"] <= row["features"] <= 128
        assert row["share"] == row["persisting"] / row["features"]


def test_a_parents_autoencoder_stands_beside_the_childs_own(controlled):
    for row, (parent, child) in zip(rows(controlled, "transfer"), EDGES, strict=True):
        assert (row["parent"], row["child"], row["seed"]) == (parent, child, 0)
        transferred = read_json(controlled.results / "controls" / "transfer" / f"{parent}.seed0--{child}.json")
        own = read_json(controlled.results / "saes" / child / "seed0" / "evaluation.json")
        assert transferred["loss_clean"] == own["loss_clean"], "one model and the same tokens"
        for name in MEASURES:
            assert (row[name], row[f"own_{name}"]) == (transferred[name], own[name])


def test_transfer_of_an_autoencoder_to_its_own_model_is_its_evaluation(controlled, tmp_path):
    place = controlled.copy(tmp_path / "place")
    target = "results/tiny/controls/transfer/coder.seed0--coder.json"
    run = place.snakemake("-c1", target)
    assert run.code == 0, run
    found, own = (
        read_json(place.root / target),
        read_json(place.results / "saes" / "coder" / "seed0" / "evaluation.json"),
    )
    judged = {"l0_target"}  # of a dictionary on its own model alone
    assert found.keys() == own.keys() - judged
    assert {key: found[key] for key in found if key != "provenance"} == {
        key: own[key] for key in own if key not in {"provenance", *judged}
    }


def test_an_autoencoder_started_from_its_parents_has_it_among_its_inputs(controlled):
    folder = controlled.results / "controls" / "started" / "coder--both" / "seed0"
    record = read_provenance(folder / "sae_weights.safetensors")
    parent = read_provenance(controlled.results / "features" / "coder" / "seed0" / "validation" / "activations.parquet")
    assert parent["inputs"]["weights"] in record["inputs"]["parent"]
    own = read_provenance(controlled.results / "saes" / "both" / "seed0" / "sae_weights.safetensors")
    assert record["parameters"]["autoencoder"] == own["parameters"]["autoencoder"] | {"init": "parent"}
    assert record["inputs"]["train"] == own["inputs"]["train"]
    assert record["inputs"]["model"] == own["inputs"]["model"]


def reference(method, a, b, t):
    """The merge of two tensors in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
    if method == "linear" or abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


@pytest.mark.parametrize(("method", "other"), [("slerp", "linear"), ("linear", "slerp")])
def test_the_other_merge_is_of_the_same_parents_at_the_same_t(study, tmp_path, method, other):
    place = study.copy(tmp_path / "place")
    place.config["controls"]["linear_merge"] = True
    place.config["models"]["both"]["merge"] = {"method": method, "points": 3, "t": 0.3}
    run = place.snakemake("-c2", "results/tiny/controls/linear_merge.parquet")
    assert run.code == 0, run
    folders = {method: place.results / "models" / "both", other: place.results / "controls" / other / "both"}
    coder, writer, *merges = (
        read_tensors(folder / "model.safetensors")
        for folder in (place.results / "models" / "coder", place.results / "models" / "writer", *folders.values())
    )
    for kind, merged in zip(folders, merges, strict=True):
        for name, tensor in merged.items():
            np.testing.assert_allclose(tensor, reference(kind, coder[name], writer[name], 0.3), atol=2e-7)
    assert any(not np.array_equal(merges[0][name], merges[1][name]) for name in coder)

    table = rows(place, "linear_merge")
    assert [(row["model"], row["method"], row["t"]) for row in table] == [("both", method, 0.3)] * 2
    assert [row["corpus"] for row in table] == ["prose", "code"]
    own = read_json(place.results / "saes" / "both" / "seed0" / "evaluation.json")
    applied = read_json(folders[other] / "seed0.json")
    for row in table:
        for kind, folder in folders.items():
            measured = read_json(folder / "evaluation.json")["corpora"][row["corpus"]]
            assert (row[f"{kind}_loss"], row[f"{kind}_accuracy"]) == (measured["loss"], measured["accuracy"])
        assert row[f"{method}_loss_recovered"] == own["loss_recovered"]
        assert row[f"{other}_loss_recovered"] == applied["loss_recovered"]
        assert row[f"{other}_variance_explained"] == applied["variance_explained"]
        assert 0 < row["distance"] < 0.1
        assert 0.9 < row["slerp_share"] < 1, "all but the norms, which are nearly parallel"
