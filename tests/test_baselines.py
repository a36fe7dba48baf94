"""What the flow is held against: counts, distances and names against references of their own."""

import copy

import numpy as np
import pyarrow as pa
import pytest
import torch
from autoencoders import random_autoencoder
from trainings import train_autoencoder

from feature_lineage.autoencoders.evaluation import evaluate_autoencoder
from feature_lineage.controls import baselines
from feature_lineage.controls.baselines import (
    Merged,
    compare_baseline,
    compare_merges,
    compare_transfers,
)
from feature_lineage.flow.correlation import CORRELATIONS
from feature_lineage.models.distance import relative_distance
from feature_lineage.models.hooks import activations
from feature_lineage.models.merge import angles, merge_states, tensor_table
from feature_lineage.study.loading import load_study
from feature_lineage.study.types import StudyError
from feature_lineage.text.windows import Windows

HOOK = "blocks.0.mlp.hook_post"


def correlations(a, b):
    """Every pair's r of dense activations [tokens, features], as a table; those of features without variance left out."""
    with np.errstate(invalid="ignore"):
        r = np.corrcoef(a, b, rowvar=False)[: a.shape[1], a.shape[1] :]
    rows = [
        {"feature_a": i, "feature_b": j, "r": float(r[i, j]), "both": 0, "either": 0}
        for i, j in zip(*np.nonzero(np.isfinite(r)), strict=True)
    ]
    return pa.Table.from_pylist(rows, CORRELATIONS), r


def active(*sides):
    return tuple((side > 0).sum(0) for side in sides)


def sparse(features, seed):
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(500, features)) * (rng.random((500, features)) < 0.1)


# --- persistence -------------------------------------------------------------------------------------------


@pytest.fixture
def pair():
    """Six features and five: two that are nearly the same, under other numbers; a dead one on each side; a constant one."""
    a, b = sparse(6, 0), sparse(5, 1)
    b[:, 3], b[:, 0] = a[:, 1] + 0.05 * b[:, 3], a[:, 2] + 0.8 * b[:, 0]
    a[:, 4], a[:, 5], b[:, 4] = 0, 2.5, 0
    return a, b


def test_persistence_of_both_sides_equals_a_dense_reference(pair):
    table, r = correlations(*pair)
    left, right = compare_baseline(table, active(*pair), 1, 0.8)
    best = [np.nanmax(r[[0, 1, 2, 3]], axis=1), np.nanmax(r[:, :4], axis=0)]
    assert (best[0] > 0.8).sum() == 1 and (best[0] > 0.5).sum() == 2, "the pair is what it is meant to be"
    assert left == {
        "side": "parent",
        "features": 5,  # the constant one fires
        "persisting": 1,
        "share": 1 / 5,
        "median_r": pytest.approx(np.median(best[0])),
        "same_number": 0,
    }
    assert right == {
        "side": "child",
        "features": 4,
        "persisting": 1,
        "share": 1 / 4,
        "median_r": pytest.approx(np.median(best[1])),
        "same_number": 0,
    }
    assert [row["persisting"] for row in compare_baseline(table, active(*pair), 1, 0.5)] == [2, 2]


def test_threshold_of_persistence_is_strict():
    row = {"feature_a": 0, "feature_b": 0, "r": 0.8, "both": 1, "either": 1}
    table = pa.Table.from_pylist([row], CORRELATIONS)
    one = np.array([1])
    for row in compare_baseline(table, (one, one), 1, 0.8):
        assert (row["persisting"], row["same_number"]) == (0, 0)
    for row in compare_baseline(table, (one, one), 1, 0.79):
        assert (row["persisting"], row["same_number"]) == (1, 1)


def test_features_that_fire_on_too_few_tokens_are_dead_and_matched_by_none():
    rows = [{"feature_a": i, "feature_b": i, "r": 0.9, "both": 1, "either": 1} for i in range(3)]
    table = pa.Table.from_pylist(rows, CORRELATIONS)
    for row in compare_baseline(table, (np.array([1, 9, 9]), np.array([9, 1, 9])), 2, 0.8):
        assert (row["features"], row["persisting"], row["same_number"]) == (2, 1, 1)


def test_models_whose_features_are_all_dead_have_no_share():
    dead = np.zeros(3)
    rows = compare_baseline(CORRELATIONS.empty_table(), (dead, dead), 1, 0.8)
    for row in rows:
        assert (row["features"], row["persisting"], row["same_number"]) == (0, 0, 0)
        assert row["share"] is row["median_r"] is None
    pa.Table.from_pylist(rows, baselines.PERSISTENCE)


def test_features_that_persist_under_another_number_have_not_kept_theirs():
    a = sparse(8, 2)
    order = [0, 1, 2, 4, 5, 6, 7, 3]
    kept, moved = compare_baseline(correlations(a, a[:, order])[0], active(a, a[:, order]), 1, 0.8)
    assert [row["share"] for row in (kept, moved)] == [1, 1]
    assert [row["same_number"] for row in (kept, moved)] == [3, 3]


# --- autoencoders ------------------------------------------------------------------------------------------


def test_an_autoencoder_started_from_another_and_hardly_trained_keeps_all_numbers(bridge, token_directories, tmp_path):
    parent = random_autoencoder()
    started, _ = train_autoencoder(
        bridge, token_directories, token_directories, tmp_path / "checkpoint", seed=0, hook=HOOK,
        expansion=2, tokens=640, context=8, batch=8, lr=1e-12, l1=1e-3, l1_warmup_steps=0, normalize=True, mean="data",
        init="parent", parent=parent, resampling={"at": [], "silent": 0.5, "pool_tokens": 64},
    )  # fmt: skip
    windows = Windows(token_directories, 8)
    x = activations(bridge, HOOK, windows[windows.spread(0, 1600)])
    a, b = (autoencoder.encode(x).double().numpy() for autoencoder in (parent, started))
    for row in compare_baseline(correlations(a, b)[0], active(a, b), 1, 0.999):
        assert row["features"] > 30
        assert row["same_number"] == row["persisting"] == row["features"]


def test_transfer_to_its_own_model_equals_its_evaluation(bridge, token_directories):
    one, other = (
        evaluate_autoencoder(bridge, HOOK, random_autoencoder(seed=seed), token_directories, 8, 320) for seed in (0, 1)
    )
    row = compare_transfers(one, one)
    assert all(row[name] == row[f"own_{name}"] == one[name] for name in baselines.MEASURES)
    row = compare_transfers(one, other)
    assert row["loss_recovered"] == one["loss_recovered"] != other["loss_recovered"] == row["own_loss_recovered"]
    assert set(row) | {"parent", "child", "seed"} == set(baselines.TRANSFER.names)


# --- merges ------------------------------------------------------------------------------------------------


def test_two_merges_side_by_side(tiny_model):
    states = [tiny_model(seed).state_dict() for seed in (0, 1)]
    merged = {}
    for number, method in enumerate(("slerp", "linear")):
        between = angles(*states, method)
        state = {name: tensor.numpy() for name, tensor in merge_states(*states, 0.3, between).items()}
        corpora = {c: {"loss": number + k / 8, "accuracy": number + k / 4} for k, c in enumerate(("lua", "prose"))}
        autoencoder = {"variance_explained": 0.5 + number, "loss_recovered": 0.25 + number, "l0": 9}
        merged[method] = Merged(state, tensor_table(states[0], between), corpora, autoencoder)
    rows = compare_merges(**merged)
    assert [row["corpus"] for row in rows] == ["lua", "prose"]
    assert [(row["slerp_loss"], row["linear_accuracy"]) for row in rows] == [(0, 1), (1 / 8, 5 / 4)]

    straight = {n: 0.7 * a.double() + 0.3 * states[1][n].double() for n, a in states[0].items()}
    bent = {name: torch.from_numpy(array).double() for name, array in merged["slerp"].state.items()}
    flat = lambda state: torch.cat([tensor.flatten() for tensor in state.values()])  # noqa: E731
    distance = (flat(bent) - flat(straight)).norm() / flat(bent).norm()
    ones = sum(tensor.numel() for name, tensor in states[0].items() if "norm" in name)  # parallel: not bent
    widest = max(
        np.arccos(np.corrcoef(np.r_[a.flatten(), -a.flatten()], np.r_[b.flatten(), -b.flatten()])[0, 1])
        for a, b in zip(*(s.values() for s in states), strict=True)
        if not torch.equal(a, b)
    )
    for row in rows:
        assert row["distance"] == pytest.approx(float(distance), rel=1e-5)
        assert row["distance"] > 0.05
        assert row["slerp_share"] == pytest.approx(1 - ones / len(flat(bent)))
        assert row["largest_angle"] == pytest.approx(widest, rel=1e-6)
        assert (row["slerp_variance_explained"], row["linear_variance_explained"]) == (0.5, 1.5)
        assert (row["slerp_loss_recovered"], row["linear_loss_recovered"]) == (0.25, 1.25)
        assert set(row) | {"model", "method", "t"} == set(baselines.LINEAR_MERGE.names)


def test_distance_is_over_all_tensors_in_float64():
    a = {"x": np.array([3.0, 0], np.float32), "y": np.array([[4.0]], np.float32)}
    b = {"x": np.array([3.0, 0], np.float32), "y": np.array([[4.0 + 1e-5]])}
    assert relative_distance(a, a, a) == 0
    assert relative_distance(a, b, a) == pytest.approx(1e-5 / 5, rel=1e-6)


# --- the study ---------------------------------------------------------------------------------------------

CONFIG = {
    "study": "small",
    "corpora": {"prose": {"files": "a"}, "code": {"files": "b"}},
    "tokenizer": {"train": ["prose"]},
    "models": {
        "base": {"train": ["prose", "code"]},
        "coder": {"parent": "base", "train": ["code"]},
        "other": {"pretrained": "someone/model", "train": ["prose"]},
    },
}


def configured(**changes):
    return load_study(copy.deepcopy(CONFIG) | changes)


def test_untrained_models_have_their_roots_trace_and_are_no_part_of_the_lineage():
    study, plain = configured(controls={"untrained": True}), configured()
    assert plain.untrained() == {}
    assert study.untrained() == {"base-untrained": "base"}, "not of what was trained elsewhere"
    assert study.seen_corpora("base-untrained") == study.seen_corpora("base") == ["prose", "code"]
    assert study.parents("base-untrained") == []
    assert (study.order(), study.edges()) == (plain.order(), plain.edges())


def test_controls_that_cost_an_autoencoder_are_off_by_default():
    on = {name for name, value in configured().controls.model_dump().items() if value}
    assert {"transfer", "linear_merge"} <= on
    assert not {"untrained", "started_from_parent"} & on


def test_a_model_of_the_untrained_ones_name_is_refused():
    models = CONFIG["models"] | {"base-untrained": {"train": ["code"]}}
    assert configured(models=models).order()
    with pytest.raises(StudyError, match=r"models.base-untrained: found 'base-untrained'; allowed: another name"):
        configured(models=models, controls={"untrained": True})


def test_untrained_without_a_trained_root_is_refused():
    models = {"other": CONFIG["models"]["other"]}
    with pytest.raises(StudyError, match=r"controls.untrained: found True; allowed: false .* trained from nothing"):
        configured(models=models, controls={"untrained": True})
