"""Figures for papers: SVG and PNG by a browser, and the numbers behind each figure as CSV.

They carry no provenance of their own: it is in the figure's JSON, from which they are made.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from feature_lineage.errors import InputError
from feature_lineage.progress import logger
from feature_lineage.store.checksums import KEY
from feature_lineage.store.formats import read_json
from feature_lineage.store.writing import disk_faults_named, staged

WIDTH, HEIGHT, SCALE = 960, 460, 2  # in pixels where the figure does not say; PNG has SCALE times as many
AXES = ("x", "y", "z")
BAND = ("source", "target", "label", "value")


# --- numbers -----------------------------------------------------------------------------------------------


def numbers(figure: Mapping[str, Any]) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    """The numbers behind a figure, in long form.

    Args:
        figure: plotly's JSON, arrays as lists or as base64.

    Returns:
        Names of the columns, and the rows: source, target, name (`band`) if bands have one, and value of each band of a Sankey diagram; else the trace's name, what its
        `meta` says of it (seed, model, measure …), the coordinates of each point, without those that no trace has, and `count` if traces
        have `customdata`. A vertical line across a panel is a point without y, under the line's name.
    """
    flows = [trace for trace in figure["data"] if trace["type"] == "sankey"]
    if flows:
        names = [name for name in BAND if any(name in trace["link"] for trace in flows)]
        columns = tuple("band" if name == "label" else name for name in names)
        return columns, [row for trace in flows for row in _bands(trace, names)]
    axes = [name for name in AXES if any(name in trace for trace in figure["data"])]
    meta = list(dict.fromkeys(key for trace in figure["data"] for key in trace.get("meta", ())))
    values = [*axes, *(["customdata"] if any("customdata" in trace for trace in figure["data"]) else [])]
    rows = [
        (trace.get("name", ""), *(trace.get("meta", {}).get(key, "") for key in meta), *point)
        for trace in figure["data"]
        for point in _points(trace, values)
    ]
    lines = {shape["name"]: shape["x0"] for shape in figure["layout"].get("shapes", ()) if "name" in shape}
    rows += [(name, *[""] * len(meta), x, *[None] * (len(values) - 1)) for name, x in lines.items()]
    return ("trace", *meta, *("count" if name == "customdata" else name for name in values)), rows


def _bands(trace: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    labels = decoded(trace["node"]["label"])
    for source, target, *rest in zip(*(decoded(trace["link"][name]) for name in names), strict=True):
        yield labels[source], labels[target], *rest


def _points(trace: Mapping[str, Any], names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    axes = {name: decoded(trace[name]) for name in names if name in trace}
    if "z" in axes:
        for y, line in zip(axes["y"], axes["z"], strict=True):
            for x, z in zip(axes["x"], line, strict=True):
                yield x, y, z
        return
    for place in range(max(map(len, axes.values()), default=0)):
        yield tuple(axes[name][place] if name in axes else None for name in names)


def decoded(values: Any) -> list[Any]:
    """A list of plotly's JSON; typed arrays are in base64, little-endian."""
    if not isinstance(values, Mapping):
        return list(values)
    array = np.frombuffer(base64.b64decode(values["bdata"]), np.dtype(values["dtype"]).newbyteorder("<"))
    shape = [int(size) for size in str(values.get("shape", array.size)).split(",")]
    return array.reshape(shape).tolist()


def tabulate_figures(figure: Mapping[str, Any], path: str | Path) -> None:
    """Write the numbers behind a figure as CSV."""
    columns, rows = numbers(figure)
    with staged(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


# --- images ------------------------------------------------------------------------------------------------


def find_browser() -> str | None:
    """The Chromium, Chrome or alike that draws images: `BROWSER_PATH` if it is set, else one that is installed."""
    if path := os.environ.get("BROWSER_PATH"):
        return path if os.access(path, os.X_OK) and Path(path).is_file() else None
    from choreographer.browsers.chromium import Chromium

    return Chromium.find_browser(skip_local=False)


def export_figures(figures: Sequence[str | Path], outputs: Sequence[Sequence[str | Path]]) -> None:
    """Draw figures in one browser, without network.

    Args:
        figures: files of plotly's JSON.
        outputs: for each of them, the images to write; their suffixes say in which format.

    Raises:
        InputError: there is no browser, or it fails.
    """
    browser = find_browser()
    if browser is None:
        raise InputError("no browser is found; install Chromium or Chrome, or set BROWSER_PATH to one")
    tasks = []
    with ExitStack() as stack:
        for path, images in zip(figures, outputs, strict=True):
            figure = {key: value for key, value in read_json(path).items() if key != KEY}
            for image in map(Path, images):
                temporary = stack.enter_context(staged(image))
                options = {
                    "format": image.suffix[1:],
                    "width": figure["layout"].get("width", WIDTH),
                    "height": figure["layout"].get("height", HEIGHT),
                    "scale": SCALE if image.suffix == ".png" else 1,
                }
                tasks.append({"fig": figure, "path": temporary, "opts": options})
        try:
            asyncio.run(_draw(browser, tasks))
        except InputError:  # of a full disk
            raise
        except Exception as error:  # of kaleido, choreographer and the browser, of many kinds
            raise InputError(
                f"{browser}: does not draw the figures ({type(error).__name__}: {error}); set BROWSER_PATH to another browser, or to "
                "none to go without images"
            ) from error
        logger.info("%d images drawn by %s", len(tasks), browser)


async def _draw(browser: str, tasks: list[dict[str, Any]]) -> None:
    from kaleido import Kaleido

    # Chromium refuses its sandbox to root alone.
    async with Kaleido(path=browser, mathjax=False, enable_sandbox=os.geteuid() != 0) as kaleido:
        for task in tasks:
            image = await kaleido.calc_fig(task["fig"], opts=task["opts"])
            with disk_faults_named(task["path"]):
                task["path"].write_bytes(image)
