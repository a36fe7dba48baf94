"""A sequence of checkpoints is a chain of models, and what has no such form is refused by its key."""

from __future__ import annotations

import pytest

from feature_lineage.study.loading import load_study
from feature_lineage.study.plan import Plan
from feature_lineage.study.types import StudyError


def study(**models):
    return load_study(
        {
            "study": "sequence",
            "corpora": {"prose": {"files": "prose.txt"}, "code": {"files": "code.py"}},
            "tokenizer": {"pretrained": "someone/model"},
            "models": models,
        }
    )


def run(*revisions, **keys):
    return {"pretrained": "someone/model", "revisions": list(revisions)} | ({"train": ["prose"]} | keys)


def test_each_is_a_parent_of_the_next_and_of_the_last():
    found = study(run=run("step1", "step20", "step300", "main"))
    assert found.order() == ["run-step1", "run-step20", "run-step300", "run-main"]
    assert found.edges() == [
        ("run-step1", "run-step20"),
        ("run-step20", "run-step300"),
        ("run-step300", "run-main"),
        ("run-step20", "run-main"),
        ("run-step1", "run-main"),
    ]
    assert [found.models[name].revision for name in found.order()] == ["step1", "step20", "step300", "main"]
    assert found.roots("run-main") == ["run-step1"] and found.own_corpora("run-main") == ["prose"]


def test_of_two_there_is_one_edge():
    assert study(run=run("a", "b")).edges() == [("run-a", "run-b")]


def test_its_parent_is_a_parent_of_the_first_and_of_the_last():
    base = {"pretrained": "someone/base", "train": ["prose"]}
    found = study(base=base, run=run("a", "b", "c", parent="base", train=["code"]))
    assert found.parents("run-a") == ["base"] and found.parents("run-b") == ["run-a"]
    assert found.parents("run-c") == ["run-b", "run-a", "base"]
    assert found.seen_corpora("run-c") == ["prose", "code"]


def test_what_may_not_stand_in_a_name_becomes_a_hyphen():
    found = study(run=run("stage1-step500-tokens2B", "refs/pr/7"))
    assert found.order() == ["run-stage1-step500-tokens2B", "run-refs-pr-7"]


@pytest.mark.parametrize(
    ("models", "key", "allowed"),
    [
        ({"run": run("a", "a")}, "models.run.revisions", "different revisions"),
        ({"run": run("a/b", "a-b")}, "models.run.revisions", "different revisions"),
        ({"run": run("a", "b"), "run-b": run("c", "d")}, "models.run.revisions", "no other model has, such as run-a"),
        ({"run": run("a")}, "models.run.revisions", "at least 2"),
        ({"run": run("a", "b", revision="c")}, "models.run", "`revision` or `revisions`, not both"),
        ({"run": run("a", "b", parent="run-b")}, "models.run-a", "a lineage without cycles"),
        ({"run": run("a", "b", parent="base")}, "models.run-a.parent", "another model of this study"),
        ({"run": run("a", "b"), "child": {"parent": "run", "train": ["code"]}}, "models.child.parent", "run-a, run-b"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_no_sequence_is_refused_by_name(models, key, allowed):
    with pytest.raises(StudyError) as error:
        study(**models)
    assert f"  {key}: found" in str(error.value) and allowed in str(error.value)


# --- steps that a training keeps ---

BASE = {"train": ["prose"], "training": {"tokens": 100_000, "block": 64, "batch": 8}}
FINE = {"parent": "base", "train": ["code"], "training": {"tokens": 50_000, "block": 64, "batch": 8, "warmup_steps": 2}}


def keeping(block, *steps):
    return block | {"training": block["training"] | {"keep": list(steps)}}


def test_steps_of_a_training_are_a_sequence_before_it():
    found = study(base=keeping(BASE, 100, 10), tuned=FINE)
    assert found.order() == ["base-step10", "base-step100", "base", "tuned"]
    assert found.edges() == [
        ("base-step10", "base-step100"),
        ("base-step100", "base"),
        ("base-step10", "base"),
        ("base", "tuned"),
    ]
    assert found.origins("base") == [] and found.origins("base-step100") == []
    assert {name: found.roots(name) for name in found.order()} == {name: ["base"] for name in found.order()}
    assert found.own_corpora("base-step10") == ["prose"] and found.block("base-step10") == 64
    assert list(found.placebos()) == ["base-placebo-tuned"] and found.placebos()["base-placebo-tuned"].root == "base"


def test_a_fine_tune_that_keeps_steps_is_compared_with_its_parent_from_its_first_to_its_last():
    found = study(base=BASE, tuned=keeping(FINE, 5, 50))
    assert found.parents("tuned-step5") == ["base"] and found.parents("tuned-step50") == ["tuned-step5"]
    assert found.parents("tuned") == ["tuned-step50", "tuned-step5", "base"] and found.origins("tuned") == ["base"]
    plan = Plan(found)
    assert plan.placebo("base", "tuned") == "base-placebo-tuned" and plan.placebo("tuned-step5", "tuned") is None
    assert plan.keeping == ["tuned"] and list(plan.kept) == ["tuned-step5", "tuned-step50"]
    reasons = {reason for *_, reason in plan.no_placebo}
    assert reasons == {"a part of one training has no schedule of its own"}


def test_fine_tunes_share_a_placebo_whatever_they_keep():
    found = study(base=BASE, one=FINE, other=keeping(FINE, 5))
    assert [placebo.fine_tunes for placebo in found.placebos().values()] == [("one", "other")]


@pytest.mark.parametrize(
    ("models", "key", "allowed"),
    [
        ({"base": keeping(BASE, 10, 10)}, "models.base.training.keep", "each step once"),
        ({"base": keeping(BASE, 588)}, "models.base.training.keep", "steps before the run's last, 588"),
        ({"base": keeping(BASE, 0)}, "models.base.training.keep.0", "greater than 0"),
        (
            {"base": keeping(BASE, 5), "base-step5": BASE},
            "models.base-step5",
            "another name: models.base.training.keep",
        ),
        (
            {"base": BASE, "early": {"kept": "base", "step": 5}},
            "models.early",
            "models.base.training.keep with this step",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_kept_is_refused_by_name(models, key, allowed):
    with pytest.raises(StudyError) as error:
        study(**models)
    assert f"  {key}: found" in str(error.value) and allowed in str(error.value)
