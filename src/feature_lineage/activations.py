"""Activations of a language model at a TransformerLens hook point, and its loss when they are replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge

from feature_lineage.language_model import device, load_model
from feature_lineage.logs import InputError
from feature_lineage.tokens import Windows, load_tokenizer

Replacement = Callable[[torch.Tensor], torch.Tensor]


class _Reached(Exception):
    """Ends a forward pass at the hook point: what lies above it is not needed."""


def load_hooked(path: str | Path, hook: str) -> TransformerBridge:
    """A checkpoint as a TransformerLens model without weight processing, so that it computes what Hugging Face's does.

    Raises:
        InputError: the checkpoint cannot be loaded or has no such hook point.
    """
    model = load_model(path)
    bridge = TransformerBridge.boot_transformers(
        str(path), hf_model=model, tokenizer=load_tokenizer(path), device=str(device())
    )
    bridge.eval()
    if hook not in bridge.hook_dict:
        near = ", ".join(sorted(name for name in bridge.hook_dict if name.startswith("blocks.0.mlp")))
        raise InputError(f"model {path}: has no hook point {hook!r} (autoencoder.hook); near it are {near}")
    return bridge


@torch.no_grad()
def activations(bridge: TransformerBridge, hook: str, tokens: np.ndarray) -> torch.Tensor:
    """Activations at `hook` for token ids [windows, length]: float32 [windows * length, n], on the model's device.

    The forward pass ends at the hook point. Windows are read as they are; no token is put before them.
    """
    found: list[torch.Tensor] = []

    def keep(value: torch.Tensor, hook: object) -> None:
        found.append(value.detach().flatten(0, 1).float())
        raise _Reached

    try:
        bridge.run_with_hooks(torch.from_numpy(tokens).to(bridge.cfg.device), fwd_hooks=[(hook, keep)])
    except _Reached:
        return found[0]
    raise InputError(f"hook point {hook!r} (autoencoder.hook) was not reached in a forward pass")


def activation_batches(
    bridge: TransformerBridge, hook: str, windows: Windows, chosen: np.ndarray, batch: int, ahead: int = 8
) -> Iterator[torch.Tensor]:
    """Activations of `batch` windows after another, [batch * length, n] each; the last incomplete batch is left out.

    The language model reads `ahead` batches at once.
    """
    whole = len(chosen) // batch * batch
    for first in range(0, whole, batch * ahead):
        tokens = windows[chosen[first : min(first + batch * ahead, whole)]]
        yield from activations(bridge, hook, tokens).split(batch * windows.length)


@torch.no_grad()
def next_token_losses(
    bridge: TransformerBridge, hook: str, tokens: np.ndarray, replace: Replacement | None = None
) -> torch.Tensor:
    """Cross-entropy of each next token, nats, [windows * (length - 1)], with the activations at `hook` replaced if asked.

    Args:
        bridge: the model.
        hook: hook point.
        tokens: token ids [windows, length].
        replace: maps activations [windows * length, n] to what takes their place.
    """

    def splice(value: torch.Tensor, hook: object) -> torch.Tensor:
        return replace(value.flatten(0, 1)).reshape(value.shape)

    ids = torch.from_numpy(tokens).to(bridge.cfg.device)
    logits = bridge.run_with_hooks(ids, fwd_hooks=[(hook, splice)] if replace else [])
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
