import logging

import numpy as np
import pyarrow as pa
import pytest
import torch

from feature_lineage.errors import InputError
from feature_lineage.models.evaluation import evaluate_model
from feature_lineage.models.merge import (
    SWEEP,
    TENSORS,
    angle,
    angles,
    choose_t,
    equilibrium,
    interpolate,
    merge_states,
    parent_accuracies,
    sweep_merge,
    tensor_table,
)
from feature_lineage.text.windows import Windows


def reference(a, b, t):
    """SLERP as written down by Shoemake, with mergekit's conventions, in float64."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    unit_a, unit_b = (x / np.linalg.norm(x) if np.linalg.norm(x) > 1e-8 else x for x in (a, b))
    dot = np.sum(unit_a * unit_b)
    if abs(dot) > 0.9995:
        return (1 - t) * a + t * b
    omega = np.arccos(dot)
    return np.sin((1 - t) * omega) / np.sin(omega) * a + np.sin(t * omega) / np.sin(omega) * b


def tensors(seed, shape, similarity):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=shape)
    b = 3 * (similarity * a + (1 - abs(similarity)) * rng.normal(size=shape))
    return torch.tensor(a, dtype=torch.float32), torch.tensor(b, dtype=torch.float32)


@pytest.mark.parametrize("t", [0.0, 0.01, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("similarity", [-0.999, -0.5, 0.0, 0.5, 0.9, 0.98, 0.999])
@pytest.mark.parametrize("shape", [(7,), (33, 17), (4, 5, 6)])
def test_interpolation_equals_a_float64_reference(shape, similarity, t):
    a, b = tensors(1, shape, similarity)
    found = interpolate(a, b, t, angle(a, b))
    assert found.dtype == torch.float32
    assert found.shape == a.shape
    expected = reference(a, b, t)
    assert np.abs(found.numpy() - expected).max() <= 1e-6 * np.abs(expected).max() + 1e-7


def test_angle_is_of_the_whole_tensor_not_of_its_rows():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    assert angle(a, b).cosine == pytest.approx(0, abs=1e-15)
    assert angle(a, b).angle == pytest.approx(np.pi / 2)


def test_angle_does_not_depend_on_length():
    a, b = tensors(2, (50,), 0.5)
    assert angle(a, b).cosine == pytest.approx(angle(1e3 * a, 1e-3 * b).cosine, rel=1e-6)


@pytest.mark.parametrize("factor", [1.0, 5.0, -1.0])
def test_parallel_tensors_are_merged_in_a_straight_line(factor):
    a, _ = tensors(3, (100,), 0)
    between = angle(a, factor * a)
    assert between.branch == "linear"
    found = interpolate(a, factor * a, 0.25, between)
    np.testing.assert_allclose(found, (0.75 + 0.25 * factor) * a, atol=1e-6)
    assert torch.isfinite(found).all()


def test_branch_changes_at_the_published_threshold():
    for cosine, branch in ((0.99949, "slerp"), (0.99951, "linear"), (-0.99949, "slerp"), (-0.99951, "linear")):
        a = torch.tensor([1.0, 0.0], dtype=torch.float64)
        b = torch.tensor([cosine, np.sqrt(1 - cosine**2)], dtype=torch.float64)
        assert angle(a, b).branch == branch


def test_both_paths_agree_where_tensors_are_nearly_parallel():
    a, b = tensors(4, (1000,), 0.95)
    straight = interpolate(a, b, 0.3, angle(a, b, "linear"))
    round_ = interpolate(a, b, 0.3, angle(a, b))
    assert angle(a, b).branch == "slerp"
    assert 0 < (straight - round_).abs().max() < 0.01 * a.abs().max()


def test_linear_method_is_linear_at_any_angle():
    a, b = tensors(5, (100,), 0)
    between = angle(a, b, "linear")
    assert between.branch == "linear"
    np.testing.assert_allclose(interpolate(a, b, 0.25, between), 0.75 * a + 0.25 * b, rtol=1e-6, atol=1e-7)
    assert between.angle == pytest.approx(angle(a, b).angle), "the angle is recorded all the same"


@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("size", [0.0, 1e-9])
def test_zero_tensors_are_not_divided_by(size, t):
    a, _ = tensors(6, (20,), 0)
    small = torch.full((20,), size / np.sqrt(20))
    for first, second in ((a, small), (small, a), (small, small)):
        found = interpolate(first, second, t, angle(first, second))
        assert torch.isfinite(found).all()
        np.testing.assert_allclose(found, reference(first, second, t), atol=1e-6)


def test_both_ends_are_the_parents(tiny_model):
    a, b = tiny_model(0).state_dict(), tiny_model(1).state_dict()
    for method in ("slerp", "linear"):
        between = angles(a, b, method)
        for t, parent in ((0.0, a), (1.0, b)):
            merged = merge_states(a, b, t, between)
            assert merged.keys() == parent.keys()
            for name, tensor in parent.items():
                torch.testing.assert_close(merged[name], tensor, rtol=0, atol=1e-7)


def test_every_tensor_has_its_own_angle(tiny_model):
    a, b = tiny_model(0).state_dict(), tiny_model(1).state_dict()
    merged = merge_states(a, b, 0.58, angles(a, b, "slerp"))
    for name in a:
        np.testing.assert_allclose(merged[name], reference(a[name], b[name], 0.58), atol=1e-7)
    # the norms' weights are all ones in both: parallel; the rest is random: nearly orthogonal
    branches = {name: found.branch for name, found in angles(a, b, "slerp").items()}
    assert {branches[name] for name in a if "norm" in name} == {"linear"}
    assert {branches[name] for name in a if "norm" not in name} == {"slerp"}


def test_different_architectures_are_refused(tiny_model):
    a, b = tiny_model().state_dict(), tiny_model(intermediate_size=48).state_dict()
    with pytest.raises(InputError, match=r"different architectures, \d+ tensors differ: .*mlp.* \[\d+, \d+\]"):
        angles(a, b, "slerp")
    with pytest.raises(InputError, match=r"different architectures"):
        angles(a, tiny_model(num_hidden_layers=2).state_dict(), "slerp")


def test_tensor_table(tiny_model):
    a, b = tiny_model(0).state_dict(), tiny_model(1).state_dict()
    between = angles(a, b, "slerp")
    table = tensor_table(a, between)
    assert table.schema == TENSORS
    assert table["tensor"].to_pylist() == list(a)
    assert sum(table["elements"].to_pylist()) == sum(tensor.numel() for tensor in a.values())
    for row in table.to_pylist():
        assert row["cosine"] == pytest.approx(np.cos(row["angle"]), abs=1e-12)
        assert row["branch"] == between[row["tensor"]].branch


# --- equilibrium -------------------------------------------------------------------------------------------

T = np.array([0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize(
    ("first", "second", "t", "crosses"),
    [
        ([0.9, 0.8, 0.6, 0.4, 0.2], [0.1, 0.2, 0.4, 0.7, 0.9], 0.6, True),  # .6 - 2x/2.5 meets .4 + 3x/2.5 at x = .1
        ([0.8, 0.7, 0.5, 0.3, 0.2], [0.1, 0.3, 0.5, 0.6, 0.7], 0.5, True),  # on a point
        ([0.9, 0.8, 0.7, 0.6, 0.5], [0.1, 0.2, 0.3, 0.4, 0.4], 1.0, False),  # never: nearest at the end
        ([0.9, 0.8, 0.5, 0.8, 0.9], [0.1, 0.2, 0.4, 0.2, 0.1], 0.5, False),  # never: nearest inside
        # three crossings, at .125, .375 and .875, where accuracy is .7, .5 and .3
        ([0.8, 0.6, 0.4, 0.4, 0.2], [0.6, 0.8, 0.2, 0.2, 0.4], 0.125, True),
        ([0.2, 0.4, 0.4, 0.6, 0.8], [0.4, 0.2, 0.2, 0.8, 0.6], 0.875, True),
        ([0.1, 0.2, 0.4, 0.7, 0.9], [0.9, 0.8, 0.6, 0.4, 0.2], 0.6, True),  # the curves the other way round
    ],
)
def test_equilibrium_on_curves_made_by_hand(first, second, t, crosses):
    found = equilibrium(T, np.array(first), np.array(second))
    assert found.crosses is crosses
    assert found.t == pytest.approx(t)


def test_equilibrium_of_straight_lines_is_exact_on_an_uneven_grid():
    t = np.array([0, 0.1, 0.15, 0.7, 1])
    found = equilibrium(t, 0.5 - 0.2 * t, 0.2 + 0.4 * t)
    assert found.t == pytest.approx(0.5)
    assert found.crosses


def table(rows):
    """A sweep's table from {t: {corpus: accuracy}}."""
    return pa.Table.from_pylist(
        [{"t": t, "corpus": c, "accuracy": a, "loss": -a} for t, found in rows.items() for c, a in found.items()], SWEEP
    )


def test_parent_accuracies_weigh_each_corpus_the_same():
    rows = {1.0: {"a": 0.1, "b": 0.3, "c": 0.9}, 0.0: {"a": 0.7, "b": 0.5, "c": 0.2}}  # not in order of t
    t, first, second = parent_accuracies(table(rows), ["a", "b"], ["c"])
    np.testing.assert_array_equal(t, [0, 1])
    np.testing.assert_allclose(first, [0.6, 0.2])
    np.testing.assert_allclose(second, [0.2, 0.9])


def test_shared_corpus_counts_for_both_parents():
    _, first, second = parent_accuracies(table({0.0: {"a": 0.4, "b": 0.8}}), ["a"], ["a", "b"])
    assert (first[0], second[0]) == (0.4, pytest.approx(0.6))


def test_chosen_t(caplog):
    crossing = table({0.0: {"a": 0.6, "b": 0.2}, 1.0: {"a": 0.2, "b": 0.4}})
    with caplog.at_level(logging.INFO, "feature_lineage"):
        assert choose_t("equilibrium", crossing, ["a"], ["b"]).t == pytest.approx(2 / 3)
        assert "equilibrium at t = 0.6667" in caplog.text
        assert choose_t(0.3, crossing, ["a"], ["b"]).t == 0.3
        apart = table({0.0: {"a": 0.6, "b": 0.2}, 1.0: {"a": 0.5, "b": 0.4}})
        assert choose_t("equilibrium", apart, ["a"], ["b"]) == (1.0, False)
        assert "do not cross" in caplog.text


# --- the sweep ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["slerp", "linear"])
def test_sweep_measures_the_merged_model_at_each_point(tiny_model, tmp_path, write_tokens, method):
    rng = np.random.default_rng(0)
    directories = {name: write_tokens(tmp_path / name, rng.integers(0, 400, 300)) for name in ("lua", "stories")}
    a, b = tiny_model(0), tiny_model(1)
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in (a, b)]
    found = sweep_merge(a, b, method, 4, directories, block=16, evaluation_tokens=80)
    assert found.schema == SWEEP
    assert found.select(["t", "corpus"]).to_pylist() == [
        {"t": t, "corpus": corpus} for t in (0.0, 1 / 3, 2 / 3, 1.0) for corpus in ("lua", "stories")
    ]
    windows = Windows(directories, 16)
    for row in found.to_pylist():
        straight = {name: (1 - row["t"]) * states[0][name] + row["t"] * states[1][name] for name in states[0]}
        bent = {name: torch.tensor(reference(*(s[name] for s in states), row["t"])).float() for name in states[0]}
        model = tiny_model(2)
        model.load_state_dict(bent if method == "slerp" else straight)
        chosen = windows.spread(list(directories).index(row["corpus"]), 80)
        expected = evaluate_model(model, windows, chosen)
        assert row["loss"] == pytest.approx(expected["loss"], abs=1e-5)
        assert row["accuracy"] == expected["accuracy"]
    for name, tensor in b.state_dict().items():
        assert torch.equal(tensor, states[1][name]), "the second parent stays as it is"
