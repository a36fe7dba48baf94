"""Where two dictionaries point: cosines of their decoder and encoder vectors, for models that share a basis.

A fine-tune, a merge and a checkpoint read and write the residual stream in the basis of the model that they come from, so that a direction
means the same in both. Models trained apart share no basis, and cosines between them mean nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from feature_lineage.flow.matching import Match
from feature_lineage.progress import progress
from feature_lineage.store.formats import read_tensors

ROWS = 1 << 11  # features of one dictionary whose cosines with all of the other are held at once
ASSIGNED = 1 << 28  # cosines between two dictionaries of which a one-to-one assignment is made: 2 GiB


class Directions(NamedTuple):
    """Unit vectors of a dictionary's features: `decoder` and `encoder`, both float64 [features, elements]; zeros stay zeros."""

    decoder: np.ndarray
    encoder: np.ndarray


def read_directions(weights: str | Path) -> Directions:
    """Directions of the features of an autoencoder's `sae_weights.safetensors`."""
    tensors = read_tensors(weights)
    return Directions(_unit(tensors["W_dec"]), _unit(tensors["W_enc"].T))


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def pair_cosines(a: np.ndarray, b: np.ndarray, match: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the row of `b` that it is matched with, float64 [rows of a]; NaN where `match` is -1."""
    found = np.full(len(a), np.nan)
    there = match >= 0
    found[there] = np.einsum("ij,ij->i", a[there], b[match[there]])
    return found


def best_cosines(a: np.ndarray, b: np.ndarray) -> tuple[Match, Match]:
    """The row of the other that each row of `a` and of `b` has the highest cosine with, and that cosine.

    Cosines are searched in float32, and those that are found are float64: of two that differ by less than 1e-6 either may be the one.
    """
    down, up = np.full(len(a), -1), np.full(len(b), -1)
    highest = np.full(len(b), -np.inf, np.float32)
    short, others = a.astype(np.float32), b.astype(np.float32).T
    with progress(len(a), "feature", "cosines") as bar:
        for first in range(0, len(a), ROWS):
            cosines = short[first : first + ROWS] @ others
            down[first : first + len(cosines)] = cosines.argmax(1)
            best = cosines.argmax(0)
            here = cosines[best, np.arange(len(b))]
            higher = here > highest
            up[higher], highest[higher] = first + best[higher], here[higher]
            bar.update(len(cosines))
    return Match(down, pair_cosines(a, b, down)), Match(up, pair_cosines(b, a, up))


def pw_mcc(a: np.ndarray, b: np.ndarray) -> float | None:
    """Mean cosine of the one-to-one assignment of the rows of `a` and `b` that has the highest sum of cosines.

    The pairwise dictionary mean correlation coefficient of arXiv 2505.20254, for one pair of dictionaries. None of dictionaries with more
    than `ASSIGNED` cosines between them: their memory grows as the square of the features, and the assignment's time as the cube.
    """
    if len(a) * len(b) > ASSIGNED:
        return None
    cosines = a @ b.T
    return float(cosines[linear_sum_assignment(cosines, maximize=True)].mean())
