"""Autoencoders made elsewhere, in a study's file and its plan: which there are, which read which model, and what is refused."""

from __future__ import annotations

from copy import deepcopy

import pytest
import yaml

from feature_lineage.jobs.job_list import jobs
from feature_lineage.jobs.resources import request
from feature_lineage.jobs.sizes import sizes_of
from feature_lineage.study.dictionaries import FILES, features_said, folder_problem, formats_of
from feature_lineage.study.digests import Checksums
from feature_lineage.study.loading import load_study
from feature_lineage.study.local_inputs import LocalInputs
from feature_lineage.study.plan import Plan
from feature_lineage.study.types import StudyError

ONE, TWO = {"pretrained": "released/one"}, {"pretrained": "released/two"}


@pytest.fixture
def plan(project):
    demo = yaml.safe_load((project / "config" / "config.yaml").read_text())

    def changed(autoencoders, **blocks):
        """The demo's plan with these autoencoders; without `seeds`, as a user would leave it."""
        config = deepcopy(demo) | {"autoencoders": autoencoders}
        del config["autoencoder"]["seeds"]
        for name, block in blocks.items():
            config[name] = {**config.get(name, {}), **block}
        return Plan(load_study(config))

    return changed


def test_imported_ones_take_the_place_of_seeds(plan):
    found = plan({"base": [ONE, TWO], "lua": ONE})
    assert found.study.autoencoder.seeds == [0, 1]
    assert (found.seeds("base"), found.seeds("lua"), found.seeds("bible")) == ([0, 1], [0], [0, 1])
    assert found.study.imported_autoencoder("base", 1).pretrained == "released/two"
    assert found.study.imported_autoencoder("lua", 1) is found.study.imported_autoencoder("bible", 0) is None
    assert found.imported_autoencoders == ["base", "lua"] and ("lua", 1) not in found.autoencoders
    assert ("bible", 1) in found.trained_autoencoders and ("base", 0) not in found.trained_autoencoders
    assert found.sides("base", "lua", 0) == ["parent", "child"] and found.sides("base", "lua", 1) == ["parent"]
    assert (("base", "lua"), 1) in found.each_reading([("base", "lua")])
    assert found.each_pair([("base", "lua")]) == [(("base", "lua"), 0)]
    assert found.seed_pairs("base") == [(0, 1)] and found.seed_pairs("lua") == []


def test_a_model_without_one_is_read_by_its_parents(plan):
    found = plan(
        {"base": ONE, "lua": "none", "bible": "none", "luabible": "none"},
        cases={"lord": {"model": "base", "tokens": [" LORD"]}},
    )
    assert found.read == ["base"] and found.matched_edges == []
    assert found.sides("base", "lua", 0) == ["parent"] and found.sides("lua", "luabible", 0) == []
    assert found.each_reading(found.study.edges()) == [(("base", "lua"), 0), (("base", "bible"), 0)]
    assert found.passed_down == [("base", "luabible")] and found.sides("base", "luabible", 0) == ["parent"]
    assert set(found.not_measured) >= {"ceiling", "alignment_null", "as_published"}
    assert found.other_merges == {} and found.transferred == [("base", "lua"), ("base", "bible")]
    rules = {job.rule for job in jobs(found)}
    assert "train_autoencoder" not in rules and {"import_autoencoder", "check_autoencoder"} <= rules


def test_a_root_without_one_is_read_by_its_children(plan):
    found = plan({"base": "none"})
    assert found.sides("base", "lua", 0) == ["child"] and found.passed_down == []
    assert found.placebos == {} and found.baseline_pairs["untrained"] == []
    assert (
        found.study.case_models("lowercase" if "lowercase" in found.study.cases else next(iter(found.study.cases)))[0]
        == "lua"
    )


def test_controls_train_nothing_from_what_is_not_there(plan):
    controls = {"started_from_parent": True, "same_corpora": True, "untrained": True}
    found = plan({"base": ONE, "bible": ONE}, controls=controls, autoencoder={"mean": "data"})
    assert found.started == ["base--lua", "lua--luabible", "bible--luabible"]
    assert found.corpora_differ == ["lua--luabible"] and found.seeds("bible--luabible") == [0]


def test_the_childs_starts_from_an_imported_one(plan):
    found = plan({"base": ONE}, autoencoder={"init": "parent", "mean": "data", "seeds": [4, 5]})
    assert found.starts_from("lua", 4) == "base" and found.starts_from("lua", 5) is None


@pytest.mark.parametrize(
    ("autoencoders", "autoencoder", "said"),
    [
        ({"nobody": ONE}, {}, ["autoencoders.nobody", "a model of this study"]),
        ({"base": [ONE, TWO]}, {"seeds": [0]}, ["autoencoder.seeds", "at least 2 seeds"]),
        ({"base": [ONE, ONE]}, {}, ["autoencoders.base", "each autoencoder once"]),
        (dict.fromkeys(("base", "lua", "bible", "luabible"), "none"), {}, ["no feature can be read"]),
        ({"base": ONE}, {"init": "parent"}, ["autoencoder.mean", "data"]),
        ({"base": "released/one"}, {}, ["autoencoders.base", "none, a block with a key `pretrained`"]),
        ({"base": []}, {}, ["autoencoders.base", "none, a block with a key `pretrained`"]),
        ({"base": ONE | {"format": "gguf"}}, {}, ["autoencoders.base", "format", "gguf", "sparsify"]),
        ({"base": ONE | {"formt": "x"}}, {}, ["autoencoders.base", "formt", "did you mean format?", "accept"]),
        ({"base": ONE | {"accept": 1}}, {}, ["autoencoders.base", "accept", "true or false"]),
    ],
)
def test_what_does_not_fit_is_refused_with_key_and_remedy(plan, autoencoders, autoencoder, said):
    with pytest.raises(StudyError) as error:
        plan(autoencoders, autoencoder=autoencoder)
    assert all(part in str(error.value) for part in said), error.value


def test_how_wide_activations_are_is_known_of_what_is_trained_here(plan):
    found = plan({"base": ONE})
    wide = found.study.models["base"].architecture
    assert found.elements("base") == found.elements("luabible") == wide.intermediate_size
    assert plan({"base": ONE}, autoencoder={"hook": "blocks.0.hook_resid_post"}).elements("lua") == wide.hidden_size
    assert plan({"base": ONE}, models={"base": {"pretrained": "gpt2", "train": ["english"]}}).elements("lua") is None


def test_a_case_starts_where_features_are_read(plan):
    with pytest.raises(StudyError, match=r"cases\.start\.model: found 'lua'; allowed: a model that has an autoencoder"):
        plan({"lua": "none"}, cases={"start": {"model": "lua", "tokens": [" the"]}})


# --- folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FILES)
def test_a_format_is_told_by_its_files(tmp_path, format):
    for name in FILES[format]:
        (tmp_path / name).write_text("{}")
    assert (
        formats_of(tmp_path) == [format]
        and folder_problem(tmp_path) is None
        and folder_problem(tmp_path, format) is None
    )
    (tmp_path / FILES[format][-1]).unlink()
    assert FILES[format][-1] in folder_problem(tmp_path, format)
    assert "holds no autoencoder" in folder_problem(tmp_path)


def test_a_folder_of_two_formats_needs_a_name(tmp_path):
    for name in (*FILES["saelens"], *FILES["sparsify"]):
        (tmp_path / name).write_text("{}")
    assert "`format: saelens`, or sparsify" in folder_problem(tmp_path) and folder_problem(tmp_path, "sparsify") is None


@pytest.mark.parametrize(
    ("folder", "name", "text", "features"),
    [
        ("a", "cfg.json", '{"d_sae": 96}', 96),
        ("a", "cfg.json", '{"num_latents": 128, "k": 4}', 128),
        ("a", "config.json", '{"trainer": {"dict_size": 64}}', 64),
        ("layer_12/width_65k/average_l0_71", "other", "", 65 << 10),
        ("layer_12_width_1m_l0_small", "config.json", "not JSON", 1 << 20),
        ("a", "cfg.json", "[]", None),
    ],
)
def test_how_many_features_it_has_is_read_before_anything_runs(plan, tmp_path, folder, name, text, features):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / name).write_text(text)
    study = plan({"base": {"pretrained": str(tmp_path / folder)}}).study
    assert features_said(study.autoencoders["base"][0]) == features


def inputs(plan, tmp_path, **block):
    return LocalInputs(plan({"base": block}).study, Checksums(tmp_path / "checksums.json"))


def test_a_released_folder_is_known_by_its_contents(plan, tmp_path):
    one, other = tmp_path / "one" / "layer_1", tmp_path / "other" / "layer_1"
    for folder, weights in ((one, "a"), (other, "a")):
        folder.mkdir(parents=True)
        (folder / "cfg.json").write_text('{"k": 3}')
        (folder / "sae.safetensors").write_text(weights)

    def identity(folder):
        found = inputs(plan, tmp_path, pretrained=str(folder.parent), folder="layer_1")
        found.check()
        return found.autoencoder("base", 0)

    before = identity(one)
    assert before == identity(other) and before.startswith("sha256:")
    (other / "notes.txt").write_text("are not read")
    assert identity(other) == before
    for name, text in (("activation_scaler.json", "{}"), ("cfg.json", '{"k": 4}')):
        (other / name).write_text(text)
        assert identity(other) not in (before, identity(one))
        before = identity(other)
    hub = inputs(plan, tmp_path, pretrained="google/gemma-scope-2b-pt-res", folder="layer_1/width_16k/average_l0_9")
    assert hub.autoencoder("base", 0) == "google/gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_9"


def test_a_folder_that_is_none_is_refused_before_anything_runs(plan, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_text("")
    for folder, said in (
        (tmp_path / "model", "holds no autoencoder that is known, but model.safetensors"),
        (tmp_path / "no", "no such folder"),
    ):
        with pytest.raises(StudyError) as error:
            inputs(plan, tmp_path, pretrained=str(folder)).check()
        assert "autoencoders.base.pretrained" in str(error.value) and said in str(error.value), error.value


def test_a_large_dictionary_is_asked_memory_for(plan, tmp_path):
    """A cluster's request for what reads it, and for what compares all, follows from the features that its configuration states."""
    (tmp_path / "cfg.json").write_text('{"d_sae": 65536}')
    study = plan({"base": {"pretrained": str(tmp_path)}, "lua": "none"}).study
    assert sizes_of(study, "base").features == sizes_of(study, None).features == 65536
    assert sizes_of(study, "bible").features == sizes_of(plan({}).study, None).features < 65536
    needed = {step: request(study, step, "base").mem_mb for step in ("collect_features", "evaluate_autoencoder")}
    assert all(found > request(plan({}).study, step, "base").mem_mb for step, found in needed.items())
    assert request(study, "judge_features").mem_mb > request(plan({}).study, "judge_features").mem_mb
