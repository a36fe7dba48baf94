"""A sequence of checkpoints, written as one block, is a chain of models: published ones, or steps of the study's own training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from feature_lineage.places import on_disk


def model_name(name: str, revision: str) -> str:
    """The name of a revision's model: what may not stand in a name becomes a hyphen."""
    return f"{name}-" + "-".join(re.findall(r"[A-Za-z0-9]+(?:[._][A-Za-z0-9]+)*", revision))


def unrolled(models: Any) -> Any:
    """The blocks of a study's models, each with `revisions` in parts: every revision, and its parent, a parent of the next and of the last.

    The steps that a training keeps become blocks of their own before it; `Study.parents` knows their lineage. What is not of the form that the keys have is left to their check.
    """
    if not isinstance(models, dict):
        return models
    found: dict[Any, Any] = {}
    for name, block in models.items():
        revisions = block.get("revisions") if isinstance(block, dict) else None
        names = _names(name, revisions)
        found |= {one: kept for one, kept in _kept(name, block).items() if one not in models}
        if (
            names is None
            or not models.keys().isdisjoint(names)
            or not isinstance(block.get("pretrained"), str)
            or block.get("revision") is not None
        ):
            found[name] = block
            continue
        first = {key: value for key, value in block.items() if key != "revisions"}
        rest = {key: value for key, value in first.items() if key not in ("parent", "parents")}
        found[names[0]] = first | _place(block["pretrained"], revisions[0])
        for number in range(1, len(names) - 1):
            found[names[number]] = rest | _place(block["pretrained"], revisions[number]) | {"parent": names[number - 1]}
        earlier = [*names[-2::-1], *([block["parent"]] if "parent" in block else block.get("parents") or [])]
        lineage = {"parents": earlier} if len(earlier) > 1 else {"parent": earlier[0]}
        found[names[-1]] = rest | _place(block["pretrained"], revisions[-1]) | lineage
    return found


def step_name(name: str, step: int) -> str:
    """The name of the model that a training was at one of its steps."""
    return f"{name}-step{step}"


def _kept(name: Any, block: Any) -> dict[str, dict[str, Any]]:
    """Blocks of the steps that a training keeps."""
    training = block.get("training") if isinstance(block, dict) else None
    steps = training.get("keep") if isinstance(training, dict) else None
    if not isinstance(name, str) or not isinstance(steps, list) or not all(type(step) is int for step in steps):
        return {}
    return {step_name(name, step): {"kept": name, "step": step} for step in sorted(steps)}


def _names(name: Any, revisions: Any) -> list[str] | None:
    """A name for each revision; None if they are not a list of different texts."""
    if not isinstance(name, str) or not isinstance(revisions, list) or len(revisions) < 2:
        return None
    if not all(isinstance(revision, str) and revision for revision in revisions):
        return None
    names = [model_name(name, revision) for revision in revisions]
    return names if len(set(names)) == len(names) else None


def _place(pretrained: str, revision: str) -> dict[str, str]:
    """Where a revision is: a folder in a local directory, such as a trainer's `checkpoint-500`, or a revision on the hub."""
    folder = on_disk(f"{pretrained.rstrip('/')}/{revision}")
    return {"pretrained": folder} if Path(folder).is_dir() else {"revision": revision}
