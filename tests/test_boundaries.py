"""What stands around documents and windows: chosen from the tokenizer, written into token files, read by models."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tokenizer_zoo import ZOO, _bpe, _with_start, publish, reference
from tokenizers import Tokenizer, models, processors
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from feature_lineage.errors import InputError
from feature_lineage.models.checkpoint import build_model, check_own_tokenizer, load_model, save_model
from feature_lineage.models.evaluation import check_windows, evaluate_model, longest_window
from feature_lineage.models.hooks import activations, check_hook, load_hooked, next_token_losses
from feature_lineage.models.readings import evaluate_plainly, warn_of_reading
from feature_lineage.models.training import Data, train_model
from feature_lineage.study.digests import Checksums
from feature_lineage.study.keys import Training
from feature_lineage.study.loading import load_study
from feature_lineage.study.local_inputs import LocalInputs
from feature_lineage.study.types import StudyError
from feature_lineage.text.boundaries import KEY, Boundaries, boundaries_of, choose_boundaries, recorded_boundaries
from feature_lineage.text.shards import document_ends, encode_corpus, read_index
from feature_lineage.text.tokenizer import END, import_tokenizer, load_tokenizer, save_tokenizer
from feature_lineage.text.windows import PlainWindows, Windows

HOOK = "blocks.0.mlp.hook_post"

# --- the choice --------------------------------------------------------------------------------------------


def fast(start=None, **names):
    """A byte-level tokenizer with `<bos>` and the like, which puts `start` before a text."""
    made = _bpe(special=["<bos>", "<|begin_of_text|>", "<s>"])
    return PreTrainedTokenizerFast(tokenizer_object=_with_start(made, start) if start else made, **names)


@pytest.mark.parametrize("name", ZOO)
def test_documents_stand_as_the_tokenizer_encodes_a_text(name, tmp_path):
    publish(name, tmp_path / "x")
    tokenizer = import_tokenizer(tmp_path / "x")
    found = choose_boundaries(tokenizer, {})
    plain, whole = (
        reference(tmp_path / "x").encode("word", add_special_tokens=special).ids for special in (False, True)
    )
    if plain == whole:
        assert found == Boundaries((), (tokenizer.eos_token_id,), None)
    else:
        assert [*found.document_start, *plain, *found.document_end] == whole
    assert found.window_start is None


def test_some_zoo_tokenizers_put_tokens_on_either_side(tmp_path):
    publish("added", tmp_path / "x")  # RoBERTa's: <s> before, </s> after, here numbers 1 and 0
    assert choose_boundaries(import_tokenizer(tmp_path / "x"), {}) == Boundaries((1,), (0,), None)


@pytest.mark.parametrize(
    ("start", "bos", "expected"),
    [
        ("<bos>", "<bos>", ((1,), (), 1)),
        ("<|begin_of_text|>", "<|begin_of_text|>", ((2,), (), 2)),
        (None, "<bos>", ((), (0,), 1)),
        ("<s>", "<s>", ((3,), (), None)),
        (None, None, ((), (0,), None)),
    ],
)
def test_a_window_starts_with_the_bos_of_those_that_need_it(start, bos, expected):
    assert choose_boundaries(fast(start, bos_token=bos, eos_token=END), {}) == Boundaries(*expected)


def test_tokens_are_chosen_by_their_text():
    tokenizer = fast("<s>", bos_token="<s>", eos_token=END)
    asked = {"document_start": "none", "document_end": "<s>", "window_start": "<bos>"}
    found = choose_boundaries(tokenizer, asked)
    assert found == Boundaries((), (3,), 1)
    assert found.words(tokenizer.backend_tokenizer) == asked
    assert choose_boundaries(tokenizer, {"document_end": END}) == Boundaries((3,), (0,), None)


@pytest.mark.parametrize("key", Boundaries._fields)
def test_a_token_that_the_tokenizer_has_not_is_refused(key):
    with pytest.raises(InputError, match=rf"^tokenizer.{key} is '</s>', which is no token of .*such as '<\|endoft"):
        choose_boundaries(fast(eos_token=END), {key: "</s>"})


def test_without_eos_a_tokenizer_serves_as_long_as_something_parts_documents(tmp_path, write_documents):
    with pytest.raises(InputError, match=r"has no token to part documents with; set tokenizer.document_start or"):
        choose_boundaries(fast(), {})
    assert choose_boundaries(fast(), {"document_start": "<s>"}) == Boundaries((3,), (), None)
    assert choose_boundaries(fast("<bos>"), {}) == Boundaries((1,), (), None)
    with pytest.raises(InputError, match="has no token to part documents with"):
        choose_boundaries(fast(eos_token=END), {"document_end": "none"})
    tokenizer = fast("<s>")  # neither bos nor eos nor pad
    save_tokenizer(tokenizer, tmp_path / "tokenizer", {}, choose_boundaries(tokenizer, {}))
    documents = write_documents(tmp_path / "train.parquet", ["some words", "more words"])
    encode_corpus(documents, tmp_path / "tokenizer", tmp_path / "tokens", {})
    assert read_index(tmp_path / "tokens")["end_token"] is None


def test_text_of_which_the_tokenizer_knows_nothing_is_refused_with_tokens_on_both_sides(tmp_path, write_documents):
    made = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "a": 2}, []))
    made.add_special_tokens(["<s>", "</s>"])
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
    save_tokenizer(tokenizer, tmp_path / "tokenizer", {}, choose_boundaries(tokenizer, {}))
    documents = write_documents(tmp_path / "train.parquet", ["zzz", "zz"])
    with pytest.raises(InputError, match="has no token for any text"):
        encode_corpus(documents, tmp_path / "tokenizer", tmp_path / "tokens", {})


# --- in the configuration ----------------------------------------------------------------------------------


def study(**tokenizer):
    return {
        "study": "x",
        "corpora": {"c": {"files": "c.txt"}},
        "tokenizer": tokenizer,
        "models": {"m": {"train": ["c"]}},
    }


def test_something_must_part_documents():
    with pytest.raises(StudyError, match=r"something must part documents"):
        load_study(study(pretrained="owner/name", document_start="none", document_end="none"))
    assert load_study(study(train=["c"])).tokenizer.boundaries == dict.fromkeys(Boundaries._fields, "auto")


def test_a_local_tokenizer_is_asked_before_anything_runs(tmp_path, tokenizer_dir):
    def check(**keys):
        LocalInputs(load_study(study(pretrained=str(tokenizer_dir), **keys)), Checksums(tmp_path / "sums")).check()

    check(document_start=END, window_start="none")
    check(document_start="e")  # any token
    with pytest.raises(
        StudyError, match=r"tokenizer.window_start: found '<bos>', which is no token of .*auto, none or"
    ):
        check(window_start="<bos>")


# --- kept in a folder --------------------------------------------------------------------------------------


def test_choices_are_kept_with_the_tokenizer_and_followed_when_it_is_taken_over(tmp_path):
    tokenizer = fast("<s>", bos_token="<s>", eos_token=END)
    chosen = choose_boundaries(tokenizer, {"document_start": "<bos>", "window_start": "<bos>"})
    save_tokenizer(tokenizer, tmp_path / "a", {}, chosen)
    assert recorded_boundaries(tmp_path / "a") == boundaries_of(load_tokenizer(tmp_path / "a")) == chosen
    again = import_tokenizer(tmp_path / "a")
    assert choose_boundaries(again, {}) == chosen
    assert choose_boundaries(again, {"window_start": "none"}) == chosen._replace(window_start=None)
    save_tokenizer(tokenizer, tmp_path / "old", {})  # as before there was a choice
    assert recorded_boundaries(tmp_path / "old") is None
    assert boundaries_of(load_tokenizer(tmp_path / "old")) == Boundaries((), (0,), None)


@pytest.mark.parametrize(
    "value", [[], 5, {"document_start": [1]}, {"document_start": ["x"], "document_end": [], "window_start": None}]
)
def test_a_record_that_says_something_else_is_refused(tmp_path, tokenizer_dir, value):
    (tmp_path / "tokenizer.json").write_bytes((tokenizer_dir / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({KEY: value, "eos_token": END}))
    with pytest.raises(InputError, match=rf"tokenizer_config.json has {KEY} = .*remove the key"):
        import_tokenizer(tmp_path)


def test_documents_are_written_with_both_sides_and_counted(tmp_path, write_documents):
    tokenizer = fast(bos_token="<s>", eos_token=END)
    texts = ["one text", "", f"another {END} with <s> in it"]
    documents = write_documents(tmp_path / "train.parquet", texts)
    ids = [tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) for text in texts]
    for start, end in (((3,), ()), ((3, 1), (0,)), ((), (0, 0))):
        save_tokenizer(tokenizer, tmp_path / "tokenizer", {}, Boundaries(start, end, None))
        count = encode_corpus(documents, tmp_path / "tokenizer", tmp_path / "tokens", {}, shard_tokens=5)
        expected = [[*start, *one, *end] for one in ids]
        index = read_index(tmp_path / "tokens")
        found = np.concatenate([np.load(tmp_path / "tokens" / shard["file"]) for shard in index["shards"]])
        np.testing.assert_array_equal(found, np.concatenate(expected))
        np.testing.assert_array_equal(document_ends(tmp_path / "tokens"), np.cumsum([len(one) for one in expected]))
        assert count == len(found)
        assert index.get("left_out", []) == sorted(start)


# --- read by models ----------------------------------------------------------------------------------------

TOKENS = np.random.default_rng(0).integers(2, 400, (6, 12))


@pytest.fixture(scope="module")
def both(tmp_path_factory, tokenizer_dir, architecture, one_thread):
    """A checkpoint that reads no token before its windows, and the same one that reads token 1."""
    root = tmp_path_factory.mktemp("models")
    tokenizer = load_tokenizer(tokenizer_dir)
    for name, start in (("plain", None), ("after", 1)):
        save_tokenizer(tokenizer, root / f"{name}-tokenizer", {}, Boundaries((), (0,), start))
        model = build_model(architecture, root / f"{name}-tokenizer", 0)
        assert getattr(model, "window_start", "none") == start
        for parameter in model.parameters():  # so that what is read before is seen in all that follows
            parameter.data *= 4
        save_model(model, root / f"{name}-tokenizer", root / name, {})
    return root / "plain", root / "after"


def after_start(tokens):
    return np.concatenate([np.ones((len(tokens), 1), np.int64), tokens], 1)


def test_vectors_follow_the_start_and_leave_it_out(both):
    plain, after = (load_hooked(path, HOOK) for path in both)
    found = activations(after, HOOK, TOKENS)
    expected = activations(plain, HOOK, after_start(TOKENS)).unflatten(0, (6, 13))[:, 1:].flatten(0, 1)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, activations(plain, HOOK, TOKENS), atol=1e-3)


@pytest.mark.parametrize("replace", [None, torch.zeros_like, torch.clone])
def test_losses_are_those_of_the_same_tokens(both, replace):
    plain, after = (load_hooked(path, HOOK) for path in both)
    found = next_token_losses(after, HOOK, TOKENS, replace)
    seen = []

    def but_the_first(x):  # the start keeps its activations
        x = x.unflatten(0, (6, 13)).clone()
        x[:, 1:] = replace(x[:, 1:].flatten(0, 1)).unflatten(0, (6, 12))
        seen.append(x)
        return x.flatten(0, 1)

    expected = next_token_losses(plain, HOOK, after_start(TOKENS), but_the_first if replace else None)
    torch.testing.assert_close(found, expected.unflatten(0, (6, 12))[:, 1:].flatten())
    assert found.shape == (6 * 11,) and len(seen) == bool(replace)


@pytest.fixture(scope="module")
def token_windows(tmp_path_factory, write_tokens):
    return Windows({"c": write_tokens(tmp_path_factory.mktemp("tokens") / "c", TOKENS.flatten())}, 12)


def test_an_evaluation_reads_the_start_and_predicts_the_same_tokens(both, token_windows):
    found = evaluate_model(load_model(both[1]), token_windows, np.arange(6))
    model = AutoModelForCausalLM.from_pretrained(both[1])
    with torch.no_grad():
        logits = model(torch.from_numpy(after_start(TOKENS))).logits[:, 1:-1].double()
    right = torch.from_numpy(TOKENS[:, 1:])
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), right.flatten())
    assert found["tokens"] == 66
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], (logits.argmax(-1) == right).double().mean())
    assert abs(found["loss"] - evaluate_model(load_model(both[0]), token_windows, np.arange(6))["loss"]) > 1e-3


def test_a_window_leaves_room_for_its_start(both):
    plain, after = (load_model(path) for path in both)
    assert (longest_window(plain)[1], longest_window(after)[1]) == (64, 63)
    check_windows(after, np.ones((1, 63), np.int64))
    with pytest.raises(
        InputError, match=r"at most 63 tokens at once after tokenizer.window_start \(max_pos.*at most 63"
    ):
        check_windows(after, np.ones((1, 64), np.int64), "my.key")
    check_hook(both[1], HOOK, 63)


def test_training_reads_the_start(both, tmp_path, token_windows, one_thread):
    directories = token_windows.directories
    data = Data(directories, directories, balance=False, evaluation_tokens=100)
    options = Training(tokens=72, epochs=2, block=12, batch=3, lr=1e-3, evaluations=1)
    model = load_model(both[1])
    before = evaluate_model(model, token_windows, np.arange(6))
    curve = train_model(model, data, tmp_path / "run", options, "m", 0).to_pylist()
    measured = [row for row in curve if row["split"] == "validation"]
    expected = evaluate_model(model.eval(), token_windows, np.arange(6))
    for row, one in ((measured[0], before), (measured[-1], expected)):
        np.testing.assert_allclose(row["loss"], one["loss"], rtol=1e-5)
        np.testing.assert_allclose(row["accuracy"], one["accuracy"], rtol=1e-5)
    first = next(row["loss"] for row in curve if row["split"] == "train")
    assert abs(first - before["loss"]) < 0.5


def test_a_model_must_have_the_tokens_around_documents(tmp_path, both, tokenizer_dir):
    tokenizer = load_tokenizer(tokenizer_dir)
    save_tokenizer(tokenizer, tmp_path / "tokenizer", {}, Boundaries((), (0,), None))
    own = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    for token in own["added_tokens"]:
        token["content"] = "<other>"
    own["model"]["vocab"] = {
        ("<other>" if text == END else text): number for text, number in own["model"]["vocab"].items()
    }
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(own))
    with pytest.raises(InputError, match=r"such as '<\|endoftext\|>': 0 and missing"):
        check_own_tokenizer(str(tmp_path / "model"), tmp_path / "tokenizer")
    save_tokenizer(tokenizer, tmp_path / "tokenizer", {}, Boundaries((), (5,), None))
    check_own_tokenizer(str(tmp_path / "model"), tmp_path / "tokenizer")


# --- beside the plain reading ------------------------------------------------------------------------------


def test_the_plain_reading_is_that_of_the_same_documents_parted_by_eos(both, tmp_path, write_documents, tokenizer_dir):
    tokenizer = load_tokenizer(tokenizer_dir)
    texts = ["a first text", "", "more of it, and more", "the last one"] * 30
    documents = write_documents(tmp_path / "train.parquet", texts)
    directories = {}
    for name, chosen in {"plain": Boundaries((), (0,), None), "chosen": Boundaries((5, 6), (7,), 1)}.items():
        save_tokenizer(tokenizer, tmp_path / "tokenizer", {}, chosen)
        encode_corpus(documents, tmp_path / "tokenizer", tmp_path / name, {}, shard_tokens=50)
        directories[name] = tmp_path / name
    shards = [np.load(tmp_path / "plain" / shard["file"]) for shard in read_index(tmp_path / "plain")["shards"]]
    stream = np.concatenate(shards)
    windows = PlainWindows(directories["chosen"], (2, 1), 0, 12)
    assert len(windows) == len(stream) // 12
    np.testing.assert_array_equal(windows[np.arange(len(windows))].ravel(), stream[: len(windows) * 12])
    np.testing.assert_array_equal(
        windows[windows.spread(36)], stream[: len(windows) * 12].reshape(-1, 12)[windows.spread(36)]
    )
    model = load_model(both[1])
    shutil.copytree(both[1], tmp_path / "model")
    save_tokenizer(tokenizer, tmp_path / "tokenizer", {}, Boundaries((5, 6), (7,), 1))
    for file in (tmp_path / "tokenizer").iterdir():
        shutil.copy(file, tmp_path / "model")
    found = evaluate_plainly(model, tmp_path / "model", {"c": directories["chosen"]}, 12, 10**9)
    assert model.window_start == 1
    expected = evaluate_model(load_model(both[0]), windows, np.arange(len(windows)))
    assert found["c"] == pytest.approx(expected)
    assert evaluate_plainly(model, both[0], {"c": directories["plain"]}, 12, 100) is None


def test_a_plain_reading_that_is_better_is_told(caplog):
    found, plain = ({"a": {"loss": one}, "b": {"loss": 1.0}} for one in (1.6, 1.5))
    with caplog.at_level("WARNING"):
        warn_of_reading("base", found, plain)
        warn_of_reading("other", plain, found)
    (record,) = caplog.records
    assert (
        "model base, corpus a: the loss is 1.600 nats" in record.getMessage()
        and "document_start" in record.getMessage()
    )


# --- a model that was really trained -----------------------------------------------------------------------


def test_a_trained_model_reads_documents_as_it_met_them(trained_checkpoints, tmp_path, write_documents):
    stories = trained_checkpoints.parent / "corpora" / "tinystories.parquet"
    if not stories.exists():
        pytest.skip(f"no {stories.name} beside the checkpoints")
    path = trained_checkpoints / "stories260k"
    documents = write_documents(tmp_path / "train.parquet", pq.read_table(stories)["text"].to_pylist()[:1000])
    tokenizer, found = import_tokenizer(path), {}
    model = load_model(path)
    for name, chosen in {
        "auto": choose_boundaries(tokenizer, {}),
        "plain": Boundaries((), (tokenizer.eos_token_id,), None),
        "window": Boundaries((1,), (), 1),
    }.items():
        save_tokenizer(tokenizer, tmp_path / "tokenizer", {}, chosen)
        encode_corpus(documents, tmp_path / "tokenizer", tmp_path / "tokens", {})
        model.window_start = chosen.window_start
        windows = Windows({"c": tmp_path / "tokens"}, 256)
        found[name] = evaluate_model(model, windows, windows.spread(0, 40_000))["loss"]
        if name == "auto":
            plain = PlainWindows(tmp_path / "tokens", (1, 0), tokenizer.eos_token_id, 256)
            found["beside"] = evaluate_model(model, plain, plain.spread(40_000))["loss"]
    assert choose_boundaries(tokenizer, {}) == Boundaries((1,), (), None)
    assert abs(found["auto"] - 1.442) < 0.05 and abs(found["plain"] - 1.629) < 0.05
    assert found["window"] > found["auto"]
    assert abs(found["beside"] - found["plain"]) < 1e-3
