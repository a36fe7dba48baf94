"""What the page of a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

Evaluation = tuple[str, int, Mapping[str, Any]]
"""Model, seed and evaluation of an autoencoder, as `gate.judge` takes them."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Which study was run, and how.

    Attributes:
        study: its name.
        steps: parameters of each step (`page.parameters`).
        record: provenance, shown at the end of the page.
    """

    study: str
    steps: Sequence[tuple[str, Sequence[tuple[str, Any]]]]
    record: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The study's language models and autoencoders.

    Attributes:
        models: evaluation of each language model.
        merges: of each merged model, its `tensors` (a table) and `record` (its provenance).
        saes: the autoencoders.
        started: what some of them were trained on from.
        init: how autoencoders start (`autoencoder.init`).
        gates: model and seed of each autoencoder that was made elsewhere, and what let it in (`imported.check_autoencoder`).
        boundaries: what stands around documents and windows (`boundaries.recorded_words`), if the tokenizer says.
    """

    models: Mapping[str, Mapping[str, Any]]
    merges: Mapping[str, Mapping[str, Any]]
    saes: Sequence[Evaluation]
    started: Sequence[Evaluation]
    init: str
    gates: Sequence[Evaluation] = ()
    boundaries: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured.

    Attributes:
        summary: of the flows, `flows/summary.json`.
        strata: persistence by kinds of features.
        controls: `controls.summary.summarise_controls`, or None.
        not_measured: why a control was not measured, by its name.
        baselines: rows of each baseline.
        categories: counts of features (`page.category_rows`), or None.
        cases: the features that were followed.
        interpretations: tables of `scores.INTERPRETATIONS` by model and seed.
    """

    summary: Mapping[str, Any]
    strata: pd.DataFrame
    controls: Mapping[str, Any] | None
    not_measured: Mapping[str, str]
    baselines: Mapping[str, Sequence[Mapping[str, Any]]]
    categories: pa.Table | None
    cases: Sequence[Mapping[str, Any]]
    interpretations: Mapping[tuple[str, int], pa.Table]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Figures, and what can be taken from the report.

    Attributes:
        figures: plotly figures by the name of their place on the page, `verdicts` (`flow_figures.plot_verdicts`) and
            `sankey` (`figures.plot_sankey`) among them.
        files: each figure's images and its numbers, `<figure>.<kind>`: copied, and linked under the figure.
        tracking: of each case, the features that it was followed to (`cases.TRACKING`).
    """

    figures: Mapping[str, Mapping[str, Any]]
    files: Sequence[Path]
    tracking: Mapping[str, pa.Table]
