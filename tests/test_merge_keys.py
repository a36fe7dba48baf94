"""Merges of any number of parents in a configuration: whose changes are merged, and what is refused before anything runs."""

from __future__ import annotations

import json

import pytest

from feature_lineage.study.loading import load_study
from feature_lineage.study.plan import Plan
from feature_lineage.study.types import StudyError

BASE = {"pretrained": "someone/base", "train": ["prose"]}


def child(parent="base", **keys):
    return {"pretrained": "someone/child", "parent": parent} | keys


def merge(*parents, **keys):
    return {"parents": list(parents)} | ({"merge": keys} if keys else {})


def study(seed=0, **models):
    return load_study(
        {
            "study": "merged",
            "seed": seed,
            "corpora": {"prose": {"files": "prose.txt"}, "code": {"files": "code.py"}},
            "tokenizer": {"pretrained": "someone/base"},
            "models": models,
        }
    )


FAMILY = {"base": BASE, "a": child(), "b": child(), "c": child()}


@pytest.mark.parametrize(
    ("models", "found"),
    [
        (FAMILY | {"m": merge("a", "b", "c", method="ties")}, "base"),
        (FAMILY | {"mid": child(), "a": child("mid"), "b": child("mid"), "m": merge("a", "b", method="ties")}, "mid"),
        (FAMILY | {"mid": child(), "a": child("mid"), "m": merge("a", "b", method="dare_ties")}, "base"),
        (FAMILY | {"b": child("a"), "m": merge("a", "b", method="ties")}, "a"),  # a parent that the other comes from
        (FAMILY | {"m": merge("a", "b", method="ties", base="c")}, "c"),
        (FAMILY | {"m": merge("a", "b", method="linear", weights=[1, 2])}, None),
        (FAMILY | {"m": merge("a", "b", method="slerp", t=0.5)}, None),
    ],
)
def test_the_base_is_the_nearest_common_ancestor_or_the_one_that_is_named(models, found):
    made = study(**models)
    assert made.merge_base("m") == found
    recipe = Plan(made).recipe("m")
    assert (recipe is None) == (models["m"]["merge"]["method"] == "slerp") and (
        recipe is None or recipe["base"] == found
    )


def test_of_two_nearest_ancestors_neither_is_the_base():
    """Both children of one pair: each ancestor is as near as the other."""
    two = FAMILY | {
        "x": {"pretrained": "someone/x", "parents": ["a", "b"]},
        "y": {"pretrained": "someone/y", "parents": ["b", "a"]},
    }
    with pytest.raises(StudyError) as error:
        study(**two, m=merge("x", "y", method="ties"))
    said = str(error.value)
    assert "models.m.merge.base" in said and "x, y have no nearest common ancestor" in said and "base, a, b" in said
    assert study(**two, m=merge("x", "y", method="ties", base="b")).merge_base("m") == "b"


def test_a_base_that_is_no_ancestor_is_made_first_and_no_edge():
    made = study(**FAMILY, m=merge("a", "b", method="ties", base="c"))
    assert made.made_from("m") == ["a", "b", "c"] and made.parents("m") == ["a", "b"]
    assert "c" not in made.ancestors("m") and ("c", "m") not in made.edges()


def test_a_recipe_has_a_weight_and_a_density_for_each_parent():
    made = study(
        seed=7,
        **FAMILY,
        m=merge("a", "b", "c", method="dare_ties", density=0.5),
        n=merge("a", "b", "c", method="linear"),
    )
    assert Plan(made).recipe("m") == {
        "method": "dare_ties", "weights": [1.0] * 3, "density": [0.5] * 3, "normalize": True, "seed": 7, "model": "m",
        "parents": ["a", "b", "c"], "base": "base",
    }  # fmt: skip
    other = Plan(study(seed=8, **FAMILY, n=merge("a", "b", "c", method="linear"))).recipe("n")
    assert Plan(made).recipe("n") == other, "a mean draws nothing: another seed does not rerun it"
    assert Plan(made).on_a_path == [] and Plan(made).other_merges == {} and "sweep-m" not in Plan(made).figures


def test_a_path_is_measured_on_the_sample_where_parents_have_no_corpora():
    made = Plan(study(**FAMILY, m=merge("a", "b", t=0.3), n=merge("base", "a", t=0.3)))
    assert made.swept_corpora("m") == ["prose", "code"] and made.swept_corpora("n") == ["prose"]


REFUSED = [
    (merge("a", "b", "c"), "merge.method", "slerp", "linear, ties or dare_ties"),
    (merge("a", "b", "c", method="slerp", t=0.5), "merge.method", "slerp", "there are 3"),
    (merge("a", "b", t=0.5, weights=[1, 2]), "merge.weights", "[1.0, 2.0]", "no `weights` with slerp"),
    (merge("a", "b", method="linear", weights=[1, 2, 3]), "merge.weights", "[1.0, 2.0, 3.0]", "one for each of the 2 parents"),
    (merge("a", "b", method="ties", weights=[0, 0]), "merge.weights", "[0.0, 0.0]", "some weight above 0"),
    (merge("a", "b", method="linear", weights=[1, -1]), "merge.weights.1", "-1", "greater than or equal to 0"),
    (merge("a", "b", "c", method="ties", density=[0.1, 0.2]), "merge.density", "[0.1, 0.2]", "a number, or one for each of the 3"),
    (merge("a", "b", method="ties", density=0), "merge.density", "0", "greater than 0"),
    (merge("a", "b", method="linear", weights=[1, 2], t=0.5), "merge.t", "0.5", "no `t` with `weights`"),
    (merge("a", "b", "c", method="linear", t="equilibrium"), "merge.t", "equilibrium", "no `t` with 3 parents"),
    (merge("a", "b", method="ties", t="equilibrium"), "merge.t", "equilibrium", "no `t` with ties"),
    (merge("a", "b", method="dare_ties", points=5), "merge.points", "5", "no `points` with dare_ties"),
    (merge("a", "b", t=0.5, density=0.2), "merge.density", "0.2", "no `density` with slerp; ties and dare_ties have it"),
    (merge("a", "b", "c", method="linear", base="base"), "merge.base", "'base'", "no `base` with linear"),
    (merge("a", "b", method="linear", t=0.5, normalize=False), "merge.normalize", "False", "no `normalize` with linear"),
    (merge("a", "b"), "merge.t", "equilibrium", "models.a.train"),
    (merge("base", "a"), "merge.t", "equilibrium", "models.a.train"),
    (merge("a", "b", method="ties", base="nobody"), "merge.base", "'nobody'", "a model of this study: base, a, b, c, other, m"),
    (merge("a", "other", method="ties"), "merge.base", "None", "no common ancestor"),
    (merge("a", "b", method="ties", base="m"), "", "m -> m", "without cycles"),
]  # fmt: skip


@pytest.mark.parametrize(("block", "key", "value", "allowed"), REFUSED)
def test_what_does_not_fit_is_one_message_with_key_value_and_remedy(block, key, value, allowed):
    with pytest.raises(StudyError) as error:
        study(**FAMILY, other=BASE, m=block)
    said = [line for line in str(error.value).splitlines() if "models." in line]
    assert len(said) == 1, error.value
    assert f"models.m.{key}".rstrip(".") in said[0] and value in said[0] and allowed in said[0], said


def test_a_base_that_comes_from_the_merge_is_a_cycle():
    with pytest.raises(StudyError, match=r"m -> late -> m.*without cycles|late -> m -> late.*without cycles"):
        study(**FAMILY, m=merge("a", "b", method="ties", base="late"), late=child("m"))


def test_a_base_of_another_architecture_is_refused():
    trained = {"train": ["prose"], "architecture": {"hidden_size": 64}}
    of = {
        "base": {"train": ["prose"]},
        "a": {"parent": "base", "train": ["prose"]},
        "b": {"parent": "base", "train": ["code"]},
    }
    with pytest.raises(StudyError, match=r"models.m.parents.*models of one architecture"):
        study(**of, small=trained, m=merge("a", "b", method="ties", base="small"))


@pytest.mark.parametrize(("what", "value"), [("vocab_size", 514), ("hidden_size", 32), ("tie_word_embeddings", True)])
@pytest.mark.parametrize("odd", ["a", "b", "base"])
def test_checkpoints_on_disk_of_other_shapes_are_refused_before_anything_runs(tmp_path, what, value, odd):
    plain = {"model_type": "llama", "vocab_size": 512, "hidden_size": 64, "tie_word_embeddings": False}
    models = {}
    for name in ("base", "a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(plain | ({what: value} if name == odd else {})))
        models[name] = {"pretrained": str(folder)} | ({"train": ["prose"]} if name == "base" else {"parent": "base"})
    with pytest.raises(StudyError) as error:
        study(**models, tuned={"parent": "b", "train": ["code"]}, m=merge("a", "tuned", method="ties"))
    second = "tuned" if odd != "base" else "base"
    (said,) = [line for line in str(error.value).splitlines() if "models.m.parents" in line]
    assert f"{what} is " in said and "in models.a" in said and f"in models.{second}" in said


def test_the_example_of_three_loads(project):
    import yaml

    made = load_study(yaml.safe_load((project / "config" / "examples" / "ties-of-three.yaml").read_text()))
    (name,) = Plan(made).merged
    assert (
        len(made.parents(name)) == 3 and Plan(made).recipe(name)["method"] == "ties" and made.merge_base(name) == "base"
    )
