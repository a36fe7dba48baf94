"""A study's main numbers in sentences, as its report and the end of a run say them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from feature_lineage.autoencoders.gate import Warnings
from feature_lineage.report.answers import Answer, Share, answers, lineage

FAILED = "no finding, since a dictionary fails its checks."


def percent(share: float | None, digits: int = 1) -> str:
    """A share as text; a dash where there is none."""
    return "–" if share is None or share != share else f"{share:.{digits}%}"


def points(difference: float | None) -> str:
    """A difference of shares in percentage points; a dash where there is none."""
    return "–" if difference is None else f"{100 * difference:+.1f}".replace("-", "−")


def quote(
    summary: Mapping[str, Any],
    controls: Mapping[str, Any] | None,
    not_measured: Mapping[str, str],
    warnings: Warnings,
) -> str:
    """The study in a few words: what became of the parent's features along the first edge whose dictionaries pass."""
    if not lineage(summary):
        return "No model of this study comes from another: there is nothing that its features could have become."
    edge = first_sound(answers(summary, controls, warnings))
    if edge is None:
        return "There is no finding: along every edge, a dictionary fails its checks."
    return " ".join([kept_sentence(edge), matched_sentence(edge, not_measured), *reading_sentences(edge)])


def first_sound(found: list[Answer]) -> Answer | None:
    """The first edge whose dictionaries all pass."""
    return next((edge for edge in found if not edge.failed), None)


def kept_sentence(edge: Answer, intervals: bool = False) -> str:
    """What share of the parent's features keeps firing the same way in the child, beside the placebo's, and what else the child holds."""
    if edge.there is not None:
        there = edge.there.kept.edge
        between = _between(there) if intervals else ""
        return (
            f"{edge.name}: {percent(there.share)}{between} of {edge.child}'s {edge.there.n} features fire the same way in {edge.parent} already, "
            f"which has no dictionary of its own."
        )
    if "all" not in edge.became:
        return f"{edge.name}: what became of {edge.parent}'s features was not measured."
    became = edge.became["all"]
    kept, found = became.kept, became.outcomes["found"]
    if kept.edge.share is None:
        return f"{edge.name}: none of {edge.parent}'s features fires in the sample."
    between = _between(kept.edge) if intervals else ""
    count = (
        "" if " to " in became.n else f"{became.n} "
    )  # seeds differ by the few that are dead: the table has both numbers
    said = (
        f"{edge.name}: {percent(kept.edge.share)}{between} of {edge.parent}'s {count}features keep firing the same way in "
        f"{edge.child} ({_placebo(edge, kept.placebo, intervals)})"
    )
    if edge.alone is not None:
        return f"{said}; {edge.child} has no dictionary of its own, so that nothing else could be found again there."
    return f"{said}; {edge.child}'s own dictionary holds another {percent(found.edge.share)}."


def _between(share: Share) -> str:
    return "" if share.low is None else f" (95 % interval {percent(share.low)} to {percent(share.high)})"


def _placebo(edge: Answer, share: Share, intervals: bool) -> str:
    if edge.placebo is not None and share.share is not None:
        between = f", {percent(share.low)} to {percent(share.high)}" if intervals and share.low is not None else ""
        return f"same-data placebo: {percent(share.share)}{between}"
    return "no same-data placebo" + (f": {edge.no_placebo}" if edge.no_placebo else "")


def matched_sentence(edge: Answer, not_measured: Mapping[str, str]) -> str:
    """The paper's measure, with what it comes to where nothing was lost."""
    matched, parent = edge.matched, edge.parent
    if matched is None:
        return "The paper's count was not taken: it needs a dictionary of both models."
    said = f"By the paper's count {percent(matched.share.share)} persist"
    if matched.placebo is not None:
        said += f" (placebo: {percent(matched.placebo)})"
    if matched.ceiling is None:
        reason = not_measured.get("ceiling")
        return f"{said}; how many can was not measured" + (f" ({reason})." if reason else ".")
    return f"{said}, where {percent(matched.ceiling)} can: two dictionaries of {parent} itself share no more."


def reading_sentences(edge: Answer) -> list[str]:
    """Where the parent's dictionary reads the child poorly, a sentence on what a low number can then be."""
    if edge.reading is None or not edge.reading.poor:
        return []
    return [
        f"{edge.parent}'s dictionary reads {edge.child} poorly ({'; '.join(edge.reading.poor)}): a feature that is not kept may have "
        "changed, or may only be misread."
    ]


def placebo_sentences(found: list[Answer]) -> list[str]:
    """For each reason for which edges have no placebo, which these are: a sentence."""
    edges: dict[str, list[str]] = {}
    for edge in found:
        if edge.became and edge.placebo is None:
            edges.setdefault(edge.no_placebo, []).append(edge.name)
    return [f"No placebo for {', '.join(names)}{f': {reason}' if reason else ''}." for reason, names in edges.items()]


def headline(
    summary: Mapping[str, Any],
    controls: Mapping[str, Any] | None,
    not_measured: Mapping[str, str],
    warnings: Warnings,
) -> list[str]:
    """A sentence for each edge, what is left out, and by the paper's measure where each model's features come from.

    None of an edge of which a dictionary failed.
    """
    lines = []
    for edge in answers(summary, controls, warnings):
        if edge.failed:
            lines.append(f"{edge.name}: {FAILED}")
            continue
        parts = [kept_sentence(edge, intervals=True), matched_sentence(edge, not_measured), *reading_sentences(edge)]
        lines.append(" ".join(parts))
    lines += left_out(summary)
    unsound = {model for model, _ in warnings}
    for model, origins in summary["origins"].items():
        inherited = {origin: count for origin, count in origins.items() if origin != model}
        if inherited and not unsound & _line(summary, model):
            parts = [f"{count:,} from {origin}" for origin, count in inherited.items()]
            lines.append(
                f"By the paper's measure, {sum(inherited.values()):,} of {model}'s {sum(origins.values()):,} features have an "
                f"ancestor: {', '.join(parts)}."
            )
    return lines


def kept_lines(found: list[Answer]) -> list[str]:
    """For each edge how many features are kept, beside how many of a placebo and the ceiling of what is found again: a line."""
    return [
        f"{edge.name}: {percent(became.kept.edge.share)} of {became.n} kept; placebo {_number(became.kept.placebo.share)}; "
        f"ceiling of a match {_number(edge.matched.ceiling if edge.matched else None)}"
        for edge in found
        if (became := edge.became.get("all"))
    ]


def matched_lines(found: list[Answer]) -> list[str]:
    """For each edge how many features persist by the paper's measure, beside the placebo and the ceiling: a line."""
    return [
        f"{edge.name}: {percent(edge.matched.share.share)} of {edge.matched.n}; placebo {_number(edge.matched.placebo)}; "
        f"ceiling {_number(edge.matched.ceiling)}"
        for edge in found
        if edge.matched
    ]


def _number(share: float | None) -> str:
    return "not measured" if share is None else percent(share)


def _line(summary: Mapping[str, Any], model: str) -> set[str]:
    """A model and all that it comes from."""
    found: set[str] = set()
    left = [model]
    while left:
        found.add(name := left.pop())
        left += [parent for parent, child in lineage(summary) if child == name and parent not in found]
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
