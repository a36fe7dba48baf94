"""mergekit's configurations as a study's models: every shape that it writes, and what a study could not merge alike, refused by name."""

from __future__ import annotations

import json

import pytest
import yaml

from feature_lineage.cli import main
from feature_lineage.errors import InputError
from feature_lineage.study.loading import load_study
from feature_lineage.study.mergekit import models_from_mergekit
from feature_lineage.study.plan import Plan

CORPORA = {"web": {"files": "web.txt"}}


@pytest.fixture
def read(tmp_path):
    """A function that writes a configuration and gives the models of the study that it becomes, and the text."""

    def of(config, corpus="web"):
        folder = tmp_path / "merged-7B"
        folder.mkdir(exist_ok=True)
        text = config if isinstance(config, str) else yaml.safe_dump(config)
        (folder / "mergekit_config.yml").write_text(text)
        printed = models_from_mergekit(folder, corpus)
        study = load_study(
            {"study": "s", "corpora": CORPORA, "tokenizer": {"pretrained": "a/b"}} | yaml.safe_load(printed)
        )
        return study, printed

    return of


def models(*names, **parameters):
    """Models, each with a value of each parameter's list."""
    return [
        {"model": name} | ({"parameters": {key: values[i] for key, values in parameters.items()}} if parameters else {})
        for i, name in enumerate(names)
    ]


def merge_of(study, name="merged-7B"):
    block = study.models[name]
    return block.parents, block.merge.model_dump(exclude_unset=True)


TIES = """
models:
  - model: org/base-7B
  - model: org/chat-7B
    parameters: {density: 0.53, weight: 0.4}
  - model: org/code-7B@v2
    parameters: {density: 0.5, weight: 0.3}
merge_method: ties
base_model: org/base-7B
parameters: {int8_mask: true, normalize: true}
dtype: bfloat16
tokenizer_source: union
"""


def test_ties_over_a_base(read):
    study, text = read(TIES)
    assert study.models["base-7B"].train == ["web"] and study.parents("chat-7B") == ["base-7B"]
    assert (study.models["code-7B"].pretrained, study.models["code-7B"].revision) == ("org/code-7B", "v2")
    expected = {"method": "ties", "weights": [0.4, 0.3], "density": [0.53, 0.5]}
    assert merge_of(study) == (["chat-7B", "code-7B"], expected)
    assert study.merge_base("merged-7B") == "base-7B"
    comment = text.partition("models:")[0]
    assert "# From " in comment and 'dtype: "bfloat16", tokenizer_source: "union"' in comment
    assert all(line.startswith("#") for line in comment.splitlines())


def test_dare_ties_is_not_normalized_unless_it_says_so(read):
    """mergekit's default; lambda is then a factor of the weights."""
    config = {"merge_method": "dare_ties", "base_model": "o/base", "models": models("o/a", "o/b", weight=[0.4, 0.3])}
    assert merge_of(read(config)[0])[1] == {
        "method": "dare_ties",
        "weights": [0.4, 0.3],
        "density": 1.0,
        "normalize": False,
    }
    config["parameters"] = {"lambda": 2, "density": 0.5}
    assert merge_of(read(config)[0])[1] == {
        "method": "dare_ties",
        "weights": [0.8, 0.6],
        "density": 0.5,
        "normalize": False,
    }
    config["parameters"] = {"normalize": True, "density": 0.5}
    assert merge_of(read(config)[0])[1] == {"method": "dare_ties", "weights": [0.4, 0.3], "density": 0.5}


def test_linear_has_no_base_and_always_its_weights(read):
    """Of two without weights a study would look for a position on a path."""
    study, _ = read({"merge_method": "linear", "models": models("o/a", "o/b"), "parameters": {"weight": 1.0}})
    assert merge_of(study) == (["a", "b"], {"method": "linear", "weights": [1.0, 1.0]})
    assert study.edges() == [("a", "merged-7B"), ("b", "merged-7B")] and Plan(study).on_a_path == []


@pytest.mark.parametrize("base", ["o/a", "o/b"])
def test_slerp_starts_at_its_base(read, base):
    config = {"merge_method": "slerp", "base_model": base, "parameters": {"t": 0.3}, "models": models("o/a", "o/b")}
    study, _ = read(config)
    assert merge_of(study) == ([base[-1], "ab".replace(base[-1], "")], {"method": "slerp", "t": 0.3})


def slices(*ranges, names=("o/a", "o/b"), **keys):
    return [{"sources": [{"model": name, "layer_range": list(one)} for name in names]} | keys for one in ranges]


@pytest.mark.parametrize("ranges", [[(0, 32)], [(0, 16), (16, 32)]])
@pytest.mark.parametrize("within", [True, False])
def test_slices_of_all_layers_are_whole_models(read, ranges, within):
    t = {"parameters": {"t": 0.4}}
    config = {"merge_method": "slerp", "base_model": "o/a", "slices": slices(*ranges, **(t if within else {}))}
    study, _ = read(config | ({} if within else t))
    assert merge_of(study) == (["a", "b"], {"method": "slerp", "t": 0.4})


@pytest.mark.parametrize(
    "reference",
    [
        "o/a@main",
        {"path": "o/a", "revision": "main"},
        {"model": {"path": "o/a", "revision": "main"}},
        {"model": {"model": {"path": "o/a", "revision": "main"}}},
    ],
)
def test_a_model_is_named_in_several_ways(read, reference):
    config = {"merge_method": "linear", "models": models(reference, "o/b", weight=[1, 2])}
    block = read(config)[0].models["a"]
    assert (block.pretrained, block.revision) == ("o/a", "main")


@pytest.mark.parametrize(
    "value", [0.4, [0.4], [0.4, 0.4], {"value": 0.4}, [{"value": 0.4}], [{"filter": "*", "value": 0.4}], "4e-1"]
)
def test_one_value_is_written_in_several_ways(read, value):
    config = {"merge_method": "slerp", "base_model": "o/a", "models": models("o/a", "o/b"), "parameters": {"t": value}}
    assert merge_of(read(config)[0])[1]["t"] == 0.4


def test_names_that_are_taken_get_a_number(read):
    study, _ = read({"merge_method": "linear", "models": models("x/model", "y/Model", "z/merged-7B", weight=[1, 1, 1])})
    assert merge_of(study, "merged-7B-2")[0] == ["model", "Model-2", "merged-7B"]


SLERP = {"merge_method": "slerp", "base_model": "o/a", "models": models("o/a", "o/b")}
OVER = {"merge_method": "ties", "base_model": "o/base", "models": models("o/a", "o/b", weight=[1, 1])}
LINEAR = {"merge_method": "linear", "models": models("o/a", "o/b", weight=[1, 1])}
REFUSED = [
    ({"merge_method": "passthrough", "slices": slices((0, 8))}, "merge_method 'passthrough' is not known"),
    (SLERP | {"parameters": {"t": [0, 0.5, 1]}}, "parameters.t is a gradient over the layers, [0, 0.5, 1]"),
    (SLERP | {"parameters": {"t": [{"filter": "mlp", "value": 0.1}, {"value": 0.5}]}}, "parameters.t is a value for some tensors"),
    (SLERP | {"parameters": {"t": 1.5}}, "parameters.t: found 1.5"),
    (SLERP, "parameters.t is not given"),
    (SLERP | {"base_model": "o/c", "parameters": {"t": 0.5}}, "slerp merges two `models`, of which base_model is one"),
    (SLERP | {"parameters": {"t": 0.5, "embed_slerp": True}}, "parameters.embed_slerp is not known to a study's slerp"),
    (OVER | {"models": models("o/a", "o/b")}, "weight of o/a is not given"),
    (OVER | {"models": models("o/a", "o/b", weight=[1, -0.5])}, "weight of o/b: found -0.5"),
    (OVER | {"models": models("o/a", "o/b", weight=[0, 0])}, "weight of every model is 0"),
    (OVER | {"models": models("o/a", "o/b", weight=[1, 1], density=[0, 1])}, "density 0 keeps nothing"),
    (OVER | {"models": models("o/base", "o/b", weight=[1, 1])}, "1 models are merged by ties"),
    (OVER | {"models": models("o/a", "o/a", weight=[1, 1])}, "two or more different ones"),
    (OVER | {"base_model": None}, "ties needs a base_model"),
    (OVER | {"parameters": {"lambda": 0.5}}, "parameters.lambda 0.5 with normalize: true"),
    (OVER | {"parameters": {"rescale": True}}, "parameters.rescale True is not known to a study's ties"),
    (OVER | {"parameters": {"normalize": "often"}}, "parameters.normalize: found 'often'"),
    (LINEAR | {"parameters": {"normalize": False}}, "normalize: false with weights whose sum is not 1"),
    (LINEAR | {"models": models("o/a+o/lora", "o/b", weight=[1, 1])}, "declare it in the study with `adapter`"),
    (LINEAR | {"models": [{"model": {"model": "o/a", "override_architecture": "X"}}]}, "override_architecture"),
    (LINEAR | {"models": [{"model": 5}, {"model": "o/b"}]}, "models.0.model: found 5, no model"),
    (LINEAR | {"models": "o/a"}, "models: found 'o/a', no list"),
    (LINEAR | {"models": None}, "neither `models` nor `slices` are given"),
    ({"merge_method": "linear", "modules": {"text": {}}}, "`modules` merge each part"),
    ({"merge_method": "linear", "slices": slices((0, 8), (12, 20))}, "slices.1 takes layers [[12, 20], [12, 20]]"),
    ({"merge_method": "linear", "slices": slices((4, 8))}, "slices.0 takes layers"),
    ({"merge_method": "linear", "slices": slices((0, 8), residual_weight=0.5)}, "residual_weight"),
    ({"merge_method": "linear", "slices": slices((0, 8)) + slices((8, 16), names=("o/a", "o/c"))}, "slices.1 merges other models"),
    ({"merge_method": "linear", "slices": [{"sources": [{"model": "o/a", "layer_range": [0, 8]}, {"model": "o/b", "layer_range": [8, 16]}]}]}, "slices.0 takes layers"),
    ({"merge_method": "linear", "slices": [{"sources": [{"model": "o/a"}]}]}, "slices.0 takes layers"),
    ({"models": []}, "is no mergekit configuration"),
    ("[1, 2", "cannot be read"),
    ("text", "is no mergekit configuration"),
]  # fmt: skip


@pytest.mark.parametrize(("config", "said"), REFUSED)
def test_what_a_study_cannot_do_is_refused_by_name(read, config, said):
    with pytest.raises(InputError) as error:
        read(config)
    message = str(error.value)
    assert said in message and "merged-7B/mergekit_config.yml: " in message and "\n" not in message


def test_slices_of_a_part_of_a_model_on_disk_are_refused(read, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"num_hidden_layers": 16}))
    names = [str(tmp_path / name) for name in "ab"]
    config = {
        "merge_method": "slerp",
        "base_model": names[0],
        "parameters": {"t": 0.5},
        "slices": slices((0, 8), names=names),
    }
    with pytest.raises(InputError, match="slices take 8 of the 16 layers of"):
        read(config)
    config["slices"] = slices((0, 16), names=names)
    assert merge_of(read(config)[0])[0] == ["a", "b"]


def test_the_command_prints_it_and_says_what_is_wrong(tmp_path, capsys):
    (tmp_path / "mergekit_config.yml").write_text(TIES)
    assert main(["new", "--from-mergekit", str(tmp_path), "--corpus", "web"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["models"]["base-7B"]["train"] == ["web"]
    assert main(["new", "--from-mergekit", str(tmp_path / "none")]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("feature-lineage: ") and "no such file" in said.err
    with pytest.raises(SystemExit, match="2"):
        main(["old"])
