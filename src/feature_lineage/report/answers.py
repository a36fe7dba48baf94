"""What became of the features along each edge, the mean over autoencoder seeds: the numbers that the report and the end of a run say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.autoencoders.gate import Warnings, failed_edges

# As `flow.verdicts` and `flow.traced` have them, which would import all that measures them.
VERDICTS = ("kept", "found", "drifted", "lost")
UNMATCHED = "unmatched"
KINDS = ("all", "reproducible")  # features that a share is of


def span(counts: Sequence[int]) -> str:
    """The lowest and the highest of the seeds' counts."""
    return " to ".join(f"{count:,}" for count in sorted({min(counts), max(counts)}))


class Share(NamedTuple):
    """A share, the mean over seeds, and the interval from the lowest to the highest of theirs; None where there is none."""

    share: float | None
    low: float | None = None
    high: float | None = None


class Outcome(NamedTuple):
    """One verdict's share of a side's features, the placebo's, and the difference."""

    edge: Share
    placebo: Share
    difference: Share


@dataclass(frozen=True, kw_only=True)
class Became:
    """What became of the features of an edge's parent.

    Attributes:
        living: how many there are, for each seed.
        outcomes: by verdict.
        directions: share that was found in the same direction (`same`), in another (`rotated`), or in one that is `unknown`.
    """

    living: Sequence[int]
    outcomes: Mapping[str, Outcome]
    directions: Mapping[str, float]

    @property
    def n(self) -> str:
        """How many features there are."""
        return span(self.living)

    @property
    def kept(self) -> Outcome:
        """Share of them that is kept."""
        return self.outcomes["kept"]

    @property
    def shares(self) -> dict[str, float | None]:
        """Shares by verdict."""
        return {verdict: found.edge.share for verdict, found in self.outcomes.items()}

    @property
    def placebo_shares(self) -> dict[str, float | None]:
        """The placebo's shares by verdict."""
        return {verdict: found.placebo.share for verdict, found in self.outcomes.items()}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How the parent's dictionary reads the child: L0 and variance explained there and on its own model, and why it is poor, if it is."""

    own: Mapping[str, float | None]
    other: Mapping[str, float | None]
    poor: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The paper's measure along an edge.

    Attributes:
        shares: that persist, by autoencoder seed.
        share: their mean; None without any, and its interval.
        living: of each seed.
        ceiling: what two dictionaries of the parent share; None where it was not measured.
        placebo: share that persists along the placebo; None where the placebo has no dictionary of its own.
    """

    shares: Sequence[float]
    share: Share
    living: Sequence[int]
    ceiling: float | None
    placebo: float | None

    @property
    def n(self) -> str:
        """How many features there are."""
        return span(self.living)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is said of an edge.

    Attributes:
        parent: model.
        child: model.
        failed: whether a dictionary of it fails its checks: no finding rests on the numbers then.
        seeds: of the autoencoders.
        became: of the parent's features, by `KINDS`; those that were measured.
        placebo: its name, or None.
        no_placebo: why there is none, a phrase that may be empty.
        weights: how far they moved, `all` and `hooked_block`; empty where it was not measured.
        placebo_weights: likewise, those of the placebo.
        reading: None where it was not measured.
        matched: the paper's measure; None where the models have no autoencoders of one seed to match.
        alone: model that alone has a dictionary; None where both have one or neither.
        there: of the features of the child, if it alone has one, what its dictionary reads on the parent.
    """

    parent: str
    child: str
    failed: bool
    seeds: Sequence[int]
    became: Mapping[str, Became]
    placebo: str | None
    no_placebo: str
    weights: Mapping[str, float | None]
    placebo_weights: Mapping[str, float | None]
    reading: Reading | None
    matched: Matched | None
    alone: str | None = None
    there: Became | None = None

    @property
    def name(self) -> str:
        """The edge as it is written."""
        return f"{self.parent} → {self.child}"


def answers(
    summary: Mapping[str, Any], controls: Mapping[str, Any] | None, warnings: Warnings, flow: pa.Table | None = None
) -> list[Answer]:
    """The answer of each edge.

    Args:
        summary: `flows/summary.json`; tables that it lacks are empty.
        controls: `controls.summary.summarise_controls`, or None.
        warnings: what falls short of dictionaries.
        flow: `flows/features.parquet`, which has the directions of what was found; None leaves them out.
    """
    measured = [*summary["edges"], *summary.get("verdicts", ())]
    failed = {(parent, child) for parent, child, _ in failed_edges(measured, warnings)}
    named = list(dict.fromkeys([*lineage(summary), *((edge["parent"], edge["child"]) for edge in measured)]))
    found = directions(flow) if flow is not None else {}
    shared = ceilings(controls)
    return [_answer(summary, shared, found, parent, child, (parent, child) in failed) for parent, child in named]


def lineage(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The study's edges; summaries of earlier versions name those that were matched."""
    edges = summary.get("lineage") or [(edge["parent"], edge["child"]) for edge in summary["edges"]]
    return list(dict.fromkeys((parent, child) for parent, child in edges))


def _answer(
    summary: Mapping[str, Any],
    shared: Mapping[str, float],
    found: Mapping[tuple[str, str, str], Mapping[str, float]],
    parent: str,
    child: str,
    failed: bool,
) -> Answer:
    def rows(table: str, **wanted: Any) -> list[Mapping[str, Any]]:
        wanted = {"parent": parent, "child": child} | wanted
        return [row for row in summary.get(table, ()) if all(row[key] == value for key, value in wanted.items())]

    edges = rows("edges")
    verdicts = rows("verdicts", side="parent")
    read = {row["side"] for row in rows("verdicts")}
    back = rows("verdicts", side="child", features="all")
    placebo = next((row["placebo"] for row in verdicts if row["placebo"] is not None), None)
    kinds = {kind: [row for row in verdicts if row["features"] == kind] for kind in KINDS}
    return Answer(
        parent=parent,
        child=child,
        failed=failed,
        seeds=list(dict.fromkeys(row["seed"] for row in [*edges, *rows("verdicts")])),
        became={kind: _became(own, found.get((parent, child, kind), {})) for kind, own in kinds.items() if own},
        placebo=placebo,
        no_placebo=next((row["reason"] for row in rows("no_placebo")), ""),
        weights=_weights(rows("weights")),
        placebo_weights=_weights(rows("weights", child=placebo)),
        reading=_reading(rows("readings", side="parent"), len(rows("readings", side="parent")) > 1),
        matched=_matched(edges, shared.get(parent), _persisting(summary, parent, placebo)) if edges else None,
        alone={"parent": parent, "child": child}[min(read)] if len(read) == 1 and not edges else None,
        there=_became(back, {}) if read == {"child"} else None,
    )


def _became(rows: Sequence[Mapping[str, Any]], found: Mapping[str, float]) -> Became:
    outcomes = {}
    for verdict in VERDICTS:
        own = [row for row in rows if row["verdict"] == verdict]
        outcomes[verdict] = Outcome(
            _share(own, "share", "low", "high"),
            _share(own, "placebo_share", "placebo_low", "placebo_high"),
            _share(own, "difference", "difference_low", "difference_high"),
        )
    living = [row["living"] for row in rows if row["verdict"] == VERDICTS[0]]
    return Became(living=living, outcomes=outcomes, directions=found)


def _share(rows: Sequence[Mapping[str, Any]], name: str, low: str, high: str) -> Share:
    found = [row for row in rows if row[name] is not None]
    ends = [(row[low], row[high]) for row in found]
    if not ends or any(end is None for pair in ends for end in pair):
        return Share(mean(row[name] for row in found))
    return Share(mean(row[name] for row in found), min(end for end, _ in ends), max(end for _, end in ends))


def _weights(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    return {name: rows[0][name] for name in ("all", "hooked_block")} if rows else {}


def _reading(rows: Sequence[Mapping[str, Any]], several: bool) -> Reading | None:
    """The mean over seeds; why it is poor from the first seed of which it is."""
    if not rows:
        return None
    poor = next((row for row in rows if row["poor"]), None)
    phrases = list(poor["poor"]) if poor else []
    if poor and several:
        phrases[0] = f"autoencoder seed {poor['seed']}: {phrases[0]}"
    own, other = (
        {name: mean(row[which][name] for row in rows) for name in ("l0", "variance_explained")}
        for which in ("own", "other")
    )
    return Reading(own=own, other=other, poor=phrases)


def _matched(edges: Sequence[Mapping[str, Any]], ceiling: float | None, placebo: float | None) -> Matched:
    return Matched(
        shares=[edge["persisting_share"] for edge in edges if edge["persisting_share"] is not None],
        share=_share(edges, "persisting_share", "persisting_low", "persisting_high"),
        living=[edge["parent_features"] - edge["parent_dead"] for edge in edges],
        ceiling=ceiling,
        placebo=placebo,
    )


def _persisting(summary: Mapping[str, Any], root: str, placebo: str | None) -> float | None:
    """Share of a root's features that persists into a placebo's own dictionary, the mean over seeds."""
    rows = [row for row in summary.get("placebos", ()) if (row["root"], row["placebo"]) == (root, placebo)]
    return mean(row.get("persisting_share") for row in rows)


def ceilings(controls: Mapping[str, Any] | None) -> dict[str, float]:
    """Share of its features that two autoencoders of each model have in common, where it was measured."""
    return {row["model"]: row["ceiling"] for row in (controls or {}).get("ceilings", [])}


def mean(values: Iterable[float | None]) -> float | None:
    """Mean of those that are there; None without any."""
    found = [value for value in values if value is not None]
    return sum(found) / len(found) if found else None


def directions(flow: pa.Table) -> dict[tuple[str, str, str], dict[str, float]]:
    """Share of the parent's features that was found in the same direction, rotated or in an unknown one, the mean over seeds.

    Args:
        flow: `flows/features.parquet`.

    Returns:
        By parent, child and which features (`KINDS`): `same`, `rotated` and `unknown`, those that there are.
    """
    names = ["parent", "child", "seed", "direction", "reproducible", "verdict", "held_out_verdict"]
    frame = flow.filter(pc.equal(flow["model"], flow["parent"])).select(names).to_pandas()
    sums: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for (parent, child, _), rows in frame.groupby(["parent", "child", "seed"], sort=False):
        reproducible = rows[rows["reproducible"].fillna(False).astype(bool)]
        for kind, own, column in (("all", rows, "verdict"), ("reproducible", reproducible, "held_out_verdict")):
            living = own[own[column].notna()]
            found = living[living[column] == "found"]
            counts = found["direction"].fillna("unknown").value_counts()
            shares = sums.setdefault((parent, child, kind), {})
            for name in ("same", "rotated", "unknown"):
                if len(living):
                    shares.setdefault(name, []).append(counts.get(name, 0) / len(living))
    return {key: {name: sum(v) / len(v) for name, v in shares.items() if any(v)} for key, shares in sums.items()}
