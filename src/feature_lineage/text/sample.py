"""One fixed set of token windows that all models read, so that row k means the same token in each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from feature_lineage.streams import Stream, entropy
from feature_lineage.text.shards import document_ends
from feature_lineage.text.windows import Windows


def sample_windows(directories: Mapping[str, str | Path], tokens: int, length: int, seed: int) -> dict[str, np.ndarray]:
    """Draw a sample: the same number of windows from each corpus, sorted by corpus and position.

    Args:
        directories: validation token directory by corpus.
        tokens: tokens in all.
        length: tokens of a window.
        seed: the draw depends on this alone.

    Returns:
        `tokens` int32 [windows, length]; `corpus` int32 [windows], numbered as in `directories`; `document` int32
        [windows, length], the number of each token's document in its corpus; `kept` bool [windows, length], which tokens are read
        (`Windows.kept`), where some are left out.
    """
    windows = Windows(directories, length)
    chosen = np.sort(windows.sample(tokens, entropy(seed, Stream.SAMPLE), "flow.tokens", balance=True))
    corpus, position = windows.places(chosen)
    document = np.empty((len(chosen), length), np.int32)
    for number, path in enumerate(directories.values()):
        rows = corpus == number
        document[rows] = np.searchsorted(document_ends(path), position[rows, None] + np.arange(length), side="right")
    tokens = windows[chosen]
    kept = windows.kept(chosen)
    return {
        "tokens": tokens.astype(np.int32),
        "corpus": corpus.astype(np.int32),
        "document": document,
    } | ({} if kept is None or kept.all() else {"kept": kept})


def kept_tokens(sample: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which tokens of a sample are read by every model, bool [windows, length]."""
    return sample["kept"] if "kept" in sample else np.ones(sample["tokens"].shape, bool)
