"""What a language model reads at once, what stands before it, and how well it predicts it."""

from __future__ import annotations

import numpy as np

from feature_lineage.uncollected import uncollected

with uncollected():
    import torch
    from transformers import PreTrainedModel

from feature_lineage.devices import windows_at_once
from feature_lineage.errors import InputError
from feature_lineage.progress import logger
from feature_lineage.study.hook_points import POSITIONS
from feature_lineage.text.windows import PlainWindows, Windows


def window_start(model: PreTrainedModel) -> int | None:
    """The token that a model reads before every window; None where there is none."""
    return getattr(model, "window_start", None)


def with_start(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Token ids [windows, length] as the model reads them, int64 [windows, length] or, after its window start, [windows, 1 + length]."""
    if (start := window_start(model)) is None:
        return ids
    return torch.cat([ids.new_full((len(ids), 1), start), ids], 1)


def longest_window(model: PreTrainedModel) -> tuple[str, int] | None:
    """The key of a model's config that bounds what it reads at once, and the tokens that it leaves to a window; None where none does."""
    config = model.config.get_text_config().to_dict()
    bounds = [(config[key], key) for key in POSITIONS if isinstance(config.get(key), int) and config[key] > 0]
    if not bounds:
        return None
    most, key = min(bounds)
    return key, most - (window_start(model) is not None)


def readable(model: PreTrainedModel, block: int) -> int:
    """Tokens of a window to evaluate a model on: `block`, or fewer where it cannot read so many."""
    if (bound := longest_window(model)) is None or bound[1] >= block:
        return block
    key, most = bound
    logger.info(
        "%s: evaluated in windows of %d tokens, not %d, as its %s is %d", model.name_or_path, most, block, key, most
    )
    return most


def check_windows(model: PreTrainedModel, tokens: np.ndarray, key: str = "autoencoder.context") -> None:
    """Refuse what the model cannot read.

    Args:
        model: the model.
        tokens: token ids [windows, length].
        key: what sets the length, for the message.

    Raises:
        InputError: the windows are longer than its positions, or hold ids that its embedding has not.
    """
    bound = longest_window(model)
    if bound and tokens.shape[-1] > bound[1]:
        after = "" if window_start(model) is None else " after tokenizer.window_start"
        raise InputError(
            f"model {model.name_or_path}: reads at most {bound[1]} tokens at once{after} ({bound[0]} in its config.json), not "
            f"{tokens.shape[-1]}; set {key} to at most {bound[1]}"
        )
    if tokens.size and (largest := int(tokens.max())) >= (size := model.get_input_embeddings().num_embeddings):
        raise InputError(
            f"model {model.name_or_path}: its embedding has {size} tokens, the corpora hold token {largest}; the tokenizer is "
            "another model's, name this one's own under `tokenizer`"
        )


@torch.no_grad()
def evaluate_model(model: PreTrainedModel, windows: Windows | PlainWindows, chosen: np.ndarray) -> dict[str, float]:
    """Loss (nats per token) and accuracy (share of next tokens predicted right) over chosen windows; sums in float64.

    The first token of a window is not predicted, even where a token stands before the window, so that as many are predicted in either case.
    """
    place = next(model.parameters()).device
    loss, accuracy = (
        torch.zeros((), dtype=torch.float64, device=place),
        torch.zeros((), dtype=torch.int64, device=place),
    )
    batch = windows_at_once(place, windows.length, model.get_input_embeddings().num_embeddings, on_cpu=32)
    for first in range(0, len(chosen), batch):
        tokens = windows[chosen[first : first + batch]]
        check_windows(model, tokens, "the length of the windows")
        ids = torch.from_numpy(tokens).to(place)
        read = with_start(model, ids)
        logits = model(read).logits[:, read.shape[1] - ids.shape[1] : -1].flatten(0, 1).float()
        targets = ids[:, 1:].flatten()
        loss += torch.nn.functional.cross_entropy(logits, targets, reduction="none").sum(dtype=torch.float64)
        accuracy += (logits.argmax(-1) == targets).sum()
    predicted = len(chosen) * (windows.length - 1)
    return {"loss": loss.item() / predicted, "accuracy": accuracy.item() / predicted, "tokens": predicted}
