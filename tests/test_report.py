import json
import re
from html import unescape

import pandas as pd
import plotly.graph_objects as go
import pytest
from jinja2 import UndefinedError
from plotly.offline import get_plotlyjs

from feature_lineage.artifacts import write_json
from feature_lineage.report import headline, main, write_report

EVIL = "</script><script>alert(1)</script>"
SUMMARY = {
    "threshold": 0.8,
    "models": ["base", "lua"],
    "edges": [
        {
            "parent": "base",
            "child": "lua",
            "seed": 0,
            "threshold": 0.8,
            "parent_features": 2048,
            "parent_dead": 8,
            "parent_persisting": 300,
            "disappearing": 1740,
            "child_features": 2048,
            "child_dead": 3,
            "child_persisting": 290,
            "emerging": 1755,
            "mutual": 250,
            "one_to_one": 1260,
            "persisting_share": 300 / 2040,
            "persisting_low": 0.131,
            "persisting_high": 0.162,
            "emerging_share": None,
            "emerging_low": None,
            "emerging_high": None,
        }
    ],
    "origins": {"base": {"base": 2040}, "lua": {"base": 290, "lua": 1755}},
    "bands": [{"parent": "base", "child": "lua", "origin": "base", "features": 290}],
}
SAE = {
    "l0": 41.26,
    "mse": 0.012345,
    "variance_explained": 0.875,
    "loss_recovered": 0.961,
    "dead_share": 0.0005,
    "definitions": {"l0": "features that fire at a token", "mse": "squared error", "loss_clean": "left out"},
}
STRATA = pd.DataFrame(
    [
        {"parent": "base", "child": "lua", "seed": 0, "side": side, "kind": "token", "stratum": stratum}
        | {"features": 1500, "persisting": 300, "share": 0.2}
        for side in ("parent", "child")
        for stratum in ("single", "several")
    ]
)

CONTROLS = {
    "threshold": 0.8,
    "edges": [
        {
            "parent": "base",
            "child": "lua",
            "seed": 0,
            "side": "parent",
            "features": 2040,
            "persisting": 300,
            "share": 300 / 2040,
            "median_r": 0.5304,
            "ceiling": 0.2,
            "share_of_ceiling": 0.7353,
            "false_match_rate": 0.001,
            "null_threshold": 0.0604,
            "share_at_null_threshold": 0.99,
            "neurons": 0.25,
            "neurons_median_r": 0.46,
            "as_published": None,
        }
    ],
    "variants": [
        {
            "parent": "base", "child": "lua", "seed": 0, "side": side, "variant": "strings where both fire", "minimum": minimum,
            "features": 2040, "persisting": 1700, "share": 1700 / 2040, "median_r": 0.99,
        }
        for side, minimum in (("parent", 2), ("child", None))
    ],
    "not_measured": {},
    "definitions": {"ceiling": "what two seeds share"},
}  # fmt: skip


def figure(name):
    return {**json.loads(go.Figure(go.Scatter(x=[1], y=[2], name=name)).to_json()), "provenance": {"digest": "secret"}}


@pytest.fixture
def content():
    tensors = pd.DataFrame(
        {"tensor": ["w"], "elements": [1234], "cosine": [0.5], "angle": [1.0471975511965976], "branch": ["slerp"]}
    )
    return {
        "study": "small",
        "summary": SUMMARY,
        "sankey": figure("sankey"),
        "curves": figure("curves"),
        "strata": STRATA,
        "controls": CONTROLS,
        "merges": {"both": {"figure": figure("sweep"), "tensors": tensors, "record": {"t": 0.583}}},
        "training": figure("training"),
        "autoencoders": figure("autoencoders"),
        "models": {
            "base": {"corpora": {"english": {"accuracy": 0.41}, "python": {"accuracy": 0.4321}}},
            "lua": {"corpora": {"english": {"accuracy": 0.3}, "python": {"accuracy": None}}},
        },
        "saes": [("base", 0, SAE), ("lua", 0, SAE)],
        "record": {"digest": "abc", "parameters": {"note": "plain"}},
    }


@pytest.fixture
def page(content, tmp_path):
    """A function that writes the page and gives its text without plotly's library."""

    def write(**changes):
        write_report(tmp_path / "index.html", **(content | changes))
        text = (tmp_path / "index.html").read_text(encoding="utf-8")
        assert text.count(get_plotlyjs()) == 1
        return text.replace(get_plotlyjs(), "")

    return write


def rows(text, after):
    """The rows of the first table after a heading, as lists of cells."""
    body = text.split(after, 1)[1].split("<tbody>", 1)[1].split("</tbody>", 1)[0]
    return [
        [unescape(re.sub(r"<.*?>", "", cell)) for cell in re.findall(r"<td>(.*?)</td>", row)]
        for row in body.split("<tr>")[1:]
    ]


def scripts(text):
    return dict(re.findall(r'<script type="application/json" id="(.*?)">(.*?)</script>', text, re.DOTALL))


def test_flow_table(page):
    assert rows(page(), "<h2>Feature flow</h2>") == [
        [
            "base → lua",
            "0",
            "2,040",
            "300",
            "14.7% (13.1% to 16.2%)",
            "1,740",
            "2,045",
            "290",
            "1,755",
            "–",
            "250",
            "1,260",
            "8 / 3",
        ]
    ]


def test_strata_of_each_edge(page):
    more = pd.concat([STRATA, STRATA.assign(child="bible", share=0.3)])
    text = page(strata=more)
    assert text.count("<details>") == 2
    assert rows(text, "base → lua, seed 0: who persists") == [
        [side, f"token: {stratum}", "1,500", "300", "20.0%"]
        for side in ("parent", "child")
        for stratum in ("single", "several")
    ]
    assert rows(text, "base → bible, seed 0: who persists")[0][-1] == "30.0%"
    assert "<details>" not in page(strata=STRATA.iloc[:0])


def test_accuracy_table(page):
    assert rows(page(), "<h2>Language models</h2>") == [["base", "41.0%", "43.2%"], ["lua", "30.0%", "–"]]


def test_merge_table(page):
    text = page()
    assert "both: merged at t = 0.5830" in text
    assert rows(text, "merged at t") == [["w", "1,234", "0.50000", "60.00", "slerp"]]


def test_autoencoder_table(page):
    text = page()
    numbers = ["41.3", "0.0123", "87.5%", "96.1%", "0.05%"]
    assert rows(text, "<h2>Autoencoders</h2>") == [["base", "0", *numbers], ["lua", "0", *numbers]]
    assert "features that fire at a token" in text
    assert "left out" not in text


def test_every_figure_has_its_place_and_its_data(page, content):
    text = page()
    found = scripts(text)
    assert list(found) == ["sankey-data", "curves-data", "sweep-1-data", "training-data", "autoencoders-data"]
    for name in found:
        assert f'<div id="{name.removesuffix("-data")}"></div>' in text
    expected = {key: value for key, value in content["sankey"].items() if key != "provenance"}
    assert json.loads(found["sankey-data"]) == expected
    go.Figure(json.loads(found["sweep-1-data"]))
    assert "secret" not in text, "a figure's own provenance is no part of the page"


def test_controls_table(page):
    text = page()
    numbers = ["2,040", "14.7%", "0.530", "20.0%", "73.5%", "0.1%", "0.060", "99.0%", "25.0%", "–"]
    assert rows(text, "<h2>Controls</h2>") == [["base → lua", "0", "parent", *numbers]]
    found = rows(text, "How much each choice")
    assert found[0] == ["base → lua", "0", "parent", "strings where both fire", "2", "2,040", "1,700", "83.3%", "0.990"]
    assert found[1][4] == "–"
    assert "what two seeds share" in text
    assert "ot measured" not in text


def test_what_is_not_measured_is_said_in_its_place_and_why(page):
    reasons = {"ceiling": "one seed <only>", "alignment_null": "switched off"}
    text = page(controls=CONTROLS | {"variants": [], "not_measured": reasons})
    ((*_, ceiling, of_ceiling, false, threshold, above, neurons, published),) = rows(text, "<h2>Controls</h2>")
    assert {ceiling, of_ceiling, false, threshold, above} == {"not measured"}
    assert (neurons, published) == ("25.0%", "–")
    assert "Not measured: ceiling (one seed &lt;only&gt;)." in text
    assert "How much each choice" not in text


def test_study_without_controls(page):
    assert "Controls" not in page(controls=None)


def test_study_without_a_merge(page):
    text = page(merges={})
    assert list(scripts(text)) == ["sankey-data", "curves-data", "training-data", "autoencoders-data"]


def test_no_request_leaves_the_page(page):
    text = page()
    assert not re.findall(r"""<[^>]*\b(?:src|href|srcset|action|data|poster)\s*=""", text)
    assert not re.findall(r"https?:|@import|url\(|\bfetch\(|XMLHttpRequest|\bimport\b", text)


def test_provenance_is_shown(page, content):
    text = page()
    shown = text.split("<h2>How this was made</h2>")[1].split("<pre>")[1].split("</pre>")[0]
    assert json.loads(unescape(shown)) == content["record"]


def test_text_cannot_break_out_of_the_page(page, content):
    evil = {"corpora": {EVIL: {"accuracy": 0.5}}}
    edge = SUMMARY["edges"][0] | {"parent": EVIL, "child": EVIL}
    tensors = content["merges"]["both"]["tensors"].assign(tensor=EVIL, branch=EVIL)
    text = page(
        study=EVIL,
        summary=SUMMARY | {"edges": [edge], "origins": {EVIL: {"base": 1, EVIL: 2}}},
        sankey=figure(EVIL),
        curves=figure(EVIL),
        strata=STRATA.assign(parent=EVIL, stratum=EVIL),
        merges={EVIL: {"figure": figure(EVIL), "tensors": tensors, "record": {"t": 0.5}}},
        models={EVIL: evil},
        controls={
            **CONTROLS,
            "edges": [CONTROLS["edges"][0] | {"parent": EVIL}],
            "not_measured": {EVIL: EVIL},
            "definitions": {EVIL: EVIL},
        },
        saes=[(EVIL, EVIL, SAE | {"definitions": {"l0": EVIL}})],
        record={"digest": EVIL},
    )
    assert "<script>alert" not in text
    assert text.count("<script") == text.count("</script>") == 7, "the library, five figures and what draws them"
    assert json.loads(scripts(text)["sankey-data"])["data"][0]["name"] == EVIL
    assert unescape(text).count("alert(1)") > 10, "it is there, as text"


def test_same_content_gives_the_same_bytes(content, tmp_path):
    for name in ("one", "two"):
        write_report(tmp_path / f"{name}.html", **content)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "two.html"]


def test_missing_content_is_an_error_and_leaves_no_page(content, tmp_path):
    # rather than a page with a hole in it
    del content["merges"]["both"]["tensors"]["branch"]
    with pytest.raises(UndefinedError, match="branch"):
        write_report(tmp_path / "index.html", **content)
    assert list(tmp_path.iterdir()) == []


# --- the main numbers --------------------------------------------------------------------------------------


def test_headline():
    assert headline(SUMMARY) == [
        "base → lua: 300 of 2,040 features persist (14.7%, 95 % interval 13.1% to 16.2%), 1,740 disappear, 1,755 emerge.",
        "lua: 290 of 2,045 features have an ancestor: 290 from base.",
    ]


def test_headline_without_intervals():
    edge = SUMMARY["edges"][0] | {"persisting_low": None, "persisting_high": None}
    assert "300 of 2,040 features persist (14.7%), 1,740" in headline(SUMMARY | {"edges": [edge]})[0]


def test_headline_of_several_seeds_tells_them_apart():
    edges = [SUMMARY["edges"][0] | {"seed": seed} for seed in (0, 3)]
    lines = headline(SUMMARY | {"edges": edges})
    assert [line.split(":")[0] for line in lines[:2]] == [
        "base → lua (autoencoder seed 0)",
        "base → lua (autoencoder seed 3)",
    ]


def test_headline_of_one_model_is_empty():
    assert headline({"edges": [], "origins": {"base": {"base": 3}}}) == []


def test_main_prints_where_the_report_is_and_its_numbers(tmp_path, capsys):
    write_json(tmp_path / "flows" / "summary.json", SUMMARY, {})
    corpora = {"english": {"accuracy": 0.41}, "a-long-corpus-name": {"accuracy": 0.4321}}
    for model in SUMMARY["models"]:
        write_json(tmp_path / "models" / model / "evaluation.json", {"corpora": corpora}, {})
    main(str(tmp_path))
    lines = capsys.readouterr().out.splitlines()
    head, base = (next(line for line in lines if line.startswith(word)) for word in ("accuracy", "base "))
    assert head.split() == ["accuracy", "english", "a-long-corpus-name"]
    assert base.split() == ["base", "41.0%", "43.2%"]
    assert len(head) == len(base), "columns stand under their names"
    assert f"  {headline(SUMMARY)[0]}" in lines
    assert lines[-1] == f"report: {tmp_path.resolve() / 'report' / 'index.html'}"
