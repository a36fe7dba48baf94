"""The numbers behind figures, read back from plotly's JSON; images by a browser, if there is one."""

import csv
import json
import struct
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import test_figures as figures
from plotly.subplots import make_subplots

from feature_lineage.errors import InputError
from feature_lineage.report import export
from feature_lineage.report.export import export_figures, find_browser, numbers, tabulate_figures
from feature_lineage.report.figures import plot_sankey
from feature_lineage.report.flow_figures import plot_curves
from feature_lineage.store.formats import write_json


def as_json(figure):
    return json.loads(figure.to_json())


def panels():
    figure = make_subplots(rows=1, cols=2, subplot_titles=("left", "right"))
    figure.add_scatter(
        x=np.array([1, 2, 3]), y=np.array([0.5, np.nan, 0.25]), name="a", meta={"measure": "loss"}, row=1, col=1
    )
    figure.add_scatter(x=["p", "q"], y=[1, 2], name="a", meta={"seed": 3}, customdata=[7, 8], row=1, col=2)
    figure.add_vline(x=2, name="the limit", annotation_text="no title")
    return figure


def test_points_are_listed_with_all_that_tells_their_traces_apart():
    columns, rows = numbers(as_json(panels()))
    assert columns == ("trace", "measure", "seed", "x", "y", "count")
    assert [row[:4] for row in rows] == [
        ("a", "loss", "", 1),
        ("a", "loss", "", 2),
        ("a", "loss", "", 3),
        ("a", "", 3, "p"),
        ("a", "", 3, "q"),
        ("the limit", "", "", 2),
    ]
    np.testing.assert_equal([row[4] for row in rows[:5]], [0.5, np.nan, 0.25, 1, 2])
    assert [row[5] for row in rows] == [None, None, None, 7, 8, None]


def curves_of_two_seeds():
    shares = dict.fromkeys(("persisting_share", "mutual_share", "one_to_one_share"), 0.1)
    rows = [
        {"parent": "base", "child": child, "seed": seed, "side": side, "threshold": t} | shares
        for child in ("lua", "bible")
        for seed in (0, 1)
        for side in ("parent", "child")
        for t in (0.5, 0.6)
    ]
    ceiling = pd.DataFrame({"model": ["base", "lua", "bible"], "threshold": 0.5, "share": [0.4, 0.3, 0.9]})
    return plot_curves(pd.DataFrame(rows), 0.8, ceiling, pd.DataFrame({"threshold": [0.07]}))


DRAWN = figures.figures() | {"curves of two seeds": curves_of_two_seeds()}


@pytest.mark.parametrize("kind", DRAWN)
def test_no_two_rows_of_a_figure_are_told_apart_by_their_values_alone(kind):
    columns, rows = numbers(as_json(DRAWN[kind]))
    keys = [row[: columns.index("x") + 1] if "x" in columns else row[:-1] for row in rows]
    assert rows and len(set(keys)) == len(keys)
    if kind == "scores":
        bins = [row for row in rows if row[:3] == ("persisting", "base", "simulation")]
        assert sum(row[-1] for row in bins) == 1, "counts stand beside shares"
    if kind == "curves of two seeds":
        assert {"the study's threshold", "1 % of matches by chance"} < {row[0] for row in rows}


def test_arrays_in_base64_are_read_exactly():
    values = np.random.default_rng(0).standard_normal((50, 3))
    for kind in ("f8", "f4", "i4", "u1", "i2"):
        array = (values * 40).astype(kind) if kind[0] == "f" else np.abs(values * 40).astype(kind)
        found = as_json(go.Figure(go.Heatmap(x=np.arange(3), y=np.arange(50), z=array)))
        assert "bdata" in found["data"][0]["z"]
        columns, rows = numbers(found)
        assert columns == ("trace", "x", "y", "z")
        assert [row[1:3] for row in rows[:4]] == [(0, 0), (1, 0), (2, 0), (0, 1)]
        np.testing.assert_array_equal(np.array([row[3] for row in rows], kind).reshape(50, 3), array)


def test_a_trace_without_y_has_its_x():
    assert numbers(as_json(go.Figure(go.Histogram(x=np.array([1.5, 2.5]), name="h"))))[1] == [
        ("h", 1.5),
        ("h", 2.5),
    ]
    assert numbers(as_json(go.Figure()))[1] == []


def test_bands_of_the_flow_are_listed_by_their_ends(tmp_path):
    summary = {
        "threshold": 0.8,
        "models": ["base", "child"],
        "origins": {"base": {"base": 9}, "child": {"base": 4, "child": 3}},
        "bands": [{"parent": "base", "child": "child", "origin": "base", "features": 4}],
        "edges": [],
    }
    tabulate_figures(as_json(plot_sankey(summary)), tmp_path / "sankey.csv")
    with (tmp_path / "sankey.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["source", "target", "value"], ["base", "child (from base)", "4"]]


def test_bands_by_verdict_say_of_which_edge_and_verdict_they_are():
    columns, rows = numbers(as_json(figures.plot_verdicts(figures.judged())))
    assert columns == ("source", "target", "band", "value")
    assert rows[:2] == [("base", "lua", "base → lua: kept", 6), ("base", "lua", "base → lua: found again", 3)]
    assert rows[-1] == ("new", "stories", "stories: new", 12)


def test_names_with_commas_quotes_and_breaks_stay_in_their_cell(tmp_path):
    name = 'a, "b"\nc'
    tabulate_figures(as_json(go.Figure(go.Scatter(x=[1], y=[2], name=name))), tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == [name, "1", "2"]


# --- images ------------------------------------------------------------------------------------------------


def test_the_browser_that_the_environment_names_is_taken(tmp_path, monkeypatch):
    browser = tmp_path / "browser"
    browser.write_text("#!/bin/sh\n")
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    assert find_browser() is None  # it cannot be run
    browser.chmod(0o755)
    assert find_browser() == str(browser)
    monkeypatch.setenv("BROWSER_PATH", "none")
    assert find_browser() is None


def test_without_a_browser_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "none")
    with pytest.raises(InputError, match="install Chromium"):
        export_figures([], [])


def test_a_browser_that_fails_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    browser = tmp_path / "browser"
    browser.write_text("#!/bin/sh\nexit 3\n")
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(browser))
    write_json(tmp_path / "a.json", json.loads(panels().to_json()), {})
    with pytest.raises(InputError, match="does not draw the figures"):
        export_figures([tmp_path / "a.json"], [[tmp_path / "a.svg"]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "browser"]


def test_figures_are_drawn_without_network(tmp_path, monkeypatch):
    if find_browser() is None:
        pytest.skip("there is no browser; install Chromium")
    for name in ("http_proxy", "https_proxy"):  # whatever asks for more than local files fails
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    write_json(tmp_path / "a.json", json.loads(panels().update_layout(height=300).to_json()), {})
    write_json(tmp_path / "b.json", json.loads(go.Figure(go.Bar(x=["<b>x</b>"], y=[1])).to_json()), {})
    outputs = [[tmp_path / f"{name}.{kind}" for kind in ("svg", "png")] for name in "ab"]
    export_figures([tmp_path / "a.json", tmp_path / "b.json"], outputs)
    for name, height in (("a", 300), ("b", export.HEIGHT)):
        root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        assert (root.get("width"), root.get("height")) == (str(export.WIDTH), str(height))
        png = (tmp_path / f"{name}.png").read_bytes()
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", png[16:24]) == (export.SCALE * export.WIDTH, export.SCALE * height)
    assert "right" in "".join(ElementTree.parse(tmp_path / "a.svg").getroot().itertext())
