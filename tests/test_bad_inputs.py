"""Documents, tokenizers, checkpoints, merges and autoencoders that do not fit: one error that names the file and the way out."""

import gzip
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import zstandard
from autoencoders import random_autoencoder
from safetensors.torch import load_file, save_file
from trainings import train_autoencoder, train_model
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from feature_lineage.autoencoders.autoencoder import load_autoencoder, save_autoencoder
from feature_lineage.errors import InputError
from feature_lineage.features.collect import collect_features
from feature_lineage.models.checkpoint import build_model, import_model, published_model, save_model
from feature_lineage.models.evaluation import evaluate_model
from feature_lineage.models.hooks import activations, load_hooked
from feature_lineage.models.merge import angles
from feature_lineage.store.formats import write_json, write_tensors
from feature_lineage.text.boundaries import choose_boundaries
from feature_lineage.text.corpora import CorpusOptions, build_corpus
from feature_lineage.text.files import Document
from feature_lineage.text.huggingface import huggingface_documents
from feature_lineage.text.shards import encode_corpus
from feature_lineage.text.sources import files_documents
from feature_lineage.text.tokenizer import import_tokenizer, vocabulary_size
from feature_lineage.text.windows import Windows

HOOK = "blocks.0.mlp.hook_post"
UP = "model.layers.0.mlp.up_proj.weight"


def refused(action, *words):
    """Have an action fail in one message with all these words."""
    with pytest.raises(InputError) as error:
        action()
    message = str(error.value)
    assert "\n" not in message, "a log shows it on a line of its own"
    assert all(word in message for word in words), f"{words} are not all in: {message}"


# --- documents ---------------------------------------------------------------------------------------------

LINE = b'{"text": "a"}\n'
FILES = {
    # name: content, what the message says
    "empty.txt.gz": (b"", "0 bytes"),
    "empty.jsonl.zst": (b"", "0 bytes"),
    "packed.txt": (gzip.compress(b"a" * 100), "packed by gzip; add .gz"),
    "binary.bin": (b"\x7fELF\0\0\1\2" * 20, "NUL characters"),
    "utf16.txt": ("\ufeffwide".encode("utf-16-le"), "text in UTF-16"),
    "utf16-without-mark.txt": ("wide".encode("utf-16-le"), "NUL characters"),
    "utf16.jsonl": (LINE.decode().encode("utf-16"), "utf16.jsonl: is text in UTF-16"),
    "table.jsonl": (b"PAR1\x15\x04\x00PAR1", "table.jsonl: is a Parquet file"),
    "more.jsonl.gz": (gzip.compress(LINE) + b"more", "damaged"),
    "more.jsonl.zst": (zstandard.compress(LINE) + b"more", "damaged"),
    "number.jsonl": (LINE + b"3\n", "number.jsonl:2: a number, where an object with the key 'text' is meant"),
    "nested.jsonl": (b'{"text": {"a": 1}}\n', "column 'text' holds dict"),
    "numbers.jsonl": (b'{"text": 1}\n', "column 'text' holds int"),
    "keys.jsonl": (b'{"body": "a", "id": 1}\n', "has no key 'text', only 'body', 'id'"),
    "pretty.jsonl": (b'{\n  "text": "a"\n}\n', "pretty.jsonl:1: not JSON"),
    "mac.jsonl": (b'{"text": "a"}\r{"text": "b"}\r', "mac.jsonl:1: not JSON"),
    "deep.jsonl": (LINE + b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", "deep.jsonl:2: cannot be read"),
    "long-number.jsonl": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n", "long-number.jsonl:1: cannot be read"),
    "half-licence.jsonl": (b'{"text": "a", "license": "\\ud800"}\n', "'license' is not valid Unicode"),
}


@pytest.mark.parametrize("name", FILES)
def test_file_that_is_not_what_it_seems(tmp_path, name):
    content, said = FILES[name]
    (tmp_path / name).write_bytes(content)
    refused(lambda: list(files_documents(str(tmp_path / name))), str(tmp_path / name), said)


COLUMNS = {
    "bytes": pa.array([b"a"]),
    "large bytes": pa.array([b"\xff"], pa.large_binary()),
    "list": pa.array([["a"]]),
    "int": pa.array([1]),
    "dict": pa.array([{"a": 1}]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_column_of_another_type(tmp_path, kind):
    pq.write_table(pa.table({"text": COLUMNS[kind]}), tmp_path / "a.parquet")
    refused(lambda: list(files_documents(str(tmp_path / "a.parquet"))), "a.parquet:0: column 'text'", kind.split()[-1])


def test_column_that_is_there_twice_or_in_capitals_alone(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    refused(lambda: list(files_documents(str(path))), str(path), "two columns 'text'")
    pq.write_table(pa.table({"Text": ["a"]}), path)
    refused(lambda: list(files_documents(str(path))), str(path), "has no column 'text', only Text")


def test_bytes_in_a_column_of_text_that_are_none(tmp_path):
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    pq.write_table(pa.table({"text": text}), tmp_path / "a.parquet")
    refused(lambda: list(files_documents(str(tmp_path / "a.parquet"))), "a.parquet: not UTF-8")


def test_paths_that_lead_to_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "lost").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, said in {
        "folder": "a folder, where files are meant, for instance",
        "loop": "a link that leads to no file",
        "lost": "a link that leads to no file",
        "pipe": "no regular file",
        "none.txt": "no such file",
        "n*.txt": "no such file",
        "[z-a].txt": "no such file",
        "long" * 2000: "no such file",
    }.items():
        refused(lambda name=name: list(files_documents(str(tmp_path / name))), f"{tmp_path / name}: ", said, "`files`")


def test_a_file_without_permission_is_named(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read all files")
    refused(lambda: list(files_documents(str(path))), str(path), "Permission denied")


def test_a_suffix_in_capitals_means_the_same(tmp_path):
    (tmp_path / "A.JSONL").write_text('{"text": "one"}\n{"text": "two"}\n')
    (tmp_path / "B.TXT.GZ").write_bytes(gzip.compress(b"three"))
    found = files_documents([str(tmp_path / "A.JSONL"), str(tmp_path / "B.TXT.GZ")], "text")
    assert [one.text for one in found] == ["one", "two", "three"]


def test_a_path_that_exists_is_no_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a[1].txt", "a1.txt", "b*.txt", "b2.txt"):
        (tmp_path / name).write_text(name)
    assert [document.text for document in files_documents(["a[1].txt", "b*.txt"])] == ["a[1].txt", "b*.txt"]
    assert [document.text for document in files_documents("a[0-9].txt")] == ["a1.txt"]


def test_a_folder_that_holds_itself_is_read_once(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "again").symlink_to(".")
    assert [document.text for document in files_documents(f"{tmp_path}/**/*.txt")] == ["a"]


def corpus(tmp_path, texts, **options):
    documents = [Document(text, "test", None) for text in texts]
    options = CorpusOptions(**{"validation_share": 0.2} | options)
    return build_corpus(documents, tmp_path / "train.parquet", tmp_path / "validation.parquet", {}, "c", options)


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        ([], {}, "empty, 0 documents"),
        ([" ", "\n\t"], {}, "empty, 2 documents were read and none holds text"),
        (["one"], {}, "document is left of 1 read"),
        (["same"] * 50, {}, "document is left of 50 read"),
        (map(str, range(50)), {"fraction": 1e-9}, "no train document is left of 50 read"),
        (map(str, range(50)), {"validation_share": 1e-9}, "no validation document"),
        (map(str, range(50)), {"validation_share": 1 - 1e-9}, "no train document"),
    ],
)
def test_corpus_that_cannot_be_split(tmp_path, texts, options, said):
    refused(lambda: corpus(tmp_path, texts, **options), "corpus c: ", "corpora.c", said)
    assert not list(tmp_path.iterdir())


def test_data_sets_that_cannot_be_read_as_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "it-ran"
    folders = {
        "empty": {},
        "script": {"script.py": f"open({str(marker)!r}, 'w')"},
        "pickle": {"train.pkl": "a"},
        "picture": {"a.png": "a"},
        "void": {"train.jsonl": ""},
        "header": {"README.md": "---\nconfigs: 5\n---\n", "train.jsonl": LINE.decode()},
    }
    for name, files in folders.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
        refused(lambda name=name: list(huggingface_documents(name)), f"data set {name} ", "cannot be read")
    assert not marker.exists()
    # datasets' own readers would take whatever lies in the working directory
    for name in ("json", "text", "pandas"):
        refused(lambda name=name: list(huggingface_documents(name)), f"data set {name}: ", "the name of a format")


# --- tokenizers --------------------------------------------------------------------------------------------


def of_others(content):
    """What JSON holds, without the marks of a file that was written here."""
    return {key: value for key, value in content.items() if key not in ("provenance", "sha256")}


def altered(source, target, **files):
    """A copy of a folder in which files have other contents: bytes, a function of what JSON holds, or None for none."""
    shutil.copytree(source, target)
    for name, change in files.items():
        path = target / {"tokenizer": "tokenizer.json", "settings": "tokenizer_config.json"}.get(name, f"{name}.json")
        if change is None:
            path.unlink()
        elif callable(change):
            content = json.loads(path.read_text())
            path.write_text(json.dumps(change(content) or content))
        else:
            path.write_bytes(change)
    return target


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer": None},
        {"tokenizer": b"[]"},
        {"tokenizer": b"{}"},
        {"tokenizer": b"\xff\xfe"},
        {"settings": b"[]"},
        {"settings": b"{"},
        {"settings": None},
        {"settings": lambda it: it.update(eos_token=5)},
        {"settings": lambda it: it.update(tokenizer_class="Mine", auto_map={"AutoTokenizer": ["mine.Mine", None]})},
    ],
    ids=["no tokens", "a list", "an empty block", "no text", "settings a list", "settings cut off", "no settings",
         "settings of wrong types", "code of its own"],
)  # fmt: skip
def test_tokenizer_that_is_none(tmp_path, tokenizer_dir, files):
    folder = altered(tokenizer_dir, tmp_path / "altered", **files)
    refused(lambda: choose_boundaries(import_tokenizer(folder), {}), f"tokenizer {folder}: ")


def test_tokenizer_without_a_token_for_the_text(tmp_path, tokenizer_dir, write_documents):
    without = {"tokenizer": lambda it: it["model"].update(vocab={}, merges=[]), "settings": of_others}
    folder = altered(tokenizer_dir, tmp_path / "altered", **without)
    documents = write_documents(tmp_path / "train.parquet", ["some", "text"])
    refused(lambda: encode_corpus(documents, folder, tmp_path / "tokens", {}), str(folder), str(documents), "no token")
    assert not (tmp_path / "tokens").exists()


def test_vocabulary_with_gaps_counts_to_its_highest_id(tmp_path, tokenizer_dir, write_documents, architecture):
    def far(content):
        content["model"]["vocab"]["a"] = 70_000

    folder = altered(tokenizer_dir, tmp_path / "altered", tokenizer=far, settings=of_others)
    documents = write_documents(tmp_path / "train.parquet", ["a", "b"])
    encode_corpus(documents, folder, tmp_path / "tokens", {})
    assert np.load(tmp_path / "tokens" / "shard-00000.npy").max() == 70_000
    assert vocabulary_size(import_tokenizer(folder)) == 70_001
    assert build_model(architecture, folder, 0).get_input_embeddings().num_embeddings == 70_001
    save_model(build_model(architecture, tokenizer_dir, 0), tokenizer_dir, tmp_path / "small", {})
    (tmp_path / "small" / "tokenizer.json").unlink()  # which has other numbers, and would be refused for that
    refused(
        lambda: import_model(str(tmp_path / "small"), folder, tmp_path / "imported", {}),
        str(tmp_path / "small"),
        "400 tokens",
        "70001",
    )


# --- checkpoints -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, tiny_model, tokenizer_dir):
    folder = tmp_path_factory.mktemp("checkpoint") / "whole"
    save_model(tiny_model(), tokenizer_dir, folder, {})
    return folder


def with_tensors(source, target, change):
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


TENSORS = {
    "missing": (lambda it: it.pop(UP), ["1 missing", UP]),
    "misshapen": (lambda it: it.update({UP: it[UP][:-1].contiguous()}), ["1 mismatched", UP]),
    "unexpected": (lambda it: it.update(more=torch.zeros(3)), ["1 unexpected", "more"]),
    "none": (lambda it: it.clear(), ["missing", ", …"]),
    "NaN": (lambda it: it[UP].fill_(float("nan")), [UP, "NaN or infinity"]),
    "infinite": (lambda it: it[UP][0].fill_(float("inf")), [UP, "NaN or infinity"]),
}


@pytest.mark.parametrize("fault", TENSORS)
def test_checkpoint_whose_tensors_cannot_be_used(tmp_path, checkpoint, fault):
    change, said = TENSORS[fault]
    folder = with_tensors(checkpoint, tmp_path / "altered", change)
    refused(lambda: published_model(folder), f"model {folder}: ", "delete it", *said)


CONFIGS = {
    "no config.json": (None, []),
    "no JSON": (b"{", []),
    "a list": (b"[1]", []),
    "no model_type": (lambda it: [it.pop("model_type"), it][1], ["model_type"]),
    "unknown model_type": (lambda it: it.update(model_type="zzz"), ["zzz"]),
    "code of its own": (
        lambda it: it.update(model_type="zzz", auto_map={"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}),
        ["no code of a checkpoint is run"],
    ),
    "an encoder and decoder": (lambda it: it.update(model_type="t5"), ["(t5)", "predicts next tokens"]),
    "another vocabulary": (lambda it: it.update(vocab_size=500), ["mismatched", "model.embed_tokens.weight"]),
    "another width": (lambda it: it.update(hidden_size=32), ["mismatched"]),
    "a width that is text": (lambda it: it.update(hidden_size="wide"), ["hidden_size", "wide"]),
    "a negative width": (lambda it: it.update(hidden_size=-1), ["-1"]),
    "more layers": (lambda it: it.update(num_hidden_layers=2), ["missing", "model.layers.1."]),
    "no layers": (lambda it: it.update(num_hidden_layers=0), ["unexpected", "model.layers.0."]),
    "another activation": (lambda it: it.update(hidden_act="zzz"), ["zzz"]),
    "another head": (lambda it: it.update(architectures=["MistralForTokenClassification"]), ["predicts next tokens"]),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_checkpoint_whose_config_cannot_be_used(tmp_path, checkpoint, fault):
    change, said = CONFIGS[fault]
    folder = altered(checkpoint, tmp_path / "altered", config=change)
    refused(lambda: published_model(folder), f"model {folder}: ", *said)


def test_encoder_is_no_language_model(tmp_path):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=400, **shape)).save_pretrained(tmp_path / "encoder")
    refused(lambda: published_model(tmp_path / "encoder"), f"model {tmp_path / 'encoder'}: ", "BertForMaskedLM")


def test_pickles_are_refused_and_parts_that_are_missing_named(tmp_path, checkpoint, tiny_model):
    folder = tmp_path / "pickle"
    shutil.copytree(checkpoint, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(
        lambda: published_model(folder),
        f"model {folder}: ",
        "a format that can run code",
        f"feature-lineage convert {folder} OUT",
    )
    folder = tmp_path / "parts"
    tiny_model().save_pretrained(folder, max_shard_size="10KB")
    assert published_model(folder)
    next(iter(sorted(folder.glob("model-*.safetensors")))).unlink()
    refused(lambda: published_model(folder), f"model {folder}: ", "model-00001-of-")


@pytest.mark.parametrize("name", ["", "three words here", "a\0b", "x" * 5000, "-", "../.."])
def test_model_of_a_name_that_none_can_have(name):
    refused(lambda: published_model(name), "model ", "cannot be loaded")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_checkpoint_of_another_precision_is_read_as_float32(tmp_path, checkpoint, kind):
    def convert(tensors):
        tensors.update({name: tensor.to(kind) for name, tensor in tensors.items()})

    model = published_model(with_tensors(checkpoint, tmp_path / "altered", convert))
    assert all(tensor.dtype == torch.float32 for tensor in model.parameters())


@pytest.fixture(scope="module")
def short(tmp_path_factory, tokenizer_dir):
    """A model with a table of 16 positions: it cannot read more, where rotary ones only read badly."""
    folder = tmp_path_factory.mktemp("short") / "gpt2"
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2}
    save_model(GPT2LMHeadModel(GPT2Config(vocab_size=400, n_positions=16, **shape)), tokenizer_dir, folder, {})
    return folder


def test_windows_longer_than_the_model_reads(short, tmp_path, write_tokens):
    directory = {"c": write_tokens(tmp_path / "c", np.arange(640) % 400)}
    windows = Windows(directory, 32)
    said = [f"model {short}: ", "at most 16 tokens", "not 32", "n_positions"]
    refused(lambda: evaluate_model(published_model(short), windows, np.arange(4)), *said, "length of the windows")
    bridge = load_hooked(short, HOOK)
    refused(lambda: activations(bridge, HOOK, windows[np.arange(4)]), *said, "set autoencoder.context to")
    options = {
        "tokens": None,
        "epochs": 1.0,
        "block": 32,
        "batch": 2,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "warmup_steps": 0,
    }
    options |= {"evaluations": 1, "evaluation_tokens": 100, "seed": 0, "balance": False}
    refused(
        lambda: train_model(published_model(short), directory, directory, tmp_path / "checkpoints", **options),
        *said,
        "set models.m.training.block to",
    )


def test_tokens_of_another_tokenizer(checkpoint, tmp_path, write_tokens):
    windows = Windows({"c": write_tokens(tmp_path / "c", np.arange(200) + 300)}, 8)
    said = [f"model {checkpoint}: ", "embedding has 400 tokens", "token 499", "`tokenizer`"]
    refused(lambda: evaluate_model(published_model(checkpoint), windows, np.arange(len(windows))), *said)
    refused(lambda: activations(load_hooked(checkpoint, HOOK), HOOK, windows[np.arange(len(windows))]), *said)


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        ("blocks.7.mlp.hook_post", "does not exist: the model has 1 layer, blocks.0"),
        ("blocks.0.mlp.hook_zzz", "does not exist"),
        ("blocks.0.mlp.hook_pst", "did you mean blocks.0.mlp.hook_post?"),
        ("blocks.0.attn.hook_pattern", "attention weights between pairs of tokens"),
        ("blocks.0.attn.hook_attn_scores", "attention scores of pairs of tokens"),
        ("blocks.0.attn.hook_result", "for each head"),
        ("blocks.0.hook_q_input", "for each head"),
        ("blocks.0.hook_attn_in", "for each head"),
        ("ln_final.hook_scale", "a single number per token"),
        ("embed.hook_in", "token ids"),
        ("rotary_emb.hook_cos", "rotary position embedding"),
        ("hook_pos_embed", "gives no vector per token"),  # there under this name, and never reached
    ],
)
def test_hook_points_that_give_no_vector_per_token(checkpoint, hook, said):
    refused(lambda: load_hooked(checkpoint, hook), f"model {checkpoint}: ", hook, "autoencoder.hook", said)


def test_training_that_diverges_says_so(tiny_model, tmp_path, write_tokens):
    directory = {"c": write_tokens(tmp_path / "c", np.arange(640) % 400)}
    options = {"tokens": None, "epochs": 2.0, "block": 16, "batch": 4, "lr": 1e15, "weight_decay": 0.1}
    options |= {
        "warmup_steps": 0,
        "evaluations": 1,
        "evaluation_tokens": 100,
        "seed": 0,
        "balance": False,
    }
    refused(
        lambda: train_model(tiny_model(), directory, directory, tmp_path / "checkpoints", **options),
        "training has diverged",
        "models.m.training.lr",
    )


# --- merges ------------------------------------------------------------------------------------------------

MERGES = {
    "width": ({"intermediate_size": 64}, ["model.layers.0.mlp.down_proj.weight", "[16, 32]", "[16, 64]"]),
    "depth": ({"num_hidden_layers": 2}, ["model.layers.1.", "missing"]),
    "heads": ({"num_key_value_heads": 2}, ["model.layers.0.self_attn.k_proj.weight"]),
}


@pytest.mark.parametrize("fault", MERGES)
def test_merge_of_different_architectures(tiny_model, fault):
    change, said = MERGES[fault]
    states = tiny_model().state_dict(), tiny_model(**change).state_dict()
    refused(lambda: angles(*states, "slerp", ("models/a", "models/b")), "models/a", "models/b", "architectures", *said)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_merge_with_a_tensor_that_is_not_finite(tiny_model, value):
    states = tiny_model().state_dict(), tiny_model(1).state_dict()
    states[1][UP][0, 0] = value
    refused(lambda: angles(*states, "slerp", ("models/a", "models/b")), UP, "models/b", "NaN or infinity")


def test_merge_without_one_of_the_tensors(tiny_model):
    states = tiny_model().state_dict(), tiny_model(1).state_dict()
    del states[0]["lm_head.weight"]
    refused(lambda: angles(*states, "linear"), "the first parent", "1 tensors differ: lm_head.weight is missing in one")


# --- autoencoders ------------------------------------------------------------------------------------------


def saved(folder, config=None, tensors=None, n=32, m=64):
    save_autoencoder(random_autoencoder(n, m), folder, HOOK, 8, {})
    if config:
        path = folder / "cfg.json"
        content = json.loads(path.read_text())
        content = config(content) or content
        if isinstance(content, dict):
            write_json(path, {key: value for key, value in content.items() if key != "sha256"}, {})
        else:
            path.write_text(json.dumps(content))
    if tensors:
        weights = load_file(folder / "sae_weights.safetensors")
        tensors(weights)
        write_tensors(folder / "sae_weights.safetensors", {name: it.numpy() for name, it in weights.items()}, {})
    return folder


AUTOENCODERS = {
    "no width": ({"config": lambda it: [it.pop("d_in"), it][1]}, ["sae_weights.safetensors", "W_enc"]),
    "a width that is text": ({"config": lambda it: it.update(d_in="wide")}, ["wide"]),
    "another width": ({"config": lambda it: it.update(d_in=16)}, ["16"]),
    "another class": ({"config": lambda it: it.update(architecture="gated")}, ["architecture is gated", "jumprelu"]),
    "no class": ({"config": lambda it: [it.pop("architecture"), it][1]}, ["architecture is nothing"]),
    "a list": ({"config": lambda it: [1]}, ["cfg.json: cannot be read"]),
    "other units": (
        {"config": lambda it: it.update(normalize_activations="expected_average_only_in")},
        ["normalize_activations is expected_average_only_in"],
    ),
    "another input": ({"config": lambda it: it.update(apply_b_dec_to_input=False)}, ["apply_b_dec_to_input is False"]),
    "topk without k": ({"config": lambda it: it.update(architecture="topk")}, ["k is None"]),
    "k above all": ({"config": lambda it: it.update(architecture="topk", k=65)}, ["k is 65 of 64"]),
    "k that is text": ({"config": lambda it: it.update(architecture="topk", k="5")}, ["k is 5"]),
    "jumprelu without thresholds": ({"config": lambda it: it.update(architecture="jumprelu")}, ["threshold"]),
    "NaN": ({"tensors": lambda it: it["W_enc"].fill_(float("nan"))}, ["W_enc", "NaN"]),
    "half": ({"tensors": lambda it: it.update({k: v.half() for k, v in it.items()})}, ["float16"]),
    "missing": ({"tensors": lambda it: it.pop("b_enc")}, ["b_enc"]),
    "unexpected": ({"tensors": lambda it: it.update(more=torch.zeros(1))}, ["more"]),
}


@pytest.mark.parametrize("fault", AUTOENCODERS)
def test_autoencoder_that_cannot_be_used(tmp_path, fault):
    change, said = AUTOENCODERS[fault]
    folder = saved(tmp_path / "sae", **change)
    refused(lambda: load_autoencoder(folder), str(folder), "delete", *said)


def test_autoencoder_of_another_width(checkpoint, tmp_path):
    # of a model of another shape, laid where this one's belongs
    bridge = load_hooked(checkpoint, HOOK)
    other = load_autoencoder(saved(tmp_path / "sae", n=16))
    tokens = np.zeros((2, 8), np.int32)
    said = [str(tmp_path / "sae" / "sae_weights.safetensors"), "16 elements", "gives 32"]
    refused(lambda: list(collect_features(bridge, HOOK, other, tokens)), *said)


def test_more_active_features_than_there_are_and_a_parent_of_another_width(checkpoint, tmp_path, write_tokens):
    directory = {"c": write_tokens(tmp_path / "c", np.arange(640) % 400)}
    bridge = load_hooked(checkpoint, HOOK)
    options = {"hook": HOOK, "expansion": 2, "tokens": 400, "context": 8, "batch": 4, "lr": 1e-3, "l1": 1e-3}
    options |= {"l1_warmup_steps": 0, "normalize": False, "mean": "elements"}
    options |= {"resampling": {"at": [], "silent": 0.1, "pool_tokens": 100}, "seed": 0}
    faults = [
        ({"variant": "topk", "l0": 1000.0, "init": "kaiming", "parent": None}, ["autoencoder.l0", "1000", "64"]),
        (
            {"variant": "l1", "l0": None, "init": "parent", "parent": random_autoencoder(16, 64)},
            ["autoencoder.init", "16"],
        ),
    ]
    for number, (fault, said) in enumerate(faults):
        file = tmp_path / f"{number}.safetensors"
        refused(
            lambda fault=fault, file=file: train_autoencoder(bridge, directory, directory, file, **options, **fault),
            *said,
        )
