"""Checkpoints of a training, to go on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from feature_lineage.autoencoders.steering import Steering
from feature_lineage.autoencoders.weights import Weights
from feature_lineage.progress import logger
from feature_lineage.store.writing import staged


@dataclass
class Progress:
    """What a checkpoint holds: the weights, Adam's state, and what the steps so far have shown."""

    weights: Weights
    adam: torch.optim.Adam
    last_fired: torch.Tensor
    steering: Steering
    dense: bool = False  # whether most features are expected to be active in the next step
    step: int = 0
    rows: list[dict[str, float | None]] = field(default_factory=list)


def write_checkpoint(path: str | Path, run: Progress) -> None:
    """Write a checkpoint with a hash of what it holds; the one before it is kept beside it."""
    tensors = {"last_fired": run.last_fired}
    for name, tensor in vars(run.weights).items():
        tensors[name] = tensor
        tensors |= {f"{name}.{key}": value for key, value in run.adam.state.get(tensor, {}).items()}
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    about = json.dumps({"step": run.step, "rows": run.rows, "steering": asdict(run.steering), "dense": run.dense})
    with staged(path) as temporary:
        save_file(tensors, temporary, metadata={"about": about, "sha256": _digest(about, tensors)})
        if Path(path).exists():
            Path(path).replace(_before(path))


def _before(path: str | Path) -> Path:
    return Path(f"{path}.before")


def _digest(about: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).numpy())
    return digest.hexdigest()


def restore(path: str | Path, run: Progress) -> Path | None:
    """Go on from a checkpoint, or if it is damaged from the one before it; which it was, None if there is none."""
    for file in filter(Path.exists, (Path(path), _before(path))):
        try:
            about, tensors = _read_checkpoint(file)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            logger.warning(
                "%s: this checkpoint is truncated or damaged (%s); the one before it serves, if any", file, error
            )
            continue
        run.last_fired.copy_(tensors["last_fired"])
        for name, tensor in vars(run.weights).items():
            tensor.copy_(tensors[name])
            if f"{name}.step" in tensors:
                run.adam.state[tensor] = {
                    key: tensors[f"{name}.{key}"].to(tensor.device) for key in ("step", "exp_avg", "exp_avg_sq")
                }
        run.step, run.rows, run.steering = about["step"], about["rows"], Steering(**about["steering"])
        run.dense = about["dense"]
        return file
    return None


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if metadata["sha256"] != _digest(metadata["about"], tensors):
        raise ValueError("its contents do not fit their hash")
    return json.loads(metadata["about"]), tensors


def checkpoint_step(path: str | Path) -> int:
    """The step that a checkpoint was written after."""
    with safe_open(path, "pt") as file:
        return int(json.loads(file.metadata()["about"])["step"])
