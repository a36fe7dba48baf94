"""The size of a published checkpoint, from its `config.json`: in its directory, or in the hub's cache."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from feature_lineage.places import is_path, on_disk
from feature_lineage.study.hook_points import LAYERS
from feature_lineage.study.keys import Architecture

# The keys of config.json as families of models name them.
_KEYS = {
    "hidden_size": ("hidden_size", "n_embd", "n_embed", "d_model", "dim"),
    "intermediate_size": (
        "moe_intermediate_size",  # of an expert, where intermediate_size is of the few layers that have none
        "intermediate_size",
        "n_inner",
        "ffn_dim",
        "ffn_hidden_size",
        "d_ff",
        "dff",
    ),
    "num_hidden_layers": LAYERS,
    "num_attention_heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    "head_dim": ("head_dim",),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
}


class Published(NamedTuple):
    """What a checkpoint's `config.json` says of its size."""

    shape: Architecture
    vocabulary: int
    experts: int


def published_shape(path: str | Path, revision: str | None = None) -> Published | None:
    """The size of a checkpoint, from the `config.json` in its directory or, of a name on the hub, in the hub's cache on this machine.

    None where neither is there, or where it does not tell.
    """
    file = Path(on_disk(path)) / "config.json"
    if not is_path(path, revision):
        file = _cached(str(path), revision)
    try:
        return _published_shape(file, file.stat().st_mtime_ns) if file is not None else None
    except (OSError, ValueError):  # not there, no JSON
        return None


def _cached(name: str, revision: str | None) -> Path | None:
    """The `config.json` of a name on the hub, if it was downloaded before; the network is not asked."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # no name of the hub's
        return None
    return Path(found) if isinstance(found, str) else None


@lru_cache
def _published_shape(file: Path, changed: int) -> Published | None:
    config = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        return None
    inner = next((config[key] for key in ("text_config", "llm_config", "language_config") if key in config), config)
    config = (
        config | inner if isinstance(inner, dict) else config
    )  # of a model that reads images too, the part that reads text

    def told(key: str) -> int | None:
        values = (config.get(name) for name in _KEYS[key])
        return next((value for value in values if isinstance(value, int) and value > 0), None)

    found = {key: told(key) for key in _KEYS}
    if not (found["hidden_size"] and found["num_hidden_layers"] and found["vocab_size"]):
        return None
    found["intermediate_size"] = found["intermediate_size"] or 4 * found["hidden_size"]
    found["num_attention_heads"] = found["num_attention_heads"] or 1
    found["num_key_value_heads"] = found["num_key_value_heads"] or found["num_attention_heads"]
    vocabulary, experts = found.pop("vocab_size"), found.pop("experts") or 1
    return Published(Architecture.model_construct(**found), vocabulary, experts)
