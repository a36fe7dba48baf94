"""What each feature does to the model's output by itself: the direct effect of its decoder vector on the logits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from torch import nn

from feature_lineage.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOP = 8  # tokens kept at either end
_TOKENS = pa.list_(pa.struct([("token", pa.int32()), ("effect", pa.float32())]))
EFFECTS = pa.schema([("feature", pa.int32()), ("promoted", _TOKENS), ("suppressed", _TOKENS)])
_BLOCK = 1 << 24  # effects held at a time


class NoDirectPathError(Exception):
    """The way from a hook point to the logits is not a plain linear one; the message says why."""


def path_to_logits(model: PreTrainedModel, hook: str) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The linear way from a hook point through the residual stream to the logits, later layers left out.

    The final norm multiplies by its weight and divides by the residual's root mean square. The division is by a positive number, the
    same for all tokens and features at a position: it is held fixed and left out, the weight is folded in. Logits are relative to
    their mean over the vocabulary, which softmax does not see.

    Returns:
        The matrix into the residual stream, [n, hidden] (None where the hook point is in it), and the one from there to the logits,
        [hidden, vocabulary]; float32. An effect is in logits per unit of activation where the residual's root mean square is 1.

    Raises:
        NoDirectPathError: the hook point or the architecture has no such way.
    """
    layer, point = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+)", hook).groups()
    decoder = getattr(model, "model", None)
    if not hasattr(decoder, "layers") or "RMSNorm" not in type(getattr(decoder, "norm", None)).__name__:
        raise NoDirectPathError(f"{type(model).__name__} does not end in an RMS norm over a plain residual stream")
    if point not in ("mlp.hook_post", "hook_mlp_out", "hook_resid_post"):
        raise NoDirectPathError(f"what is at {hook} does not reach the residual stream by a linear map alone")
    block = decoder.layers[int(layer)]
    if point != "hook_resid_post" and hasattr(block, "post_feedforward_layernorm"):
        raise NoDirectPathError(f"{type(model).__name__} has a norm between the MLP and the residual stream")
    into = None
    if point == "mlp.hook_post":
        down = getattr(block.mlp, "down_proj", None)
        if not isinstance(down, nn.Linear):
            raise NoDirectPathError(f"the MLP of {type(model).__name__} has no down projection")
        into = _full(down.weight).T
    unembedding = model.get_output_embeddings().weight.detach()
    # The norm of a vector of ones is the weight it multiplies by, whatever its class adds to what it stores.
    scale, unembedding = _full(decoder.norm(torch.ones_like(unembedding[:1]))), _full(unembedding)
    return into, ((unembedding - unembedding.mean(0)) * scale).T


def _full(tensor: torch.Tensor) -> torch.Tensor:
    """The same in float32 at least."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


@torch.no_grad()
def weigh_logits(
    model: PreTrainedModel, hook: str, decoder: torch.Tensor, vocabulary: int
) -> tuple[pa.Table, str | None]:
    """The tokens whose logits each feature raises and lowers most, by its decoder vector alone (`path_to_logits`).

    Args:
        model: the language model.
        hook: the hook point that the autoencoder reads.
        decoder: its decoder, [features, n], on the model's device.
        vocabulary: tokens of the tokenizer; an embedding may have rows beyond.

    Returns:
        Schema `EFFECTS`, a row per feature with `TOP` tokens at each end, strongest first; and None, or the reason why all are null.
    """
    features = range(len(decoder))
    try:
        into, out = path_to_logits(model, hook)
    except NoDirectPathError as error:
        return pa.table([features, [None] * len(features), [None] * len(features)], schema=EFFECTS), str(error)
    out = out[:, :vocabulary]
    size = max(1, _BLOCK // out.shape[1])
    ends: dict[bool, list[list[dict[str, float]]]] = {True: [], False: []}
    with progress(len(features), "feature") as bar:
        for block in decoder.split(size):
            effects = (block if into is None else block @ into) @ out
            for largest, rows in ends.items():
                found = effects.topk(min(TOP, effects.shape[1]), dim=1, largest=largest)
                for numbers, values in zip(found.indices.tolist(), found.values.tolist(), strict=True):
                    rows.append([{"token": t, "effect": e} for t, e in zip(numbers, values, strict=True)])
            bar.update(len(block))
    return pa.table([features, ends[True], ends[False]], schema=EFFECTS), None
