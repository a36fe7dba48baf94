"""What became of the features, as plotly figures: by verdict, and shares against the threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from feature_lineage.report.answers import answers
from feature_lineage.report.figures import colours, faint, sankey, stand_beside
from feature_lineage.report.sentences import kept_lines

# One colour for each verdict, everywhere; the style sheet has the same.
VERDICT_COLOURS = {"kept": "#0072B2", "found": "#56B4E9", "drifted": "#E69F00", "lost": "#999999", "new": "#CC79A7"}
MODEL = "#6b7280"  # of no verdict
WORDS = {"kept": "kept", "found": "found again", "drifted": "drifted", "lost": "lost", "new": "new"}


# --- by verdict --------------------------------------------------------------------------------------------


class Band(NamedTuple):
    """Features that go the same way: names of the two nodes, the edge, the verdict and their number, of `living`."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    parent: str
    child: str
    verdict: str
    features: int
    living: int


def plot_verdicts(summary: Mapping[str, Any], controls: Mapping[str, Any] | None = None) -> go.Figure:
    """What became of each parent's living features, by verdict, and the children's new ones, of the first autoencoder seed.

    A parent's node has a band for each child and verdict: what is kept or found again goes on into the child, what drifted or is lost
    ends there. A child's new features come in: those that its own dictionary does not read on any parent.

    Args:
        summary: `flows/summary.json`.
        controls: `controls/summary.json`, or None: ceilings stand beside the edges.
    """
    bands = _bands(summary)
    nodes = list(dict.fromkeys(node for band in bands for node in (band.source, band.target)))
    numbers = {node: number for number, node in enumerate(nodes)}
    figure = sankey(
        {
            "label": [node[0] if len(node) == 1 else WORDS[node[0]] for node in nodes],
            "color": [MODEL if len(node) == 1 else VERDICT_COLOURS[node[0]] for node in nodes],
            "align": "center",  # what ends does so beside the children, what is new begins beside the parents
            "pad": 12,
            "thickness": 16,
            "hovertemplate": "%{label}<extra></extra>",
        },
        {
            "source": [numbers[band.source] for band in bands],
            "target": [numbers[band.target] for band in bands],
            "value": [band.features for band in bands],
            "label": [f"{_edge(band)}: {WORDS[band.verdict]}" for band in bands],
            "color": [faint(VERDICT_COLOURS[band.verdict]) for band in bands],
            "customdata": [[band.parent, band.child, band.verdict, _said(band)] for band in bands],
            "hovertemplate": "%{customdata[3]}<extra></extra>",
        },
        "No feature was followed along an edge.",
    )
    figure.update_layout(
        title={"text": f"What became of the features (r above {summary['threshold']:g} is the same feature)"},
        font={"size": 13},
        margin={"l": 10, "r": 10, "t": 50, "b": 20},
        height=440,
    )
    stand_beside(figure, kept_lines(answers(summary, controls, {})))
    return figure


def _bands(summary: Mapping[str, Any]) -> list[Band]:
    verdicts = [row for row in summary.get("verdicts", ()) if (row["side"], row["features"]) == ("parent", "all")]
    first = verdicts[0]["seed"] if verdicts else None
    bands = []
    for row in verdicts:
        if row["seed"] == first and row["count"]:
            parent, child, word = row["parent"], row["child"], row["verdict"]
            target = (child,) if word in ("kept", "found") else (word, parent, child)
            bands.append(Band((parent,), target, parent, child, word, row["count"], row["living"]))
    for row in summary.get("new", ()):
        if row["seed"] == first and row["new"]:
            child = row["child"]
            bands.append(Band(("new", child), (child,), "", child, "new", row["new"], row["living"]))
    return bands


def _edge(band: Band) -> str:
    return f"{band.parent} → {band.child}" if band.parent else band.child


def _said(band: Band) -> str:
    share = f"{band.features:,} of {band.living:,} features ({band.features / band.living:.1%})"
    if band.verdict == "new":
        return f"{share} of {band.child} are new: no parent fires them"
    return f"{share} of {band.parent} are {WORDS[band.verdict]} in {band.child}"


# --- against the threshold ---------------------------------------------------------------------------------


def plot_curves(
    table: pd.DataFrame,
    threshold: float,
    ceiling: pd.DataFrame | None = None,
    null: pd.DataFrame | None = None,
    drift: pd.DataFrame | None = None,
    summary: Mapping[str, Any] | None = None,
) -> go.Figure:
    """Share of features against the threshold, from both sides of each edge: kept, beside the placebo's, and by the paper's measure.

    Args:
        table: schema `fates.CURVES`.
        threshold: the study's, which is marked.
        ceiling: what two autoencoders of each model share, `ceiling.CEILING_CURVES`; the parents' beside the one side, the children's
            beside the other.
        null: `alignment_null.NULL`; its highest threshold of 1 % false matches is marked.
        drift: `flows/drift_curves.parquet`; without rows there are the paper's panels alone.
        summary: `flows/summary.json`, for the number of features behind each edge.
    """
    both = drift is not None and len(drift) > 0
    titles = ["paper's measure: parent's features", "paper's measure: child's features"]
    if both:
        titles = ["kept: parent's features", "already there: child's features", *titles]
    figure = make_subplots(
        rows=len(titles) // 2, cols=2, shared_yaxes=True, subplot_titles=titles, vertical_spacing=0.16
    )
    edges = _edges(table)
    read = _edges(drift[~drift["placebo"]]) if both else []
    palette = colours(list(dict.fromkeys([*edges, *read])))
    found = answers(summary or {"edges": []}, None, {})
    counts = {edge.name: edge.matched.n for edge in found if edge.matched}
    counts |= {edge.name: edge.became["all"].n for edge in found if edge.alone == edge.parent}
    titled = {edge: f"{edge}, n = {counts[edge]}" if edge in counts else edge for edge in palette}
    if both:
        _drift_curves(figure, drift, palette, titled)
    last = len(titles) // 2
    _matched_curves(figure, table.assign(edge=edges), palette, titled, (last, not both))
    if ceiling is not None:
        _ceiling_curves(figure, table, ceiling, last)
    figure.add_vline(
        x=threshold, name="the study's threshold", line={"color": "#666", "width": 1, "dash": "dot"}, annotation_text=f"{threshold:g}"
    )  # fmt: skip
    if null is not None and null["threshold"].notna().any():
        chance = null["threshold"].max()
        figure.add_vline(
            x=chance, name="1 % of matches by chance", line={"color": "#D55E00", "width": 1, "dash": "dot"},
            annotation_text=f"chance, 1 %: {chance:.2f}", row=last, col="all",
        )  # fmt: skip
    figure.update_xaxes(title_text="threshold of the correlation", row=last)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    matched = "by best match (solid), mutual best match (dashes) and one to one (dots)"
    figure.update_layout(
        title={"text": f"Share of features {'that is kept (placebo: long dashes), and that persists ' if both else ''}{matched}"},
        template="plotly_white",
        height=760 if both else 440,
    )  # fmt: skip
    return figure


def _edges(table: pd.DataFrame) -> pd.Series:
    return (table["parent"] + " → " + table["child"]).rename("edge")


def _drift_curves(
    figure: go.Figure, table: pd.DataFrame, palette: Mapping[str, str], titled: Mapping[str, str]
) -> None:
    """The first row: what is kept along each edge, and along the placebos, which have no colour."""
    seeds = list(dict.fromkeys(table["seed"]))
    shown: set[str] = set()
    for (edge, placebo, seed, side), rows in table.groupby([_edges(table), "placebo", "seed", "side"], sort=False):
        line = {"color": "#666666", "dash": "longdash"} if placebo else {"color": palette[edge]}
        name = f"placebo: {edge}" if placebo else titled[edge]
        figure.add_scatter(
            x=rows["threshold"], y=rows["kept_share"], name=name, legendgroup="placebo" if placebo else edge,
            showlegend=name not in shown, mode="lines", line=line, opacity=1 if seed == seeds[0] else 0.3,
            meta={"side": side, "seed": str(seed), "measure": "kept_share"}, row=1, col=1 if side == "parent" else 2,
        )  # fmt: skip
        shown.add(name)


def _matched_curves(
    figure: go.Figure,
    table: pd.DataFrame,
    palette: Mapping[str, str],
    titled: Mapping[str, str],
    place: tuple[int, bool],
) -> None:
    """The paper's measure; `place` is the row of panels and whether the edges are to be named there."""
    dashes = {"persisting_share": "solid", "mutual_share": "dash", "one_to_one_share": "dot"}
    seeds = list(dict.fromkeys(table["seed"]))
    for (edge, seed, side), rows in table.groupby(["edge", "seed", "side"], sort=False):
        for share, dash in dashes.items():
            first = side == "parent" and dash == "solid" and seed == seeds[0]
            figure.add_scatter(
                x=rows["threshold"], y=rows[share], name=titled[edge], legendgroup=edge, showlegend=first and place[1],
                mode="lines", meta={"side": side, "seed": str(seed), "measure": share},
                opacity=1 if seed == seeds[0] else 0.3, line={"color": palette[edge], "dash": dash},
                row=place[0], col=1 if side == "parent" else 2,
            )  # fmt: skip


def _ceiling_curves(figure: go.Figure, table: pd.DataFrame, ceiling: pd.DataFrame, row: int) -> None:
    for column, side in enumerate(("parent", "child"), start=1):
        for model in dict.fromkeys(table[side]):
            rows = ceiling[ceiling["model"] == model]
            figure.add_scatter(
                x=rows["threshold"], y=rows["share"], name="ceiling: two autoencoders of one model", legendgroup="ceiling",
                text=[model] * len(rows), showlegend=column == 1 and model == table[side].iloc[0], mode="lines",
                meta={"side": side, "measure": "ceiling", "model": model},
                line={"color": "rgba(128,128,128,.55)", "width": 3}, row=row, col=column,
            )  # fmt: skip
