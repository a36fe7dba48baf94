"""Raw neurons in place of features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from feature_lineage.controls.sides import EDGE, SHARE, SIDES, Side
from feature_lineage.flow.moments import pearson
from feature_lineage.progress import progress

if TYPE_CHECKING:
    import torch


NEURONS = pa.schema([*EDGE, ("side", pa.string()), ("neurons", pa.int64()), *SHARE])


def correlate_neurons(batches: Iterable[tuple[torch.Tensor, torch.Tensor]], tokens: int) -> np.ndarray:
    """Pearson correlation of every activation element of one model with every one of another, over the same tokens.

    Args:
        batches: pairs [tokens, n_a] and [tokens, n_b]; sums are float64, on the device of the batches.
        tokens: in all, for the progress bar.

    Returns:
        float64 [n_a, n_b]; NaN where one of the two is constant.
    """
    count, start, sums = 0, None, None
    with progress(tokens, "tok") as bar:
        for pair in batches:
            x, y = (side.double() for side in pair)
            if start is None:
                start = x[:1], y[:1]  # subtracted throughout: no digits cancel, and what is constant becomes 0 exactly
            x, y = x - start[0], y - start[1]
            part = (x.sum(0), y.sum(0), (x * x).sum(0), (y * y).sum(0), x.T @ y)
            sums = part if sums is None else tuple(old + new for old, new in zip(sums, part, strict=True))
            count += len(x)
            bar.update(len(x))
    if sums is None:
        raise ValueError("there is no batch to correlate")
    x, y, xx, yy, xy = ((total / count).cpu().numpy() for total in sums)
    deviation_x, deviation_y = (
        np.sqrt(np.where(squares > mean**2, squares - mean**2, np.nan)) for mean, squares in ((x, xx), (y, yy))
    )
    return np.clip(pearson(xy, x[:, None], y, deviation_x[:, None], deviation_y), -1, 1)


def neuron_rows(r: np.ndarray, threshold: float) -> list[dict[str, Any]]:
    """Rows of `NEURONS`, edge left out, from `correlate_neurons`: the same measure on neurons that vary.

    Matches are by r, not |r|: as features are compared, and as Bricken et al. 2023 compare neurons.
    """
    rows = []
    for name, matrix in zip(SIDES, (r, r.T), strict=True):
        best = np.where(np.isnan(matrix), -np.inf, matrix).max(1)
        row = Side(np.isfinite(best), best).row(threshold)
        rows.append({"side": name, "neurons": row.pop("features"), **row})
    return rows
