"""What a study's rules are told: which steps there are, which controls are measured, and why the others are not."""

from copy import deepcopy

import pytest
import yaml

from feature_lineage.study.loading import load_study
from feature_lineage.study.plan import SWITCHES, Plan, places


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
    assert demo.imported_roots("luabible") == []


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
    assert (one.first_seed, one.seed_pairs) == (3, [])
    three = plan(autoencoder__seeds=[3, 5, 4])
    assert "ceiling" in three.measured and three.seed_pairs == [(3, 5), (3, 4)]
    assert three.each_seed(["a", "b"])[:3] == [("a", 3), ("b", 3), ("a", 5)]


def test_baselines_are_those_with_something_to_compare(plan):
    assert plan().baselines == ["transfer", "linear_merge"]
    everything = plan(controls__untrained=True, controls__started_from_parent=True)
    assert everything.baselines == ["untrained", "transfer", "started", "linear_merge"]
    assert everything.baseline_pairs["untrained"] == [("base", "base-untrained", "base-untrained")]
    assert everything.baseline_pairs["started"][0] == ("base", "lua", "base--lua")
    assert everything.compared[4:6] == ["base-untrained", "base--lua"]
    assert not everything.judged("base-untrained") and everything.judged("base")
    assert plan(controls__transfer=False, controls__linear_merge=False).baselines == []


def test_the_other_merge_is_by_the_other_method(plan):
    demo = plan()
    assert demo.study.models["luabible"].merge.method == "slerp"
    assert demo.other_merges == {"luabible": "linear"}
    models = {name: block.model_dump() for name, block in demo.study.models.items()}
    models["luabible"]["merge"]["method"] = "linear"
    assert plan(models__luabible=models["luabible"]).other_merges == {"luabible": "slerp"}
    assert plan(controls__linear_merge=False).other_merges == {}


def test_an_autoencoder_starts_from_the_first_parents_if_asked_to(plan):
    assert plan().starts_from("lua") is None
    asked = plan(autoencoder__init="parent")
    assert (asked.starts_from("base"), asked.starts_from("lua"), asked.starts_from("luabible")) == (None, "base", "lua")


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
