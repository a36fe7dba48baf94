import copy
import inspect
import json

import pytest
import yaml

from feature_lineage.study import keys as keys_module
from feature_lineage.study import measures, texts
from feature_lineage.study import study as module
from feature_lineage.study.loading import load_study
from feature_lineage.study.reference import main as write_docs
from feature_lineage.study.reference import reference, schema
from feature_lineage.study.types import Block, StudyError

CONFIG = {
    "study": "small",
    "corpora": {
        "english": {"files": "english/*.txt"},
        "python": {"package": "python", "include": ["json/*.py"]},
        "lua": {"huggingface": "someone/lua", "text": "content"},
        "stories": {"files": ["a.txt", "b.txt"]},
    },
    "tokenizer": {"train": ["english", "python"], "vocab_size": 1000},
    "models": {
        # children before parents: the order of the file must not matter
        "luastories": {"parents": ["lua", "stories"], "merge": {"t": 0.5}},
        "lua": {"parent": "base", "train": ["lua"], "training": {"block": 64}},
        "stories": {"parent": "base", "train": ["stories", "english"], "training": {"block": 128}},
        "base": {"train": ["english", "python"], "balance": "tokens"},
        "late": {"parent": "luastories", "train": ["python"]},
        "other": {"pretrained": "someone/model", "train": ["lua"]},
    },
}


def changed(key, value):
    """CONFIG with one key set, or taken away if `value` is `...`."""
    config = copy.deepcopy(CONFIG)
    *path, last = key.split(".")
    block = config
    for part in path:
        block = block.setdefault(part, {})
    if value is ...:
        del block[last]
    else:
        block[last] = value
    return config


@pytest.fixture
def study():
    return load_study(CONFIG)


# --- the lineage graph -------------------------------------------------------------------------------------


def test_parents_are_direct(study):
    assert {name: study.parents(name) for name in study.models} == {
        "luastories": ["lua", "stories"],
        "lua": ["base"],
        "stories": ["base"],
        "base": [],
        "late": ["luastories"],
        "other": [],
    }


def test_ancestors_come_oldest_first_and_once(study):
    assert study.ancestors("late") == ["base", "lua", "stories", "luastories", "late"]
    assert study.ancestors("base") == ["base"]
    assert study.roots("late") == ["base"]
    assert study.roots("other") == ["other"]


def test_order_puts_parents_before_children(study):
    order = study.order()
    assert sorted(order) == sorted(study.models)
    assert all(order.index(parent) < order.index(model) for model in order for parent in study.parents(model))


def test_edges_are_all_parent_child_pairs(study):
    assert study.edges() == [
        ("base", "lua"),
        ("base", "stories"),
        ("lua", "luastories"),
        ("stories", "luastories"),
        ("luastories", "late"),
    ]


def test_own_corpora_and_trace(study):
    assert study.own_corpora("lua") == ["lua"]
    assert study.own_corpora("luastories") == ["lua", "stories", "english"]
    assert study.own_corpora("other") == ["lua"]
    assert study.seen_corpora("base") == ["english", "python"]
    assert study.seen_corpora("lua") == ["english", "python", "lua"]
    assert study.seen_corpora("late") == ["english", "python", "lua", "stories"]


def test_block_is_the_models_own_or_its_nearest_ancestors(study):
    blocks = {name: study.block(name) for name in study.models}
    assert blocks == {"luastories": 128, "lua": 64, "stories": 128, "base": 256, "late": 256, "other": 256}


def test_what_is_asked_of_a_model_is_answered_for_an_untrained_one():
    """`block` raised a KeyError; all that a rule may ask of a model was tried, for roots with one corpus and with several."""
    study = load_study(changed("controls.untrained", True))
    untrained = study.untrained()
    assert untrained == {"base-untrained": "base"}
    for name, root in untrained.items():
        assert study.block(name) == study.block(root) == 256
        assert study.seen_corpora(name) == study.seen_corpora(root)
        assert study.own_corpora(name) == study.own_corpora(root)
        assert (study.parents(name), study.ancestors(name), study.roots(name)) == ([], [name], [name])
        assert study.autoencoder_seed(name, 0) != study.autoencoder_seed(root, 0)
    changed_block = changed("models.base.training", {"block": 32})
    changed_block["controls"] = {"untrained": True}
    assert load_study(changed_block).block("base-untrained") == 32


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_a_way_of_merging_is_a_word_or_a_block(method):
    word, block = (load_study(changed("models.luastories.merge", one)) for one in (method, {"method": method}))
    assert word == block
    assert word.models["luastories"].merge.method == method


def test_corpora_that_nothing_uses_are_told(study):
    """Used by a model, the tokenizer, the sample, or nothing."""
    assert study.read_corpora() == ["english", "python", "lua", "stories"]
    config = changed("flow.corpora", ["lua"])
    config["corpora"] |= {name: {"files": "a.txt"} for name in ("sampled", "tokenized", "spare")}
    assert load_study(config).read_corpora() == ["english", "python", "lua", "stories"]
    config["flow"]["corpora"] += ["sampled"]
    config["tokenizer"]["train"] = ["tokenized"]
    assert load_study(config).read_corpora() == ["english", "python", "lua", "stories", "sampled", "tokenized"]


NAMES = ("Llama-3.2-1B", "c4.en", "v1.0", "gpt2.124M_x-y", "a.b.c", "0.5", "Qwen2.5-0.5B")


@pytest.mark.parametrize("name", NAMES)
def test_names_may_have_dots(name):
    config = copy.deepcopy(CONFIG)
    config["study"] = name
    config["corpora"][name] = {"files": "a.txt"}
    config["models"][name] = {"parent": "base", "train": [name]}
    config["models"]["child"] = {"parents": [name, "lua"]}
    config["cases"] = {name: {"tokens": ["="], "model": name}}
    assert load_study(config).seen_corpora("child") == ["english", "python", name, "lua"]


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("meta-llama/Llama-3.2-1B", "meta-llama-Llama-3.2-1B"), ("my model", "my-model"), ("a:b", "a-b"), ("a..b", "a-b"), (".hidden", "hidden"),
        ("a.", "a"), ("__init__", "init"), ("-x", "x"), ("a--b", "a-b"), ("model (2)", "model-2"), ("a+b", "a-b"), ("a@main", "a-main"),
        ("../up", "up"), ("~/model", "model"), ("naïve", "na-ve"), ("模型", None), ("", None), ("a\tb", "a-b"), ("a\\b", "a-b"), ("{x}", "x"),
    ],
)  # fmt: skip
def test_other_names_are_refused_with_one_that_would_do(name, near):
    """Of studies here; corpora, models and cases have the same type."""
    with pytest.raises(StudyError) as refused:
        load_study(CONFIG | {"study": name})
    (line,) = str(refused.value).splitlines()[1:]
    sentence = "a name of letters and digits, with single . - or _ between them"
    assert line.endswith(sentence + (f", such as {near}" if near else ""))
    if near:
        load_study(CONFIG | {"study": near})


def test_flow_corpora_are_all_unless_named(study):
    assert study.flow_corpora() == ["english", "python", "lua", "stories"]
    assert load_study(changed("flow.corpora", ["lua"])).flow_corpora() == ["lua"]


# --- defaults ----------------------------------------------------------------------------------------------


def test_defaults_of_the_language_models_are_the_papers(study):
    base, lua = study.models["base"], study.models["lua"]
    assert base.architecture.model_dump() == {
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 1,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "max_position_embeddings": 2048,
        "sliding_window": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "head_dim": None,
        "tie_word_embeddings": False,
    }
    papers = {"epochs": 3.0, "block": 256, "batch": 64, "lr": 6e-4, "weight_decay": 0.1, "warmup_steps": 0}
    assert papers.items() <= base.training.model_dump().items()
    papers = {"epochs": 1.0, "batch": 64, "lr": 2e-5, "weight_decay": 0.01, "warmup_steps": 500}
    assert papers.items() <= lua.training.model_dump().items()
    assert base.training.tokens is None


def test_defaults_of_autoencoder_and_flow_are_the_papers(study):
    papers = {
        "hook": "blocks.0.mlp.hook_post",
        "expansion": 16,
        "tokens": 15_000_000,
        "context": None,
        "batch": 128,
        "lr": 1e-4,
        "l1": 3e-4,
        "l1_warmup_steps": 0,
        "normalize": False,
        "init": "kaiming",
        "resampling": {"at": [0.2, 0.4, 0.6, 0.8], "silent": 0.1, "pool_tokens": 819_200},
    }
    assert papers.items() <= study.autoencoder.model_dump().items()  # the context follows from the models
    assert (study.flow.tokens, study.flow.threshold) == (3_000_000, 0.8)
    merge = load_study(changed("models.luastories", {"parents": ["lua", "stories"]})).models["luastories"].merge
    assert (merge.method, merge.t) == ("slerp", "equilibrium")


def test_fine_tuning_does_not_inherit_the_base_models_defaults():
    lua = load_study(changed("models.lua.training", {"lr": 1e-3})).models["lua"].training
    assert (lua.lr, lua.epochs, lua.warmup_steps) == (1e-3, 1.0, 500)


# --- the files beside the code -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.yaml", "paper.yaml"])
def test_config_file_loads(project, name):
    path = project / "config" / name
    if not path.exists():
        pytest.skip(f"no config/{name}")
    text = path.read_text(encoding="utf-8")
    study = load_study(yaml.safe_load(text))
    assert any(len(study.parents(model)) == 2 for model in study.models), "a study without a merge shows half of it"
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")


def test_paper_config_is_the_papers_lineage(project):
    path = project / "config" / "paper.yaml"
    if not path.exists():
        pytest.skip("no config/paper.yaml")
    study = load_study(yaml.safe_load(path.read_text(encoding="utf-8")))
    found = {corpus.huggingface: corpus.text for corpus in study.corpora.values()}
    assert found == {
        "nilq/babylm-100M": "content",
        "nilq/small-python-stack": "content",
        "nilq/small-lua-stack": "content",
        "roneneldan/TinyStories": "text",
    }
    base, *_ = study.order()
    (merge,) = (name for name in study.models if len(study.parents(name)) == 2)
    assert study.roots(merge) == [base]
    assert study.models[base].balance == "tokens"
    lua, stories = study.parents(merge)  # the paper's path runs from Lua to TinyStories
    assert [study.corpora[c].huggingface for m in (lua, stories) for c in study.own_corpora(m)] == [
        "nilq/small-lua-stack",
        "roneneldan/TinyStories",
    ]
    assert study.models[base].training == keys_module.Training()
    assert study.models[lua].training == study.models[stories].training == keys_module.FineTuning()


def test_schema_and_reference_are_current(project):
    assert (project / "config" / "schema.json").read_text(encoding="utf-8") == schema()
    assert (project / "config" / "README.md").read_text(encoding="utf-8") == reference()


def test_docs_are_written_as_they_are_checked(tmp_path):
    write_docs(str(tmp_path))
    assert (tmp_path / "schema.json").read_text(encoding="utf-8") == schema()
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == reference()


def blocks():
    return [item for _, item in inspect.getmembers(module, inspect.isclass) if issubclass(item, Block)]


@pytest.mark.parametrize("block", blocks(), ids=lambda block: block.__name__)
def test_every_key_is_described(block):
    assert block.__doc__
    for key, field in block.model_fields.items():
        assert (field.description or "").endswith("."), f"{block.__name__}.{key}"


def test_reference_has_every_key_of_every_block():
    pages = {part.split("\n", 1)[0]: part for part in reference().split("\n## ")[1:]}
    blocks = vars(texts) | vars(keys_module) | vars(measures) | vars(module)
    for name, page in pages.items():
        assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| `")] == list(
            blocks[name].model_fields
        )
    kinds = [kind for table in (texts.CORPORA, texts.TOKENIZERS, keys_module.MODELS) for kind in table.values()]
    assert {kind.__name__ for kind in kinds} <= set(pages)


def test_schema_refuses_unknown_keys_for_editors():
    definitions = json.loads(schema())
    assert definitions["additionalProperties"] is False
    assert all(block["additionalProperties"] is False for block in definitions["$defs"].values())


# --- what is refused ---------------------------------------------------------------------------------------

BAD = [
    # key to set, value, key named in the message, what it says was found, what it says is allowed
    ("modles", {}, "modles", "a block with no keys", "did you mean models?"),
    ("study", ..., "study", "nothing", "must be given"),
    ("study", "a/b", "study", "'a/b'", "letters and digits"),
    ("study", "a--b", "study", "'a--b'", "letters and digits"),
    ("seed", -1, "seed", "-1", "greater than or equal to 0"),
    ("seed", 2**32, "seed", "4294967296", "less than 4294967296"),
    ("threads", 0, "threads", "0", "greater than 0"),
    ("evaluation_tokens", "many", "evaluation_tokens", "'many'", "a valid integer"),
    ("corpora", {}, "corpora", "no keys", "at least 1"),
    ("corpora.x", {"text": "a"}, "corpora.x", "a block with text", "package, huggingface, files"),
    ("corpora.x", {"files": []}, "corpora.x.files", "[]", "at least 1"),
    ("corpora.x", {"files": "a", "fraction": 0}, "corpora.x.fraction", "0", "greater than 0"),
    ("corpora.x", {"files": "a", "fraction": 1.5}, "corpora.x.fraction", "1.5", "less than or equal to 1"),
    ("corpora.x", {"files": "a", "validation": 1}, "corpora.x.validation", "1", "less than 1"),
    ("corpora.python.sha256", "abc", "corpora.python.sha256", "'abc'", "[0-9a-f]{64}"),
    ("corpora.python.include", ..., "corpora.python.include", "nothing", "must be given"),
    ("corpora.lua.files", "a", "corpora.lua.files", "'a'", "no such key"),
    ("tokenizer", "gpt2", "tokenizer", "'gpt2'", "train, pretrained"),
    ("tokenizer.train", ["latin"], "tokenizer.train", "'latin'", "english, python, lua, stories"),
    ("tokenizer.vocab_size", 10, "tokenizer.vocab_size", "10", "greater than or equal to 300"),
    ("models.x", {"foo": 1}, "models.x", "a block with foo", "pretrained, adapter, parents, parent, train"),
    ("models.a/b", {"train": ["lua"]}, "models.a/b", "'a/b'", "letters and digits"),
    ("models.lua.parent", "nobody", "models.lua.parent", "'nobody'", "another model of this study"),
    ("models.base", {"parent": "late", "train": ["lua"]}, "models.luastories", "luastories -> lua", "without cycles"),
    ("models.lua.parent", "lua", "models.lua", "lua -> lua", "without cycles"),
    ("models.luastories.parents", ["lua"], "models.luastories.parents", "['lua']", "at least 2"),
    ("models.luastories.parents", ["lua", "lua"], "models.luastories.parents", "['lua', 'lua']", "each model once"),
    ("models.luastories.merge.t", 1.5, "models.luastories.merge.t", "1.5", "'equilibrium' or less than or equal to 1"),
    (
        "models.luastories.merge.method",
        "sum",
        "models.luastories.merge.method",
        "'sum'",
        "'slerp', 'linear', 'ties' or 'dare_ties'",
    ),
    ("models.lua.train", ["latin"], "models.lua.train", "'latin'", "a corpus of this study"),
    ("models.lua.train", ["lua", "lua"], "models.lua.train", "['lua', 'lua']", "each corpus once"),
    ("models.base.training.lr", 0, "models.base.training.lr", "0", "greater than 0"),
    ("models.base.training.lr", float("nan"), "models.base.training.lr", "nan", "finite"),
    ("models.base.training.learning_rate", 1, "models.base.training.learning_rate", "1", "no such key"),
    ("models.base.training.block", 4096, "models.base.training.block", "4096", "max_position_embeddings (2048)"),
    ("models.base.architecture", {"num_attention_heads": 3}, "models.base.architecture", "num_attention_heads", "512"),
    (
        "models.base.architecture",
        {"num_key_value_heads": 3},
        "models.base.architecture",
        "key_value",
        "divide num_attention_heads (16)",
    ),
    ("models.base.architecture", {"hidden_size": 48}, "models.base.architecture", "hidden_size", "must be even"),
    ("models.base.architecture", {"head_dim": 5}, "models.base.architecture", "head_dim", "head_dim must be even"),
    (
        "models.base.architecture",
        {"sliding_window": 0},
        "models.base.architecture.sliding_window",
        "0",
        "greater than 0",
    ),
    (
        "models.luastories.merge",
        "sum",
        "models.luastories.merge.method",
        "'sum'",
        "'slerp', 'linear', 'ties' or 'dare_ties'",
    ),
    ("autoencoder.hook", "mlp", "autoencoder.hook", "'mlp'", "did you mean blocks.0.mlp.hook_out?"),
    ("autoencoder.hook", "blocks.1.hook", "autoencoder.hook", "'blocks.1.hook'", "the model has 1 layer, blocks.0"),
    ("autoencoder.seeds", [0, 0], "autoencoder.seeds", "[0, 0]", "each seed once"),
    ("autoencoder.tokens", 5, "autoencoder.tokens", "5", "at least one batch of 16384"),
    ("autoencoder.context", 4096, "autoencoder.context", "4096", "max_position_embeddings (2048)"),
    ("autoencoder.resampling.silence", 0.1, "autoencoder.resampling.silence", "0.1", "did you mean silent?"),
    ("autoencoder.resampling.steps", [600], "autoencoder.resampling.steps", "[600]", "now at, in shares of the run"),
    ("autoencoder.resampling.at", [0.2, 1], "autoencoder.resampling.at.1", "1", "less than 1"),
    ("autoencoder.resampling", {"at": [0.05]}, "autoencoder.resampling", "a block with at", "not before silent (0.1)"),
    ("autoencoder.resampling", {"silent": 0.9}, "autoencoder.resampling", "silent", "at (0.2) not before silent (0.9)"),
    (
        "autoencoder",
        {"tokens": 40_000, "resampling": {"at": [0.97], "silent": 0.97}},
        "autoencoder.resampling.silent",
        "0.97",
        "before the last of the run's 2 steps",
    ),
    ("autoencoder.l1_warmup_steps", 4882, "autoencoder.l1_warmup_steps", "4882", "fewer than the run's 915 steps"),
    (
        "models.lua.training",
        {"tokens": 64_000},
        "models.lua.training.warmup_steps",
        "500",
        "fewer than the run's 4 steps",
    ),
    ("flow.threshold", 1, "flow.threshold", "1", "less than 1"),
    ("flow.floor", 0.9, "flow", "floor", "floor (0.9) must not exceed threshold (0.8)"),
    ("flow.corpora", ["latin"], "flow.corpora", "'latin'", "a corpus of this study"),
    ("flow.tokens", 10, "flow.tokens", "10", "two blocks of 128"),
    (
        "interpretation",
        {"model": "m", "completion_price": 0},
        "interpretation.prompt_price",
        "None",
        "0 if it costs nothing",
    ),
    (
        "interpretation",
        {"model": "m", "prompt_price": 10, "completion_price": 0},
        "interpretation.budget_usd",
        "None",
        "the most that may be spent",
    ),
    ("interpretation.budget_usd", -1, "interpretation.budget_usd", "-1", "greater than 0"),
    ("interpretation.features", "some", "interpretation.features", "not shown as it may be a key", "'all'"),
    ("interpretation.key_env", "sk-1234", "interpretation.key_env", "not shown as it may be a key", "[A-Z_]"),
    ("interpretation.key", "sk-1234", "interpretation.key", "not shown as it may be a key", "no such key"),
    ("interpretation.base_url", "http://me:pw@host", "interpretation.base_url", "not shown", "HF_TOKEN"),
]


@pytest.mark.parametrize(("key", "value", "named", "found", "allowed"), BAD, ids=[f"{b[0]}={b[1]}"[:60] for b in BAD])
def test_bad_value_is_refused_in_one_message(key, value, named, found, allowed):
    with pytest.raises(StudyError) as refused:
        load_study(changed(key, value))
    head, *lines = str(refused.value).splitlines()
    assert head.startswith("config refused, 1 problem in study ")
    (line,) = lines
    where, rest = line.strip().split(": found ", 1)
    what, remedy = rest.split("; allowed: ", 1)
    assert where == named
    assert found in what
    assert allowed in remedy


def test_all_problems_are_told_at_once():
    config = changed("models.lua.train", ["latin"])
    config["flow"] = {"corpora": ["greek"]}
    config["autoencoder"] = {"seeds": [1, 1]}
    with pytest.raises(StudyError, match=r"3 problems(?s:.)*latin(?s:.)*greek(?s:.)*each seed once"):
        load_study(config)


@pytest.mark.parametrize("config", [None, [], "text", {}])
def test_what_is_no_study_is_refused(config):
    with pytest.raises(StudyError, match="config refused"):
        load_study(config)


def test_numbers_that_yaml_reads_as_text_are_numbers():
    # YAML 1.1 takes 3e-4 for a string, as it has no dot.
    assert load_study(changed("autoencoder", yaml.safe_load("l1: 3e-4"))).autoencoder.l1 == 3e-4


def test_a_study_cannot_be_changed(study):
    with pytest.raises(ValueError, match="frozen"):
        study.seed = 3


def test_no_two_autoencoders_begin_with_the_same_random_numbers(study):
    found = {study.autoencoder_seed(model, seed) for model in study.models for seed in range(50)}
    assert len(found) == 50 * len(study.models)
    assert study.autoencoder_seed("lua", 0) == study.autoencoder_seed("lua", 0) != study.autoencoder_seed("lua", 1)


KEY = "sk-proj-0123456789abcdefABCDEF"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("credentials", KEY),
        ("seed", KEY),
        ("study", KEY),
        ("models.lua.hf", "hf_0123456789abcdefABCDEF"),
        ("models.other.pretrained", "https://me:secret0123@host/model"),
        ("corpora.lua.license", f"by {KEY}"),
        ("interpretation.model", KEY),
        ("interpretation.base_url", f"https://host/{KEY}"),
        ("interpretation.base_url", "https://host/v1?api_key=secret0123"),
        (KEY, 1),
    ],
)
def test_what_looks_like_a_key_is_refused_wherever_it_stands_and_not_shown(key, value):
    with pytest.raises(StudyError) as refusal:
        load_study(changed(key, value))
    said = str(refusal.value)
    assert "looks like a key" in said and "HF_TOKEN" in said
    assert KEY not in said and "secret0123" not in said and "hf_0123" not in said
    assert (key in said) == (key != KEY)


# --- length of the blocks ----------------------------------------------------------------------------------


def one_layer(**changes):
    return {"train": ["prose"], "architecture": changes, "training": {"block": 16}}


def context_of(models, tokenizer=None, **autoencoder):
    corpora = {"prose": {"files": "prose.txt"}}
    block = {"study": "x", "corpora": corpora, "tokenizer": tokenizer or {"train": ["prose"]}, "models": models}
    return load_study(block | {"autoencoder": autoencoder}).context


def test_the_papers_model_is_read_in_the_papers_blocks():
    assert context_of({"a": one_layer(), "b": one_layer(), "c": {"parent": "a", "train": ["prose"]}}) == 24
    assert context_of({"a": one_layer(max_position_embeddings=16)}, batch=1) == 16


def test_deeper_and_published_models_are_read_in_longer_blocks(tmp_path):
    assert context_of({"a": one_layer(num_hidden_layers=2)}) == 128
    assert context_of({"a": one_layer(num_hidden_layers=2), "b": one_layer()}) == 128
    assert context_of({"a": one_layer(num_hidden_layers=2, max_position_embeddings=100)}) == 100
    hub = {"pretrained": "owner/name"}
    assert context_of({"a": hub | {"train": ["prose"]}}, hub) == 128
    for name, config in (("long", {"max_position_embeddings": 512}), ("short", {"text_config": {"n_positions": 64}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    long, short = ({"pretrained": str(tmp_path / name)} for name in ("long", "short"))
    assert context_of({"a": long | {"train": ["prose"]}}, hub) == 128
    lineage = {"a": long | {"train": ["prose"]}, "b": short | {"parent": "a"}}
    assert context_of(lineage, hub) == 63  # a token may stand before every window
    assert context_of(lineage, hub | {"window_start": "none"}) == 64


def test_a_length_that_is_written_holds():
    assert context_of({"a": one_layer(num_hidden_layers=2)}, context=32) == 32
    study = load_study(
        {
            "study": "x",
            "corpora": {"prose": {"files": "p.txt"}},
            "tokenizer": {"train": ["prose"]},
            "models": {"a": one_layer()},
        }
    )
    assert study.autoencoder.context is None
    assert study.autoencoder_options()["context"] == study.context == 24
    assert "seeds" not in study.autoencoder_options()
