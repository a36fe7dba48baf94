"""What correlates when the two samples are not aligned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from feature_lineage.controls.sides import EDGE, SEED, SIDE, SIDES, sides
from feature_lineage.errors import InputError
from feature_lineage.features.activations import Moved, Source
from feature_lineage.flow.correlation import correlate
from feature_lineage.flow.moments import moments
from feature_lineage.streams import Stream, entropy

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
NULL = pa.schema(
    [
        *EDGE,
        *SEED,
        ("offset", pa.float64()),
        ("same_document", pa.float64()),
        *SIDE,
        ("false_matches", pa.int64()),
        ("false_match_rate", pa.float64()),
        ("threshold", pa.float64()),
        *[(f"q{100 * quantile:g}", pa.float64()) for quantile in QUANTILES],
    ]
)

FALSE_MATCH_RATE = 0.01  # that the threshold of the null holds


def offsets(seed: int) -> list[float]:
    """Shares of a corpus by which it is shifted: a half, and one drawn on either side of it."""
    random = np.random.default_rng(entropy(seed, Stream.SHIFTS))
    return [0.5, random.uniform(0.25, 0.45), random.uniform(0.55, 0.75)]


def shifted_tokens(corpus: np.ndarray, length: int, offset: float) -> np.ndarray:
    """For each token of a sample, the one that takes its place when every corpus is rolled by a share of its own windows.

    Whole windows are rolled, so that a token's position in its context stays. They are rolled within their corpus, so that two
    features that fire on much of one corpus still fire together: such a match says nothing about single tokens, and a null that
    mixed the corpora would not count it as chance.

    Args:
        corpus: number of each window's corpus, [windows].
        length: tokens of a window.
        offset: share of a corpus's windows, between 0 and 1; at least one window, and never all of them.

    Returns:
        Token numbers, int64 [windows * length].

    Raises:
        InputError: a corpus has a single window.
    """
    order = np.arange(len(corpus))
    for number in np.unique(corpus):
        own = np.flatnonzero(corpus == number)
        if len(own) < 2:
            raise InputError(
                f"controls.alignment_null: corpus {number} has a single window in the sample and cannot be shifted; raise flow.tokens, or "
                "set controls.alignment_null to false"
            )
        order[own] = np.roll(own, min(max(1, round(offset * len(own))), len(own) - 1))
    return (order[:, None] * length + np.arange(length)).ravel()


def correlate_shifted(
    a: Source,
    b: Source,
    corpus: np.ndarray,
    document: np.ndarray,
    shares: Sequence[float],
    threshold: float,
    min_active: int = 1,
    kept: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Best matches when one side's activations are shifted against the other's: what the maximum over all candidates finds by chance.

    Args:
        a: activations of the parent's features.
        b: activations of the child's, which are shifted; both sides are matched again.
        corpus: number of each window's corpus, [windows].
        document: number of each token's document in its corpus, [windows, length].
        shares: offsets, see `shifted_tokens`.
        threshold: correlation above which two features count as the same.
        min_active: tokens on which a living feature fires.
        kept: which tokens are read, bool [windows, length]; None for all. Only pairs of tokens that both are count.

    Returns:
        Rows of `NULL`, edge and seed left out: for each offset and side the quantiles of the best r, the share of living features
        with a (false) match above `threshold`, and the smallest threshold that at most 1 % exceed. `same_document` is the share of
        tokens that are still beside a token of their own document: a few documents longer than the offset.
    """
    rows = []
    alive = [moments(side).active >= min_active for side in (a, b)]  # a shift moves no feature below it
    for offset in shares:
        places = shifted_tokens(corpus, document.shape[1], offset)
        left, right = a, places
        same = document.ravel() == document.ravel()[places]
        if kept is not None:  # tokens of which both are read, numbered among those
            read = np.flatnonzero(kept.ravel() & kept.ravel()[places])
            row, same = np.cumsum(kept) - 1, same[read]
            left, right = Moved(a, row[read]), row[places[read]]
        same = float(same.mean())
        table = correlate(left, Moved(b, right), threshold, min_active=min_active)
        pair = sides(table, *alive)
        for name, side in zip(SIDES, pair, strict=True):
            rows.append(
                {
                    "offset": offset,
                    "same_document": same,
                    "side": name,
                    "features": int(side.alive.sum()),
                    "false_matches": side.matches(threshold),
                    "false_match_rate": side.share(threshold),
                    "threshold": side.quantile(1 - FALSE_MATCH_RATE, "higher"),
                    **{f"q{100 * quantile:g}": side.quantile(quantile) for quantile in QUANTILES},
                }
            )
    return rows
