"""A study's main numbers in sentences, as its report and the end of a run say them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feature_lineage.autoencoders.gate import Warnings, failed_edges


def percent(share: float | None, digits: int = 1) -> str:
    """A share as text; a dash where there is none."""
    return "–" if share is None or share != share else f"{share:.{digits}%}"


def ceilings(controls: Mapping[str, Any] | None) -> dict[str, float]:
    """Share of its features that two autoencoders of each model have in common, where it was measured."""
    return {row["model"]: row["ceiling"] for row in (controls or {}).get("ceilings", [])}


def edge_shares(summary: Mapping[str, Any], warnings: Warnings) -> list[dict[str, Any]]:
    """For each edge its `parent`, `child`, the `shares` that persist by autoencoder seed, their mean, `share`, and whether a
    dictionary of it `failed`."""
    found: dict[tuple[str, str], list[float]] = {}
    for edge in summary["edges"]:
        shares = found.setdefault((edge["parent"], edge["child"]), [])
        shares += [] if edge["persisting_share"] is None else [edge["persisting_share"]]
    failed = {(parent, child) for parent, child, _ in failed_edges(summary["edges"], warnings)}
    return [
        {
            "parent": parent,
            "child": child,
            "shares": shares,
            "share": sum(shares) / len(shares) if shares else None,
            "failed": (parent, child) in failed,
        }
        for (parent, child), shares in found.items()
    ]


def quote(
    summary: Mapping[str, Any],
    controls: Mapping[str, Any] | None,
    not_measured: Mapping[str, str],
    warnings: Warnings,
) -> str:
    """The study in one sentence: what persists along the first edge whose dictionaries pass, the mean over seeds, and what two
    autoencoders of the parent share."""
    if not summary["edges"]:
        return "No model of this study comes from another: there is nothing that its features could persist into."
    edge = next((edge for edge in edge_shares(summary, warnings) if not edge["failed"]), None)
    if edge is None:
        return "There is no finding: along every edge, a dictionary fails its checks."
    parent, share = edge["parent"], percent(edge["share"])
    ceiling = ceilings(controls).get(parent)
    if ceiling is None:
        reason = not_measured.get("ceiling")
        shared = "was not measured" + (f" ({reason})" if reason else "")
        return f"{share} of {parent}'s features persist into {edge['child']}; what two autoencoders of {parent} itself share {shared}."
    return (
        f"{share} of {parent}'s features persist into {edge['child']}; "
        f"two autoencoders of {parent} itself share {percent(ceiling)}."
    )


def headline(summary: Mapping[str, Any], warnings: Warnings) -> list[str]:
    """The study's main numbers, a sentence per edge and per model that has ancestors; none of an edge of which a dictionary failed."""
    lines = []
    failed = failed_edges(summary["edges"], warnings)
    for edge in summary["edges"]:
        seed = f" (autoencoder seed {edge['seed']})" if len({e["seed"] for e in summary["edges"]}) > 1 else ""
        name = f"{edge['parent']} → {edge['child']}{seed}"
        if (edge["parent"], edge["child"], edge["seed"]) in failed:
            lines.append(f"{name}: no finding, since a dictionary fails its checks.")
            continue
        alive = edge["parent_features"] - edge["parent_dead"]
        low, high = edge["persisting_low"], edge["persisting_high"]
        between = "" if low is None else f", 95 % interval {percent(low)} to {percent(high)}"
        lines.append(
            f"{name}: {edge['parent_persisting']:,} of {alive:,} features persist "
            f"({percent(edge['persisting_share'])}{between}), {edge['disappearing']:,} disappear, {edge['emerging']:,} emerge."
        )
    lines += left_out(summary)
    unsound = {model for model, _ in warnings}
    for model, origins in summary["origins"].items():
        inherited = {origin: count for origin, count in origins.items() if origin != model}
        if inherited and not unsound & _line(summary, model):
            parts = ", ".join(f"{count:,} from {origin}" for origin, count in inherited.items())
            lines.append(
                f"{model}: {sum(inherited.values()):,} of {sum(origins.values()):,} features have an ancestor: {parts}."
            )
    return lines


def _line(summary: Mapping[str, Any], model: str) -> set[str]:
    """A model and all that it comes from."""
    found: set[str] = set()
    left = [model]
    while left:
        found.add(name := left.pop())
        left += [edge["parent"] for edge in summary["edges"] if edge["child"] == name and edge["parent"] not in found]
    return found


def left_out(summary: Mapping[str, Any]) -> list[str]:
    """For each model and seed with features on too few tokens, how many were left out for that: a sentence."""
    found: dict[tuple[str, int], str] = {}
    several = len({edge["seed"] for edge in summary["edges"]}) > 1
    for edge in summary["edges"]:
        seed = f" (autoencoder seed {edge['seed']})" if several else ""
        for side in ("parent", "child"):
            if rare := edge.get(f"{side}_rare"):  # tables of earlier versions lack it
                found[edge[side], edge["seed"]] = (
                    f"{edge[side]}{seed}: {rare:,} features that fire on fewer than {edge['min_active']:,} tokens (flow.min_active) are left out."
                )
    return list(found.values())
