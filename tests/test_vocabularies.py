"""A model's own tokenizer beside the study's: who reads the same tokens, and who is refused."""

from __future__ import annotations

import json
import shutil

import pytest

from feature_lineage.errors import InputError
from feature_lineage.models.checkpoint import import_model, published_config
from feature_lineage.study.digests import Checksums
from feature_lineage.study.loading import load_study
from feature_lineage.study.local_inputs import LocalInputs
from feature_lineage.study.types import StudyError
from feature_lineage.study.vocabularies import Vocabulary, disagreement, read_vocabulary

STUDY = Vocabulary({"a": 0, "b": 1, "ab": 2}, {"<s>": 3, "<unused0>": 4})


@pytest.mark.parametrize(
    "own",
    [
        STUDY,
        Vocabulary(STUDY.words, STUDY.added | {"<|im_start|>": 5}),  # an instruct version
        Vocabulary(STUDY.words, {"<s>": 3, "<tool>": 4}),  # a placeholder in use
        Vocabulary(STUDY.words | {"abab": 5}, STUDY.added),
        Vocabulary({"a": 0, "b": 1}, STUDY.added | {"ab": 2}),
    ],
)
def test_a_tokenizer_that_has_more_agrees(own):
    assert disagreement(STUDY, own, ("<s>",)) is None


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (Vocabulary({"a": 1, "b": 0, "ab": 2}, STUDY.added), "2 of 4 tokens differ, such as 'a': 0 and 1"),
        (Vocabulary({"a": 0, "b": 1}, STUDY.added), "1 of 4 tokens differ, such as 'ab': 2 and missing"),
        (Vocabulary(STUDY.words, {"<s>": 4}), "1 of 4 tokens differ, such as '<s>': 3 and 4"),
    ],
)
def test_a_token_of_another_number_is_named(own, said):
    assert disagreement(STUDY, own, ("<s>",)) == said


def test_both_forms_of_a_vocabulary_are_read(tmp_path):
    added = [{"content": "<s>", "id": 0}]
    for vocabulary in ({"<s>": 0, "x": 1}, [["<s>", 0.0], ["x", -1.5]]):
        (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added}))
        assert read_vocabulary(tmp_path / "tokenizer.json") == Vocabulary({"x": 1}, {"<s>": 0})
    for text in ("", "[]", "{", '{"model": []}', '{"model": {"vocab": [1]}}'):
        (tmp_path / "tokenizer.json").write_text(text)
        assert read_vocabulary(tmp_path / "tokenizer.json") is None
    assert read_vocabulary(tmp_path / "no.json") is None


@pytest.fixture
def published(tmp_path, tokenizer_dir, tiny_model):
    """Two checkpoints with the same tokenizer beside them."""
    for name in ("base", "chat"):
        tiny_model().save_pretrained(tmp_path / name)
        shutil.copyfile(tokenizer_dir / "tokenizer.json", tmp_path / name / "tokenizer.json")
        shutil.copyfile(tokenizer_dir / "tokenizer_config.json", tmp_path / name / "tokenizer_config.json")
    (tmp_path / "prose.txt").write_text("Some prose.")
    return tmp_path


def renumber(file):
    """Exchange the numbers of two words."""
    content = json.loads(file.read_text())
    words = content["model"]["vocab"]
    a, b = sorted(words, key=words.get)[-2:]
    words[a], words[b] = words[b], words[a]
    file.write_text(json.dumps(content))


def local(root, **models):
    return LocalInputs(
        load_study(
            {
                "study": "local",
                "corpora": {"prose": {"files": f"{root}/prose.txt"}},
                "tokenizer": {"pretrained": f"{root}/base"},
                "models": {"base": {"pretrained": f"{root}/base", "train": ["prose"]}} | models,
            }
        ),
        Checksums(root / "checksums.json"),
    )


def test_a_child_with_other_numbers_is_refused_at_dry_run_and_both_are_named(published):
    chat = {"pretrained": f"{published}/chat", "parent": "base"}
    local(published, chat=chat).check()
    renumber(published / "chat" / "tokenizer.json")
    with pytest.raises(StudyError, match=r"2 of .* tokens differ") as error:
        local(published, chat=chat).check()
    assert f"models.chat.pretrained: found '{published}/chat'" in str(error.value)
    assert f"'{published}/base'" in str(error.value)


def test_a_checkpoint_with_other_numbers_is_refused_at_import(published, tmp_path):
    renumber(published / "chat" / "tokenizer.json")
    with pytest.raises(InputError, match=rf"model {published}/chat: .* the study's, {published}/base: 2 of"):
        import_model(f"{published}/chat", published / "base", tmp_path / "imported", {})
    (published / "chat" / "tokenizer.json").unlink()
    import_model(f"{published}/chat", published / "base", tmp_path / "imported", {})


def test_a_folder_has_no_revisions_but_those_that_lie_in_it(published):
    with pytest.raises(StudyError, match=r"models.run-step1.pretrained: .* revision 'step1', and a folder has no rev"):
        local(
            published, run={"pretrained": f"{published}/base", "revisions": ["step1", "step2"], "parent": "base"}
        ).check()
    for step in ("step1", "step2"):
        shutil.copytree(published / "chat", published / "run" / step)
    found = local(published, run={"pretrained": f"{published}/run", "revisions": ["step1", "step2"], "parent": "base"})
    found.check()
    assert found._study.models["run-step2"].pretrained == f"{published}/run/step2"
    edges = [("base", "run-step1"), ("run-step1", "run-step2"), ("base", "run-step2")]
    assert found._study.edges() == edges


@pytest.mark.parametrize("revision", [None, "step1000"])
def test_a_hub_that_is_away_is_told_with_name_and_revision(monkeypatch, revision):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        published_config("someone/model", revision)
    named = "model someone/model at revision step1000: " if revision else "model someone/model: "
    assert str(error.value).startswith(f"{named}cannot be loaded from the hub (")
    assert "check the name, the revision and the network" in str(error.value)
