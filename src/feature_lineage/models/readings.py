"""A model's loss as the study reads text, beside the plain reading: documents parted by eos, and nothing before documents or windows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from feature_lineage.uncollected import uncollected

with uncollected():
    from transformers import PreTrainedModel

from feature_lineage.models.checkpoint import evaluate_model, window_start
from feature_lineage.progress import logger
from feature_lineage.text.boundaries import Boundaries, recorded_boundaries
from feature_lineage.text.tokenizer import load_tokenizer
from feature_lineage.text.windows import PlainWindows

BETTER = 0.05  # nats per token by which the plain reading must be better for a warning


def evaluate_plainly(
    model: PreTrainedModel, folder: str | Path, directories: Mapping[str, Path], block: int, tokens: int
) -> dict[str, dict[str, float]] | None:
    """`evaluate_model` of the plain reading by corpus; None where the study's reading is the plain one, or the tokenizer has no eos.

    Args:
        model: the model.
        folder: its checkpoint, whose tokenizer's files record the study's reading.
        directories: validation token directory by corpus.
        block: tokens of a window.
        tokens: of each corpus, all that it holds if they are fewer.
    """
    chosen, end = recorded_boundaries(folder), load_tokenizer(folder).eos_token_id
    if chosen is None or end is None or chosen == Boundaries((), (end,), None):
        return None
    around = len(chosen.document_start), len(chosen.document_end)
    start, model.window_start = window_start(model), None
    try:
        windows = {corpus: PlainWindows(path, around, end, block) for corpus, path in directories.items()}
        return {
            corpus: evaluate_model(model, one, one.spread(tokens)) for corpus, one in windows.items() if len(one) > 0
        }
    finally:
        model.window_start = start


def warn_of_reading(name: str, found: Mapping[str, Any], plain: Mapping[str, Any]) -> None:
    """Log a warning for each corpus on which the plain reading gives a lower loss: the choice may be wrong."""
    for corpus, one in plain.items():
        if (better := found[corpus]["loss"] - one["loss"]) > BETTER:
            logger.warning(
                "model %s, corpus %s: the loss is %.3f nats as the study reads documents, and %.3f with documents parted by eos and nothing "
                "before documents or windows, %.3f lower; check document_start, document_end and window_start under `tokenizer`",
                name, corpus, found[corpus]["loss"], one["loss"], better,
            )  # fmt: skip
