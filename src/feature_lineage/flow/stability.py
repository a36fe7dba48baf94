"""Stability: which features of a dictionary another dictionary of the same model has, too.

Two dictionaries of one model, trained from other random numbers, share a minority of their features (Paulo and Belrose 2025, arXiv
2501.16615). What only one of them has says more of that training than of the model, so shares are given for the reproducible features, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from feature_lineage.flow.bootstrap import near_pairs, resample
from feature_lineage.flow.direction import Directions, best_cosines, pair_cosines, pw_mcc
from feature_lineage.flow.matching import best_matches, strongest

STABILITY = pa.schema(
    [
        ("seed", pa.int64()),
        ("feature", pa.int32()),
        ("other", pa.int64()),
        ("r", pa.float64()),
        ("judged_r", pa.float64()),
    ]
)
LOW_QUANTILE = 0.05  # of cosines of pairs matched between two dictionaries of one model: from there on a cosine is high


def judged_documents(document: np.ndarray, corpus: np.ndarray) -> np.ndarray:
    """The half of a sample's documents on which reproducibility is judged, bool [documents]; persistence is read on the other half.

    Within each corpus, from the longest document to the shortest, each goes to the half that has fewer tokens so far.

    Args:
        document: document of each token, int [tokens] (`bootstrap.number_documents`).
        corpus: of each document, int [documents].
    """
    size = np.bincount(document, minlength=len(corpus))
    judged = np.zeros(len(corpus), bool)
    for number in np.unique(corpus):
        tokens = [0, 0]
        documents = np.flatnonzero(corpus == number)
        for one in documents[np.argsort(-size[documents], kind="stable")]:
            fewer = int(tokens[1] < tokens[0])
            judged[one] = not fewer
            tokens[fewer] += size[one]
    return judged


class Dictionary(NamedTuple):
    """One of a model's dictionaries: its file of activations, which features live on the sample (bool [features]), its directions."""

    activations: str | Path
    alive: np.ndarray
    directions: Directions


class Stability(NamedTuple):
    """What `measure_stability` finds: a row per seed, feature and other seed (schema `STABILITY`), and cosines (JSON)."""

    features: pa.Table
    cosines: dict[str, Any]


def measure_stability(
    dictionaries: Mapping[int, Dictionary],
    correlations: Mapping[tuple[int, int], pa.Table],
    document: np.ndarray,
    judged: np.ndarray,
    threshold: float,
) -> Stability:
    """Compare the dictionaries of one model with each other.

    Args:
        dictionaries: by seed.
        correlations: tables of `correlation.correlate`, by pair of seeds.
        document: document of each token, int [tokens].
        judged: documents on which reproducibility is judged, bool [documents] (`judged_documents`).
        threshold: correlation above which two features are the same.

    Returns:
        Of each feature the best r among the living features of each other dictionary, on the whole sample and on the judged
        documents; None where there is none. `cosines` has `pw_mcc` and `mean_max_cosine` of each pair of seeds, and `high`, the 5th
        percentile of the decoder cosines of all features' best matches above the threshold (None without any), of which there are
        `matched`.
    """
    tables, pairs, matched = [STABILITY.empty_table()], [], []
    for (one, other), table in correlations.items():
        a, b = dictionaries[one], dictionaries[other]
        i, j = table["feature_a"].to_numpy(), table["feature_b"].to_numpy()
        living = table.filter(pa.array(a.alive[i] & b.alive[j]))
        whole = best_matches(living, len(a.alive), len(b.alive))
        i, j = near_pairs(living, threshold)
        r = resample(a.activations, b.activations, i, j, document, judged[:, None]).r[:, 0]
        half = strongest(i, r, len(a.alive)), strongest(j, r, len(b.alive))
        for seed, against, match, best in ((one, other, whole[0], half[0]), (other, one, whole[1], half[1])):
            tables.append(_rows(seed, against, match.r, best))
        cosines = best_cosines(a.directions.decoder, b.directions.decoder)
        pairs.append(
            {
                "seeds": [one, other],
                "pw_mcc": pw_mcc(a.directions.decoder, b.directions.decoder),
                "mean_max_cosine": float(np.mean([side.r.mean() for side in cosines])),
            }
        )
        for own, to, match in ((a, b, whole[0]), (b, a, whole[1])):
            close = pair_cosines(own.directions.decoder, to.directions.decoder, match.best)
            matched.append(close[match.r > threshold])
    found = np.concatenate(matched) if matched else np.zeros(0)
    high = float(np.quantile(found, LOW_QUANTILE)) if len(found) else None
    return Stability(pa.concat_tables(tables), {"pairs": pairs, "high": high, "matched": len(found)})


def _rows(seed: int, other: int, r: np.ndarray, judged_r: np.ndarray) -> pa.Table:
    columns = [
        np.full(len(r), seed),
        np.arange(len(r), dtype=np.int32),
        np.full(len(r), other),
        pa.array(r, from_pandas=True),
        pa.array(judged_r, from_pandas=True),
    ]
    return pa.table(columns, schema=STABILITY)


def others(table: pa.Table, seed: int, column: str, features: int) -> np.ndarray:
    """A column of the rows of one seed, float64 [features, other dictionaries]; NaN where there is no match."""
    frame = table.to_pandas()
    frame = frame[frame["seed"] == seed]
    columns = [rows.sort_values("feature")[column].to_numpy(np.float64) for _, rows in frame.groupby("other")]
    return np.stack(columns, axis=1) if columns else np.zeros((features, 0))


def is_reproducible(judged_r: np.ndarray, threshold: float) -> np.ndarray:
    """Features whose best r exceeds the threshold in at least half of the other dictionaries, bool [features].

    Args:
        judged_r: best r of each feature in each other dictionary, at least one, float64 [features, other dictionaries]; NaN for none.
        threshold: of r.
    """
    return 2 * (np.nan_to_num(judged_r, nan=-1.0) > threshold).sum(1) >= judged_r.shape[1]


def margin(r: np.ndarray, others_r: np.ndarray, alive: np.ndarray) -> float | None:
    """Median over living features of r(best in the child) - mean r(best in another dictionary of the parent); needs no threshold.

    Args:
        r: of each feature's best match in the child, float64 [features], NaN for none, which counts as 0.
        others_r: of its best in each other dictionary of the parent, float64 [features, other dictionaries], likewise.
        alive: bool [features].

    Returns:
        None without another dictionary or without a living feature. Near 0 the child holds a feature as well as another dictionary of
        the parent does; below, something went that the dictionaries do not explain.
    """
    if not others_r.shape[1] or not alive.any():
        return None
    return float(np.median(np.nan_to_num(r[alive]) - np.nan_to_num(others_r[alive]).mean(1)))
