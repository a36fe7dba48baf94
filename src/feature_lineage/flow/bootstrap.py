"""Bootstrap over documents: how far the share of persisting features depends on the documents that happened to be sampled.

Tokens of one document are not independent, so documents are drawn anew and not tokens (Efron and Tibshirani 1993, chapters 8 and 13).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import sparse

from feature_lineage.features.activations import activation_blocks
from feature_lineage.flow.moments import pearson
from feature_lineage.flow.products import add_product
from feature_lineage.progress import progress
from feature_lineage.store.formats import read_provenance
from feature_lineage.streams import Stream, entropy

REPLICATES = pa.schema(
    [("replicate", pa.int32())]
    + [(f"{side}_{what}", pa.int64()) for side in ("parent", "child") for what in ("living", "persisting")]
)
MARGIN = 0.2  # pairs whose r is further below the threshold are left out, unless they are a feature's best
MEMORY = (
    1 << 32
)  # bytes of sums held at once: replicates that need more are done in turns, each of which reads all activations
ENTRIES = 1 << 23  # activations of all files together, and of the pairs of features, worked through at once
FEW = 4  # replicates up to which values are weighed one by one: to add them up by document first takes longer than it saves
CONSTANT = 1e-12  # of the mean square: a variance below is rounding


def number_documents(
    corpus: np.ndarray, document: np.ndarray, kept: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Number the documents of a sample.

    Args:
        corpus: of each window, int [windows].
        document: number of each token's document in its corpus, int [windows, length].
        kept: which tokens are read, bool [windows, length]; None for all.

    Returns:
        The document of each token that is read, int64 [tokens], and the corpus of each document, int64 [documents].
    """
    key = np.repeat(corpus.astype(np.int64), document.shape[1]) << 32 | document.ravel()
    key = key if kept is None else key[kept.ravel()]
    found, number = np.unique(key, return_inverse=True)
    return number, found >> 32


def sample_documents(corpus: np.ndarray, replicates: int, seed: int) -> np.ndarray:
    """How often each replicate draws each document, int64 [documents, replicates].

    Each corpus keeps its number of documents, because the sample has as many tokens of each by design. The draw depends on nothing
    else than the documents and the seed: replicate k is one and the same sample on every edge, so that shares of two edges can be
    compared replicate by replicate.

    Args:
        corpus: of each document, int [documents].
        replicates: number of replicates.
        seed: of the draw.
    """
    random = np.random.default_rng(entropy(seed, Stream.BOOTSTRAP))
    drawn = np.empty((len(corpus), replicates), np.int64)
    for number in np.unique(corpus):
        documents = np.flatnonzero(corpus == number)
        even = np.full(len(documents), 1 / len(documents))
        drawn[documents] = random.multinomial(len(documents), even, replicates).T
    return drawn


class Resampled(NamedTuple):
    """Features and pairs in each replicate.

    `active_a` and `active_b`: drawn tokens on which each feature fires, float64 [features, replicates]. `r`: correlation of each
    pair, float64 [pairs, replicates], NaN where a side has no variance.
    """

    active_a: np.ndarray
    active_b: np.ndarray
    r: np.ndarray


def resample(
    a: str | Path,
    b: str | Path,
    feature_a: np.ndarray,
    feature_b: np.ndarray,
    document: np.ndarray,
    drawn: np.ndarray,
) -> Resampled:
    """Correlate pairs of features in each replicate, from sums per document.

    Args:
        a: activations, a file of `collect.collect_features`.
        b: activations of the other side, of the same sample.
        feature_a: first feature of each pair, int [pairs].
        feature_b: second feature of each pair, int [pairs].
        document: document of each token, int [tokens].
        drawn: how often each replicate draws each document, [documents, replicates].
    """
    found = resample_together([a, b], [Comparison(0, 1, (feature_a, feature_b))], document, drawn)
    return Resampled(*found.active, *found.r)


class Comparison(NamedTuple):
    """Pairs of features of two of several files of activations: the places of the files, and the features of each pair, both int [pairs];
    without them each feature is paired with that of its own number."""

    a: int
    b: int
    pairs: tuple[np.ndarray, np.ndarray] | None = None


class Together(NamedTuple):
    """Features of each file and pairs of each comparison in each replicate: see `Resampled`."""

    active: list[np.ndarray]
    r: list[np.ndarray]


def resample_together(
    files: Sequence[str | Path], comparisons: Sequence[Comparison], document: np.ndarray, drawn: np.ndarray
) -> Together:
    """`resample` for several comparisons of several files of one sample, each read once.

    Args:
        files: activations, files of `collect.collect_features`.
        comparisons: what is correlated.
        document: document of each token, int [tokens].
        drawn: how often each replicate draws each document, [documents, replicates].
    """
    drawn = drawn.astype(np.float64)
    replicates = drawn.shape[1]
    sums = [np.zeros((3, read_provenance(path)["features"], replicates)) for path in files]
    products = [np.zeros((len(c.pairs[0]) if c.pairs else len(sums[c.a][0]), replicates)) for c in comparisons]
    with progress(len(document), "tok") as bar:
        for first, matrices in _batches(files, len(document)):
            tokens = matrices[0].shape[0]
            here, place = np.unique(document[first : first + tokens], return_inverse=True)
            weights = drawn[here]
            for total, matrix in zip(sums, matrices, strict=True):
                fires = (matrix.data > 0).astype(np.float64)
                _add_documents(total, matrix, (fires, matrix.data, matrix.data**2), place, weights)
            for total, one in zip(products, comparisons, strict=True):
                a, b = matrices[one.a], matrices[one.b]
                for part, found in (
                    [(slice(None), a.multiply(b))] if one.pairs is None else _pair_products(a, b, *one.pairs)
                ):
                    _add_documents([total[part]], found, [found.data], place, weights)
            bar.update(tokens)
    size = np.bincount(document, minlength=len(drawn)) @ drawn
    size[size == 0] = np.nan  # nothing is drawn where a half of the documents is empty: then no r, and no warning
    active = [total[0] for total in sums]
    moments = [_mean_and_deviation(total[1], total[2], size) for total in sums]
    for r, one in zip(products, comparisons, strict=True):
        every = np.arange(len(r))
        i, j = one.pairs or (every, every)
        (mean_a, deviation_a), (mean_b, deviation_b) = moments[one.a], moments[one.b]
        for begin in range(0, len(r), 1 << 10):
            part = slice(begin, begin + (1 << 10))
            k, m = i[part], j[part]
            r[part] = pearson(r[part] / size, mean_a[k], mean_b[m], deviation_a[k], deviation_b[m])
    return Together(active, products)


def _batches(files: Sequence[str | Path], tokens: int) -> Iterator[tuple[int, list[sparse.csr_array]]]:
    """First token and activations of each file, float64 [tokens, features], of as many blocks at once as have `ENTRIES` together."""
    held: list[tuple[sparse.csr_array, ...]] = []
    start = count = stop = 0
    for blocks in zip(*(activation_blocks(path, tokens) for path in files), strict=True):
        held.append(tuple(matrix for _, matrix in blocks))
        stop = blocks[0][0] + held[-1][0].shape[0]
        count += sum(matrix.nnz for matrix in held[-1])
        if count >= ENTRIES or stop == tokens:
            yield start, [sparse.vstack(parts, format="csr") for parts in zip(*held, strict=True)]
            held, count, start = [], 0, stop


def _pair_products(
    a: sparse.csr_array, b: sparse.csr_array, i: np.ndarray, j: np.ndarray
) -> Iterator[tuple[slice, sparse.csr_array]]:
    """Products of the activations of pairs of features, [tokens, pairs], of as many pairs at once as fire `ENTRIES` times."""
    a, b = a.tocsc(), b.tocsc()
    cost = np.cumsum(np.diff(a.indptr)[i] + np.diff(b.indptr)[j], dtype=np.int64)
    first = 0
    while first < len(i):
        last = max(first + 1, int(np.searchsorted(cost, (cost[first - 1] if first else 0) + ENTRIES, side="right")))
        part = slice(first, last)
        yield part, a[:, i[part]].multiply(b[:, j[part]]).tocsr()
        first = last


def _add_documents(
    totals: Sequence[np.ndarray] | np.ndarray,
    matrix: sparse.csr_array,
    values: Sequence[np.ndarray],
    place: np.ndarray,
    weights: np.ndarray,
) -> None:
    """Add some values of each entry of a matrix to the totals of its column, each as often as its document is drawn.

    Args:
        totals: of each kind of value, float64 [columns, replicates].
        matrix: where the entries are, [tokens, columns].
        values: of its entries, float64; booleans would be joined by "or" and not counted.
        place: document of each token, int [tokens].
        weights: how often each replicate draws each document, float64 [documents, replicates].
    """
    tokens, columns = matrix.shape
    if weights.shape[1] <= FEW:
        document = place[np.repeat(np.arange(tokens), np.diff(matrix.indptr))]
        for number, times in enumerate(weights.T):
            for total, one in zip(totals, values, strict=True):
                total[:, number] += np.bincount(matrix.indices, one * times[document], columns)
        return
    by_document = sparse.csr_array((np.ones(tokens), (place, np.arange(tokens))), shape=(len(weights), tokens))
    for total, one in zip(totals, values, strict=True):
        summed = by_document @ sparse.csr_array((one, matrix.indices, matrix.indptr), shape=matrix.shape)
        add_product(summed.T.tocsr(), weights, total)


def _mean_and_deviation(total: np.ndarray, squares: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both [features, replicates], in the memory of the sums; the deviation of a constant feature is NaN."""
    total /= tokens
    squares /= tokens
    variance = squares - total**2
    variance[variance <= CONSTANT * squares] = np.nan
    return total, np.sqrt(variance, out=variance)


def bootstrap_flow(
    parent: str | Path,
    child: str | Path,
    correlations: pa.Table,
    document: np.ndarray,
    drawn: np.ndarray,
    threshold: float,
    min_active: int,
) -> pa.Table:
    """Count the features that live and that persist in each replicate, on both sides of an edge.

    As in the sample itself (`fates.trace`): a feature lives if it fires on at least `min_active` of the drawn tokens, and persists
    if its best match among the living correlates above the threshold there. A feature that is dead in a replicate is left out of that
    replicate's share, below and above the line.

    Args:
        parent: activations, a file of `collect.collect_features`.
        child: activations, of the same sample.
        correlations: table of `correlation.correlate`; its pairs from `MARGIN` below the threshold on, and each feature's best,
            are the candidates in every replicate.
        document: document of each token (`number_documents`).
        drawn: how often each replicate draws each document (`sample_documents`).
        threshold: correlation above which two features are the same.
        min_active: tokens on which a living feature fires.

    Returns:
        One row a replicate, schema `REPLICATES`.
    """
    feature_a, feature_b = near_pairs(correlations, threshold)
    rows = len(feature_a) + sum(5 * read_provenance(path)["features"] for path in (parent, child))
    counts = []
    turns = -(-8 * rows * drawn.shape[1] // MEMORY)
    for part in np.array_split(drawn, turns, axis=1):
        found = resample(parent, child, feature_a, feature_b, document, part)
        alive_a, alive_b = found.active_a >= min_active, found.active_b >= min_active
        same = (found.r > threshold) & alive_a[feature_a] & alive_b[feature_b]
        pair, replicate = np.nonzero(same)
        persists_a, persists_b = np.zeros_like(alive_a), np.zeros_like(alive_b)
        persists_a[feature_a[pair], replicate] = True
        persists_b[feature_b[pair], replicate] = True
        counts.append([side.sum(0) for side in (alive_a, persists_a, alive_b, persists_b)])
    columns = np.concatenate(counts, axis=1)
    return pa.table([np.arange(drawn.shape[1], dtype=np.int32), *columns], schema=REPLICATES)


def near_pairs(correlations: pa.Table, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs that can be a feature's match in other documents than the sample's: from `MARGIN` below the threshold on, and each best.

    Returns:
        The first and the second feature of each, both int [pairs].
    """
    a, b, r = (correlations[name].to_numpy() for name in ("feature_a", "feature_b", "r"))
    keep = r >= threshold - MARGIN
    for own in (a, b):
        best = np.full(own.max(initial=-1) + 1, -np.inf)
        np.maximum.at(best, own, r)
        keep |= r == best[own]
    return a[keep], b[keep]


def interval(replicates: pa.Table, side: str, share: float) -> tuple[float, float] | None:
    """95 % interval of the persisting share of a side, which it always contains; none if no replicate has a living feature.

    The share ± 1.96 root mean square deviations of the replicates from it: their spread, and how far they lie to one side of it, taken
    together as its error (Efron and Tibshirani 1993, chapter 10). A best match is a maximum, which sampling noise raises, so replicates can
    lie above the share that they replicate. Their own quantiles would then leave out the share, and so would these reflected at it.

    Args:
        replicates: table of `bootstrap_flow`.
        side: `parent` or `child`.
        share: of the sample itself.
    """
    living, persisting = (replicates[f"{side}_{what}"].to_numpy() for what in ("living", "persisting"))
    if not living.any():
        return None
    shares = persisting[living > 0] / living[living > 0]
    reach = 1.96 * float(np.sqrt(np.mean((shares - share) ** 2)))
    return max(0.0, share - reach), min(1.0, share + reach)
