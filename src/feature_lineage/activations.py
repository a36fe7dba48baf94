"""Activations of a language model at a TransformerLens hook point, and its loss when they are replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import Full, Queue

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge

from feature_lineage.devices import device, windows_at_once
from feature_lineage.language_model import check_windows, load_model
from feature_lineage.logs import InputError
from feature_lineage.tokens import Windows, load_tokenizer

Replacement = Callable[[torch.Tensor], torch.Tensor]
_hooks = threading.Lock()  # hooks are attached to the model itself: one forward pass at a time


class _Reached(Exception):
    """Ends a forward pass at the hook point: what lies above it is not needed."""


def load_hooked(path: str | Path, hook: str) -> TransformerBridge:
    """A checkpoint as a TransformerLens model without weight processing, so that it computes what Hugging Face's does.

    Raises:
        InputError: the checkpoint cannot be loaded or has no such hook point.
    """
    place = device()
    model = load_model(path).to(place)  # the bridge takes note of the device, and moves nothing
    bridge = TransformerBridge.boot_transformers(
        str(path), hf_model=model, tokenizer=load_tokenizer(path), device=str(place)
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

    check_windows(bridge.original_model, tokens)
    asked = hook

    def keep(value: torch.Tensor, hook: object) -> None:
        if value.shape[:-1] != tokens.shape:
            raise InputError(
                f"hook point {asked!r} (autoencoder.hook) gives {list(value.shape)} for tokens {list(tokens.shape)}, not one vector "
                "a token; choose another, such as blocks.0.mlp.hook_post"
            )
        found.append(value.detach().flatten(0, 1).float())
        raise _Reached

    try:
        with _hooks:
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

    check_windows(bridge.original_model, tokens)
    ids = torch.from_numpy(tokens).to(bridge.cfg.device)
    with _hooks:
        logits = bridge.run_with_hooks(ids, fwd_hooks=[(hook, splice)] if replace else [])
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


def spliced_losses(
    bridge: TransformerBridge, hook: str, tokens: np.ndarray, kinds: Sequence[Replacement | None]
) -> list[float]:
    """Mean next-token cross-entropy, nats, with the activations at `hook` replaced in each of these ways (None: as they are).

    Args:
        bridge: the model.
        hook: hook point.
        tokens: token ids [windows, length].
        kinds: see `next_token_losses`.
    """
    batch = windows_at_once(torch.device(bridge.cfg.device), tokens.shape[1], vocabulary(bridge))
    sums = torch.zeros(len(kinds), dtype=torch.float64, device=bridge.cfg.device)
    for first in range(0, len(tokens), batch):
        part = tokens[first : first + batch]
        for number, replace in enumerate(kinds):
            sums[number] += next_token_losses(bridge, hook, part, replace).sum(dtype=torch.float64)
    return (sums / (tokens.shape[0] * (tokens.shape[1] - 1))).tolist()


def vocabulary(bridge: TransformerBridge) -> int:
    """Tokens that the model tells apart: the width of its logits."""
    return bridge.original_model.get_input_embeddings().num_embeddings


def paired_activations(
    bridges: Sequence[TransformerBridge], hook: str, tokens: np.ndarray
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Activations of several models for the same token ids [windows, length], some windows at a time, [tokens, n] each."""
    place = torch.device(bridges[0].cfg.device)
    width = max(bridge.original_model.config.hidden_size for bridge in bridges)
    batch = windows_at_once(
        place, tokens.shape[1], 16 * width
    )  # an MLP is up to eight times as wide inside, in float64
    for first in range(0, len(tokens), batch):
        part = tokens[first : first + batch].astype(np.int64)
        yield tuple(activations(bridge, hook, part) for bridge in bridges)


def loss_recovered(clean: float, zero: float, spliced: float) -> float:
    """(zero - spliced) / (zero - clean), losses with activations replaced by zero, by reconstructions, and as they are."""
    return (zero - spliced) / (zero - clean) if zero != clean else 0.0


class ReadAhead:
    """An iterator that runs another one in a thread of its own, up to `depth` items ahead.

    `busy`: seconds that it has worked, whoever waited; `waited`: seconds that its reader has waited for it.
    """

    def __init__(self, source: Iterator[torch.Tensor], depth: int) -> None:
        self.busy = self.waited = 0.0
        self._source = source
        self._items: Queue[torch.Tensor | BaseException | None] = Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> ReadAhead:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()

    def __iter__(self) -> ReadAhead:
        return self

    def __next__(self) -> torch.Tensor:
        asked = time.monotonic()
        item = self._items.get()
        self.waited += time.monotonic() - asked
        if isinstance(item, BaseException):
            raise item
        if item is None:
            raise StopIteration
        return item

    def _work(self) -> None:
        item: torch.Tensor | BaseException | None = None
        while not self._closed.is_set():
            began = time.monotonic()
            try:
                item = next(self._source, None)
            except BaseException as error:  # the reader is to see it
                item = error
            self.busy += time.monotonic() - began
            while not self._closed.is_set():
                try:
                    self._items.put(item, timeout=0.1)
                    break
                except Full:
                    continue
            if item is None or isinstance(item, BaseException):
                return
