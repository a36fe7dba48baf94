"""Hook points by their names: refused when a study is read, with a sentence that helps."""

import json

import pytest

from feature_lineage.study.hook_points import TRAINED, hook_problem
from feature_lineage.study.loading import load_study
from feature_lineage.study.types import StudyError


def study(hook, **models):
    """A study of a five-layer model, or of others, that reads at `hook`."""
    models = models or {"base": {"train": ["a"], "architecture": {"num_hidden_layers": 5}}}
    return {
        "study": "s",
        "corpora": {"a": {"files": "a.txt"}},
        "tokenizer": {"train": ["a"]},
        "models": models,
        "autoencoder": {"hook": hook},
    }


def published(folder, **config):
    """A model that is taken from a local directory with this `config.json`."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return {"pretrained": str(folder), "train": ["a"]}


def refusal(*arguments, **models):
    with pytest.raises(StudyError) as error:
        load_study(study(*arguments, **models))
    (line,) = str(error.value).splitlines()[1:]
    assert len(line) < 300 and "^" not in line  # a sentence, no list of hook points and no regular expression
    return line


@pytest.mark.parametrize(
    "hook",
    [
        "blocks.0.attn.hook_z", "blocks.4.attn.hook_k", "ln_final.hook_normalized", "ln_final.hook_out", "hook_embed", "embed.hook_out",
        "blocks.4.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.4.hook_resid_post", "blocks.2.hook_mlp_in",
        "blocks.0.hook_mlp_out", "blocks.0.hook_attn_out", "blocks.0.ln2.hook_normalized", "blocks.0.mlp.gate.hook_out", "unembed.hook_in",
    ],
)  # fmt: skip
def test_hook_points_with_a_vector_per_token_are_accepted(hook):
    assert load_study(study(hook)).autoencoder.hook == hook


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("blocks.9.mlp.hook_post", "does not exist: the model has 5 layers, blocks.0 to blocks.4"),
        ("blocks.5.hook_resid_post", "does not exist: the model has 5 layers, blocks.0 to blocks.4"),
        ("blocks.3.mlp.hook_pst", "did you mean blocks.3.mlp.hook_post?"),
        ("blocks.0.attn.hook_zz", "did you mean blocks.0.attn.hook_z?"),
        ("blocks.0.mlp", "did you mean blocks.0.mlp.hook_out?"),
        ("mlp", "did you mean blocks.0.mlp.hook_out?"),
        ("resid_post", "did you mean blocks.0.hook_resid_post?"),
        ("hook_resid_post", "did you mean blocks.0.hook_resid_post?"),
        ("Blocks.0.mlp.hook_Post", "did you mean blocks.0.mlp.hook_post?"),
        ("blocks.00.mlp.hook_post", "did you mean blocks.0.mlp.hook_post?"),
        ("blocks.-1.mlp.hook_post", "did you mean blocks.0.mlp.hook_post?"),
        ("blocks.0.mlp.hook_post.", "did you mean blocks.0.mlp.hook_post?"),
        ("ln_final", "did you mean ln_final.hook_out?"),
        ("model.layers.0.mlp", "does not exist"),
        ("blocks.0.attn.hook_pattern", "attention weights between pairs of tokens, no vector per token"),
        ("blocks.0.attn.hook_attn_scores", "attention scores of pairs of tokens, no vector per token"),
        ("blocks.0.attn.hook_result", "for each head, no vector per token; choose another, such as blocks.0.attn.hook_z"),
        ("blocks.1.attn.hook_q_input", "for each head, no vector per token"),
        ("ln_final.hook_scale", "a single number per token, no vector per token"),
        ("embed.hook_in", "token ids, no vector per token"),
        ("rotary_emb.hook_cos", "no vector per token"),
        (["blocks.0.mlp.hook_post", "blocks.1.mlp.hook_post"], "one TransformerLens hook point, such as"),
        (7, "one TransformerLens hook point, such as"),
        ("", "one TransformerLens hook point, such as"),
    ],
)  # fmt: skip
def test_others_are_refused_with_a_sentence_that_helps(hook, said):
    line = refusal(hook)
    assert line.startswith("  autoencoder.hook: found ") and said in line


def test_every_model_of_a_study_is_checked_by_its_own_layers(tmp_path):
    """Trained here, or published with `config.json` in a local directory, whatever its family calls its layers."""
    deep = {"train": ["a"], "architecture": {"num_hidden_layers": 8}}
    for key, value in {"num_hidden_layers": 3, "n_layer": 3, "n_layers": 3, "text_config": {"num_layers": 3}}.items():
        shallow = published(tmp_path / "shallow", architectures=["LlamaForCausalLM"], **{key: value})
        load_study(study("blocks.2.mlp.hook_post", deep=deep, shallow=shallow))
        line = refusal("blocks.7.mlp.hook_post", deep=deep, shallow=shallow)
        assert (
            "models.shallow: blocks.7.mlp.hook_post does not exist: the model has 3 layers, blocks.0 to blocks.2"
            in line
        )


def test_names_of_a_published_model_are_checked_as_far_as_they_are_known(tmp_path):
    known = published(tmp_path / "known", architectures=["GPT2LMHeadModel"], n_layer=2)
    assert "did you mean blocks.0.hook_resid_post?" in refusal("blocks.0.hook_residpost", base=known)
    assert "no vector per token" in refusal("blocks.0.attn.hook_pattern", base={"pretrained": "gpt2", "train": ["a"]})
    unknown = published(tmp_path / "unknown", architectures=["NewForCausalLM"], n_layer=2)
    load_study(study("blocks.0.mixer.hook_state", base=unknown))  # once it is imported
    load_study(study("blocks.40.hook_resid_post", base={"pretrained": "gpt2", "train": ["a"]}))


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
        {"architectures": ["BertForMaskedLM"]},
        {"architectures": ["LlamaForSequenceClassification"]},
        {"architectures": ["LlamaModel"]},
        {"architectures": "LlamaModel"},
        {"model_type": "t5", "is_encoder_decoder": True},
    ],
)
def test_a_published_model_of_another_kind_is_refused(tmp_path, config):
    line = refusal("blocks.0.hook_resid_post", base=published(tmp_path / "it", **config))
    name = config.get("architectures", "t5")
    assert line.startswith("  models.base.pretrained: found ")
    assert f"which {name if isinstance(name, str) else name[0]} is not" in line


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b'{"architectures": 3}', b'{"n_layer": "two"}', b'{"text_config": 1}', b"\xff"]
)
def test_a_config_that_cannot_be_read_is_left_to_the_import(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    try:
        load_study(study("blocks.0.hook_resid_post", base={"pretrained": str(tmp_path), "train": ["a"]}))
    except StudyError as error:
        assert "predicts next tokens" in str(error)


def test_layers_are_named_as_they_are():
    assert (
        hook_problem("blocks.1.hook_resid_post", 1, TRAINED)
        == "blocks.1.hook_resid_post does not exist: the model has 1 layer, blocks.0"
    )
    assert hook_problem("blocks.0.hook_resid_post", 1, TRAINED) is None
