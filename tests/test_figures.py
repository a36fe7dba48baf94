import json
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs
from reports import verdict_rows

from feature_lineage.report.export import numbers
from feature_lineage.report.figures import (
    COLOURS,
    colours,
    plot_autoencoders,
    plot_sankey,
    plot_scores,
    plot_sweep,
    plot_training,
    write_figure,
)
from feature_lineage.report.flow_figures import VERDICT_COLOURS, plot_curves, plot_verdicts
from feature_lineage.store.formats import read_json, read_provenance

RECORD = {"digest": "abc", "parameters": {"text": "</script><b>"}}
SUMMARY = {
    "threshold": 0.8,
    "models": ["base", "lua", "stories", "both"],
    "origins": {
        "base": {"base": 30},
        "lua": {"base": 10, "lua": 25},
        "stories": {"base": 12, "stories": 8},
        "both": {"base": 9, "lua": 5, "stories": 2, "both": 4},
    },
    "bands": [
        {"parent": "base", "child": "lua", "origin": "base", "features": 10},
        {"parent": "base", "child": "stories", "origin": "base", "features": 12},
        {"parent": "lua", "child": "both", "origin": "base", "features": 3},
        {"parent": "lua", "child": "both", "origin": "lua", "features": 5},
        {"parent": "stories", "child": "both", "origin": "base", "features": 6},
        {"parent": "stories", "child": "both", "origin": "stories", "features": 2},
    ],
    "edges": [],
}


def edge(parent, child, seed=0):
    """What a figure reads of an edge's row."""
    counts = {
        "parent_features": 30,
        "parent_dead": 1,
        "persisting_share": 0.25,
        "persisting_low": None,
        "persisting_high": None,
    }
    return {"parent": parent, "child": child, "seed": seed} | counts


def judged(placebo=True):
    """A summary with verdicts: base → lua → both, and base → stories → both."""
    counts = {"kept": 6, "found": 3, "drifted": 1, "lost": 20}
    pairs = [("base", "lua"), ("base", "stories"), ("lua", "both"), ("stories", "both")]
    less = {"kept": 0.9, "found": None, "drifted": 0.06, "lost": 0.04}
    rows = [verdict_rows(*pair, counts, less if placebo and pair[0] == "base" else None) for pair in pairs]
    new = [{"child": child, "seed": 0, "living": 30, "new": 12, "share": 0.4} for child in ("lua", "stories")]
    new.append({"child": "both", "seed": 0, "living": 30, "new": 0, "share": 0.0})
    return SUMMARY | {
        "edges": [edge(*pair) for pair in pairs],
        "verdicts": [row for found in rows for row in found],
        "new": new,
    }


def drift_curves():
    rows = [
        {
            "parent": "base",
            "child": child,
            "seed": seed,
            "side": side,
            "threshold": t,
            "kept_share": 1 - t,
            "placebo": placebo,
        }
        for child, side, placebo in (
            ("lua", "parent", False),
            ("lua", "child", False),
            ("base-placebo-lua", "parent", True),
        )
        for seed in (0, 1)
        for t in (0.3, 0.4)
    ]
    return pd.DataFrame(rows)


def figures():
    """One figure of each kind."""
    table = pd.DataFrame(
        [
            {"t": t, "corpus": c, "accuracy": a, "loss": 1 - a}
            for t in (0.0, 0.5, 1.0)
            for c, a in (("lua", t), ("bible", 1 - t))
        ]
    )
    curve = pd.DataFrame(
        {
            "step": [0, 1, 2, 2],
            "tokens": [0, 64, 128, 128],
            "split": ["validation", "train", "train", "validation"],
            "corpus": ["lua", None, None, "lua"],
            "loss": [4.0, 4.1, 3.9, 3.8],
            "accuracy": [0.1, np.nan, np.nan, 0.2],
            "learning_rate": [np.nan, 0.1, 0.1, np.nan],
        }
    )
    sae = pd.DataFrame(
        {"tokens": [10, 20, 30], "mse": [0.5, 0.2, 0.1], "l0": [1000.0, 60.0, 40.0], "dead_share": [0.0, 0.01, 0.01]}
        | {"loss_recovered": [np.nan, 0.5, 0.9]}
    )
    shares = pd.DataFrame(
        [
            {"parent": "base", "child": child, "seed": 0, "side": side, "threshold": t}
            | {"persisting_share": 1 - t, "mutual_share": 0.9 - t / 2, "one_to_one_share": 0.95 - t / 2}
            for child in ("lua", "bible")
            for side in ("parent", "child")
            for t in (0.3, 0.4, 0.5)
        ]
    )
    interpreted = pd.DataFrame(
        {"fate": ["persisting", "not persisting"], "single_token": [True, False], "model_used": ["m", "m"]}
        | {"simulation": [0.5, np.nan], "detection": [0.9, 0.4], "shuffled": [0.1, 0.0], "token_mean": [0.4, 0.3]}
    )
    return {
        "sankey": plot_sankey(SUMMARY),
        "verdicts": plot_verdicts(judged()),
        "curves": plot_curves(shares, 0.42),
        "curves with drift": plot_curves(shares, 0.42, drift=drift_curves(), summary=judged()),
        "sweep": plot_sweep(table, 0.58, ["lua", "bible"], {"base": {"corpora": {"lua": {"accuracy": 0.3}}}}),
        "training": plot_training({"base": curve, "lua": curve}),
        "autoencoders": plot_autoencoders({"base, seed 0": sae}),
        "scores": plot_scores({"base": interpreted, "lua": interpreted}),
    }


KINDS = ["sankey", "verdicts", "curves", "curves with drift", "sweep", "training", "autoencoders", "scores"]


class Page(HTMLParser):
    """What a browser would fetch for a page, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.fetched, self.scripts, self.tags = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.fetched += [value for key, value in attrs if key in ("src", "href", "srcset", "data", "action", "poster")]
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


# --- written to disk ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_figure_reads_back_as_it_was(tmp_path, kind):
    figure = figures()[kind]
    write_figure(figure, tmp_path / "figure.json", tmp_path / "page.html", RECORD)
    content = read_json(tmp_path / "figure.json")
    assert content.pop("provenance") == RECORD
    again = go.Figure(content)  # plotly refuses what is no figure
    assert json.loads(again.to_json()) == json.loads(figure.to_json())
    assert read_provenance(tmp_path / "figure.json") == RECORD


@pytest.mark.parametrize("kind", KINDS)
def test_page_opens_offline(tmp_path, kind):
    write_figure(figures()[kind], tmp_path / "figure.json", tmp_path / f"{kind}.html", RECORD)
    text = (tmp_path / f"{kind}.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.fetched == []
    assert text.count(get_plotlyjs()) == 1
    assert "div" in dict((attrs.get("id"), tag) for tag, attrs in page.tags)[kind]


def test_page_holds_its_provenance_whatever_it_says(tmp_path):
    write_figure(figures()["sweep"], tmp_path / "figure.json", tmp_path / "page.html", RECORD)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    (note,) = (script for script in Page(text).scripts if '"digest"' in script)
    assert json.loads(note) == RECORD
    assert text.rstrip().endswith("</body>\n</html>")


def test_text_in_a_figure_cannot_end_its_script(tmp_path):
    figure = go.Figure(go.Scatter(x=[1], y=[1], name="</script><script>alert(1)</script>"))
    figure.update_layout(title={"text": "</body>"})
    write_figure(figure, tmp_path / "figure.json", tmp_path / "page.html", RECORD)
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert not [script for script in page.scripts if script.startswith("alert")]
    assert read_json(tmp_path / "figure.json")["data"][0]["name"] == "</script><script>alert(1)</script>"


@pytest.mark.parametrize("kind", KINDS)
def test_same_figure_gives_the_same_bytes(tmp_path, kind):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_figure(figures()[kind], tmp_path / folder / "figure.json", tmp_path / folder / "page.html", RECORD)
    for name in ("figure.json", "page.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


# --- the Sankey --------------------------------------------------------------------------------------------


def test_sankey_has_the_summarys_bands():
    (trace,) = plot_sankey(SUMMARY).data
    label, link = trace.node.label, trace.link
    found = [
        (label[source], label[target], value)
        for source, target, value in zip(link.source, link.target, link.value, strict=True)
    ]
    assert found == [
        ("base", "lua (from base)", 10),
        ("base", "stories (from base)", 12),
        ("lua (from base)", "both (from base)", 3),
        ("lua", "both (from lua)", 5),
        ("stories (from base)", "both (from base)", 6),
        ("stories", "both (from stories)", 2),
    ]


def test_sankeys_nodes_count_living_features():
    (trace,) = plot_sankey(SUMMARY).data
    counts = {name: tuple(data[:2]) for name, data in zip(trace.node.label, trace.node.customdata, strict=True)}
    assert counts == {
        "base": (30, 30),
        "lua (from base)": (10, 35),
        "lua": (25, 35),
        "stories (from base)": (12, 20),
        "stories": (8, 20),
        "both (from base)": (9, 20),
        "both (from lua)": (5, 20),
        "both (from stories)": (2, 20),
    }
    share = dict(zip(trace.node.label, trace.node.customdata, strict=True))["lua (from base)"][2]
    assert share == "28.6%"


def test_sankeys_bands_say_where_they_are_and_their_share_of_the_child():
    (trace,) = plot_sankey(SUMMARY).data
    assert tuple(trace.link.customdata[0]) == ("base", "lua", "base", "28.6%", "")
    assert "with the closer one" in trace.link.customdata[2][4], "both has two parents"
    assert tuple(trace.node.customdata[1][3:]) == ("lua", "base")


def test_sankeys_colour_is_the_origins():
    (trace,) = plot_sankey(SUMMARY).data
    colour = dict(zip(trace.node.label, trace.node.color, strict=True))
    assert colour["base"] == colour["lua (from base)"] == colour["both (from base)"]
    assert len({colour["base"], colour["lua"], colour["stories"]}) == 3
    assert trace.link.color[0].startswith("rgba(0,114,178,")  # base's blue


def test_sankey_of_a_study_in_which_nothing_persists():
    alone = {"threshold": 0.8, "models": ["base"], "origins": {"base": {"base": 3}}, "bands": [], "edges": []}
    assert not plot_sankey(alone).data
    json.loads(plot_sankey(alone).to_json())


def test_a_sankey_has_n_placebo_and_ceiling_of_each_edge_under_its_title():
    ceilings = {"ceilings": [{"model": "base", "ceiling": 0.4}]}
    lines = plot_sankey(judged(), ceilings).layout.title.subtitle.text.split("<br>")
    assert lines[0] == "base → lua: 25.0% of 29; placebo not measured; ceiling 40.0%"
    assert lines[2] == "lua → both: 25.0% of 29; placebo not measured; ceiling not measured"
    lines = plot_verdicts(judged(), ceilings).layout.title.subtitle.text.split("<br>")
    assert lines[0] == "base → lua: 20.0% of 30 kept; placebo 90.0%; ceiling of a match 40.0%"
    assert lines[3] == "stories → both: 20.0% of 30 kept; placebo not measured; ceiling of a match not measured"


# --- by verdict --------------------------------------------------------------------------------------------


def bands(figure):
    (trace,) = figure.data
    label, link = trace.node.label, trace.link
    return [
        (label[source], label[target], value)
        for source, target, value in zip(link.source, link.target, link.value, strict=True)
    ]


def test_verdicts_part_each_parents_features_and_new_ones_come_in():
    found = bands(plot_verdicts(judged()))
    assert found[:4] == [("base", "lua", 6), ("base", "lua", 3), ("base", "drifted", 1), ("base", "lost", 20)]
    assert [band for band in found if band[0] == "new"] == [("new", "lua", 12), ("new", "stories", 12)]
    assert ("lua", "both", 6) in found and len(found) == 18
    link = plot_verdicts(judged()).data[0].link
    assert list(link.customdata[0]) == ["base", "lua", "kept", "6 of 30 features (20.0%) of base are kept in lua"]
    assert link.customdata[-1][3] == "12 of 30 features (40.0%) of stories are new: no parent fires them"


def test_verdicts_of_an_edge_end_apart_from_those_of_another():
    """Else the lost of two edges would be one node, and its height their sum, of a feature that was lost twice."""
    (trace,) = plot_verdicts(judged()).data
    lost = [place for place, label in enumerate(trace.node.label) if label == "lost"]
    assert len(lost) == 4 and all(list(trace.link.target).count(place) == 1 for place in lost)


def test_verdicts_have_one_colour_in_figure_and_page(project):
    (trace,) = plot_verdicts(judged()).data
    assert trace.link.color[0] == "rgba(0,114,178,0.45)"
    style = (project / "src" / "feature_lineage" / "report" / "page.css").read_text().lower()
    for word in ("kept", "found", "drifted", "new"):
        assert f"--{word}: {VERDICT_COLOURS[word].lower()};" in style


def test_verdicts_show_the_first_seed():
    more = judged()
    more["verdicts"] = more["verdicts"] + [row | {"seed": 1, "count": 7} for row in more["verdicts"]]
    assert bands(plot_verdicts(more)) == bands(plot_verdicts(judged()))


def test_verdicts_of_a_study_without_edges():
    alone = {
        "threshold": 0.8,
        "models": ["base"],
        "origins": {"base": {"base": 3}},
        "bands": [],
        "edges": [],
        "verdicts": [],
        "new": [],
    }
    assert not plot_verdicts(alone).data
    json.loads(plot_verdicts(alone).to_json())


# --- curves ------------------------------------------------------------------------------------------------


def test_curves_show_each_edge_from_both_sides_by_three_measures():
    figure = figures()["curves"]
    found = [(trace.name, trace.xaxis, trace.line.dash, list(trace.y)) for trace in figure.data]
    lines = [("solid", [0.7, 0.6, 0.5]), ("dash", [0.75, 0.7, 0.65]), ("dot", [0.8, 0.75, 0.7])]
    assert [(name, axis, dash) for name, axis, dash, _ in found] == [
        (f"base → {child}", axis, dash) for child in ("lua", "bible") for axis in ("x", "x2") for dash, _ in lines
    ]
    for (*_, y), (_, expected) in zip(found, lines * 4, strict=True):
        np.testing.assert_allclose(y, expected)
    assert [trace.name for trace in figure.data if trace.showlegend] == ["base → lua", "base → bible"]
    assert len({(trace.name, trace.line.color) for trace in figure.data}) == 2
    assert {(line.x0, line.x1) for line in figure.layout.shapes} == {(0.42, 0.42)}
    assert [line.xref for line in figure.layout.shapes] == ["x", "x2"], "the threshold is marked on both sides"


def test_curves_of_further_seeds_stay_behind_the_first():
    row = {"parent": "base", "child": "lua", "side": "parent", "threshold": 0.5}
    row |= dict.fromkeys(("persisting_share", "mutual_share", "one_to_one_share"), 0.1)
    figure = plot_curves(pd.DataFrame([row | {"seed": 0}, row | {"seed": 3}]), 0.8)
    assert [t.name for t in figure.data if t.showlegend] == ["base → lua"]
    assert [t.opacity for t in figure.data] == [1] * 3 + [0.3] * 3


def test_curves_stand_beside_the_ceiling_and_chance():
    row = {"parent": "base", "child": "lua", "seed": 0, "threshold": 0.5}
    row |= dict.fromkeys(("persisting_share", "mutual_share", "one_to_one_share"), 0.1)
    ceiling = pd.DataFrame({"model": ["base", "base", "lua"], "threshold": [0.5, 0.6, 0.5], "share": [0.4, 0.3, 0.9]})
    null = pd.DataFrame({"threshold": [0.05, np.nan, 0.07]})
    figure = plot_curves(pd.DataFrame([row | {"side": side} for side in ("parent", "child")]), 0.8, ceiling, null)
    found = {(t.xaxis, t.text[0]): list(t.y) for t in figure.data if t.legendgroup == "ceiling"}
    assert found == {("x", "base"): [0.4, 0.3], ("x2", "lua"): [0.9]}
    assert sorted({shape.x0 for shape in figure.layout.shapes}) == [0.07, 0.8]


def test_curves_of_what_is_kept_stand_above_the_papers_beside_the_placebos():
    figure = figures()["curves with drift"]
    kept = [trace for trace in figure.data if trace.meta["measure"] == "kept_share"]
    found = [(trace.name, trace.xaxis, trace.line.dash, trace.opacity) for trace in kept]
    assert found == [
        ("base → lua, n = 29", "x", None, 1),
        ("base → lua, n = 29", "x", None, 0.3),
        ("base → lua, n = 29", "x2", None, 1),
        ("base → lua, n = 29", "x2", None, 0.3),
        ("placebo: base → base-placebo-lua", "x", "longdash", 1),
        ("placebo: base → base-placebo-lua", "x", "longdash", 0.3),
    ]
    assert [trace.name for trace in figure.data if trace.showlegend] == [found[0][0], found[-1][0]]
    paper = [trace for trace in figure.data if trace.meta["measure"] == "persisting_share"]
    assert {trace.xaxis for trace in paper} == {"x3", "x4"}
    assert {line.xref for line in figure.layout.shapes} == {"x", "x2", "x3", "x4"}, "the threshold is marked in all"


def test_chance_is_marked_on_the_papers_curves_alone():
    row = {"parent": "base", "child": "lua", "seed": 0, "threshold": 0.5}
    row |= dict.fromkeys(("persisting_share", "mutual_share", "one_to_one_share"), 0.1)
    both = pd.DataFrame([row | {"side": side} for side in ("parent", "child")])
    figure = plot_curves(both, 0.8, null=pd.DataFrame({"threshold": [0.07]}), drift=drift_curves())
    assert {shape.xref for shape in figure.layout.shapes if shape.x0 == 0.07} == {"x3", "x4"}


def test_curves_of_a_study_without_edges():
    names = ["parent", "child", "seed", "side", "threshold", "persisting_share", "mutual_share", "one_to_one_share"]
    assert not plot_curves(pd.DataFrame(columns=names), 0.8).data
    nothing = pd.DataFrame(columns=["parent", "child", "seed", "side", "threshold", "kept_share", "placebo"])
    assert not plot_curves(pd.DataFrame(columns=names), 0.8, drift=nothing, summary=SUMMARY).data


def test_sweep_shows_each_corpus_the_base_and_the_chosen_point():
    figure = figures()["sweep"]
    curves = {trace.name: trace for trace in figure.data}
    assert list(curves) == ["lua", "lua, base", "bible"]  # the base was not measured on the bible
    np.testing.assert_allclose(curves["lua"].x, [0, 0.5, 1])
    np.testing.assert_allclose(curves["bible"].y, [1, 0.5, 0])
    np.testing.assert_allclose(curves["lua, base"].y, [0.3, 0.3])
    assert curves["lua"].line.color == curves["lua, base"].line.color != curves["bible"].line.color
    (line,) = figure.layout.shapes
    assert (line.x0, line.x1) == (0.58, 0.58)
    assert "lua (t = 0) to bible (t = 1)" in figure.layout.title.text


def test_training_shows_loss_and_accuracy_of_each_model():
    data = figures()["training"].data
    assert [trace.name for trace in data if trace.showlegend is not False] == [
        "base: training",
        "base: lua",
        "lua: training",
        "lua: lua",
    ]
    loss, accuracy = (trace for trace in data if trace.name == "base: lua")
    np.testing.assert_allclose(loss.y, [4.0, 3.8])
    np.testing.assert_allclose(accuracy.y, [0.1, 0.2])
    assert (loss.xaxis, accuracy.xaxis) == ("x", "x2")


def test_autoencoders_show_their_four_measures():
    """Loss recovered is measured at some steps only: its line joins these."""
    figure = figures()["autoencoders"]
    shown = [(list(trace.x), list(trace.y)) for trace in figure.data]
    assert shown == [
        ([10, 20, 30], [1000, 60, 40]), ([10, 20, 30], [0.5, 0.2, 0.1]), ([20, 30], [0.5, 0.9]), ([10, 20, 30], [0, 0.01, 0.01])
    ]  # fmt: skip
    assert [note.text for note in figure.layout.annotations] == [
        "L0", "mean squared error", "loss recovered", "dead features"
    ]  # fmt: skip


def test_a_model_and_a_corpus_have_one_colour_in_every_figure():
    """Of the lineage base, imported, lua, both: figures leave out models without a curve, and show an autoencoder for each seed."""
    place = {"base": 0, "imported": 1, "lua": 2, "both": 3}
    curve = pd.DataFrame(
        {
            "tokens": [1],
            "split": "train",
            "corpus": None,
            "loss": 1.0,
            "l0": 1.0,
            "mse": 1.0,
            "loss_recovered": 1.0,
            "dead_share": 0.0,
        }
    )
    flow = plot_sankey(SUMMARY | {"models": list(place), "bands": [{"parent": "base", "child": "lua", "origin": "base", "features": 1},
                  {"parent": "lua", "child": "both", "origin": "lua", "features": 1}],
                  "origins": {"base": {"base": 1}, "imported": {}, "lua": {"base": 1, "lua": 1}, "both": {"lua": 1}}}).data[0].node  # fmt: skip
    found = {
        model: {colour}
        for (*_, model, origin), colour in zip(flow.customdata, flow.color, strict=True)
        if model == origin
    }
    for trace in plot_training({"base": curve, "lua": curve}, place).data:
        found[trace.legendgroup].add(trace.line.color)
    drawn = plot_autoencoders(
        {f"{model}, seed {seed}": curve for seed in (3, 5) for model in ("base", "lua", "both")}, place
    ).data
    for trace in drawn:
        found.setdefault(trace.legendgroup.split(",")[0], set()).add(trace.line.color)
    assert found == {model: {COLOURS[place[model]]} for model in ("base", "lua", "both")}
    assert {(trace.name[-1], trace.line.dash) for trace in drawn} == {("3", "solid"), ("5", "dash")}
    table = pd.DataFrame({"t": 0.0, "corpus": ["lua", "bible"], "accuracy": 0.5})
    for corpora in (["lua"], ["bible", "lua"]):
        shown = plot_sweep(
            table[table["corpus"].isin(corpora)], 0.5, ["a", "b"], {}, {"english": 0, "bible": 1, "lua": 2}
        ).data
        assert {trace.name: trace.line.color for trace in shown} == {
            c: COLOURS[{"bible": 1, "lua": 2}[c]] for c in corpora
        }


def test_colours_are_told_apart_and_stay():
    names = [f"m{i}" for i in range(10)]
    found = colours(names)
    assert len(set(found.values())) == len(COLOURS) == 8
    assert colours(names[:3]) == {name: found[name] for name in names[:3]}


def test_a_diagram_without_bands_says_so_and_can_be_drawn():
    """Chromium draws no Sankey diagram without nodes: of a study in which nothing persists, no image could be had."""
    summary = {"threshold": 0.8, "models": ["base"], "edges": [], "bands": [], "origins": {"base": {}}, "lineage": []}
    for figure in (plot_sankey(summary), plot_verdicts(summary)):
        assert not figure.data and "No feature" in figure.layout.annotations[0].text
        columns, rows = numbers(json.loads(figure.to_json()))
        assert (list(columns), rows) == (["trace"], [])
