"""The paper's figures as plotly figures, drawn from the study's tables."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
from plotly.subplots import make_subplots

from feature_lineage.report.answers import answers
from feature_lineage.report.sentences import matched_lines
from feature_lineage.store.checksums import KEY
from feature_lineage.store.formats import write_json
from feature_lineage.store.writing import staged

# Okabe & Ito's palette: told apart by readers with any colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def write_figure(figure: go.Figure, path: str | Path, page: str | Path, record: dict[str, Any]) -> None:
    """Write a figure as plotly JSON, and as a page that opens offline."""
    write_json(path, json.loads(figure.to_json()), record)
    with staged(page) as temporary:
        div = Path(page).stem
        html = pio.to_html(figure, include_plotlyjs=True, div_id=div, full_html=True)
        note = json.dumps(record, sort_keys=True).replace("<", "\\u003c")
        head, _, tail = html.rpartition("</body>")
        html = f'{head}<script type="application/json" id="{KEY}">{note}</script></body>{tail}'
        html = html.replace("<head>", f'<head><meta http-equiv="Content-Security-Policy" content="{_policy(html)}">', 1)
        temporary.write_text(html, encoding="utf-8")


def _policy(html: str) -> str:
    """A content security policy that allows the scripts that a page has in itself, and nothing from outside."""
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", html, re.DOTALL)
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{found}'" for found in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


def colours(names: Sequence[str], places: Mapping[str, int] | None = None) -> dict[str, str]:
    """A colour for each name; from the ninth on they repeat.

    Args:
        names: those that a figure shows.
        places: the place of each in the study, by which its colour is the same in every figure; none for names of one figure alone.
    """
    places = places or {name: place for place, name in enumerate(names)}
    return {name: COLOURS[places[name] % len(COLOURS)] for name in names}


def faint(colour: str) -> str:
    """A colour of six hexadecimal digits, as one that lets through what is under it."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.45)"


def plot_sankey(summary: Mapping[str, Any], controls: Mapping[str, Any] | None = None) -> go.Figure:
    """Features persisting through the lineage, coloured by the model in which they emerged (the paper's figure 2).

    A node is a model's features of one origin; a band, features of the child whose ancestor is in the parent. Features that
    neither persist from a parent nor into a child are left out, as in the paper; the flow table has them. A feature with two
    parents is in the band from the one that it correlates with more.

    Args:
        summary: `flows/summary.json`.
        controls: `controls/summary.json`, or None: ceilings stand beside the edges.
    """
    models, bands = list(summary["models"]), summary["bands"]
    palette = colours(models)
    total = {model: sum(summary["origins"][model].values()) for model in models}
    keys = sorted(
        {(band["parent"], band["origin"]) for band in bands} | {(band["child"], band["origin"]) for band in bands},
        key=lambda key: (models.index(key[0]), models.index(key[1])),
    )
    figure = sankey(
        _nodes(keys, summary["origins"], total, palette),
        _links(bands, keys, total, palette),
        "No feature persists along an edge.",
    )
    figure.update_layout(
        title={
            "text": f"By the paper's measure: features that persist (correlation above {summary['threshold']:g}), by the model in which "
            "they emerged"
        },
        font={"size": 13},
        margin={"l": 10, "r": 10, "t": 50, "b": 20},
        height=440,
    )
    stand_beside(figure, matched_lines(answers(summary, controls, {})))
    return figure


def sankey(node: dict[str, Any], link: dict[str, Any], nothing: str) -> go.Figure:
    """A Sankey diagram; without nodes, of which the browser could draw none, a sentence in its place."""
    if node["label"]:
        return go.Figure(
            go.Sankey(arrangement="fixed", node=node, link=link)
        )  # a node that can be dragged takes no click
    figure = go.Figure(layout={"xaxis": {"visible": False}, "yaxis": {"visible": False}, "template": "plotly_white"})
    return figure.add_annotation(text=nothing, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")


def stand_beside(figure: go.Figure, lines: Sequence[str]) -> None:
    """Put the controls of each edge under a figure's title, which gets the room for it."""
    if lines:
        figure.update_layout(
            title={"subtitle": {"text": "<br>".join(lines), "font": {"size": 11}}, "y": 0.99, "yanchor": "top", "yref": "container"},
            margin={"t": 50 + 16 * len(lines)}, height=figure.layout.height + 16 * len(lines),
        )  # fmt: skip


def _nodes(
    keys: Sequence[tuple[str, str]],
    origins: Mapping[str, Mapping[str, int]],
    total: Mapping[str, int],
    palette: Mapping[str, str],
) -> dict[str, Any]:
    """A node for each model and origin in `keys`; `total` are the living features of each model, `origins` those by origin."""
    living = [origins[model].get(origin, 0) for model, origin in keys]
    return {
        "label": [model if model == origin else f"{model} (from {origin})" for model, origin in keys],
        "color": [palette[origin] for _, origin in keys],
        "customdata": [
            [count, total[model], f"{count / total[model]:.1%}" if total[model] else "-", model, origin]
            for (model, origin), count in zip(keys, living, strict=True)
        ],
        "hovertemplate": "%{label}<br>%{customdata[0]:,} of %{customdata[1]:,} living features "
        "(%{customdata[2]}) have this origin<extra></extra>",
        "pad": 24,
        "thickness": 18,
    }


def _links(
    bands: Sequence[Mapping[str, Any]],
    keys: Sequence[tuple[str, str]],
    total: Mapping[str, int],
    palette: Mapping[str, str],
) -> dict[str, Any]:
    """A link for each band between the nodes of `keys`; `total` are the living features of each model."""
    numbers = {key: i for i, key in enumerate(keys)}
    parents: dict[str, set[str]] = {}
    for band in bands:
        parents.setdefault(band["child"], set()).add(band["parent"])
    closer = "<br>those with two parents: with the closer one"
    return {
        "source": [numbers[band["parent"], band["origin"]] for band in bands],
        "target": [numbers[band["child"], band["origin"]] for band in bands],
        "value": [band["features"] for band in bands],
        "color": [faint(palette[band["origin"]]) for band in bands],
        "customdata": [
            [
                band["parent"],
                band["child"],
                band["origin"],
                f"{band['features'] / total[band['child']]:.1%}",
                closer if len(parents[band["child"]]) > 1 else "",
            ]
            for band in bands
        ],
        "hovertemplate": "%{value:,} features of %{customdata[1]} (%{customdata[3]}) persist from "
        "%{customdata[0]}, first seen in %{customdata[2]}%{customdata[4]}<extra></extra>",
    }


SCORES = {
    "simulation": ("explanation,<br>simulated", "Pearson r"),
    "shuffled": ("control: another<br>feature's explanation", "Pearson r"),
    "detection": ("explanation,<br>detection", "balanced accuracy"),
    "token_mean": ("baseline: mean<br>of each token", "Pearson r"),
}


def plot_scores(tables: Mapping[str, pd.DataFrame]) -> go.Figure:
    """How well explanations predict activations, persisting features against the others (the paper's figure 6).

    A row of panels for each score that was measured, the token-statistics baseline last; a column for each autoencoder. Single-token
    features, which anything predicts well, are shown again as an outline.

    Args:
        tables: rows of schema `scores.INTERPRETATIONS` by name of the autoencoder.
    """
    shown = [name for name in SCORES if any(table[name].notna().any() for table in tables.values())] or ["token_mean"]
    figure = make_subplots(
        rows=len(shown), cols=len(tables), shared_yaxes=True, column_titles=list(tables),
        row_titles=[SCORES[score][0] for score in shown], vertical_spacing=0.3 / len(shown),
    )  # fmt: skip
    palette = dict(zip(("persisting", "not persisting", "single token"), COLOURS, strict=False))
    for row, score in enumerate(shown, start=1):
        edges = np.linspace(0 if score == "detection" else -1, 1, 21)
        for column, (autoencoder, table) in enumerate(tables.items(), start=1):
            groups = {fate: table.loc[table["fate"] == fate, score] for fate in ("persisting", "not persisting")}
            groups["single token"] = table.loc[table["single_token"].astype(bool), score]
            for group, values in groups.items():
                counts = np.histogram(values.dropna(), edges)[0]
                style: dict[str, Any] = {"color": palette[group], "opacity": 0.55}
                if group == "single token":
                    style = {"color": "rgba(0,0,0,0)", "line": {"color": palette[group], "width": 1.5}}
                figure.add_bar(
                    x=(edges[:-1] + edges[1:]) / 2, y=counts / max(1, counts.sum()), width=np.diff(edges), customdata=counts,
                    name=group, legendgroup=group, showlegend=row == column == 1, marker=style, row=row, col=column,
                    meta={"model": autoencoder, "score": score},
                    hovertemplate=f"{group}: %{{customdata}} of {counts.sum()} features at %{{x:.2f}}<extra></extra>",
                )  # fmt: skip
            figure.update_xaxes(title_text=SCORES[score][1], row=row, col=column)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    height = 180 + 230 * len(shown)
    asked = any(table["model_used"].notna().any() for table in tables.values())
    text = "Scores of explanations" if asked else "Scores of the token-statistics baseline; no language model was asked"
    figure.update_layout(
        title={"text": f"{text} (share of each group's features)", "y": 1 - 25 / height},
        barmode="overlay",
        template="plotly_white",
        height=height,
        legend={"orientation": "h", "y": 1 + 0.18 / len(shown), "yanchor": "bottom"},
        margin={"t": 130},
    )
    figure.update_annotations(font_size=12)
    return figure


def plot_sweep(
    table: pd.DataFrame,
    t: float,
    parents: list[str],
    roots: Mapping[str, Mapping[str, Any]],
    places: Mapping[str, int] | None = None,
) -> go.Figure:
    """Accuracy of the merged model along the path, per corpus, with the base model's as dashed lines (the paper's figure 5).

    Args:
        table: schema `merge.SWEEP`.
        t: the position that was chosen.
        parents: the models at t = 0 and t = 1.
        roots: `evaluation.json` of each root; a corpus that is in none has no dashed line.
        places: of the corpora in the study, for their colours.
    """
    figure = go.Figure()
    palette = colours(list(dict.fromkeys(table["corpus"])), places)
    for corpus, rows in table.groupby("corpus", sort=False):
        figure.add_scatter(
            x=rows["t"],
            y=rows["accuracy"],
            name=corpus,
            mode="lines+markers",
            line={"color": palette[corpus]},
        )
        for root, evaluation in roots.items():
            if corpus in evaluation["corpora"]:
                accuracy = evaluation["corpora"][corpus]["accuracy"]
                figure.add_scatter(
                    x=[0, 1], y=[accuracy, accuracy], name=f"{corpus}, {root}", mode="lines",
                    line={"color": palette[corpus], "dash": "dash", "width": 1},
                )  # fmt: skip
    figure.add_vline(
        x=t, name="chosen t", line={"color": "#666", "width": 1, "dash": "dot"}, annotation_text=f"t = {t:.3f}"
    )
    figure.update_layout(
        title={"text": f"Accuracy along the path from {parents[0]} (t = 0) to {parents[1]} (t = 1)"},
        xaxis={"title": {"text": "t"}},
        yaxis={"title": {"text": "next-token accuracy"}, "tickformat": ".0%"},
        template="plotly_white",
        height=420,
    )
    return figure


def plot_training(curves: Mapping[str, pd.DataFrame], places: Mapping[str, int] | None = None) -> go.Figure:
    """Loss and accuracy of each language model against the tokens it has seen, on every validation corpus.

    Args:
        curves: schema `training.CURVE`, by model.
        places: of the models in the study, for their colours.
    """
    figure = make_subplots(rows=1, cols=2, subplot_titles=("loss, nats per token", "next-token accuracy"))
    palette = colours(list(curves), places)
    dashes: dict[str, str] = {}
    for model, curve in curves.items():
        train = curve[curve["split"] == "train"]
        figure.add_scatter(
            x=train["tokens"], y=train["loss"], name=f"{model}: training", legendgroup=model, mode="lines", opacity=0.35,
            meta={"model": model, "measure": "loss"}, line={"color": palette[model]}, row=1, col=1,
        )  # fmt: skip
        for corpus, rows in curve[curve["split"] == "validation"].groupby("corpus", sort=False):
            dash = dashes.setdefault(corpus, DASHES[len(dashes) % len(DASHES)])
            for column, value in enumerate(("loss", "accuracy"), start=1):
                figure.add_scatter(
                    x=rows["tokens"], y=rows[value], name=f"{model}: {corpus}", legendgroup=model, showlegend=column == 1,
                    meta={"model": model, "corpus": corpus, "measure": value},
                    mode="lines+markers", line={"color": palette[model], "dash": dash}, row=1, col=column,
                )  # fmt: skip
    figure.update_xaxes(title_text="tokens")
    figure.update_yaxes(tickformat=".0%", row=1, col=2)
    figure.update_layout(title={"text": "Language models in training"}, template="plotly_white", height=460)
    return figure


def plot_autoencoders(curves: Mapping[str, pd.DataFrame], places: Mapping[str, int] | None = None) -> go.Figure:
    """L0, squared error, loss recovered and share of dead features of each autoencoder against the tokens it has seen.

    Args:
        curves: schema `training.CURVE`, by `<model>, seed <k>`. A model has one colour, a seed one kind of line.
        places: of the models in the study, for their colours.
    """
    panels = {
        "l0": "L0",
        "mse": "mean squared error",
        "loss_recovered": "loss recovered",
        "dead_share": "dead features",
    }
    figure = make_subplots(rows=2, cols=2, subplot_titles=tuple(panels.values()))
    names = {name: name.split(", seed ") for name in curves}
    palette = colours(list(dict.fromkeys(model for model, _ in names.values())), places)
    seeds = list(dict.fromkeys(seed for _, seed in names.values()))
    for name, curve in curves.items():
        model, seed = names[name]
        line = {"color": palette[model], "dash": DASHES[seeds.index(seed) % len(DASHES)]}
        for place, value in enumerate(panels):
            found = curve.dropna(subset=[value])
            figure.add_scatter(
                x=found["tokens"], y=found[value], name=name, legendgroup=name, showlegend=place == 0, mode="lines",
                meta={"measure": value}, line=line, row=place // 2 + 1, col=place % 2 + 1,
            )  # fmt: skip
    figure.update_xaxes(title_text="tokens", row=2)
    figure.update_yaxes(type="log", row=1)
    # An untrained reconstruction is worse than zeros; the share below 0 is of no interest.
    figure.update_yaxes(tickformat=".0%", range=[0, 1.02], row=2, col=1)
    highest = max((curve["dead_share"].max() for curve in curves.values()), default=0)
    figure.update_yaxes(tickformat=".1%", range=[0, max(0.01, 1.05 * highest)], row=2, col=2)
    figure.update_layout(title={"text": "Autoencoders in training"}, template="plotly_white", height=640)
    return figure
