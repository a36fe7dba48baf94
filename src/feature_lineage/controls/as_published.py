"""The measure as the published code takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from feature_lineage.controls.sides import EDGE, SEED, SHARE, SIDE, SIDES, Side, active_tokens, sides
from feature_lineage.features.activations import Activations
from feature_lineage.flow.correlation import correlate
from feature_lineage.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


AS_PUBLISHED = pa.schema([*EDGE, *SEED, ("variant", pa.string()), ("minimum", pa.int64()), *SIDE, *SHARE])
OURS, STRINGS = "ours", "strings"
TOKENS_BOTH, STRINGS_BOTH = "tokens where both fire", "strings where both fire"
PUBLISHED = (STRINGS_BOTH, 2)  # variant and minimum of the published code
MINIMUMS = (2, 3, 5, 10)
BLOCK_BYTES = 1 << 25  # of each of the dense blocks of pairs, block × features, that `best_where_both_fire` holds


def string_numbers(tokens: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Number of the string that each token decodes to on its own, int64 [tokens], from 0 and without gaps.

    Not with its neighbours: the published measure knows a token by this string alone. Several tokens may have one: those that are no whole
    character (all of them U+FFFD), and with some tokenizers those that differ in a space.
    """
    ids, places = np.unique(tokens, return_inverse=True)
    decoded = [tokenizer.decode([token]) for token in ids.tolist()]
    return np.unique(decoded, return_inverse=True)[1][places.ravel()]


def string_means(activations: Activations, strings: np.ndarray) -> Activations:
    """Each feature's mean activation on each token string, over the tokens of that string on which it fires.

    Args:
        activations: of a sample.
        strings: number of each token's string, int [tokens], from 0 and without gaps.

    Returns:
        A row per string in place of a row per token.
    """
    matrix = activations.matrix
    shape = (int(strings.max()) + 1, len(strings))
    by_string = sparse.csr_array((np.ones(len(strings)), (strings, np.arange(len(strings)))), shape=shape)
    sums, counts = by_string @ matrix, by_string @ _ones(matrix)
    sums.sort_indices()
    counts.sort_indices()
    return Activations(sparse.csr_array((sums.data / counts.data, sums.indices, sums.indptr), shape=sums.shape))


NEARLY_EQUAL = 1e-5  # deviation over root mean square below which float32 activations on the shared rows count as equal


def best_where_both_fire(a: Activations, b: Activations, minimums: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Best match of each feature by the correlation over those rows alone on which both features of a pair fire.

    Args:
        a: activations, by token or by string.
        b: the other model's, of the same rows.
        minimums: the rows that a pair must share, one result for each. Of independent features half of all pairs that share two
            rows have r = 1.

    Returns:
        r of the best match, float64 [minimums, features] for `a` and for `b`; NaN where no pair is left. A pair on whose shared
        rows one of the features is constant has no correlation.
    """
    by_feature = a.matrix.astype(np.float64).T.tocsr()
    left = (_ones(by_feature), by_feature, by_feature.power(2))
    values = b.matrix.astype(np.float64)
    ones, squares = _ones(values), values.power(2)
    best_a = np.full((len(minimums), a.features), -np.inf)
    best_b = np.full((len(minimums), b.features), -np.inf)
    block = max(1, BLOCK_BYTES // (8 * b.features))
    with progress(a.features, "feature") as bar:
        for first in range(0, a.features, block):
            one, value, square = (matrix[first : first + block] for matrix in left)
            rows = (one @ ones).toarray()
            sum_a, sum_b = (value @ ones).toarray(), (one @ values).toarray()
            r = rows * (value @ values).toarray() - sum_a * sum_b
            varies = np.ones(r.shape, bool)
            for total, product in ((sum_a, square @ ones), (sum_b, one @ squares)):
                spread = rows * product.toarray()
                least = NEARLY_EQUAL**2 * spread
                spread -= total**2
                varies &= spread > least
                r /= np.sqrt(np.where(varies, spread, 1))
            for number, minimum in enumerate(minimums):
                kept = np.where(varies & (rows >= minimum), np.clip(r, -1, 1), -np.inf)
                best_a[number, first : first + block] = kept.max(1)
                np.maximum(best_b[number], kept.max(0), out=best_b[number])
            bar.update(len(r))
    for best in (best_a, best_b):
        best[np.isneginf(best)] = np.nan
    return best_a, best_b


def correlate_published(
    a: Activations,
    b: Activations,
    correlations: pa.Table,
    strings: np.ndarray,
    threshold: float,
    minimums: Sequence[int] = MINIMUMS,
) -> list[dict[str, Any]]:
    """What persists by our correlation, by that of the published code, and by what lies between.

    The published code correlates mean activations per token string, over the strings on which both features fire, from two on.
    It keeps pairs at or above its threshold, we those above it; and it read the two sides from different corpora, here both
    read one sample.

    Args:
        a: activations of the parent's features.
        b: activations of the child's.
        correlations: of the two (`correlation.correlate`).
        strings: number of each token's string, see `string_means`.
        threshold: correlation above which two features are the same.
        minimums: rows that two features must share, where only those on which both fire count.

    Returns:
        Rows of `AS_PUBLISHED`, edge and seed left out. `variant` is `ours` (all tokens), `strings` (all strings, 0 where a feature
        does not fire), or one of `tokens where both fire` and `strings where both fire`, the latter with `minimum` 2 being the
        published one. A feature lives if it fires in the sample, in every variant.
    """
    by_string = string_means(a, strings), string_means(b, strings)
    alive = active_tokens(a) > 0, active_tokens(b) > 0
    found = [
        (OURS, None, sides(correlations, *alive)),
        (STRINGS, None, sides(correlate(*by_string, threshold), *alive)),
    ]
    for variant, pair in ((TOKENS_BOTH, (a, b)), (STRINGS_BOTH, by_string)):
        bests = best_where_both_fire(*pair, minimums)
        for minimum, *both in zip(minimums, *bests, strict=True):
            found.append((variant, minimum, tuple(Side(*side) for side in zip(alive, both, strict=True))))
    return [
        {"variant": variant, "minimum": minimum, "side": name, **side.row(threshold)}
        for variant, minimum, pair in found
        for name, side in zip(SIDES, pair, strict=True)
    ]


def _ones(matrix: sparse.csr_array) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(matrix.data)), matrix.indices, matrix.indptr), shape=matrix.shape)
