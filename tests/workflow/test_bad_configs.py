"""Configurations that cannot be right are refused before any job starts, in one message."""

from __future__ import annotations

import copy
import re

import pytest
from tiny_study import STUDY

from feature_lineage.study import StudyError, load_study

DROP = object()

# what is set (dotted keys; DROP: left out), then the key, the value and part of what is allowed, as the message says them
BAD = [
    ({"study": DROP}, "study", "nothing", "must be given"),
    ({"study": "my/study"}, "study", "'my/study'", "a name of letters and digits"),
    ({"study": "../tiny"}, "study", "'../tiny'", "a name of letters and digits"),
    ({"seed": -1}, "seed", "-1", "greater than or equal to 0"),
    ({"seed": "zero"}, "seed", "'zero'", "integer"),
    ({"threads": 0}, "threads", "0", "greater than 0"),
    ({"thread": 2}, "thread", "2", "did you mean threads?"),
    ({"evaluation_tokens": 1.5}, "evaluation_tokens", "1.5", "integer"),
    ({"corpora": {}}, "corpora", "a block with no keys", "at least 1 item"),
    ({"corpora.prose": {}}, "corpora.prose", "a block with no keys", "package, huggingface, files"),
    ({"corpora.prose.files": []}, "corpora.prose.files", "[]", "at least 1 item"),
    ({"corpora.prose.file": "x.txt"}, "corpora.prose.file", "'x.txt'", "did you mean files?"),
    ({"corpora.prose.validation": 1}, "corpora.prose.validation", "1", "less than 1"),
    ({"corpora.prose.validation": "a fifth"}, "corpora.prose.validation", "'a fifth'", "number"),
    ({"corpora.prose.fraction": 0}, "corpora.prose.fraction", "0", "greater than 0"),
    ({"corpora.a--b": {"files": "x.txt"}}, "corpora.a--b", "'a--b'", "a name of letters and digits"),
    ({"corpora.old": {"package": "python"}}, "corpora.old.include", "nothing", "must be given"),
    (
        {"corpora.old": {"package": "python", "include": ["*.py"], "sha256": "abc"}},
        "corpora.old.sha256",
        "'abc'",
        "match pattern",
    ),
    ({"tokenizer.vocab_size": 10}, "tokenizer.vocab_size", "10", "greater than or equal to 300"),
    ({"tokenizer.train": ["lua"]}, "tokenizer.train", "'lua'", "prose, code"),
    ({"tokenizer": {"learn": ["prose"]}}, "tokenizer", "a block with learn", "train, pretrained"),
    ({"models": {}}, "models", "a block with no keys", "at least 1 item"),
    ({"models.base.train": []}, "models.base.train", "[]", "at least 1 item"),
    ({"models.base.train": ["prose", "lua"]}, "models.base.train", "'lua'", "prose, code"),
    ({"models.base.train": ["prose", "prose"]}, "models.base.train", "['prose', 'prose']", "each corpus once"),
    ({"models.base.balance": "text"}, "models.base.balance", "'text'", "'tokens' or 'none'"),
    ({"models.base.training.lr": 0}, "models.base.training.lr", "0", "greater than 0"),
    ({"models.base.training.lr": ".nan"}, "models.base.training.lr", "'.nan'", "number"),
    ({"models.base.training.lr": float("nan")}, "models.base.training.lr", "nan", "finite"),
    ({"models.base.training.steps": 9}, "models.base.training.steps", "9", "no such key"),
    (
        {"models.base.training.block": 4096},
        "models.base.training.block",
        "4096",
        "at most max_position_embeddings (2048)",
    ),
    (
        {"models.base.architecture.num_attention_heads": 3},
        "models.base.architecture",
        "num_attention_heads",
        "must divide hidden_size (32)",
    ),
    ({"models.base.architecture.layers": 2}, "models.base.architecture.layers", "2", "no such key"),
    ({"models.coder.parent": "bass"}, "models.coder.parent", "'bass'", "base, writer, both"),
    ({"models.coder.parent": "coder"}, "models.coder", "coder -> coder", "without cycles"),
    ({"models.coder.parent": "both"}, "models.coder", "coder -> both -> coder", "without cycles"),
    ({"models.both.parents": ["coder"]}, "models.both.parents", "['coder']", "at least 2 items"),
    ({"models.both.parents": ["coder", "coder"]}, "models.both.parents", "['coder', 'coder']", "two different models"),
    ({"models.both.merge.t": 1.5}, "models.both.merge.t", "1.5", "equilibrium"),
    ({"models.both.merge.method": "ties"}, "models.both.merge.method", "'ties'", "'slerp' or 'linear'"),
    (
        {"models.other": {"train": ["code"]}, "models.both.parents": ["coder", "other"]},
        "models.both.parents",
        "['coder', 'other']",
        "two models of one architecture",
    ),
    ({"autoencoder.hook": "mlp"}, "autoencoder.hook", "'mlp'", "match pattern"),
    ({"autoencoder.hook": "blocks.1.mlp.hook_post"}, "autoencoder.hook", "'blocks.1.mlp.hook_post'", "a layer below 1"),
    ({"autoencoder.seeds": [0, 0]}, "autoencoder.seeds", "[0, 0]", "each seed once"),
    ({"autoencoder.seeds": []}, "autoencoder.seeds", "[]", "at least 1 item"),
    ({"autoencoder.context": 1}, "autoencoder.context", "1", "greater than 1"),
    ({"autoencoder.tokens": 100}, "autoencoder.tokens", "100", "at least one batch of 128 tokens"),
    ({"autoencoder.init": "random"}, "autoencoder.init", "'random'", "'kaiming', 'transpose' or 'parent'"),
    ({"autoencoder.variant": "gated"}, "autoencoder.variant", "'gated'", "'l1', 'topk', 'batchtopk' or 'jumprelu'"),
    ({"autoencoder.variant": "topk"}, "autoencoder.l0", "None", "features active per token, which variant topk needs"),
    ({"autoencoder.variant": "batchtopk", "autoencoder.l0": 7.5}, "autoencoder.l0", "7.5", "the whole number"),
    ({"autoencoder.variant": "jumprelu"}, "autoencoder.normalize", "False", "true with variant jumprelu"),
    ({"autoencoder.l0": 0}, "autoencoder.l0", "0", "greater than 0"),
    ({"autoencoder.resampling.steps": [0]}, "autoencoder.resampling.steps.0", "0", "greater than 0"),
    ({"flow.threshold": 1}, "flow.threshold", "1", "less than 1"),
    ({"flow.floor": 0.9}, "flow", "floor", "must not exceed threshold (0.8)"),
    ({"flow.bootstrap": -1}, "flow.bootstrap", "-1", "greater than or equal to 0"),
    ({"flow.min_active": 0}, "flow.min_active", "0", "greater than or equal to 1"),
    ({"flow.tokens": 8}, "flow.tokens", "8", "at least two blocks of 8 tokens"),
    ({"flow.corpora": ["lua"]}, "flow.corpora", "'lua'", "prose, code"),
    ({"cases.it": {}}, "cases.it", "a block with no keys", "tokens, pattern, characters, feature"),
    (
        {"cases.it": {"tokens": ["="], "pattern": "="}},
        "cases.it.pattern",
        "'='",
        "no such key, but model, corpora, tokens",
    ),
    ({"cases.it": {"tokens": []}}, "cases.it.tokens", "[]", "at least 1 item"),
    ({"cases.it": {"tokens": [""]}}, "cases.it.tokens.0", "''", "at least 1 character"),
    ({"cases.it": {"tokens": "="}}, "cases.it.tokens", "'='", "list"),
    ({"cases.it": {"pattern": "(="}}, "cases.it.pattern", "'(='", "a regular expression (missing )"),
    ({"cases.it": {"characters": "vowels"}}, "cases.it.characters", "'vowels'", "'digits', 'letters'"),
    ({"cases.it": {"feature": -1}}, "cases.it.feature", "-1", "greater than or equal to 0"),
    ({"cases.it": {"feature": 3, "model": "bass"}}, "cases.it.model", "'bass'", "base, coder, writer, both"),
    ({"cases.it": {"feature": 3, "corpora": ["lua"]}}, "cases.it.corpora", "'lua'", "of the sample: prose, code"),
    ({"cases.a/b": {"feature": 3}}, "cases.a/b", "'a/b'", "a name of letters and digits"),
    ({"case": {}}, "case", "a block with no keys", "did you mean cases?"),
]


def changed(changes):
    config = copy.deepcopy(STUDY)
    for key, value in changes.items():
        *path, last = key.split(".")
        block = config
        for part in path:
            block = block.setdefault(part, {})
        if value is DROP:
            del block[last]
        else:
            block[last] = copy.deepcopy(value)
    return config


def test_the_tiny_study_itself_is_accepted():
    assert load_study(changed({})).study == "tiny"


@pytest.mark.parametrize(("changes", "key", "found", "allowed"), BAD, ids=[f"{b[1]}: {b[2]}" for b in BAD])
def test_refused_with_key_value_and_what_is_allowed(changes, key, found, allowed):
    with pytest.raises(StudyError) as refusal:
        load_study(changed(changes))
    lines = str(refusal.value).splitlines()[1:]
    parts = [re.fullmatch(r"  (.+?): found (.*); allowed: (.*)", line) for line in lines]
    assert all(parts), lines
    assert any(part[1] == key and found in part[2] and allowed in part[3] for part in parts), (
        f"{key}, {found} and {allowed} are not in\n{refusal.value}"
    )


def test_every_problem_is_named_at_once():
    with pytest.raises(StudyError) as refusal:
        load_study(changed({"threads": 0, "flow.threshold": 2, "models.coder.parent": 7}))
    assert str(refusal.value).startswith("config refused, 3 problems in study 'tiny'")
    assert len(str(refusal.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models.coder.parent": "bass"}, ["models.coder.parent", "'bass'", "base, writer, both"]),
        ({"models.coder.parent": "both"}, ["models.coder", "coder -> both -> coder", "without cycles"]),
        ({"flow.treshold": 0.5}, ["flow.treshold", "0.5", "did you mean threshold?"]),
        ({"study": DROP, "threads": "many"}, ["study: found nothing", "threads", "'many'", "integer", "2 problems"]),
    ],
)
def test_snakemake_refuses_before_any_job(bare, tmp_path, changes, said):
    place = bare.copy(tmp_path / "place")
    place.config = changed(changes)
    run = place.snakemake("-c2")
    assert run.refused(), run
    assert all(words in run.output for words in said), run
    assert run.output.count("config refused") == 1
    assert "Job stats" not in run.output
    assert not (place.root / "results").exists()
