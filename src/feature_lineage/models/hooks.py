"""Activations of a language model at a TransformerLens hook point, and its loss when they are replaced."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from feature_lineage.uncollected import uncollected

with uncollected():
    import torch
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

from feature_lineage.devices import device, windows_at_once
from feature_lineage.errors import InputError
from feature_lineage.models.checkpoint import check_architecture, load_model, published_config
from feature_lineage.models.evaluation import check_windows, longest_window, with_start
from feature_lineage.models.layers import layers_below
from feature_lineage.study.hook_points import hook_problem
from feature_lineage.text.tokenizer import load_tokenizer
from feature_lineage.text.windows import Windows

Replacement = Callable[[torch.Tensor], torch.Tensor]
_hooks = threading.Lock()  # hooks are attached to the model itself: one forward pass at a time
_PROBE = 16  # tokens of the windows on which a model with hook points is compared with the one without
# Root mean square difference of the logits, in their standard deviations; rounding makes 1e-5, and in bfloat16 1e-2.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2}


class _Reached(Exception):
    """Ends a forward pass at the hook point: what lies above it is not needed."""


def load_hooked(
    path: str | Path, hook: str, length: int = _PROBE, *, activations_only: bool = False
) -> TransformerBridge:
    """A checkpoint as a TransformerLens model without weight processing, so that it computes what Hugging Face's does.

    That it does is checked on two windows of random tokens: the same logits as without hook points, one vector per token at `hook`,
    and logits that follow from what is put there.

    Args:
        path: the checkpoint's directory.
        hook: hook point.
        length: tokens of those windows, fewer where the model cannot read so many. A fault of TransformerLens may show only in windows
            longer than a model's attention window.
        activations_only: load no layers above the hook point, where the family of the model is known to compute the same without them.
            Its logits are then no model's.

    Raises:
        InputError: the checkpoint cannot be loaded, TransformerLens does not know its architecture or computes something else, or there
            is no such hook point or none that gives a vector per token.
    """
    place = device()
    layers = layers_below(published_config(str(path)), hook) if activations_only else None
    model = load_model(path, layers=layers).to(place)  # the bridge takes note of the device, and moves nothing
    tokens = _probe(model, length)
    with torch.no_grad():
        plain = _last(model(tokens).logits)  # before the bridge changes the model
    bridge = _bridge(path, model, place)
    _check_point(bridge, path, hook, tokens)
    _check_logits(bridge, path, hook, tokens, plain)
    return bridge


def check_hook(path: str | Path, hook: str, length: int) -> dict[str, Any]:
    """Check a checkpoint at a hook point, before corpora are built for it.

    Returns:
        What was checked, and the `elements` of an activation there.

    Raises:
        InputError: as for `load_hooked`, or the model cannot read windows of `length` tokens.
    """
    bridge = load_hooked(path, hook, length)
    check_windows(bridge.original_model, np.zeros((1, length), np.int64))
    vectors = _read(bridge, hook, _probe(bridge.original_model, 2))
    return {"hook": hook, "architecture": type(bridge.original_model).__name__, "elements": vectors.shape[1]}


def _bridge(
    path: str | Path, model: PreTrainedModel, place: torch.device, tokenizer: PreTrainedTokenizerFast | None = None
) -> TransformerBridge:
    architecture = type(model).__name__
    check_architecture(path, architecture)
    model.config.architectures = [architecture]
    changed = tokenizer or load_tokenizer(path)
    try:
        bridge = TransformerBridge.boot_transformers(
            str(path), hf_model=model, tokenizer=changed, device=str(place), dtype=model.dtype
        )
    except Exception as error:  # of many kinds, where its adapter does not fit the checkpoint
        raise InputError(
            f"model {path}: TransformerLens cannot take this {architecture} ({' '.join(str(error).split())[:300] or type(error).__name__}); choose another model"
        ) from error
    bridge._tokenizer = tokenizer or load_tokenizer(path)  # TransformerLens has added special tokens to the other
    return bridge.eval()


def _probe(model: PreTrainedModel, length: int) -> torch.Tensor:
    """Two windows of random token ids."""
    bound = longest_window(model)
    length = max(2, min(length, bound[1] if bound else length))
    size = model.get_input_embeddings().num_embeddings
    ids = torch.randint(size, (2, length), generator=torch.Generator().manual_seed(0))
    return ids.to(model.device)


def _check_point(bridge: TransformerBridge, path: str | Path, hook: str, tokens: torch.Tensor) -> None:
    """Refuse a hook point that does not exist, is not reached or gives no vector per token."""
    layers = len(getattr(bridge, "blocks", ()))
    points = {re.sub(r"^blocks\.\d+\.", "blocks.*.", name) for name in bridge.hook_dict}
    problem = hook_problem(hook, layers, points)
    if problem is None and hook not in bridge.hook_dict:  # layers may differ
        problem = f"{hook} does not exist in this layer"
    if problem is None and _mixture(bridge, hook):
        layer = hook.split(".")[1]
        problem = (
            f"{hook}: the MLP is a mixture of experts, and other neurons are active for each token; "
            f"choose blocks.{layer}.hook_mlp_out"
        )
    if problem is None:
        if hook.endswith("hook_mlp_in"):
            bridge.set_use_hook_mlp_in(True)
        # Of one length, heads or layers may be as many as tokens.
        both = [_read(bridge, hook, tokens[:, :length]) for length in (tokens.shape[1], max(1, tokens.shape[1] - 1))]
        sizes = {None if vectors is None else vectors.shape[1] for vectors in both}
        if None in sizes or len(sizes) > 1 or not _in_order(bridge, hook, tokens, both[0]):
            problem = f"{hook} gives no vector per token"
        elif sizes == {1}:
            problem = f"{hook} gives a single number per token, not a vector"
        elif hook.endswith(".hook_resid_mid") and _after_mlp(bridge, hook, tokens):
            problem = f"{hook} does not exist: what TransformerLens gives there comes after the MLP; choose another"
    if problem is not None:
        raise InputError(f"model {path}: {problem} (autoencoder.hook)")


def _mixture(bridge: TransformerBridge, hook: str) -> bool:
    """Whether a hook point is named as neurons of an MLP, and TransformerLens gives input or output of a mixture of experts there."""
    for neurons, whole in (("mlp.hook_post", "mlp.hook_out"), ("mlp.hook_pre", "mlp.hook_in")):
        if hook.endswith(neurons):
            return bridge.hook_dict[hook] is bridge.hook_dict.get(hook.replace(neurons, whole))
    return False


def _after_mlp(bridge: TransformerBridge, hook: str, tokens: torch.Tensor) -> bool:
    """Whether a block's MLP has run when a hook point is reached."""
    order: list[str | None] = []
    names = [hook, hook.replace("hook_resid_mid", "mlp.out.hook_out")]

    def note(value: torch.Tensor, hook: HookPoint) -> None:
        order.append(hook.name)

    with torch.no_grad(), _hooks:
        bridge.run_with_hooks(tokens, fwd_hooks=[(name, note) for name in names if name in bridge.hook_dict])
    return bool(order) and order[0] != bridge.hook_dict[hook].name


def _read(bridge: TransformerBridge, hook: str, tokens: torch.Tensor) -> torch.Tensor | None:
    """Activations at a hook point, None where it gives something else."""
    found: list[torch.Tensor | None] = []

    def look(value: torch.Tensor, hook: HookPoint) -> None:
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        vectors = _vectors(value, tokens.shape, hook) if floating else None
        found.append(None if vectors is None else vectors.clone())

    with torch.no_grad(), _hooks:
        bridge.run_with_hooks(tokens, fwd_hooks=[(hook, look)])
    return found[0] if len(found) == 1 else None


def _in_order(bridge: TransformerBridge, hook: str, tokens: torch.Tensor, vectors: torch.Tensor) -> bool:
    """Whether activations follow their tokens; those inside of a mixture of experts may be sorted by expert."""
    turned = _read(bridge, hook, tokens.flip(0))
    expected = vectors.unflatten(0, tokens.shape).flip(0).flatten(0, 1)
    close = 1e-3 if expected.dtype == torch.float32 else 5e-2
    return turned is not None and torch.allclose(turned, expected, rtol=close, atol=close * float(expected.abs().max()))


def _check_logits(
    bridge: TransformerBridge, path: str | Path, hook: str, tokens: torch.Tensor, plain: torch.Tensor
) -> None:
    """Refuse a model that computes something else with hook points than without, or where what is put in has no effect."""

    def put(change: Replacement) -> torch.Tensor:
        return _last(bridge.run_with_hooks(tokens, fwd_hooks=[(hook, _splice(change, tokens.shape))]))

    def apart(a: torch.Tensor, b: torch.Tensor) -> float:
        spread = (plain - plain.mean(-1, keepdim=True)).double().square().mean().sqrt()
        return float((a - b).double().square().mean().sqrt() / spread.clamp(min=1e-30))

    noise = torch.Generator().manual_seed(0)
    with torch.no_grad(), _hooks:
        hooked = _last(bridge(tokens))
        same, other = put(torch.clone), put(lambda x: x + (1 + x.std()) * _normal(x, noise))
    architecture, tolerance = type(bridge.original_model).__name__, _TOLERANCE[bridge.original_model.dtype]
    if not apart(hooked, plain) <= tolerance:
        raise InputError(
            f"model {path}: TransformerLens computes other logits for this {architecture} than transformers does (they differ by "
            f"{apart(hooked, plain):.2g} standard deviations), so its activations would be wrong; choose another model"
        )
    if not apart(same, hooked) <= tolerance or apart(other, hooked) <= 1e-6:
        raise InputError(
            f"model {path}: the logits of this {architecture} do not follow from what is put in at {hook} (autoencoder.hook), so an "
            "autoencoder there cannot be evaluated; choose another hook point, such as blocks.0.hook_resid_post"
        )


def _last(logits: torch.Tensor) -> torch.Tensor:
    """Those of the last tokens, which have read all others; of long windows and large vocabularies all would not fit."""
    return logits[:, -_PROBE:].clone()


def _normal(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(x.shape, generator=generator).to(x.device)


def _vectors(value: torch.Tensor, shape: Sequence[int], point: HookPoint) -> torch.Tensor | None:
    """What a hook point gives for tokens [windows, length] as [windows * length, n], heads side by side; None if it is something else."""
    windows, length = shape
    if value.ndim == 2:  # a mixture of experts reads its tokens one after another
        return value if len(value) == windows * length else None
    if value.ndim > 2:
        value = value.movedim(point.pos_dim or 1, 1)
    return value.flatten(0, 1).flatten(1) if value.ndim > 2 and value.shape[:2] == (windows, length) else None


def _splice(
    replace: Replacement, shape: Sequence[int], kept: torch.Tensor | None = None
) -> Callable[[torch.Tensor, HookPoint], torch.Tensor]:
    """A hook that replaces vectors, and gives them back in the form in which the hook point gave them.

    Args:
        replace: what takes their place.
        shape: windows, tokens of a window.
        kept: bool [windows * length], whose vectors are replaced; the others stay. None for all.
    """

    def splice(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
        vectors = _vectors(value, shape, hook).float()
        if kept is None:
            replaced = replace(vectors)
        else:
            replaced = vectors.clone()
            replaced[kept] = replace(vectors[kept])
        replaced = replaced.to(value.dtype)
        if value.ndim == 2:
            return replaced
        place = hook.pos_dim or 1
        return replaced.reshape(value.movedim(place, 1).shape).movedim(1, place)

    return splice


def _without(vectors: torch.Tensor, shape: Sequence[int], left: int) -> torch.Tensor:
    """Vectors [windows * length, n] without those of the first `left` tokens of each window."""
    return vectors.unflatten(0, tuple(shape))[:, left:].flatten(0, 1) if left else vectors


@torch.no_grad()
def activations(bridge: TransformerBridge, hook: str, tokens: np.ndarray) -> torch.Tensor:
    """Activations at `hook` for token ids [windows, length]: float32 [windows * length, n], on the model's device.

    The vectors of a token's heads stand side by side. The forward pass ends at the hook point. The model's window start, where it has
    one, is read before each window, and its vectors are left out.
    """
    found: list[torch.Tensor] = []
    asked = hook

    check_windows(bridge.original_model, tokens)
    ids = with_start(bridge.original_model, torch.from_numpy(tokens).to(bridge.cfg.device))

    def keep(value: torch.Tensor, hook: HookPoint) -> None:
        if (vectors := _vectors(value.detach(), ids.shape, hook)) is None:
            raise InputError(f"hook point {asked!r} (autoencoder.hook) gives {list(value.shape)}, no vector per token")
        found.append(_without(vectors, ids.shape, ids.shape[1] - tokens.shape[1]).float())
        raise _Reached

    try:
        with _hooks:
            bridge.run_with_hooks(ids, fwd_hooks=[(hook, keep)])
    except _Reached:
        return found[0]
    raise InputError(f"hook point {hook!r} (autoencoder.hook) was not reached in a forward pass")


def activation_batches(
    bridge: TransformerBridge, hook: str, windows: Windows, chosen: np.ndarray, batch: int, ahead: int = 8
) -> Iterator[torch.Tensor]:
    """Activations of `batch` windows after another, [tokens of theirs that are kept, n] each; the last incomplete batch is left out.

    The language model reads `ahead` batches at once.
    """
    whole = len(chosen) // batch * batch
    for first in range(0, whole, batch * ahead):
        read = chosen[first : min(first + batch * ahead, whole)]
        parts = activations(bridge, hook, windows[read]).split(batch * windows.length)
        kept = windows.kept(read)
        if kept is not None and not kept.reshape(len(parts), -1).any(1).all():
            raise InputError(
                f"a batch of {batch} windows holds no token that is read; raise autoencoder.batch, or choose more `roles` of the corpora with `messages`"
            )
        masks = [None] * len(parts) if kept is None else kept.reshape(len(parts), -1)
        yield from (
            part if mask is None else part[mask_like(mask, part)] for part, mask in zip(parts, masks, strict=True)
        )


def mask_like(kept: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """A mask of a sample's windows as one of their tokens, bool [tokens], on the device of `like`."""
    return torch.from_numpy(kept.ravel()).to(like.device)


@torch.no_grad()
def next_token_losses(
    bridge: TransformerBridge,
    hook: str,
    tokens: np.ndarray,
    replace: Replacement | None = None,
    kept: np.ndarray | None = None,
) -> torch.Tensor:
    """Cross-entropy of each next token, nats, [windows * (length - 1)], with the activations at `hook` replaced if asked.

    The model's window start is read before each window and keeps its activations. The first token of a window is not predicted.

    Args:
        bridge: the model.
        hook: hook point.
        tokens: token ids [windows, length].
        replace: maps activations [tokens that are kept, n] to what takes their place.
        kept: whose activations are replaced, bool [windows, length]; None for all.
    """
    check_windows(bridge.original_model, tokens)
    ids = torch.from_numpy(tokens).to(bridge.cfg.device)
    read = with_start(bridge.original_model, ids)
    left, mask = read.shape[1] - ids.shape[1], None
    if left or kept is not None:
        kept = np.ones(tokens.shape, bool) if kept is None else kept
        mask = mask_like(np.concatenate([np.zeros((len(kept), left), bool), kept], 1), ids)
    with _hooks:
        logits = bridge.run_with_hooks(read, fwd_hooks=[(hook, _splice(replace, read.shape, mask))] if replace else [])
    return torch.nn.functional.cross_entropy(
        logits[:, left:-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
    )


def spliced_losses(
    bridge: TransformerBridge,
    hook: str,
    tokens: np.ndarray,
    kinds: Sequence[Replacement | None],
    kept: np.ndarray | None = None,
) -> list[float]:
    """Mean next-token cross-entropy, nats, with the activations at `hook` replaced in each of these ways (None: as they are).

    Args:
        bridge: the model.
        hook: hook point.
        tokens: token ids [windows, length].
        kinds: see `next_token_losses`.
        kept: see there.
    """
    batch = windows_at_once(torch.device(bridge.cfg.device), tokens.shape[1], vocabulary(bridge))
    sums = torch.zeros(len(kinds), dtype=torch.float64, device=bridge.cfg.device)
    for first in range(0, len(tokens), batch):
        here = slice(first, first + batch)
        mask = None if kept is None else kept[here]
        for number, replace in enumerate(kinds):
            sums[number] += next_token_losses(bridge, hook, tokens[here], replace, mask).sum(dtype=torch.float64)
    return (sums / (tokens.shape[0] * (tokens.shape[1] - 1))).tolist()


def vocabulary(bridge: TransformerBridge) -> int:
    """Tokens that the model tells apart: the width of its logits."""
    return bridge.original_model.get_input_embeddings().num_embeddings


def loss_recovered(clean: float, zero: float, spliced: float) -> float:
    """(zero - spliced) / (zero - clean), losses with activations replaced by zero, by reconstructions, and as they are."""
    return (zero - spliced) / (zero - clean) if zero != clean else 0.0
