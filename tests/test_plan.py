"""What a study's rules are told: which steps there are, which controls are measured, and why the others are not."""

from copy import deepcopy

import pytest
import yaml

from feature_lineage.study.loading import load_study
from feature_lineage.study.plan import SWITCHES, Plan, places
from feature_lineage.study.types import StudyError


@pytest.fixture
def plan(project):
    demo = yaml.safe_load((project / "config" / "config.yaml").read_text())

    def changed(**changes):
        """The demo's plan, keys with `__` for a key within a block."""
        config = deepcopy(demo)
        for key, value in changes.items():
            block, _, name = key.partition("__")
            config.setdefault(block, {})[name] = value
        return Plan(load_study(config))

    return changed


def test_models_are_told_apart_by_how_they_come_to_be(plan):
    demo = plan()
    assert (demo.trained, demo.imported, demo.merged) == (["base", "lua", "bible"], [], ["luabible"])
    assert demo.models() == list(demo.study.models)
    assert demo.architecture("base")["hidden_size"] == demo.study.models["base"].architecture.hidden_size
    assert demo.architecture("lua") is demo.architecture("luabible") is None
    assert demo.foreign("luabible") == []


def test_a_switch_turned_off_is_the_reason(plan):
    demo = plan(controls__neurons=False)
    assert demo.not_measured["neurons"] == "controls.neurons is false"
    assert "neurons" not in demo.measured and set(demo.measured) | set(demo.not_measured) == set(SWITCHES)
    assert demo.summed_up
    off = plan(**{f"controls__{name}": False for name in SWITCHES})
    assert off.measured == [] and not off.summed_up


def test_one_seed_has_no_ceiling_and_says_so(plan):
    one = plan(autoencoder__seeds=[3])
    assert one.not_measured["ceiling"] == "it needs two autoencoder.seeds, there is one"
    assert (one.first_seed, one.seed_pairs("lua")) == (3, [])
    three = plan(autoencoder__seeds=[3, 5, 4])
    assert "ceiling" in three.measured and three.seed_pairs("lua") == [(3, 5), (3, 4), (5, 4)]
    assert three.each_seed(["lua", "bible"])[:3] == [("lua", 3), ("bible", 3), ("lua", 5)]


def test_baselines_are_those_with_something_to_compare(plan):
    assert plan().baselines == ["transfer", "linear_merge"]
    everything = plan(controls__untrained=True, controls__started_from_parent=True)
    assert everything.baselines == ["untrained", "transfer", "started", "linear_merge"]
    assert everything.baseline_pairs["untrained"] == [("base", "base-untrained", "base", "base-untrained")]
    assert everything.baseline_pairs["started"][0] == ("base", "lua", "base", "base--lua")
    assert everything.compared[4:6] == ["base-untrained", "base--lua"]
    assert not everything.judged("base-untrained") and everything.judged("base")
    assert plan(controls__transfer=False, controls__linear_merge=False).baselines == []


def fine_tune(name, **training):
    return {"parent": name, "train": ["lua"], "training": {"tokens": 380000, "warmup_steps": 20} | training}


def test_each_schedule_of_a_root_has_one_placebo(plan):
    """The demo's two fine-tunes have one schedule. One of a fine-tune has its root's placebo; one of all tokens is told by its corpora."""
    demo = plan()
    assert {name: tuple(one) for name, one in demo.placebos.items()} == {"base-placebo-lua": ("base", ("lua", "bible"))}
    assert demo.placebo("base", "lua") == demo.placebo("base", "bible") == "base-placebo-lua"
    assert [edge[:2] for edge in demo.no_placebo] == [("lua", "luabible"), ("bible", "luabible")]
    assert demo.placebo_pairs == [("base", "base-placebo-lua")]
    longer = plan(models__more=fine_tune("lua"), models__other=fine_tune("base", tokens=None))
    assert longer.placebo("lua", "more") == "base-placebo-more" and longer.placebos["base-placebo-more"].root == "base"
    assert longer.placebo_for("base-placebo-other") == {"train": ["lua"], "balance": "none"}
    assert longer.placebo_for("base-placebo-lua")["train"] == []
    twice = plan(
        models__one=fine_tune("base", tokens=None),
        models__same=fine_tune("base", tokens=None),
        models__bible2=fine_tune("base", tokens=None) | {"train": ["bible"]},
    )
    assert twice.placebos["base-placebo-one"].fine_tunes == ("one", "same")
    assert twice.placebos["base-placebo-bible2"].fine_tunes == ("bible2",)


def test_a_placebo_is_its_root_trained_on_with_its_own_corpora(plan):
    study = plan().study
    assert study.parents("base-placebo-lua") == ["base"] and study.own_corpora("base-placebo-lua") == [
        "english",
        "python",
    ]
    assert study.seen_corpora("base-placebo-lua") == study.seen_corpora("base")
    assert "base-placebo-lua" not in study.order() and ("base", "base-placebo-lua") not in study.edges()


def test_an_edge_without_a_placebo_says_why(plan):
    assert {reason for *_, reason in plan().no_placebo} == {"a merge is no training"}
    off = plan(controls__placebo=False)
    assert off.placebos == {} and ("base", "lua", "controls.placebo is false") in off.no_placebo
    merged = plan(models__second={"train": ["lua"], "architecture": plan().architecture("base")})
    merged.study.models["luabible"].parents[1] = "second"
    below = Plan(
        merged.study.model_copy(
            update={"models": merged.study.models | {"on": plan(models__on=fine_tune("luabible")).study.models["on"]}}
        )
    )
    assert ("luabible", "on", "it comes from several roots") in below.no_placebo


def test_who_reads_whom(plan):
    """Both dictionaries of an edge read both models; a placebo has none of its own; a root reads all that comes from it."""
    demo = plan()
    assert demo.passed_down == [("base", "luabible")]
    seed = demo.first_seed
    assert demo.sides("base", "lua", seed) == demo.sides("lua", "luabible", seed) == ["parent", "child"]
    assert demo.sides("base", "base-placebo-lua", seed) == demo.sides("base", "luabible", seed) == ["parent"]
    own = plan(controls__placebo_autoencoders=True)
    assert (
        own.sides("base", "base-placebo-lua", seed) == ["parent", "child"]
        and own.beside == ["base-placebo-lua"]
        and own.judged("base-placebo-lua")
    )
    assert demo.beside == [] and "base-placebo-lua" in own.compared and "base-placebo-lua" not in demo.compared


def test_the_parents_dictionary_on_the_childs_corpora_is_made_where_they_differ(plan):
    assert plan().corpora_differ == []
    demo = plan(controls__same_corpora=True)
    assert demo.corpora_differ == ["base--lua", "base--bible", "lua--luabible", "bible--luabible"]
    assert demo.baseline_pairs["same_corpora"][0] == ("base", "lua", "base--lua--corpora", "lua")
    same = plan(controls__same_corpora=True, models__again=fine_tune("base") | {"train": ["english"]})
    assert "base--again" not in same.corpora_differ


def test_names_of_placebos_are_free(plan):
    with pytest.raises(StudyError, match=r"base-placebo-lua.*controls.placebo"):
        plan(**{"models__base-placebo-lua": fine_tune("base", lr=1e-4)})
    with pytest.raises(StudyError, match=r"controls\.placebo_autoencoders"):
        plan(controls__placebo=False, controls__placebo_autoencoders=True)


def test_the_other_merge_is_by_the_other_method(plan):
    demo = plan()
    assert demo.study.models["luabible"].merge.method == "slerp"
    assert demo.other_merges == {"luabible": "linear"}
    models = {name: block.model_dump(exclude_unset=True) for name, block in demo.study.models.items()}
    models["luabible"]["merge"]["method"] = "linear"
    assert plan(models__luabible=models["luabible"]).other_merges == {"luabible": "slerp"}
    assert plan(controls__linear_merge=False).other_merges == {}


def test_an_autoencoder_starts_from_the_first_parents_if_asked_to(plan):
    seed = plan().first_seed
    assert plan().starts_from("lua", seed) is None
    asked = plan(autoencoder__init="parent")
    assert [asked.starts_from(name, seed) for name in ("base", "lua", "luabible")] == [None, "base", "lua"]


def test_a_language_models_budget_is_shared_by_its_jobs(plan):
    assert plan().language_model() is None
    prices = {"interpretation__prompt_price": 0, "interpretation__completion_price": 0}
    named = plan(interpretation__model="m", interpretation__budget_usd=8, **prices).language_model()
    assert (named["model"], named["budget"], named["jobs"]) == ("m", 8, 4) and "features" not in named


def test_a_corpus_that_nothing_reads_is_named(plan):
    demo = plan()
    assert demo.unread_corpora == []
    corpus = {"package": "python", "include": ["json/*.py"]}
    assert plan(corpora__spare=corpus, flow__corpora=list(demo.study.corpora)).unread_corpora == ["spare"]


def test_places_are_those_in_the_study(plan):
    assert places(["c", "a"], ["a", "b", "c"]) == {"c": 2, "a": 0}
