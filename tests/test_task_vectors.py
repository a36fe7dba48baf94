"""Merges of any number of models: each formula beside a loop over elements in float64, and models that do not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import yaml

from feature_lineage.errors import InputError
from feature_lineage.models import task_vectors
from feature_lineage.models.checkpoint import load_model
from feature_lineage.models.task_vectors import (
    PAIRS,
    Recipe,
    dropped,
    elected,
    merge_any_number,
    merged_tensor,
    trimmed,
    weighted_mean,
)
from feature_lineage.study.loading import load_study
from feature_lineage.study.plan import Plan
from feature_lineage.text.tokenizer import load_tokenizer

SHAPES = [(7,), (33, 17), (4, 5, 6), (1,)]


def tensors(count, shape, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(size=shape) * (1 + number), dtype=torch.float32) for number in range(count)]


def recipe(method="ties", parents=("a", "b", "c"), **changes):
    count = len(parents)
    plain = {
        "weights": [1.0] * count,
        "density": [0.5] * count,
        "normalize": True,
        "seed": 0,
        "model": "m",
        "base": "base",
    }
    return Recipe(**({"method": method, "parents": list(parents)} | plain | changes))


def flat(tensor):
    return [float(value) for value in tensor.flatten().tolist()]


def by_loop(base, parents, weights, density, normalize=True):
    """TIES as written in section 3 of Yadav et al. 2023, an element at a time."""
    trims = []
    for parent, share in zip(parents, density, strict=True):
        change = [p - b for p, b in zip(flat(parent), flat(base), strict=True)]
        count = max(1, int(share * len(change)))
        largest = sorted(range(len(change)), key=lambda i: (-abs(change[i]), i))[:count]
        trims.append([value if i in largest else 0.0 for i, value in enumerate(change)])
    found = []
    for i, start in enumerate(flat(base)):
        weighted = [w * trim[i] for w, trim in zip(weights, trims, strict=True)]
        sign = 1 if sum(weighted) >= 0 else -1
        agree = [(w, trim[i]) for w, trim in zip(weights, trims, strict=True) if trim[i] * sign > 0]
        total = sum(w for w, _ in agree)
        found.append(start + sum(w * d for w, d in agree) / ((total or 1) if normalize else 1))
    return np.array(found).reshape(base.shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [(0.2, 0.2, 0.2), (1.0, 0.01, 0.6)])
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.2, 3.0, 0.0)])
@pytest.mark.parametrize("normalize", [True, False])
def test_ties_equals_a_loop_over_elements(shape, density, weights, normalize):
    base, *parents = tensors(4, shape)
    asked = recipe(weights=weights, density=density, normalize=normalize)
    found = merged_tensor(parents, asked, "w", base)
    assert found.dtype == torch.float32 and found.shape == base.shape
    np.testing.assert_allclose(found, by_loop(base, parents, weights, density, normalize), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_dare_at_density_1_is_ties_at_density_1(shape):
    base, *parents = tensors(4, shape)
    found = merged_tensor(parents, recipe("dare_ties", density=[1.0] * 3, weights=[1, 2, 3]), "w", base)
    np.testing.assert_allclose(found, by_loop(base, parents, [1, 2, 3], [1] * 3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_mean_equals_a_loop_over_elements(count):
    given, weights = tensors(count, (33, 17)), list(range(1, count + 1))
    expected = sum(w * t.double() for w, t in zip(weights, given, strict=True)) / sum(weights)
    found = weighted_mean(given, weights)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(weighted_mean(given, [9 * w for w in weights]), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("density", "kept"), [(0.5, [3, 1]), (0.25, [3]), (0.01, [3]), (0.99, [3, 1, 0]), (1, [0, 1, 2, 3])]
)
def test_trimming_keeps_the_largest_of_either_sign_and_of_equal_ones_the_first(density, kept):
    change = torch.tensor([[1.0, -2.0], [1.0, -4.0]])
    expected = torch.zeros(4)
    expected[kept] = change.flatten()[kept]
    assert torch.equal(trimmed(change, density).flatten(), expected)
    assert torch.equal(change, torch.tensor([[1.0, -2.0], [1.0, -4.0]])), "the change itself stays"


def test_the_heavier_side_is_elected_and_the_other_left_out():
    # 5 against -1 -1; 1 against -1 -1; even, where the positive wins; nothing.
    changes = [torch.tensor(row) for row in ([5.0, 1.0, 1.0, 0.0], [-1.0, -1.0, -1.0, 0.0], [-1.0, -1.0, 0.0, 0.0])]
    assert elected(changes, [1, 1, 1]).tolist() == [5, -1, 1, 0]
    assert elected(changes, [1, 1, 1], normalize=False).tolist() == [5, -2, 1, 0]
    assert elected(changes, [1, 9, 1]).tolist() == [-1, -1, -1, 0]


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_dropping_keeps_the_mean_and_has_the_published_variance(density):
    """An element d becomes d / p with probability p, else 0: mean d, variance d² (1 - p) / p."""
    change, draws = torch.tensor([2.0, -0.5, 1e-3]), 20_000
    found = torch.stack([dropped(change, density, np.random.default_rng(seed)) for seed in range(draws)]).double()
    variance = change.double() ** 2 * (1 - density) / density
    assert ((found.mean(0) - change).abs() < 4 * (variance / draws).sqrt()).all()
    assert (found.var(0) / variance - 1).abs().max() < 0.1
    zero = (found == 0).double().mean(0)
    assert (zero - (1 - density)).abs().max() < 4 * math.sqrt(density * (1 - density) / draws)


def test_a_draw_depends_on_the_seed_the_merge_the_parent_and_the_tensor_alone():
    base, *parents = tensors(4, (40, 40))

    def kept(given=parents, name="w", **changes):
        return merged_tensor(given, recipe("dare_ties", weights=[1, 0, 0], **changes), name, base) != base

    plain = kept()
    assert 700 < int(plain.sum()) < 900 and torch.equal(plain, kept())
    for other in (kept(name="v"), kept(seed=1), kept(model="n"), kept(parents=["x", "b", "c"])):
        assert 600 < int((other != plain).sum()) < 1000
    assert torch.equal(plain, kept([parents[0], parents[2], parents[1]], parents=["a", "c", "b"]))


# --- whole models ------------------------------------------------------------------------------------------


def family(tiny_model, count, **changes):
    models = [tiny_model(seed, **changes) for seed in range(count)]
    for number, model in enumerate(models):
        model.name_or_path = f"models/{number}"
    return models


def states(models):
    return [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in models]


@pytest.mark.parametrize("parents", [2, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_ties_of_whole_models(tiny_model, parents, tied):
    base, *models = family(tiny_model, parents + 1, tie_word_embeddings=tied)
    start, *before = states([base, *models])
    names = ["a", "b", "c"][:parents]
    table = merge_any_number(models, recipe(parents=names, density=[0.2] * parents), base)
    for name, tensor in models[0].state_dict().items():
        expected = by_loop(start[name], [state[name] for state in before], [1] * parents, [0.2] * parents)
        np.testing.assert_allclose(tensor, expected, rtol=1e-5, atol=1e-5, err_msg=name)
    for model, state in zip([base, *models[1:]], [start, *before[1:]], strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items()), (
            "others stay as they are"
        )
    assert table.schema == PAIRS
    rows = table.to_pylist()
    own = [name for name in start if not (tied and name == "lm_head.weight")]
    assert len(rows) == len(own) * parents * (parents - 1) // 2 and {row["tensor"] for row in rows} == set(own)
    row = next(row for row in rows if "up_proj" in row["tensor"])
    one, two = (
        state[row["tensor"]].double().flatten() - start[row["tensor"]].double().flatten() for state in before[:2]
    )
    assert row["first_norm"] == pytest.approx(float(one.norm())) and row["second_norm"] == pytest.approx(
        float(two.norm())
    )
    assert (
        row["cosine"]
        == pytest.approx(float(one @ two / one.norm() / two.norm()))
        == pytest.approx(math.cos(row["angle"]))
    )
    same = [row for row in rows if "norm" in row["tensor"]]  # all ones in every model
    assert same and all(row["cosine"] is row["angle"] is None and row["first_norm"] == 0 for row in same)


def test_mean_of_whole_models_in_bfloat16_is_float32(tiny_model):
    models = [model.bfloat16() for model in family(tiny_model, 3)]
    before = states(models)
    table = merge_any_number(models, recipe("linear", weights=[1, 2, 3], base=None))
    for name, tensor in models[0].state_dict().items():
        expected = sum(w * state[name].double() for w, state in zip([1, 2, 3], before, strict=True)) / 6
        assert tensor.dtype == torch.float32
        np.testing.assert_allclose(tensor, expected, rtol=1e-5, atol=1e-7)
    row = table.to_pylist()[0]
    assert row["first_norm"] == pytest.approx(float(before[0][row["tensor"]].double().norm()))


def test_no_more_than_one_tensor_is_copied_at_a_time(tiny_model, monkeypatch):
    models = family(tiny_model, 3)
    sizes, real = [], task_vectors.merged_tensor
    monkeypatch.setattr(
        task_vectors, "merged_tensor", lambda given, *rest: sizes.append(len(given)) or real(given, *rest)
    )
    merge_any_number(models, recipe("linear", base=None))
    assert sizes == [3] * len(models[0].state_dict())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"intermediate_size": 48}, ["[16, 32]", "[16, 48]", "mlp.down_proj.weight"]),
        ({"num_hidden_layers": 2}, ["model.layers.1.", "missing"]),
        ({"tie_word_embeddings": True}, ["lm_head.weight", "tie_word_embeddings"]),
    ],
)
@pytest.mark.parametrize("odd", [1, 2, 3])  # of three parents and their base
def test_models_of_unequal_shapes_are_refused_by_name(tiny_model, change, said, odd):
    models = family(tiny_model, 4)
    models[odd] = tiny_model(9, **change)
    models[odd].name_or_path = "models/odd"
    with pytest.raises(InputError) as error:
        merge_any_number(models[:3], recipe(), models[3])
    for word in ("models/0 and models/odd", "different architectures", *said):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_unequal_vocabularies_are_refused_by_name(tiny_model):
    models = family(tiny_model, 3)
    models[1].resize_token_embeddings(402)
    with pytest.raises(
        InputError, match=r"models/0 and models/1 .* lm_head.weight is \[400, 16\] in one, \[402, 16\] in the other"
    ):
        merge_any_number(models[:2], recipe(parents=["a", "b"]), models[2])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_base_that_is_not_finite_is_refused(tiny_model, value):
    models = family(tiny_model, 3)
    with torch.no_grad():
        models[2].lm_head.weight[0, 0] = value
    with pytest.raises(InputError, match=r"lm_head.weight of models/2 holds NaN or infinity"):
        merge_any_number(models[:2], recipe(parents=["a", "b"]), models[2])


def test_both_fine_tunes_of_a_trained_model_over_their_base(trained_checkpoints):
    """A TIES merge predicts each fine-tune's own text better than the base does, and a tied embedding is merged once."""
    names = ["stories260k-python", "stories260k-lua", "stories260k"]
    *parents, base = (load_model(trained_checkpoints / name) for name in names)
    start, *before = states([base, *parents])
    given = recipe(parents=["python", "lua"], density=[0.2, 0.2], base="base")
    table = merge_any_number(parents, given, base)
    merged = parents[0].state_dict()
    for name in ("model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight", "model.norm.weight"):
        expected = by_loop(start[name], [state[name] for state in before], [1, 1], [0.2, 0.2])
        np.testing.assert_allclose(merged[name], expected, rtol=1e-5, atol=1e-5)
    assert merged["lm_head.weight"].data_ptr() == merged["model.embed_tokens.weight"].data_ptr()
    rows = table.to_pylist()
    assert len({row["tensor"] for row in rows}) == len(rows) == len(merged) - 1
    assert all(0 < row["cosine"] < 1 for row in rows if row["tensor"].endswith("up_proj.weight")), "both learned code"
    code = "def main(argv):\n    for name in argv:\n        print(name)\n    return 0\n"
    ids = torch.tensor([load_tokenizer(trained_checkpoints / "stories260k")(code)["input_ids"]])
    with torch.no_grad():
        loss = [float(model(ids, labels=ids).loss) for model in (parents[0], base)]
    assert loss[0] < loss[1]


def test_the_example_of_three_is_merged_at_small_size(project, tiny_model):
    study = load_study(yaml.safe_load((project / "config" / "examples" / "ties-of-three.yaml").read_text()))
    (name,) = Plan(study).merged
    base, *models = family(tiny_model, 4)
    start, *before = states([base, *models])
    merge_any_number(models, Recipe(**Plan(study).recipe(name)), base)
    for key, tensor in models[0].state_dict().items():
        expected = by_loop(start[key], [state[key] for state in before], [1] * 3, [0.2] * 3)
        np.testing.assert_allclose(tensor, expected, rtol=1e-5, atol=1e-5, err_msg=key)
