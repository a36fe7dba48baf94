"""Merging any number of models of one architecture: their weighted mean, or what each of them changed in a base (TIES, DARE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedModel

from feature_lineage.errors import InputError
from feature_lineage.progress import progress
from feature_lineage.streams import Stream, entropy

# One row a tensor and pair of parents: norms of what each changed in the base and the angle between both; of a mean, which has no base, of
# the parents' tensors themselves. Cosine and angle are null where a parent changed nothing.
PAIRS = pa.schema(
    [
        ("tensor", pa.string()),
        ("elements", pa.int64()),
        ("first", pa.string()),
        ("second", pa.string()),
        ("first_norm", pa.float64()),
        ("second_norm", pa.float64()),
        ("cosine", pa.float64()),
        ("angle", pa.float64()),
    ]
)
State = Mapping[str, torch.Tensor]


class Recipe(NamedTuple):
    """How models are merged: `keys.Merge` with a weight and a density for each parent, and what tells random draws apart.

    `model`, `parents` and `base` are names in the study; `seed` is the study's, used by `dare_ties` alone.
    """

    method: str
    weights: Sequence[float]
    density: Sequence[float]
    normalize: bool
    seed: int
    model: str
    parents: Sequence[str]
    base: str | None


@torch.no_grad()
def merge_any_number(
    parents: Sequence[PreTrainedModel], recipe: Recipe, base: PreTrainedModel | None = None
) -> pa.Table:
    """Make the first of `parents` the merge of them all, in place and in float32.

    One tensor after another, so that nothing but the models themselves and copies of one tensor is held.

    Args:
        parents: the models; the first is overwritten.
        recipe: how.
        base: what the parents come from; of `linear` there is none.

    Returns:
        How far apart the parents are, schema `PAIRS`.

    Raises:
        InputError: the models do not have the same tensors of the same shapes, or one holds NaN or infinity.
    """
    parents[0].float()
    models = [*parents, *([base] if base is not None else [])]
    states = [model.state_dict() for model in models]
    check_alike([model.name_or_path for model in models], states)
    rows: list[dict[str, Any]] = []
    own = [name for name, first in owners(states[0]).items() if name == first]
    with progress(len(own), "tensor") as bar:
        for name in own:
            if states[0][name].is_floating_point():
                tensors = [state[name].float() for state in states]
                over = tensors.pop() if base is not None else None
                # The first parent's tensor is what is written to: nothing is before both are computed.
                merged, found = merged_tensor(tensors, recipe, name, over), pair_rows(tensors, recipe, name, over)
                states[0][name].copy_(merged)
                rows += found
            bar.update()
    return pa.Table.from_pylist(rows, PAIRS)


def check_alike(models: Sequence[str], states: Sequence[State]) -> None:
    """Refuse models that cannot be merged tensor by tensor.

    Args:
        models: where each is from, for the message.
        states: state dict of each.

    Raises:
        InputError: two do not have the same tensors of the same shapes, or the same of them tied, or one holds NaN or infinity.
    """
    first, shapes, tied = models[0], _shapes(states[0]), owners(states[0])
    for second, state in zip(models[1:], states[1:], strict=True):
        theirs = _shapes(state)
        if differ := sorted(name for name in {**shapes, **theirs} if shapes.get(name) != theirs.get(name)):
            raise InputError(
                f"merge: {first} and {second} are of different architectures, {len(differ)} tensors differ: {differ[0]} is "
                f"{shapes.get(differ[0], 'missing')} in one, {theirs.get(differ[0], 'missing')} in the other; merge models of one shape"
            )
        if differ := [name for name, owner in owners(state).items() if tied[name] != owner]:
            raise InputError(
                f"merge: {first} and {second} are of different architectures: in one of them {differ[0]} is a tensor of its own, in the other "
                "it is tied to another; merge models whose `tie_word_embeddings` is the same"
            )
    for model, state in zip(models, states, strict=True):
        for name, tensor in state.items():
            if not torch.isfinite(tensor).all():
                raise InputError(
                    f"merge: tensor {name} of {model} holds NaN or infinity; train or import that model again"
                )


def owners(state: State) -> dict[str, str]:
    """The first name of each tensor's memory, by name: tied tensors, such as both embeddings of GPT-2, are one."""
    first: dict[Any, str] = {}
    return {
        name: first.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name) if tensor.numel() else name
        for name, tensor in state.items()
    }


def _shapes(state: State) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in state.items()}


def merged_tensor(
    tensors: Sequence[torch.Tensor], recipe: Recipe, name: str, base: torch.Tensor | None = None
) -> torch.Tensor:
    """One tensor of the merged model, float32.

    Args:
        tensors: the parents', float32.
        recipe: how.
        name: of the tensor, which `dare_ties` draws by.
        base: the base's, float32.
    """
    if base is None:
        return weighted_mean(tensors, recipe.weights)
    changes = []
    for tensor, density, parent in zip(tensors, recipe.density, recipe.parents, strict=True):
        if recipe.method == "ties":
            changes.append(trimmed(tensor - base, density))
        else:
            place = [crc32(part.encode()) for part in (recipe.model, parent, name)]
            changes.append(
                dropped(tensor - base, density, np.random.default_rng(entropy(recipe.seed, Stream.DARE, *place)))
            )
    return base + elected(changes, recipe.weights, recipe.normalize)


def weighted_mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """Σ w_i x_i / Σ w_i, float32 (Wortsman et al. 2022, for equal weights)."""
    total = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor, alpha=weight / sum(weights))
    return total


def trimmed(change: torch.Tensor, density: float) -> torch.Tensor:
    """A change with all but its largest elements set to 0: ⌊density · elements⌋ by magnitude, at least one; of equal ones the first.

    Yadav et al. 2023, section 3, step 1.
    """
    if density >= 1 or not change.numel():
        return change
    size = change.abs().flatten().numpy(force=True)
    count = max(1, int(density * size.size))
    smallest = np.partition(size, size.size - count)[size.size - count]
    kept = size > smallest
    kept[np.flatnonzero(size == smallest)[: count - int(kept.sum())]] = True
    return change * torch.from_numpy(kept).to(change.device).view_as(change)


def dropped(change: torch.Tensor, density: float, rng: np.random.Generator) -> torch.Tensor:
    """A change with elements set to 0 at random, each kept with probability `density` and then divided by it (Yu et al. 2024)."""
    if density >= 1:
        return change
    kept = torch.from_numpy(rng.random(change.numel(), np.float32) < density).to(change.device)
    return change * kept.view_as(change) / density


def elected(changes: Sequence[torch.Tensor], weights: Sequence[float], normalize: bool = True) -> torch.Tensor:
    """Σ w_i d_i / Σ w_i over the changes whose sign is that of Σ w_i d_i, element by element; not divided without `normalize`.

    A sum of exactly 0 elects the positive ones, as in mergekit; where nothing changed the result is 0. Yadav et al. 2023, section 3, steps
    2 and 3.
    """
    total = torch.zeros_like(changes[0])
    for change, weight in zip(changes, weights, strict=True):
        total.add_(change, alpha=weight)
    sign = (total >= 0).float() * 2 - 1
    found, divisor = total.zero_(), torch.zeros_like(total)
    for change, weight in zip(changes, weights, strict=True):
        agrees = change.sign() == sign
        found.add_(change * agrees, alpha=weight)
        divisor.add_(agrees, alpha=weight)
    return found / divisor.masked_fill_(divisor == 0, 1) if normalize else found


def pair_rows(
    tensors: Sequence[torch.Tensor], recipe: Recipe, name: str, base: torch.Tensor | None = None
) -> list[dict[str, Any]]:
    """Rows of `PAIRS` for one tensor; sums in float64."""

    def compared(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor if base is None else tensor - base).double().flatten()

    rows, norms = [], [float(compared(tensor).norm()) for tensor in tensors]
    for a, b in combinations(range(len(tensors)), 2):
        scale = norms[a] * norms[b]
        cosine = float(compared(tensors[a]) @ compared(tensors[b])) / scale if scale else None
        rows.append(
            {
                "tensor": name,
                "elements": tensors[a].numel(),
                "first": recipe.parents[a],
                "second": recipe.parents[b],
                "first_norm": norms[a],
                "second_norm": norms[b],
                "cosine": cosine,
                "angle": None if cosine is None else float(np.arccos(np.clip(cosine, -1, 1))),
            }
        )
    return rows
