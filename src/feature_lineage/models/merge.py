"""Merging two models of one architecture, tensor by tensor, along a spherical or straight path (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from feature_lineage.models.evaluation import evaluate_model, readable
from feature_lineage.models.task_vectors import check_alike
from feature_lineage.progress import logger, progress
from feature_lineage.text.windows import Windows

SWEEP = pa.schema([("t", pa.float64()), ("corpus", pa.string()), ("accuracy", pa.float64()), ("loss", pa.float64())])
TENSORS = pa.schema(
    [
        ("tensor", pa.string()),
        ("elements", pa.int64()),
        ("cosine", pa.float64()),
        ("angle", pa.float64()),
        ("branch", pa.string()),
    ]
)
NEARLY_PARALLEL = 0.9995
TINY = 1e-8


class Angle(NamedTuple):
    """Cosine and angle (radians) between two flattened tensors, and the path taken: `slerp` or `linear`."""

    cosine: float
    angle: float
    branch: str


def angle(a: torch.Tensor, b: torch.Tensor, method: str = "slerp") -> Angle:
    """Angle between two tensors, flattened; a norm at or below 1e-8 is not divided by. Sums in float64."""
    flat_a, flat_b = a.flatten().double(), b.flatten().double()
    norms = [float(flat.norm()) for flat in (flat_a, flat_b)]
    scale = np.prod([norm if norm > TINY else 1.0 for norm in norms])
    cosine = float(flat_a @ flat_b / scale)
    branch = "linear" if method == "linear" or abs(cosine) > NEARLY_PARALLEL else "slerp"
    return Angle(cosine, float(np.arccos(np.clip(cosine, -1, 1))), branch)


def interpolate(a: torch.Tensor, b: torch.Tensor, t: float, between: Angle) -> torch.Tensor:
    """The tensor at `t` between `a` (t = 0) and `b` (t = 1), float32.

    Spherical: sin((1 - t)Ω)/sin Ω · a + sin(tΩ)/sin Ω · b, with the angle Ω of the unit vectors and the tensors as they are;
    linear where the two are nearly parallel (|cos Ω| > 0.9995). Shoemake 1985, mergekit's convention.
    """
    if between.branch == "linear":
        weight_a, weight_b = 1 - t, t
    else:
        weight_a, weight_b = (np.sin(share * between.angle) / np.sin(between.angle) for share in (1 - t, t))
    return weight_a * a.float() + weight_b * b.float()


def angles(
    a: Mapping[str, torch.Tensor],
    b: Mapping[str, torch.Tensor],
    method: str,
    parents: Sequence[str] = ("the first parent", "the second parent"),
) -> dict[str, Angle]:
    """The angle of every tensor pair of two state dicts.

    Args:
        a: first parent.
        b: second parent.
        method: `slerp` or `linear`.
        parents: where they are from, for the error message.

    Raises:
        InputError: the two do not have the same tensors of the same shapes, or one holds NaN or infinity.
    """
    check_alike(parents, (a, b))
    return {name: angle(a[name], b[name], method) for name in a}


def merge_states(
    a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], t: float, between: Mapping[str, Angle]
) -> dict[str, torch.Tensor]:
    """The state dict at `t` between `a` (t = 0) and `b` (t = 1), float32."""
    return {name: interpolate(a[name], b[name], t, between[name]) for name in a}


def sweep_merge(
    a: PreTrainedModel,
    b: PreTrainedModel,
    method: str,
    points: int,
    directories: Mapping[str, str | Path],
    *,
    block: int,
    evaluation_tokens: int,
) -> pa.Table:
    """Accuracy and loss along the path, at `points` even positions with both ends, on each corpus; schema `SWEEP`.

    Args:
        a: first parent, t = 0; overwritten.
        b: second parent, t = 1.
        method: `slerp` or `linear`.
        points: positions, at least 2.
        directories: validation token directory by corpus.
        block: tokens of a window; fewer where a parent cannot read so many.
        evaluation_tokens: validation tokens per corpus.
    """
    windows = Windows(directories, min(readable(a, block), readable(b, block)))
    states = [{name: tensor.clone() for name, tensor in model.state_dict().items()} for model in (a, b)]
    between = angles(*states, method, (a.name_or_path, b.name_or_path))
    rows: list[dict[str, Any]] = []
    with progress(points * len(windows.corpora), "evaluation") as bar:
        for t in np.linspace(0, 1, points):
            a.load_state_dict(merge_states(*states, float(t), between))
            for number, corpus in enumerate(windows.corpora):
                found = evaluate_model(a, windows, windows.spread(number, evaluation_tokens))
                rows.append({"t": float(t), "corpus": corpus, "accuracy": found["accuracy"], "loss": found["loss"]})
                bar.update()
    return pa.Table.from_pylist(rows, SWEEP)


def merge_models(a: PreTrainedModel, b: PreTrainedModel, method: str, t: float) -> pa.Table:
    """Make `a` the merge at `t` between `a` (t = 0) and `b` (t = 1), in place.

    Args:
        a: first parent; overwritten.
        b: second parent.
        method: `slerp` or `linear`.
        t: position on the path.

    Returns:
        How far apart the parents' tensors are, schema `TENSORS`.

    Raises:
        InputError: their tensors differ in name or shape.
    """
    states = a.state_dict(), b.state_dict()
    between = angles(*states, method, (a.name_or_path, b.name_or_path))
    a.load_state_dict(merge_states(*states, t, between))
    return tensor_table(states[0], between)


class Equilibrium(NamedTuple):
    """Where two accuracy curves meet: `crosses` is false if they do not, and `t` is then where they are closest."""

    t: float
    crosses: bool


def equilibrium(t: np.ndarray, first: np.ndarray, second: np.ndarray) -> Equilibrium:
    """Crossing of two curves of accuracy over `t`, linear between the points; of several, the one of highest accuracy.

    Args:
        t: ascending positions, [points].
        first: accuracy on the first parent's corpora, [points].
        second: accuracy on the second parent's corpora, [points].
    """
    gap = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    crossings = [(float(first[i]), float(t[i])) for i in np.flatnonzero(gap == 0)]
    for i in np.flatnonzero(gap[:-1] * gap[1:] < 0):
        share = gap[i] / (gap[i] - gap[i + 1])
        crossings.append((float(first[i] + share * (first[i + 1] - first[i])), float(t[i] + share * (t[i + 1] - t[i]))))
    if crossings:
        return Equilibrium(max(crossings)[1], True)
    return Equilibrium(float(t[np.argmin(np.abs(gap))]), False)


def parent_accuracies(
    table: pa.Table, first: list[str], second: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(t, accuracy on `first`, accuracy on `second`) of a sweep, each corpus weighing the same; float64 [points]."""
    frame = table.to_pandas().pivot(index="t", columns="corpus", values="accuracy")
    return frame.index.to_numpy(), frame[first].mean(axis=1).to_numpy(), frame[second].mean(axis=1).to_numpy()


def choose_t(t: float | str, table: pa.Table, first: list[str], second: list[str]) -> Equilibrium:
    """The point to merge at: `t` itself, or where the two parents' accuracies of a sweep cross if it is `equilibrium`."""
    if t != "equilibrium":
        return Equilibrium(float(t), False)
    found = equilibrium(*parent_accuracies(table, first, second))
    if found.crosses:
        logger.info("equilibrium at t = %.4f", found.t)
    else:
        logger.warning("the accuracies do not cross for t in [0, 1]; merging where they are closest, t = %.4f", found.t)
    return found


def tensor_table(state: Mapping[str, torch.Tensor], between: Mapping[str, Angle]) -> pa.Table:
    """One row a tensor: elements, cosine, angle (radians), branch taken; schema `TENSORS`."""
    rows = [{"tensor": name, "elements": state[name].numel(), **found._asdict()} for name, found in between.items()]
    return pa.Table.from_pylist(rows, TENSORS)
