"""What the parts of gpu.py share: sizes, models and tokens that are made up, and the file that results are written to."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch

TINY = os.environ.get("GPU_BENCHMARK_TINY") == "1"
HOOK = "blocks.0.mlp.hook_post"


class Size(NamedTuple):
    """The shape of what is measured; the paper's, unless everything is tiny."""

    n: int  # elements of an activation
    m: int  # features
    tokens: int  # of an autoencoder's batch
    context: int  # tokens of a window
    l0: int
    vocabulary: int
    architecture: dict[str, Any]
    block: int  # tokens of a language model's sequence
    batch: int  # sequences of a step
    rounds: int  # of what is timed


def _architecture(hidden: int, inside: int, heads: int, kv: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inside,
        "num_hidden_layers": 1,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "max_position_embeddings": 2048,
        "sliding_window": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
    }


PAPER = Size(1024, 16_384, 3072, 24, 30, 32_000, _architecture(512, 1024, 16, 8), 256, 64, 20)
SMALL = Size(64, 512, 192, 12, 6, 500, _architecture(32, 64, 2, 1), 32, 4, 2)
SIZE = SMALL if TINY else PAPER


class Part(NamedTuple):
    """One part's process: its name, where its results go, the device, a Python with SAELens or nothing."""

    name: str
    out: Path
    place: torch.device
    peer: str

    @classmethod
    def asked(cls) -> Part:
        """From the command line that gpu.py wrote."""
        name, out, place, peer = sys.argv[1:]
        return cls(name, Path(out), torch.device(place), peer)

    def record(
        self, what: str, value: Any, unit: str = "", passes: bool | None = None, note: str = "", **more: Any
    ) -> None:
        """Append a result, at once."""
        passes = None if passes is None else bool(passes)
        line = {"part": self.name, "what": what, "value": value, "unit": unit, "passes": passes, "note": note} | more
        with (self.out / "results.jsonl").open("a", encoding="utf-8") as file:
            print(json.dumps(line), file=file, flush=True)
        print(
            f"  {what}: {value} {unit} {'' if passes is None else 'passed' if passes else 'NOT PASSED'} {note}",
            flush=True,
        )

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.place.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], rounds: int = SIZE.rounds) -> float:
        """Median of some rounds after one."""
        found = []
        for _ in range(rounds + 1):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - began)
        return float(np.median(found[1:]))

    @contextmanager
    def on(self, kind: str) -> Iterator[torch.device]:
        """Have the library compute on this kind of device."""
        with mock.patch.object(torch.cuda, "is_available", lambda: kind == "cuda"):
            yield torch.device(kind)


def tokenizer(folder: Path) -> Path:
    """A tokenizer with as many words as the vocabulary has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from feature_lineage.text.tokenizer import save_tokenizer

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(SIZE.vocabulary)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    save_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w0"), folder / "tokenizer", {}
    )
    return folder / "tokenizer"


def token_directory(path: Path, count: int, seed: int) -> Path:
    """Tokens by Zipf's law, as a corpus's token directory."""
    from feature_lineage.store.checksums import sha256
    from feature_lineage.store.formats import write_json

    path.mkdir(parents=True)
    share = 1 / np.arange(1, SIZE.vocabulary + 1)
    drawn = np.random.default_rng(seed).choice(SIZE.vocabulary, count, p=share / share.sum())
    shard = path / "shard-00000.npy"
    np.save(shard, drawn.astype(np.uint16))
    about = {"file": shard.name, "tokens": count, "bytes": shard.stat().st_size, "sha256": sha256(shard)}
    write_json(path / "index.json", {"tokens": count, "shards": [about]}, {})
    return path


def language_models(folder: Path, words: Path, count: int = 2) -> list[Path]:
    """Random models of the paper's shape, saved."""
    from feature_lineage.models.checkpoint import build_model, save_model

    paths = [folder / f"model{seed}" for seed in range(count)]
    for seed, path in enumerate(paths):
        save_model(build_model(SIZE.architecture, words, seed), words, path, {})
    return paths


def run_parts(parts: dict[str, Callable[[Part, Path], None]]) -> None:
    """Run the part that was asked for, in a folder that goes when it ends."""
    part = Part.asked()
    with tempfile.TemporaryDirectory(prefix="gpu-benchmark-") as folder:
        parts[part.name](part, Path(folder))
