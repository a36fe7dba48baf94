"""Whether a dictionary is good enough for a finding to rest on: what of its evaluation falls short, in sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from feature_lineage.progress import logger
from feature_lineage.store.formats import read_json

# L0 may miss its target by a quarter: dictionaries are compared at equal sparsity, and how many features two of them share depends on it.
L0_MISS = 0.25
# Below this, more of the activations' variance is in the error than in the features: most of what the model does there is in no feature.
LEAST_EXPLAINED = 0.5
# Below 0 zeros serve the model better than the reconstruction. A reconstruction knows no more than the activations, so above 1 can only
# be chance in the loss, a few percent on the tokens that are read.
RECOVERED = (0.0, 1.05)
# With more than a fifth of its features dead, a dictionary is smaller than its size says, and shares are of fewer features.
MOST_DEAD = 0.2

Warnings = dict[tuple[str, int], list[str]]


def shortcomings(evaluation: Mapping[str, Any]) -> list[str]:
    """What of an evaluation falls short, and what to change: a sentence each, empty if the dictionary passes.

    Args:
        evaluation: as `evaluation.evaluate_autoencoder` returns it, with the `l0_target` that it was trained for, or None.
    """
    found = []
    l0, target = evaluation["l0"], evaluation.get("l0_target")
    if target is not None and not abs(l0 / target - 1) <= L0_MISS:
        change = "raise autoencoder.tokens or autoencoder.lr" + ("" if l0 < target else ", or autoencoder.l0")
        found.append(f"L0 is {l0:.3g}, more than a quarter from its target, {target:g}; {change}.")
    explained = evaluation["variance_explained"]
    if explained is None or math.isnan(explained):
        found.append(
            "Variance explained could not be measured: the activations do not vary; choose another autoencoder.hook."
        )
    elif explained < LEAST_EXPLAINED:
        found.append(
            f"Variance explained is {explained:.1%}, below {LEAST_EXPLAINED:.0%}; raise autoencoder.tokens, autoencoder.l0 or autoencoder.expansion."
        )
    found += _loss_shortcoming(evaluation)
    if (dead := evaluation["dead_share"]) > MOST_DEAD:
        found.append(
            f"{dead:.1%} of the features are dead, more than {MOST_DEAD:.0%}; lower autoencoder.lr or autoencoder.expansion, or raise autoencoder.tokens."
        )
    return found


def _loss_shortcoming(evaluation: Mapping[str, Any]) -> list[str]:
    share, clean, zero = (evaluation[name] for name in ("loss_recovered", "loss_clean", "loss_zero"))
    low, high = RECOVERED
    if any(value is None or not math.isfinite(value) for value in (share, clean, zero)):
        return ["Loss recovered could not be measured: a loss is not a number; look at the model."]
    if zero <= clean:
        return [
            f"Zeros in place of the activations do not raise the loss ({clean:.3f} to {zero:.3f} nats), so loss recovered says nothing; "
            "choose another autoencoder.hook."
        ]
    if not low <= share <= high:
        why = (
            "the reconstruction is worse for the loss than zeros"
            if share < low
            else "the loss is lower with the reconstruction"
        )
        change = (
            "raise autoencoder.tokens or autoencoder.l0"
            if share < low
            else "raise evaluation_tokens, and look at the model"
        )
        return [f"Loss recovered is {share:.1%}, outside {low:.0%} to {high:.0%}: {why}; {change}."]
    return []


def warn(name: str, evaluation: Mapping[str, Any]) -> None:
    """Put what falls short into the log, as one warning."""
    if found := shortcomings(evaluation):
        logger.warning("%s: no finding can rest on this dictionary. %s", name, " ".join(found))


def judge(evaluations: Iterable[tuple[str, int, Mapping[str, Any]]]) -> Warnings:
    """What falls short, by model and seed.

    An untrained model's dictionary, and one that reads another model, have no `l0_target`: what they show is a finding, and they pass.

    Args:
        evaluations: model (`<parent>--<child>` of a child's dictionary that started from its parent's), seed and evaluation of each.
    """
    judged = ((model, seed, shortcomings(found)) for model, seed, found in evaluations if "l0_target" in found)
    return {(model, seed): found for model, seed, found in judged if found}


def read_evaluations(folder: str | Path) -> list[tuple[str, int, dict[str, Any]]]:
    """Model, seed and evaluation of each dictionary in a study's folder, as `judge` takes them."""
    found = [Path(folder).glob(f"{part}/*/seed*/evaluation.json") for part in ("saes", "controls/started")]
    return [
        (path.parent.parent.name, int(path.parent.name.removeprefix("seed")), read_json(path))
        for paths in found
        for path in sorted(paths)
    ]


def sentences(warnings: Warnings) -> list[str]:
    """The warnings with the dictionary's name before them, a line for each dictionary."""
    lines = []
    for (model, seed), found in warnings.items():
        parent, _, child = model.rpartition("--")
        name = f"{child}, started from {parent}" if parent else model
        lines.append(f"{name}, seed {seed}: {' '.join(found)}")
    return lines


def failed_edges(edges: Sequence[Mapping[str, Any]], warnings: Warnings) -> set[tuple[str, str, int]]:
    """Edges (parent, child, seed) of which a dictionary failed: no finding is stated for them."""
    named = [(edge["parent"], edge["child"], edge["seed"]) for edge in edges]
    return {(p, c, seed) for p, c, seed in named if (p, seed) in warnings or (c, seed) in warnings}
