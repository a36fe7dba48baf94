"""Small data and models that the tests share: real text from the standard library, token files from given numbers."""

import os
import signal
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import pytest

# Before the first import of Hugging Face's libraries: no test reaches for the network or for the reader's own cache.
_CACHE = tempfile.TemporaryDirectory(prefix="hf-", ignore_cleanup_errors=True)
os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=_CACHE.name)

# A shell starts what runs in its background with Ctrl-C ignored, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "sliding_window": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
}


@pytest.fixture(scope="session")
def project():
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def trained_checkpoints(project):
    """The folder of a small Llama that was really trained and its two fine-tunes, `models/stories260k` beside the checkout."""
    found = next(project.parent.glob("*/models/stories260k/model.safetensors"), None)
    if found is None:
        pytest.skip("no models/stories260k in a folder beside the checkout")
    return found.parents[1]


@pytest.fixture(scope="session")
def stdlib_texts():
    """Real text: some modules of the interpreter's standard library, about 250 kB."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted([*root.glob("json/*.py"), *root.glob("email/*.py"), root / "textwrap.py"])
    return [file.read_text(encoding="utf-8") for file in files if file.stat().st_size]


@pytest.fixture(scope="session")
def write_documents():
    """A function that writes texts as a corpus's Parquet file."""
    import pyarrow as pa

    from feature_lineage.store.formats import write_table
    from feature_lineage.text.corpora import SCHEMA

    def write(path, texts, row_group_size=1 << 20):
        rows = [{"text": text, "source": f"test:{i}", "license": None} for i, text in enumerate(texts)]
        table = pa.Table.from_pylist(rows, SCHEMA)
        write_table(path, iter(table.to_batches(row_group_size)), SCHEMA, {})
        return path

    return write


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory, stdlib_texts, write_documents):
    """A tokenizer of 400 tokens, trained on the standard library."""
    from feature_lineage.text.tokenizer import save_tokenizer, train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    documents = write_documents(folder / "train.parquet", stdlib_texts)
    save_tokenizer(train_tokenizer([documents], 400), folder / "tokenizer", {"digest": "of the test"})
    return folder / "tokenizer"


@pytest.fixture(scope="session")
def write_tokens():
    """A function that writes token shards and their index from given numbers, without a tokenizer."""
    from feature_lineage.store.checksums import sha256
    from feature_lineage.store.formats import write_json

    def write(path, *shards, dtype=np.uint16):
        path.mkdir(parents=True)
        entries = []
        for number, shard in enumerate(shards):
            file = path / f"shard-{number:05d}.npy"
            np.save(file, np.asarray(shard, dtype))
            size = file.stat().st_size
            entries.append({"file": file.name, "tokens": len(shard), "bytes": size, "sha256": sha256(file)})
        write_json(path / "index.json", {"tokens": sum(map(len, shards)), "shards": entries}, {})
        return path

    return write


@pytest.fixture(scope="session")
def architecture():
    """The smallest model worth the name."""
    return dict(TINY)


@pytest.fixture(scope="module")
def one_thread():
    """One CPU thread: tiny models are faster so, and the last bits do not depend on the machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny_model(architecture, tokenizer_dir, one_thread):
    """A function that builds a tiny model from a seed."""
    from feature_lineage.models.checkpoint import build_model

    return lambda seed=0, **changes: build_model(architecture | changes, tokenizer_dir, seed)


HOOK = "blocks.0.mlp.hook_post"


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory, write_documents):
    """Two corpora of real text as tokens, and a random model under a path that names another architecture."""
    import ast
    import inspect
    import textwrap

    from feature_lineage.models.checkpoint import build_model, save_model
    from feature_lineage.text.shards import encode_corpus
    from feature_lineage.text.tokenizer import save_tokenizer, train_tokenizer

    folder = tmp_path_factory.mktemp("study")
    for corpus, module in (("ast", ast), ("wrap", textwrap)):
        texts = [part for part in inspect.getsource(module).split("\n\n") if part.strip()] * 2
        write_documents(folder / f"{corpus}.parquet", texts)
    save_tokenizer(train_tokenizer([folder / "ast.parquet"], 400), folder / "tokenizer", {})
    for corpus in ("ast", "wrap"):
        encode_corpus(
            folder / f"{corpus}.parquet", folder / "tokenizer", folder / "tokens" / corpus, {}, shard_tokens=2000
        )
    shape = TINY | {"intermediate_size": 24}
    save_model(build_model(shape, folder / "tokenizer", seed=0), folder / "tokenizer", folder / "llama-gemma-gpt2", {})
    return folder


@pytest.fixture(scope="session")
def token_directories(tiny_study):
    """Token directory by corpus."""
    return {corpus: tiny_study / "tokens" / corpus for corpus in ("ast", "wrap")}


@pytest.fixture(scope="session")
def bridge(tiny_study):
    """The model, with hook points."""
    from feature_lineage.models.hooks import load_hooked

    return load_hooked(tiny_study / "llama-gemma-gpt2", HOOK)
