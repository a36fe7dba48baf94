"""Which token and which corpus a feature's activation lies on; activations read block by block of the sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy import sparse

from feature_lineage.features.activations import activation_blocks
from feature_lineage.progress import progress
from feature_lineage.store.formats import read_provenance

TOKENS = pa.schema(
    [
        ("feature", pa.int32()),
        ("mass", pa.float64()),
        ("token", pa.int32()),
        ("token_share", pa.float64()),
        ("corpus", pa.string()),
        ("corpus_share", pa.float64()),
    ]
)


def weigh_tokens(path: str | Path, tokens: np.ndarray, corpus: np.ndarray, corpora: Sequence[str]) -> pa.Table:
    """The token and the corpus on which most of each feature's activation lies.

    The mass of a feature on some tokens is the sum of its activations there. The token is the one with more than half of the mass,
    if there is one: found in one pass by the majority vote of Boyer and Moore (1991) with masses for votes, weighed in a second,
    so that memory grows with the features alone. The corpus is the one with the largest mass, of equal ones the first.

    Args:
        path: activations, a file of `collect.collect_features`.
        tokens: token numbers of the sample, int [windows, length].
        corpus: corpus of each window, int [windows], numbered as in `corpora`.
        corpora: names of the corpora.

    Returns:
        One row a feature, schema `TOKENS`; shares are of the feature's mass. Null where a feature never fires, and for the token
        where none has more than half.
    """
    flat, home = tokens.ravel(), np.repeat(corpus, tokens.shape[1])
    features = read_provenance(path)["features"]
    token, vote, on_token = np.zeros(features, np.int32), np.zeros(features), np.zeros(features)
    on_corpus = np.zeros((len(corpora), features))
    with progress(2 * flat.size, "tok") as bar:
        for first, block in activation_blocks(path, flat.size, places=True):
            here = slice(first, first + block.shape[0])
            for number in np.unique(home[here]):
                on_corpus[number] += block[home[here] == number].sum(axis=0)
            winner, margin = _majority(block, flat[here])
            agree = winner == token
            token = np.where(~agree & (margin > vote), winner, token)
            vote = np.where(agree, vote + margin, np.abs(vote - margin))
            bar.update(block.shape[0])
        for first, block in activation_blocks(path, flat.size, places=True):
            entries = block.tocoo()
            hit = token[entries.col] == flat[first + entries.row]
            on_token += np.bincount(entries.col[hit], entries.data[hit], minlength=features)
            bar.update(block.shape[0])
    mass = on_corpus.sum(0)
    fires = mass > 0
    share = np.divide(on_token, mass, out=np.zeros(features), where=fires)
    main = on_corpus.argmax(0)
    corpus_share = np.divide(on_corpus.max(0), mass, out=np.zeros(features), where=fires)
    return pa.table(
        [
            np.arange(features, dtype=np.int32),
            mass,
            pa.array(token, mask=share <= 0.5),
            pa.array(share, mask=share <= 0.5),
            pa.array(np.asarray(corpora, object)[main], pa.string(), mask=~fires),
            pa.array(corpus_share, mask=~fires),
        ],
        schema=TOKENS,
    )


def _majority(block: sparse.csr_array, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per feature, the token with the largest mass in a block, and by how much it exceeds all others together (0 if not)."""
    found, number = np.unique(tokens, return_inverse=True)
    by_token = sparse.csr_array(
        (np.ones(len(tokens)), (number, np.arange(len(tokens)))), shape=(len(found), len(tokens))
    )
    mass = (by_token @ block).tocsc()  # tokens in order within a feature
    counts = np.diff(mass.indptr)
    here = np.flatnonzero(counts)
    starts = mass.indptr[here]
    largest, winner = np.zeros(len(counts)), np.full(len(counts), found[0], np.int32)
    if len(here):
        largest[here] = np.maximum.reduceat(mass.data, starts)
        leads = np.flatnonzero(mass.data == np.repeat(largest, counts))  # of equal ones the first
        winner[here] = found[mass.indices[leads[np.searchsorted(leads, starts)]]]
    return winner, np.maximum(2 * largest - mass.sum(axis=0), 0)
