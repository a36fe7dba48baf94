"""What the files in a folder tell of a published checkpoint or adapter, before anything is loaded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from feature_lineage.places import on_disk
from feature_lineage.study.hook_points import checkpoint_config

ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def adapter_given(path: str) -> str:
    """What is said of a checkpoint that has an adapter in it, or is one alone."""
    return (
        f"holds an adapter ({ADAPTER}), which would not be applied; give the model that it was trained on as a model of its own and write "
        f"`models.NAME: {{parent: THAT MODEL, adapter: {path}}}`"
    )


def only_pickled(path: str | Path) -> str | None:
    """Why a checkpoint in a folder cannot be read whose weights are in a format that can run code; None where they are not, or on the hub."""
    folder = Path(on_disk(path))
    there = [name for name in _PICKLED if (folder / name).is_file()]
    if not there or ((folder / "config.json").is_file() and any(folder.glob("*.safetensors"))):
        return None
    return f"its weights are in {there[0]}, a format that can run code; convert them once with `feature-lineage convert {path} OUT` and name OUT"


def checkpoint_problem(path: str) -> str | None:
    """What is wrong with a checkpoint in a local folder, as far as the names of its files tell."""
    if (Path(on_disk(path)) / ADAPTER).is_file():
        return adapter_given(path)
    if problem := only_pickled(path):
        return problem
    folder = Path(on_disk(path))
    if (folder / "config.json").is_file() and not any(folder.glob("*.safetensors")):
        return "has no weights in safetensors; put them back, or name another folder"
    return None


def adapter_problem(path: str) -> str | None:
    """What is wrong with an adapter in a local folder, as far as its config and the names of its files tell."""
    folder = Path(on_disk(path))
    if not (folder / ADAPTER).is_file():
        return f"has no {ADAPTER}; name the folder that `peft` has saved an adapter in"
    if not (folder / ADAPTER_WEIGHTS).is_file():
        if (folder / "adapter_model.bin").is_file():
            return (
                f"its weights are in adapter_model.bin, a format that can run code; convert them once with `feature-lineage convert {path} OUT` "
                "and name OUT"
            )
        return f"has no {ADAPTER_WEIGHTS}; name the folder that `peft` has saved an adapter in"
    try:
        config = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"its {ADAPTER} cannot be read ({error}); save the adapter again"
    return unknown_kind(config)


def width_problem(name: str, parent: str, child: str, hook: str) -> str | None:
    """Why features of two local checkpoints cannot be compared at a hook point, the parent's model being called `name`; None if nothing tells."""
    shapes = [_shape(path) for path in (parent, child)]
    for key in (
        ("hidden_size", "intermediate_size")
        if re.search(r"\.mlp\.(hook_(pre|post)|out\.hook_in)", hook)
        else ("hidden_size",)
    ):
        sizes = [
            next((shape[name] for name in _WIDTHS[key] if isinstance(shape.get(name), int)), None) for shape in shapes
        ]
        if None not in sizes and sizes[0] != sizes[1]:
            return (
                f"whose {key} is {sizes[1]:,}, and that of its parent models.{name}, {parent!r}, is {sizes[0]:,} (config.json of both); "
                "allowed: models of one width, as a fine-tune has that of its base"
            )
    return None


_WIDTHS = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
}


def _shape(path: str) -> dict[str, Any]:
    """What a config.json says of the part that reads text."""
    config = checkpoint_config(on_disk(path))
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


# Keys of a LoRA's config that say how its matrices are applied, as `peft` does, and those that say nothing of that.
APPLIED = ("r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out",
           "layers_to_transform", "layers_pattern")  # fmt: skip
_SAID = ("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout", "auto_mapping", "peft_version",
         "runtime_config", "init_lora_weights", "eva_config", "megatron_core", "qalora_group_size", "ensure_weight_tying")  # fmt: skip
_DRAWN = (True, False, None, "gaussian", "orthogonal", "eva")  # how a LoRA may start and leave its base as it is


def unknown_kind(config: Any) -> str | None:
    """Why an adapter of this config cannot be merged into its parent; None if it is a LoRA of which all keys are known."""
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        return f"is an adapter of kind {kind or 'unknown'}, and only LoRA can be merged; {_MERGED}"
    if config.get("init_lora_weights") not in _DRAWN:
        return f"starts from {config['init_lora_weights']} (init_lora_weights), which changes the model under it; {_MERGED}"
    if config.get("bias") not in ("none", None):
        return f"changes biases (bias: {config['bias']}), which is not merged here; {_MERGED}"
    if other := [key for key, value in config.items() if value and key not in (*APPLIED, *_SAID, "bias")]:
        return f"has {other[0]}, which is not merged here; {_MERGED}"
    return None


_MERGED = "merge it with `peft` and give what that saves as `pretrained`, with the same `parent`"
