"""An edge for tests: two dictionaries on two models with everything that is degenerate, and the measures as they are written, in plain float64."""

from typing import NamedTuple

import numpy as np
from test_feature_tokens import write_activations

from feature_lineage.flow.verdicts import Activations

TOKENS, PARENT, CHILD = 400, 12, 10  # tokens, features of the parent's dictionary and of the child's
DOCUMENTS = [1, 3, 40, 60, 20, 30, 46, 5, 25, 70, 10, 8, 12, 50, 20]  # tokens of each: of very different sizes


class Edge(NamedTuple):
    """Dense activations float64 [tokens, features], the parent's dictionary first: on its own model, on the other; and their files."""

    own: tuple[np.ndarray, np.ndarray]
    other: tuple[np.ndarray, np.ndarray]
    files: Activations


def activity(random, features, share=0.2):
    return np.where(random.random((TOKENS, features)) < share, random.gamma(2.0, 1.0, (TOKENS, features)), 0)


def make_edge(folder, seed=0):
    """Features that drift by every amount and match by every amount, and some that are dead, constant, equal or on one token."""
    random = np.random.default_rng(seed)
    drifts = np.array([1, 1, 1, 1, 0, 0, 1.5, 0.3, 1.5, 0.6, 3, 1.5])
    parent = activity(random, PARENT)
    parent_on_child = parent + drifts * activity(random, PARENT)
    child = activity(random, CHILD)
    child[:, :8] = parent[:, 3:11] + np.linspace(0, 0.9, 8) * activity(random, 8)
    child_on_parent = child + drifts[::-1][:CHILD] * activity(random, CHILD)
    parent[:, 0] = parent_on_child[:, 1] = 0  # dead on one model each,
    parent[:, 2] = parent_on_child[:, 2] = 0  # and on both
    parent[:, 3] = 0.1  # constant: no binary fraction
    child_on_parent[:, 0] = 0.3
    parent_on_child[:, 4] = parent[:, 4]  # equal
    parent[:, 5] = parent_on_child[:, 5] = 0
    parent[7, 5] = parent_on_child[7, 5] = 1.25  # one token
    child[:, 9] = 50 + child[:, 9]  # a mean far above its deviation
    matrices = [
        np.asarray(matrix, np.float32).astype(np.float64)
        for matrix in (parent, child, parent_on_child, child_on_parent)
    ]
    files = [
        write_activations(folder / f"{name}.parquet", matrix) for name, matrix in zip("abcd", matrices, strict=True)
    ]
    return Edge(tuple(matrices[:2]), tuple(matrices[2:]), Activations(files[:2], files[2:]))


def document_of():
    """Document of each token, int [tokens]."""
    return np.repeat(np.arange(len(DOCUMENTS)), DOCUMENTS)


def redraw(dense, drawn):
    """The tokens of a replicate, document after document."""
    document = document_of()
    parts = [np.tile(dense[document == number], (times, 1)) for number, times in enumerate(drawn)]
    return np.concatenate(parts) if parts else dense[:0]


def correlation(x, y):
    """Pearson's r of two vectors by its definition; NaN where one of them never changes."""
    if not len(x) or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


def pairwise(a, b):
    """r of every pair of columns, [features of a, features of b]."""
    return np.array([[correlation(x, y) for y in b.T] for x in a.T])


def matched(a, b, alive_a, alive_b):
    """Each side's best match among the living features of the other: (number or -1, r or NaN) for each feature, both sides."""
    r = pairwise(a, b)
    r[~alive_a] = np.nan
    r[:, ~alive_b] = np.nan
    found = []
    for table in (r, r.T):
        best = [-1 if np.isnan(row).all() else int(np.nanargmax(row)) for row in table]
        found.append(
            (np.array(best), np.array([np.nan if k < 0 else row[k] for k, row in zip(best, table, strict=True)]))
        )
    return found


def word(r, match_r, threshold):
    """A verdict, as the issue orders them."""
    if r > threshold:
        return "kept"
    if match_r > threshold:
        return "found"
    return "drifted" if r > 0.5 else "lost"


def cosine(u, v):
    length = np.sqrt((u * u).sum() * (v * v).sum())
    return float((u * v).sum() / length) if length else 0.0
