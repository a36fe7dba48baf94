"""Configurations that cannot be right are refused before any job starts, in one message."""

from __future__ import annotations

import copy
import re

import pytest
from tiny_study import STUDY

from feature_lineage.study.keys import GENERATIONS
from feature_lineage.study.loading import each_key_once, load_study
from feature_lineage.study.types import StudyError

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
    ({"models.both.parents": ["coder", "coder"]}, "models.both.parents", "['coder', 'coder']", "each model once"),
    ({"models.both.merge.t": 1.5}, "models.both.merge.t", "1.5", "equilibrium"),
    ({"models.both.merge.method": "sum"}, "models.both.merge.method", "'sum'", "'ties' or 'dare_ties'"),
    ({"models.both.merge.method": "ties"}, "models.both.merge.points", "3", "no `points` with ties"),
    (
        {"models.other": {"train": ["code"]}, "models.both.parents": ["coder", "other"]},
        "models.both.parents",
        "['coder', 'other']",
        "models of one architecture",
    ),
    ({"autoencoder.hook": "mlp"}, "autoencoder.hook", "'mlp'", "did you mean blocks.0.mlp.hook_out?"),
    (
        {"autoencoder.hook": "blocks.1.mlp.hook_post"},
        "autoencoder.hook",
        "'blocks.1.mlp.hook_post'",
        "the model has 1 layer, blocks.0",
    ),
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
    ({"autoencoder.resampling.at": [0]}, "autoencoder.resampling.at.0", "0", "greater than 0"),
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
    # names
    ({"study": ".."}, "study", "'..'", "a name of letters and digits"),
    ({"study": "/tmp/x"}, "study", "'/tmp/x'", "a name of letters and digits"),
    ({"study": "tiny\n"}, "study", r"'tiny\n'", "a name of letters and digits"),
    ({"study": "ti ny"}, "study", "'ti ny'", "a name of letters and digits"),
    ({"study": "é"}, "study", "'é'", "a name of letters and digits"),
    ({"study": "１"}, "study", "'１'", "a name of letters and digits"),
    ({"study": ""}, "study", "''", "a name of letters and digits"),
    ({"study": "a" * 65}, "study", "aaa", "at most 64 characters"),
    ({"study": 7}, "study", "7", "quotes make one of a number"),
    ({"study": True}, "study", "True", "not true or false (as YAML reads yes, no, on and off without quotes)"),
    ({"study": None}, "study", "None", "a text"),
    ({("models", 1): {"train": ["prose"]}}, "models.1", "1", "a name; quotes make one"),
    ({("models", None): {"train": ["prose"]}}, "models.None", "None", "a name; quotes make one"),
    ({("models", False): {"train": ["prose"]}}, "models.False", "False", "a name; quotes make one"),
    ({("models", "x\n"): {"train": ["prose"]}}, r"models.'x\n'", r"'x\n'", "a name of letters and digits"),
    ({("models", "Base"): {"train": ["prose"]}}, "models.Base", "'Base'", "some file systems cannot tell it from base"),
    ({("corpora", "Prose"): {"files": "a.txt"}}, "corpora.Prose", "'Prose'", "some file systems cannot tell it"),
    ({("cases", "Article"): {"feature": 1}}, "cases.Article", "'Article'", "some file systems cannot tell it"),
    ({("corpora", "../x"): {"files": "a.txt"}}, "corpora.../x", "'../x'", "a name of letters and digits"),
    ({(False,): 1}, "False", "False", "a name; quotes make one"),
    ({(None,): 1}, "None", "None", "a name; quotes make one"),
    (
        {("models", "base-untrained"): {"train": ["code"]}, "controls.untrained": True},
        "models.base-untrained",
        "'base-untrained'",
        "another name",
    ),
    # what is no number, and numbers that nothing can hold
    ({"seed": True}, "seed", "True", "not true or false"),
    ({"threads": True}, "threads", "True", "not true or false"),
    ({"models.base.training.lr": True}, "models.base.training.lr", "True", "not true or false"),
    ({"models.both.merge.t": True}, "models.both.merge.t", "True", "not true or false"),
    ({"autoencoder.seeds": [True]}, "autoencoder.seeds", "[True]", "not true or false"),
    ({"flow.parts": True}, "flow.parts", "True", "not true or false"),
    ({"flow.parts": 3}, "flow.parts", "3", "1, 2, 4, 8 or 16"),
    ({"controls.ceiling": 0}, "controls.ceiling", "0", "true or false"),
    ({"autoencoder.normalize": 1}, "autoencoder.normalize", "1", "true or false"),
    ({"controls": False}, "controls", "False", "a block of keys"),
    ({"seed": "١"}, "seed", "'١'", "a valid integer"),
    ({"seed": 2**32}, "seed", "4294967296", "less than 4294967296"),
    ({"seed": 0.5}, "seed", "0.5", "fractional part"),
    ({"threads": 10**30}, "threads", "1000", "less than or equal to 1024"),
    ({"evaluation_tokens": 10**30}, "evaluation_tokens", "1000", "at most 1,000,000,000,000,000"),
    ({"models.base.training.tokens": 10**400}, "models.base.training.tokens", "(401 characters)", "at most 1,000,000"),
    ({"models.base.training.lr": 1e300}, "models.base.training.lr", "1e+300", "less than or equal to 100"),
    ({"models.base.training.lr": float("inf")}, "models.base.training.lr", "inf", "finite"),
    ({"models.base.training.lr": "1e400"}, "models.base.training.lr", "'1e400'", "finite"),
    ({"models.base.training.epochs": -1}, "models.base.training.epochs", "-1", "greater than 0"),
    ({"models.base.training.weight_decay": -0.1}, "models.base.training.weight_decay", "-0.1", "greater than or equal"),
    ({"models.base.training.batch": 10**12}, "models.base.training.batch", "1000", "less than or equal to 1048576"),
    ({"models.base.architecture.hidden_size": 10**12}, "models.base.architecture.hidden_size", "1000", "65536"),
    ({"models.base.architecture.num_hidden_layers": 0}, "models.base.architecture.num_hidden_layers", "0", "than 0"),
    ({"models.both.merge.points": 10**9}, "models.both.merge.points", "1000", "10001"),
    ({"models.both.merge.t": float("nan")}, "models.both.merge.t", "nan", "'equilibrium' or a finite number"),
    ({"autoencoder.seeds": [2**32]}, "autoencoder.seeds.0", "4294967296", "less than 4294967296"),
    ({"autoencoder.seeds": [-1]}, "autoencoder.seeds.0", "-1", "greater than or equal to 0"),
    ({"autoencoder.seeds": list(range(1001))}, "autoencoder.seeds", "characters)", "at most 1000 items"),
    ({"autoencoder.expansion": 10**9}, "autoencoder.expansion", "1000", "4096"),
    ({"autoencoder.l1": float("nan")}, "autoencoder.l1", "nan", "finite"),
    (
        {"autoencoder.resampling.at": [0.5, 0.5]},
        "autoencoder.resampling",
        "a block with at",
        "each share once ([0.5, 0.5])",
    ),
    ({"flow.tokens": 10**30}, "flow.tokens", "1000", "at most 1,000,000"),
    ({"flow.bootstrap": 10**12}, "flow.bootstrap", "1000", "1000000"),
    ({"flow.min_active": 10**9}, "flow.min_active", "1000000000", "at most flow.tokens (1000)"),
    ({"flow.threshold": float("nan")}, "flow.threshold", "nan", "finite"),
    ({"flow.threshold": "high"}, "flow.threshold", "'high'", "a valid number"),
    ({"corpora.prose.fraction": float("nan")}, "corpora.prose.fraction", "nan", "finite"),
    # what leads nowhere
    ({"corpora.prose.files": "a\0b"}, "corpora.prose.files", r"'a\x00b'", "one line, without control characters"),
    ({"corpora.prose.files": "a\nb"}, "corpora.prose.files", r"'a\nb'", "one line, without control characters"),
    ({"corpora.prose.files": ["a", 1]}, "corpora.prose.files.1", "1", "a text; quotes make one of a number"),
    ({"corpora.prose": None}, "corpora.prose", "None", "a block with one of the keys"),
    ({"corpora.prose": "data/prose.jsonl"}, "corpora.prose", "'data/prose.jsonl'", "a block with one of the keys"),
    ({"corpora": ["prose"]}, "corpora", "['prose']", "a block of keys"),
    ({"corpora.prose": {"huggingface": "x", "files": "y"}}, "corpora.prose.files", "'y'", "no such key"),
    ({"tokenizer": None}, "tokenizer", "None", "train, pretrained"),
    ({"tokenizer": {"pretrained": ""}}, "tokenizer.pretrained", "''", "one line"),
    ({"tokenizer": {"pretrained": "x", "train": ["prose"]}}, "tokenizer.pretrained", "'x'", "no such key"),
    ({"models.base": None}, "models.base", "None", "pretrained, adapter, parents, parent, train"),
    ({"models.base.train": "prose"}, "models.base.train", "'prose'", "a valid list"),
    ({"models.base.training": None}, "models.base.training", "None", "a block of keys"),
    ({"models.both": {"pretrained": "x"}}, "models.both", "a block with pretrained", "a list `train`"),
    ({"models.coder.architecture": {"hidden_size": 64}}, "models.coder.architecture", "hidden_size", "no such key"),
    (
        {"models.both.parents": ["coder", "writer", "base"]},
        "models.both.merge.method",
        "'slerp'",
        "linear, ties or dare_ties",
    ),
    ({"models.base": {"parent": "both", "train": ["code"]}}, "models.base", "base -> both -> coder -> base", "cycles"),
    (
        {"autoencoder.hook": "blocks.１.mlp.hook_post"},
        "autoencoder.hook",
        "'blocks.１",
        "did you mean blocks.0.mlp.hook_post?",
    ),
    (
        {"autoencoder.hook": "blocks.00.mlp.hook_post"},
        "autoencoder.hook",
        "'blocks.00",
        "did you mean blocks.0.mlp.hook_post?",
    ),
    (
        {"autoencoder.hook": "blocks.0.mlp.hook_post\n"},
        "autoencoder.hook",
        r"hook_post\n'",
        "did you mean blocks.0.mlp.hook_post?",
    ),
    (
        {"autoencoder.hook": "blocks." + "9" * 5000 + ".x"},
        "autoencoder.hook",
        "characters)",
        "one TransformerLens hook point",
    ),
    ({"cases.it": {"pattern": "(" * 5000}}, "cases.it.pattern", "characters)", "a regular expression"),
    ({"cases.it": {"pattern": "a{99999999999}"}}, "cases.it.pattern", "'a{99999999999}'", "a regular expression"),
    ({"cases.it": {"feature": 10**30}}, "cases.it.feature", "1000", "less than 2147483648"),
    ({"cases.it": {"feature": True}}, "cases.it.feature", "True", "not true or false"),
    ({"cases.it": {"tokens": ["a"], "corpora": ["code", "code"]}}, "cases.it.corpora", "['code', 'code']", "once"),
    ({"cases": None}, "cases", "None", "a block of keys"),
    ({"interpretation.budget_usd": -1}, "interpretation.budget_usd", "-1", "greater than 0"),
    ({"interpretation.prompt_price": float("nan")}, "interpretation.prompt_price", "nan", "finite"),
    ({"interpretation.base_url": "ftp://x"}, "interpretation.base_url", "not shown", "https?://"),
    ({"interpretation.key_env": "sk-proj-abc123"}, "interpretation.key_env", "not shown", "[A-Z_]"),
    ({"interpretation.parallel": 257}, "interpretation.parallel", "257", "less than or equal to 256"),
    ({"interpretation.timeout": 1e300}, "interpretation.timeout", "1e+300", "less than or equal to 86400"),
    ({"autoencoder.l0": 10**6}, "autoencoder.l0", "1000000", "fewer than the 128 features (models.base)"),
    ({"cases.it": {"feature": 128}}, "cases.it.feature", "128", "below 128 (models.base)"),
    ({"interpretation.base_url": "https://[x"}, "interpretation.base_url", "not shown", "an address"),
    ({"interpretation.base_url": "https://x:abc/"}, "interpretation.base_url", "not shown", "an address"),
    ({"interpretation": "x"}, "interpretation", "not shown", "a block of keys"),
]


def changed(changes):
    config = copy.deepcopy(STUDY)
    for key, value in changes.items():
        *path, last = key if isinstance(key, tuple) else key.split(".")
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


@pytest.mark.parametrize(("changes", "key", "found", "allowed"), BAD, ids=[ascii(f"{b[1]}: {b[2]}")[1:-1] for b in BAD])
def test_refused_with_key_value_and_what_is_allowed(changes, key, found, allowed):
    with pytest.raises(StudyError) as refusal:
        load_study(changed(changes))
    lines = str(refusal.value).splitlines()[1:]
    parts = [re.fullmatch(r"  (.+?): found (.*); allowed: (.*)", line) for line in lines]
    assert all(parts), lines
    assert any(part[1] == key and found in part[2] and allowed in part[3] for part in parts), (
        f"{key}, {found} and {allowed} are not in\n{refusal.value}"
    )


def test_every_bad_config_is_another_one():
    assert len({repr(changes) for changes, *_ in BAD}) == len(BAD) >= 150


def lineage(generations, merged=False):
    """Models one after another; with `merged`, two in each generation, both merged from the two before."""
    root, child = STUDY["models"]["base"], {"train": ["code"], "training": STUDY["models"]["coder"]["training"]}
    models = {"a1": root, "b1": root} if merged else {"a1": root}
    for number in range(2, generations + 1):
        if merged:
            models |= {f"{side}{number}": {"parents": [f"a{number - 1}", f"b{number - 1}"]} for side in "ab"}
        else:
            models[f"a{number}"] = child | {"parent": f"a{number - 1}"}
    return models


def test_long_lineages_are_read_and_too_long_ones_refused():
    assert len(load_study(changed({"models": lineage(GENERATIONS)})).edges()) == GENERATIONS - 1
    for generations in (GENERATIONS + 1, 1500):
        for models in (lineage(generations), dict(reversed(lineage(generations).items()))):
            with pytest.raises(StudyError, match=rf"models.a{generations}: found .*{generations} generations"):
                load_study(changed({"models": models}))


def test_a_lineage_of_merges_has_more_paths_than_can_be_walked():
    study = load_study(changed({"models": lineage(60, merged=True)}))
    assert len(study.order()) == len(study.ancestors("a60")) + 1 == 120
    assert study.seen_corpora("a60") == study.own_corpora("a60") == ["prose", "code"]
    assert study.roots("b60") == ["a1", "b1"]


def test_a_long_cycle_is_named():
    models = lineage(20)
    models["a1"] = {"parent": "a20", "train": ["code"]}
    with pytest.raises(StudyError, match=r"models\.a1: found .*a1 -> a20 -> a19 -> .* -> a2 -> a1.*without cycles"):
        load_study(changed({"models": models}))


def test_keys_given_twice_are_refused_with_their_lines(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("study: tiny\nseed: 1\nmodels:\n  base: {train: [prose], train: [code]}\nseed: 2\n")
    with pytest.raises(StudyError) as refusal:
        each_key_once([path])
    assert str(refusal.value).splitlines() == [
        f"config refused, 2 problems in {path}:",
        "  seed: found in lines 2 and 5; allowed: each key once",
        "  models.base.train: found twice in line 4; allowed: each key once",
    ]
    path.write_text("a: &it {x: 1}\nb: *it\nc: [{x: 1}, {x: 2}]\nd: {<<: *it, x: 3}\n")
    each_key_once([path])
    path.write_text('{"a": {"x": 1}, "b": {"x": 1}}')
    each_key_once([path, tmp_path / "a-pipe-that-has-been-read"])


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
