"""A sequence of checkpoints is a chain of models, and what has no such form is refused by its key."""

from __future__ import annotations

import pytest

from feature_lineage.study.loading import load_study
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
