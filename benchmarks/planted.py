"""Two synthetic models whose features are known: what persists is planted, and the flow must find it.

Activations of a model are x = codes · dictionary + noise: unit directions, more of them than elements, each on in few tokens. The
child is the parent with some features changed, over the same tokens. Autoencoders trained on such activations recover most of the
directions, as far as sparse coding can (Sharkey et al. 2022, "Taking features out of superposition with sparse autoencoders"),
so that each learned feature can be named by the true one that it recovers, and the flow's verdict on it be checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.training import Data, Length, train_on_activations
from feature_lineage.features.activations import Activations
from feature_lineage.flow.correlation import correlate
from feature_lineage.flow.fates import Edge, trace
from feature_lineage.study.measures import Autoencoder

# What becomes of a feature. By correlation of activations the first two persist: a rotation leaves the code as it is. Of a feature
# split evenly, each half correlates with the whole at about √½ = .71, below the paper's .8.
PERSISTS = {"kept": True, "rotated": True, "split": False, "removed": False, "new": False}


class Family(NamedTuple):
    """A synthetic model: `dictionary` float64 [features, n], unit rows; `codes` CSR float64 [tokens, features], not negative.

    `kind` [features] says what becomes, or what became, of each feature (`PERSISTS`); `noise` is the standard
    deviation of the noise on each element, `seed` the noise's.
    """

    dictionary: np.ndarray
    codes: sparse.csr_array
    kind: np.ndarray
    noise: float
    seed: list[int]

    def activations(self, first: int, last: int) -> torch.Tensor:
        """Activations [last - first, n] of these tokens, float32; the same whenever they are asked for with the same `first`."""
        x = self.codes[first:last] @ self.dictionary
        x += self.noise * np.random.default_rng([*self.seed, first]).standard_normal(x.shape)
        return torch.from_numpy(x.astype(np.float32))


def plant(
    tokens: int,
    n: int,
    counts: Mapping[str, int],
    *,
    density: tuple[float, float],
    seed: int,
    angle: float = 60.0,
    jitter: float = 0.1,
    noise: float = 0.02,
    cosine: tuple[float, float] | None = None,
) -> tuple[Family, Family]:
    """A parent and a child that share what `counts` says.

    A feature is active in each token by chance, with its own probability, independently of the others; its code there is
    log-normal (σ = .3). The child has the same code, but for its own factor in each token.

    Args:
        tokens: that both read.
        n: elements of an activation.
        counts: number of features by kind (`PERSISTS`).
        density: lowest and highest share of tokens in which a feature is active; log-uniform in between.
        seed: of everything that is drawn.
        angle: between a rotated feature's directions in parent and child, in degrees.
        jitter: standard deviation of the logarithm of the child's factor on a shared code.
        noise: standard deviation of the noise on each element.
        cosine: lowest and highest cosine between the directions 2i and 2i + 1, uniform in between; none: all independent.
    """
    random = np.random.default_rng([seed, 0])
    kind = random.permutation(np.repeat(list(counts), list(counts.values())))
    directions = _unit(random.standard_normal((len(kind), n)))
    if cosine:
        pairs = len(kind) // 2
        c = random.uniform(*cosine, pairs)[:, None]
        even, odd = directions[0 : 2 * pairs : 2], directions[1 : 2 * pairs : 2]
        directions[1 : 2 * pairs : 2] = c * even + np.sqrt(1 - c**2) * _perpendicular(odd, even)
    codes = _codes(tokens, np.exp(random.uniform(*np.log(density), len(kind))), random)

    parent, child = kind != "new", (kind != "removed") & (kind != "split")
    rotated, split = np.flatnonzero(kind == "rotated"), np.flatnonzero(kind == "split")
    aside = _perpendicular(random.standard_normal(directions.shape), directions)
    turned = directions.copy()
    theta = np.deg2rad(angle)
    turned[rotated] = np.cos(theta) * directions[rotated] + np.sin(theta) * aside[rotated]
    halves = [(directions[split] + sign * aside[split]) / np.sqrt(2) for sign in (1, -1)]
    again = codes.copy()
    again.data *= np.exp(jitter * random.standard_normal(len(codes.data)))
    whole = sparse.csc_array(again[:, split])
    first = random.random(len(whole.data)) < 0.5
    parts = [  # with indices of their own, which eliminate_zeros changes in place
        sparse.csc_array((whole.data * side, whole.indices.copy(), whole.indptr.copy()), whole.shape)
        for side in (first, ~first)
    ]
    for part in parts:
        part.eliminate_zeros()
    return (
        Family(directions[parent], sparse.csr_array(codes[:, parent]), kind[parent], noise, [seed, 1]),
        Family(
            np.concatenate([turned[child], *halves]),
            sparse.csr_array(sparse.hstack([again[:, child], *parts])),
            np.concatenate([kind[child], kind[split], kind[split]]),
            noise,
            [seed, 2],
        ),
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _perpendicular(rows: np.ndarray, to: np.ndarray) -> np.ndarray:
    """The part of each row that is perpendicular to the unit row of `to`, at unit norm."""
    return _unit(rows - (rows * to).sum(1, keepdims=True) * to)


def _codes(tokens: int, density: np.ndarray, random: np.random.Generator) -> sparse.csc_array:
    counts = random.binomial(tokens, density)
    where = np.concatenate([np.sort(random.choice(tokens, count, replace=False, shuffle=False)) for count in counts])
    values = np.exp(0.3 * random.standard_normal(len(where)))
    return sparse.csc_array((values, where, np.concatenate([[0], np.cumsum(counts)])), (tokens, len(density)))


# --- what autoencoders learn of it --------------------------------------------------------------------------


def train(
    family: Family, tokens: int, batch: int, checkpoint: str | Path, features: int, seed: int, **options: Any
) -> SparseAutoencoder:
    """An autoencoder of the first `tokens` tokens, each seen once; options as in `measures.Autoencoder`."""

    def batches(step: int) -> Iterator[torch.Tensor]:
        return (family.activations(first, first + batch) for first in range(step * batch, tokens, batch))

    def pool(step: int) -> Iterator[torch.Tensor]:
        return islice(batches(0), 16)

    sample = torch.cat(list(islice(batches(0), 8)))
    steps = tokens // batch
    length = Length(steps, batch, features, steps // 10, [steps * tenth // 10 for tenth in range(1, 7)])
    data = Data(batches, pool, sample)
    found, _ = train_on_activations(data, checkpoint, Autoencoder(**options), length, seed)
    return found


def encode(autoencoder: SparseAutoencoder, family: Family, first: int, batch: int = 4096) -> Activations:
    """What the learned features do on the tokens from `first` on."""
    tokens = family.codes.shape[0]
    parts = []
    for start in range(first, tokens, batch):
        x = family.activations(start, min(start + batch, tokens))
        parts.append(sparse.csr_array(autoencoder.encode(x).numpy().astype(np.float64)))
    return Activations(sparse.csr_array(sparse.vstack(parts)))


# --- what the flow makes of that ----------------------------------------------------------------------------


def flow(parent: Activations, child: Activations, threshold: float) -> pd.DataFrame:
    """The flow between two sets of features: `fates.FEATURES`, first the parent's, then the child's."""
    densities = [np.bincount(side.matrix.indices, minlength=side.features) / side.tokens for side in (parent, child)]
    edge = Edge("parent", "child", *densities, correlate(parent, child, floor=threshold))
    names = ["parent", "child"]
    return trace([edge], dict(zip(names, densities, strict=True)), names, threshold, seed=0).features.to_pandas()


class Verdicts(NamedTuple):
    """What was planted and what the flow says, both models together.

    `learned` has a row per learned feature: `model`, `fate`, `support` (tokens on which it is active), `nearest` (true feature with
    the nearest direction), `recovers` (whether its cosine exceeds the one asked for), `right` (recovers one that persists),
    `neighbour`. `true` has a row per true feature: `model`, `kind`, `persists` (as planted), `support`, `neighbour` (largest cosine
    with another true feature of the model), `recovered` (by any learned feature), `called` (persisting, one that recovers it).
    """

    learned: pd.DataFrame
    true: pd.DataFrame


def judge(
    families: tuple[Family, Family],
    autoencoders: tuple[SparseAutoencoder, SparseAutoencoder],
    first: int,
    threshold: float = 0.8,
    cosine: float = 0.9,
) -> Verdicts:
    """Hold the flow over the tokens from `first` on against what was planted.

    A learned feature recovers the true one whose direction is nearest to its decoder's, if their cosine exceeds `cosine`: a rule
    that does not look at the activations, which the flow judges by.
    """
    activations = [encode(*both, first) for both in zip(autoencoders, families, strict=True)]
    fates = flow(*activations, threshold)
    learned, true = [], []
    for model, family, autoencoder, found in zip(("parent", "child"), families, autoencoders, activations, strict=True):
        similar = _unit(autoencoder.W_dec.numpy().astype(np.float64)) @ family.dictionary.T
        nearest, recovers = similar.argmax(1), similar.max(1) > cosine
        among = family.dictionary @ family.dictionary.T
        np.fill_diagonal(among, -1)
        persists = np.array([PERSISTS[kind] for kind in family.kind])
        fate = fates.loc[fates["model"] == model, "fate"].to_numpy()
        alive = fate != "dead"
        recovered, called = np.zeros((2, len(persists)), bool)
        recovered[nearest[recovers & alive]] = True
        called[nearest[recovers & (fate == "persisting")]] = True
        learned.append(
            pd.DataFrame(
                {
                    "model": model,
                    "fate": fate,
                    "support": np.bincount(found.matrix.indices, minlength=found.features),
                    "nearest": nearest,
                    "recovers": recovers,
                    "right": recovers & persists[nearest],
                    "neighbour": among.max(1)[nearest],
                }
            )
        )
        true.append(
            pd.DataFrame(
                {
                    "model": model,
                    "kind": family.kind,
                    "persists": persists,
                    "support": np.bincount(family.codes[first:].indices, minlength=len(persists)),
                    "neighbour": among.max(1),
                    "recovered": recovered,
                    "called": called,
                }
            )
        )
    return Verdicts(pd.concat(learned, ignore_index=True), pd.concat(true, ignore_index=True))


def rates(verdicts: Verdicts) -> dict[str, float]:
    """How far the flow's "persisting" can be trusted; NaN where there is nothing to count.

    `precision`: of the learned features called persisting, the share that recover a true feature that persists; one that recovers
    nothing counts against it. `recall`: of the true features that persist and are active in the sample, the share that a learned
    feature called persisting recovers. The latter is the product of `recovered`, what the autoencoder found of these, and
    `recall_of_recovered`, what the flow then says of it.
    """
    called = verdicts.learned[verdicts.learned["fate"] == "persisting"]
    planted = verdicts.true[verdicts.true["persists"] & (verdicts.true["support"] > 0)]
    return {
        "precision": float(called["right"].mean()),
        "recall": float(planted["called"].mean()),
        "recovered": float(planted["recovered"].mean()),
        "recall_of_recovered": float(planted.loc[planted["recovered"], "called"].mean()),
    }
