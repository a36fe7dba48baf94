"""Time and peak memory of an import of 1.1 billion parameters, of its evaluation, and of its features.

`python benchmarks/large_import.py [--tokens 8192] [--dtypes float32 bfloat16]`. The model has the shape of TinyLlama and random weights,
stored in bfloat16 in a temporary folder; the autoencoder is random too, of 8,192 features at the middle of the residual stream. Each step
is a process of its own, as in a study, and reads `--tokens` random tokens. Exits with an error if one takes more than 8 GiB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

GIB = 1 << 30
MOST = 8 * GIB
LAYERS, WIDTH, INSIDE, KEYS, VOCABULARY = 22, 2048, 5632, 256, 32_000
HOOK = f"blocks.{LAYERS // 2}.hook_resid_post"
FEATURES, CONTEXT, BLOCK = 8192, 128, 256
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": INSIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Tensors of the model."""
    found = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "lm_head.weight": (VOCABULARY, WIDTH)}
    found["model.norm.weight"] = (WIDTH,)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        found |= {f"{at}self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qo"}
        found |= {f"{at}self_attn.{name}_proj.weight": (KEYS, WIDTH) for name in "kv"}
        found |= {f"{at}mlp.{name}_proj.weight": (INSIDE, WIDTH) for name in ("gate", "up")}
        found[f"{at}mlp.down_proj.weight"] = (WIDTH, INSIDE)
        found |= {f"{at}{name}_layernorm.weight": (WIDTH,) for name in ("input", "post_attention")}
    return found


# --- the steps, each in a process of its own ---------------------------------------------------------------


def publish(root: Path, dtype: str, tokens: int) -> None:
    """The checkpoint, a tokenizer, random tokens, and a random autoencoder."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    from feature_lineage.autoencoders.autoencoder import SparseAutoencoder, save_autoencoder
    from feature_lineage.store.checksums import sha256
    from feature_lineage.store.formats import write_json
    from feature_lineage.text.tokenizer import save_tokenizer

    random = torch.Generator().manual_seed(0)
    tensors = {
        name: (0.02 * torch.randn(shape, generator=random)).bfloat16()
        if len(shape) > 1
        else torch.ones(shape, dtype=torch.bfloat16)
        for name, shape in shapes().items()
    }
    (root / "published").mkdir()
    save_file(tensors, root / "published" / "model.safetensors", {"format": "pt"})
    (root / "published" / "config.json").write_text(json.dumps(CONFIG))
    words = models.WordLevel({f"<{number}>": number for number in range(VOCABULARY)}, unk_token="<0>")
    encoder = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), unk_token="<0>", bos_token="<1>", eos_token="<2>"
    )
    save_tokenizer(encoder, root / "tokenizer", {})
    folder = root / "tokens"
    folder.mkdir()
    file = folder / "shard-00000.npy"
    np.save(file, np.random.default_rng(0).integers(0, VOCABULARY, tokens, np.uint16))
    entry = {"file": file.name, "tokens": tokens, "bytes": file.stat().st_size, "sha256": sha256(file)}
    write_json(folder / "index.json", {"tokens": tokens, "shards": [entry]}, {})
    directions = torch.nn.functional.normalize(torch.randn(FEATURES, WIDTH, generator=random), dim=1)
    autoencoder = SparseAutoencoder(
        directions.T.contiguous(), torch.zeros(FEATURES), directions, torch.zeros(WIDTH), k=32
    )
    save_autoencoder(autoencoder, root / "autoencoder", HOOK, CONTEXT, {})


def import_step(root: Path, dtype: str, tokens: int) -> None:
    """As rule import_model."""
    from feature_lineage.models.checkpoint import import_model

    import_model(str(root / "published"), root / "tokenizer", root / "model", {}, dtype=dtype)


def evaluate_step(root: Path, dtype: str, tokens: int) -> None:
    """As rule evaluate_model."""
    from feature_lineage.models.checkpoint import evaluate_model, load_model
    from feature_lineage.text.windows import Windows

    windows = Windows({"c": root / "tokens"}, BLOCK)
    print(f"loss {evaluate_model(load_model(root / 'model'), windows, np.arange(len(windows)))['loss']:.4f}")


def features_step(root: Path, dtype: str, tokens: int) -> None:
    """As rule collect_features."""
    import torch

    from feature_lineage.autoencoders.autoencoder import load_autoencoder
    from feature_lineage.features.collect import collect_features
    from feature_lineage.models.hooks import load_hooked
    from feature_lineage.text.windows import Windows

    windows = Windows({"c": root / "tokens"}, CONTEXT)
    autoencoder = load_autoencoder(root / "autoencoder", torch.device("cpu"))
    bridge = load_hooked(root / "model", HOOK, activations_only=True)
    batches = collect_features(bridge, HOOK, autoencoder, windows[np.arange(len(windows))])
    print(f"{sum(map(len, batches)):,} activations, {len(bridge.blocks)} layers loaded")


STEPS = {"publish": publish, "import": import_step, "evaluate": evaluate_step, "features": features_step}


def measured(step: str, root: Path, dtype: str, tokens: int) -> int:
    """Run a step, print what it took, and return its peak memory in bytes."""
    began = time.monotonic()
    command = [
        sys.executable,
        __file__,
        "--step",
        step,
        "--root",
        str(root),
        "--dtypes",
        dtype,
        "--tokens",
        str(tokens),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = process.stdout.read().strip() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{step}, {dtype}: exit status {os.waitstatus_to_exitcode(status)}")
    peak = usage.ru_maxrss * 1024
    print(f"{dtype:9} {step:9} {time.monotonic() - began:7.0f} s {peak / GIB:6.2f} GiB  {said}", flush=True)
    return peak


def main() -> None:
    """Measure all steps, or run one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=32 * BLOCK, help="tokens that are evaluated and read")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        STEPS[asked.step](asked.root, asked.dtypes[0], asked.tokens)
        return
    parameters = sum(int(np.prod(shape)) for shape in shapes().values())
    print(f"{parameters / 1e9:.2f} billion parameters, {asked.tokens:,} tokens, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        measured("publish", root, "bfloat16", asked.tokens)
        peaks = [measured(step, root, dtype, asked.tokens) for dtype in asked.dtypes for step in list(STEPS)[1:]]
    if max(peaks) > MOST:
        sys.exit(f"a step took {max(peaks) / GIB:.2f} GiB, more than {MOST / GIB:.0f}")


if __name__ == "__main__":
    main()
