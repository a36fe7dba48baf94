"""What the report says of merges: the way, and how far apart the parents are, whatever the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

NAMES = {"slerp": "SLERP", "linear": "a weighted mean", "ties": "TIES", "dare_ties": "DARE and TIES"}


def merge_sections(merges: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each merge of `data.Trained.merges` that lies on no path between two parents, what the page shows.

    Returns:
        By model: `method`, `base`, `parents` with weight and density, and `pairs` of parents, each with the `cosine` over all tensors and
        rows of its `tensors`.
    """
    found = {}
    for model, merge in merges.items():
        if (recipe := merge["record"].get("parameters", {}).get("recipe")) is None:
            continue
        each = zip(recipe["parents"], recipe["weights"], recipe["density"], strict=True)
        found[model] = {
            "method": NAMES[recipe["method"]],
            "base": recipe["base"],
            "normalize": recipe["normalize"],
            "parents": [{"name": name, "weight": weight, "density": density} for name, weight, density in each],
            "pairs": [
                {"first": first, "second": second, "cosine": _cosine(rows), "tensors": rows.to_dict("records")}
                for (first, second), rows in merge["tensors"].groupby(["first", "second"], sort=False)
            ],
        }
    return found


def _cosine(rows: pd.DataFrame) -> float | None:
    """Cosine of what two parents changed in all tensors together; None where one changed nothing."""
    first, second = (rows[name].to_numpy() for name in ("first_norm", "second_norm"))
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    return float((rows["cosine"].fillna(0).to_numpy() * first * second).sum() / scale) if scale else None
