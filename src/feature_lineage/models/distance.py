"""How far a training or a merge moved the weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

WEIGHTS = pa.schema(
    [("parent", pa.string()), ("child", pa.string()), ("all", pa.float64()), ("hooked_block", pa.float64())]
)


def compare_weights(
    parent: Mapping[str, np.ndarray], child: Mapping[str, np.ndarray], hook: str
) -> dict[str, float | None]:
    """Relative distance of two models' weights, of all and of the block that the hook point is in.

    Args:
        parent: tensors by name.
        child: tensors by name.
        hook: hook point, such as `blocks.0.mlp.hook_post`.

    Returns:
        `all` and `hooked_block`; None where the two have not the same tensors, or the hook point is in no block.
    """
    shapes = [{name: tensor.shape for name, tensor in model.items()} for model in (parent, child)]
    if shapes[0] != shapes[1]:
        return {"all": None, "hooked_block": None}
    layer = re.match(r"blocks\.(\d+)\.", hook)
    inside = [name for name in parent if layer and _layer(name) == layer[1]]
    return {
        "all": relative_distance(parent, child, parent),
        "hooked_block": relative_distance(parent, child, inside) if inside else None,
    }


def _layer(tensor: str) -> str | None:
    """Number of the layer in a tensor's name, the first number that stands alone in it; None if none does."""
    return next((part for part in tensor.split(".") if part.isdigit()), None)


def relative_distance(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], names: Iterable[str]) -> float:
    """|a - b| / |a|, the Euclidean norm over some tensors of two state dicts; float64. 0 if all of them are 0 in both."""
    apart = norm = 0.0
    for name in names:
        apart += float(np.square(a[name].astype(np.float64) - b[name]).sum())
        norm += float(np.square(a[name].astype(np.float64)).sum())
    return float(np.sqrt(apart / norm)) if apart else 0.0
