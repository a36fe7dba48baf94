"""What the first screen says of an edge, however much of it was measured; numbers by hand."""

import json
import re
from html import unescape

import pyarrow as pa
import pytest
from reports import (
    CONTROLS,
    COUNTS,
    FLOW,
    INTERVALS,
    NOTHING,
    PLACEBO,
    READ,
    SAE,
    SUMMARY,
    content,
    fates,
    features,
    untraced,
    verdict_rows,
    write,
)

from feature_lineage.flow import verdicts
from feature_lineage.report import answers as module
from feature_lineage.report.answers import answers, directions
from feature_lineage.report.page import verdict_rows as side_by_side
from feature_lineage.report.sentences import headline, points, quote


@pytest.fixture
def page(tmp_path):
    """A function that writes the report and gives the text of its page."""

    def written(**changes):
        write(tmp_path / "report", **(content() | {"features": features()[:1]} | changes))
        return (tmp_path / "report" / "index.html").read_text(encoding="utf-8")

    return written


def cells(text, after='<table class="became">'):
    """The rows of the first table after a text, as lists of cells, small print after a bar."""
    body = text.split(after, 1)[1].split("</table>", 1)[0]
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in body.split("<tr")[2:]]
    return [
        [re.sub(r"<.*?>", "", unescape(cell.replace('<span class="interval', "|<span ")).strip()) for cell in row]
        for row in rows
    ]


def first_screen(text):
    return unescape(text.split('id="answer"')[1].split("Every edge in a sentence")[0])


def only(**changes):
    """The answer of the only edge."""
    (found,) = answers(SUMMARY | changes, CONTROLS, {}, fates()[0])
    return found


def test_words_are_those_of_the_verdicts():
    assert module.VERDICTS == verdicts.VERDICTS


# --- numbers -----------------------------------------------------------------------------------------------


def test_the_table_has_a_row_for_all_and_one_for_reproducible_features(page):
    every, some = cells(page())
    assert every == [
        "base → lua|n = 299", "", "10.0%|8.0 to 12.0%", "99.0%|97.0 to 100.0%", "−89.0|−91.0 to −87.0",
        "13.4%|11.4 to 15.4%|6.7% / 6.7%", "10.0%|8.0 to 12.0%", "66.6%|64.6 to 68.6%", "25% / 31%|placebo 10% / 12%", "15.0 → 15.5|75% → 75%",
    ]  # fmt: skip
    assert some[:3] == ["reproducible|n = 50", "", "40.0%|38.0 to 42.0%"] and some[8:] == ["", ""]


def test_directions_are_shares_of_the_living_by_hand():
    """Features 0 to 9 of a: 4 kept, 3 found (2 of them in the same direction), 2 lost, 1 dead. b's rows do not count."""
    words = ["kept"] * 4 + ["found"] * 3 + ["lost"] * 2 + [None]
    turns = [None] * 4 + ["same", "rotated", "same"] + [None] * 3
    row = {"parent": "a", "child": "b", "seed": 0}
    rows = [
        row
        | {
            "model": "a",
            "feature": k,
            "verdict": word,
            "direction": turn,
            "reproducible": k in (0, 4, 8),
            "held_out_verdict": word,
        }
        for k, (word, turn) in enumerate(zip(words, turns, strict=True))
    ]
    rows += [row | {"model": "b", "feature": 0, "verdict": "found", "direction": "same"}]
    assert directions(pa.Table.from_pylist(rows, FLOW)) == {
        ("a", "b", "all"): {"same": 2 / 9, "rotated": 1 / 9},
        ("a", "b", "reproducible"): {"same": 1 / 3},
    }
    unknown = [one | {"direction": None, "seed": 1} for one in rows]
    both = directions(pa.Table.from_pylist(rows + unknown, FLOW))["a", "b", "all"]
    assert both == {"same": 1 / 9, "rotated": 1 / 18, "unknown": 1 / 6}, "the mean over seeds"


def test_shares_are_means_over_seeds_and_intervals_the_widest():
    rows = verdict_rows("base", "lua", COUNTS, PLACEBO) + verdict_rows(
        "base", "lua", {"kept": 60, "found": 40, "drifted": 0, "lost": 200}, PLACEBO, seed=1
    )
    kept = only(verdicts=rows).became["all"].kept
    assert kept.edge == pytest.approx(((30 / 299 + 0.2) / 2, 30 / 299 - 0.02, 0.22))
    assert kept.difference.share == pytest.approx((30 / 299 + 0.2) / 2 - 0.99)
    rows[0]["low"] = None
    assert only(verdicts=rows).became["all"].kept.edge[1:] == (None, None), "of one seed alone there is none"


def test_seeds_and_sides_stand_side_by_side():
    parent, reproducible, child = side_by_side(SUMMARY)
    assert (parent["side"], reproducible["features"], child["side"]) == ("parent", "reproducible", "child")
    assert {word: row["count"] for word, row in parent["verdicts"].items()} == COUNTS


def test_points():
    assert [points(value) for value in (-0.8897, 0.0123, None)] == ["−89.0", "+1.2", "–"]


# --- what was not measured ---------------------------------------------------------------------------------


def test_without_a_placebo_the_reason_is_said(page):
    rows = verdict_rows("base", "lua", COUNTS)
    reason = [{"parent": "base", "child": "lua", "reason": "lua <is> merged"}]
    summary = SUMMARY | {"verdicts": rows, "no_placebo": reason, "placebos": [], "weights": SUMMARY["weights"][:1]}
    assert "keep firing the same way in lua (no same-data placebo: lua <is> merged); lua's" in quote(
        summary, None, {}, {}
    )
    assert "(no same-data placebo);" in quote(summary | {"no_placebo": []}, None, {}, {})
    text = page(summary=summary)
    (row,) = cells(text)
    assert row[3:5] == ["|no placebo", "–"] and row[8] == "25% / 31%"
    assert "No placebo for base → lua: lua <is> merged." in first_screen(text)
    assert 'class="stack thin"' not in text and 'id="placebos"' not in text


def test_a_placebo_with_dictionaries_of_its_own_stands_beside_the_papers_measure(page):
    summary = SUMMARY | {"placebos": [row | {"persisting_share": 0.179} for row in SUMMARY["placebos"]]}
    assert "By the paper's count 20.1% persist (placebo: 17.9%), where 40.0% can" in quote(summary, CONTROLS, {}, {})
    text = page(summary=summary)
    assert text.count("17.9%") >= 4, "in sentence, both captions and the paper's table"
    assert re.search(r"13.1% to 26.2%</span></td><td>40.0%</td><td>17.9%</td>", text)


def test_one_seed_has_neither_ceiling_nor_reproducible_features(page):
    one = {
        "verdicts": verdict_rows("base", "lua", COUNTS, PLACEBO),
        "stability": [SUMMARY["stability"][0] | {"reproducible": None, "margin": None}],
    }
    one["directions"] = [
        SUMMARY["directions"][0] | {"ceiling_pw_mcc": None, "ceiling_mean_max_cosine": None, "high": None}
    ]
    none = pa.nulls(len(content()["flow"]))
    flow = content()["flow"]
    for name in ("direction", "reproducible", "held_out_verdict"):
        flow = flow.set_column(flow.column_names.index(name), FLOW.field(name), none.cast(FLOW.field(name).type))
    why = {"ceiling": "there is one seed"}
    text = page(
        summary=SUMMARY | one, controls=CONTROLS | {"ceilings": [], "not_measured": why}, not_measured=why, flow=flow
    )
    (row,) = cells(text)
    assert row[5] == "13.4%|11.4 to 15.4%|direction unknown"
    assert "how many can was not measured (there is one seed)." in first_screen(text)
    assert "Ceiling of what can be found again: base not measured." in first_screen(text)


def test_without_a_bootstrap_there_are_no_intervals(page):
    edges = [SUMMARY["edges"][0] | {"persisting_low": None, "persisting_high": None}]
    rows = [row | dict.fromkeys(INTERVALS) for row in SUMMARY["verdicts"]]
    placebos = [row | {"low": None, "high": None} for row in SUMMARY["placebos"]]
    text = page(summary=SUMMARY | {"edges": edges, "verdicts": rows, "placebos": placebos})
    assert cells(text)[0][2:5] == ["10.0%", "99.0%", "−89.0"]
    assert " to 1" not in text.split('class="became"')[1].split("</table>")[0]
    assert "95 % intervals" not in first_screen(text)


def test_a_poor_reading_is_said_with_what_a_low_number_can_then_be(page):
    poor = [
        {
            "parent": "base",
            "child": "lua",
            "seed": 0,
            "side": "parent",
            "own": READ,
            "other": READ | {"l0": 45.0},
            "poor": ["L0 is 45.0 <"],
        }
    ]
    said = quote(SUMMARY | {"readings": poor}, CONTROLS, {}, {})
    assert said.endswith(
        "base's dictionary reads lua poorly (L0 is 45.0 <): a feature that is not kept may have changed, or may only be misread."
    )
    assert "poorly" not in quote(SUMMARY, CONTROLS, {}, {})
    text = page(summary=SUMMARY | {"readings": poor})
    assert cells(text)[0][-1] == "15.0 → 45.0|75% → 75%|poor" and "reads lua poorly (L0 is 45.0 <)" in first_screen(
        text
    )
    two = [SUMMARY["edges"][0] | {"seed": seed} for seed in (0, 1)]
    both = [poor[0] | {"poor": []}, poor[0] | {"seed": 1}]
    assert "(autoencoder seed 1: L0 is 45.0 <)" in headline(SUMMARY | {"edges": two, "readings": both}, None, {}, {})[0]


def test_what_was_not_measured_at_all_is_said(page):
    summary = SUMMARY | NOTHING | {"edges": SUMMARY["edges"], "bands": SUMMARY["bands"]}
    assert quote(summary, None, {}, {}).startswith(
        "base → lua: what became of base's features was not measured. By the paper's"
    )
    for found in (summary, {name: value for name, value in summary.items() if name in ("edges", "bands") or value}):
        text = page(summary=found)  # the other is of an earlier version
        assert cells(text) == [["base → lua", "not measured"]]


def test_a_model_of_which_nothing_fires_has_no_share(page):
    rows = verdict_rows("base", "lua", dict.fromkeys(COUNTS, 0))
    assert quote(SUMMARY | {"verdicts": rows}, None, {}, {}).startswith(
        "base → lua: none of base's features fires in the sample."
    )
    assert cells(page(summary=SUMMARY | {"verdicts": rows}))[0][2] == "|not measured"


def test_a_study_of_one_model_renders(page):
    summary = SUMMARY | NOTHING | {"models": ["base"], "origins": {"base": {"base": 299}}}
    given = content()
    none = {"strata": given["strata"][:0], "categories": given["categories"][:0], "flow": given["flow"][:0]}
    text = page(summary=summary, lineages=untraced(given["lineages"]), **none)
    assert 'class="became"' not in text and 'class="switch"' not in text.split('id="flow"')[0]
    assert "nothing that its features could have become" in first_screen(text)


def test_no_number_of_an_edge_that_failed_is_on_the_first_screen(page):
    failed = SAE | {"l0": 0.6, "l0_target": 15.0}
    text = page(saes=[("base", 0, failed), ("lua", 0, SAE)])
    assert cells(text) == [["base → lua", "no finding: a dictionary fails its checks"]]
    assert "10.0%" not in first_screen(text) and "20.1%" not in first_screen(text)


def test_every_table_and_figure_of_an_edge_says_n_placebo_and_ceiling(page):
    text = unescape(page())
    kept, matched = (
        "base → lua: 10.0% of 299 kept; placebo 99.0%; ceiling of a match 40.0%",
        "base → lua: 20.1% of 299; placebo not measured; ceiling 40.0%",
    )
    for place, line in (('id="verdicts"', kept), ('id="sankey"', matched)):
        assert line in text.split(place)[0].rsplit("<figcaption>", 1)[1]
    for caption in ("How much each choice", "by whether at least 90 %"):
        assert matched in text.split(caption)[1].split("</caption>")[0]
    data = json.loads(json.dumps(content()["figures"]["verdicts"]["layout"]))
    assert kept in data["title"]["subtitle"]["text"]


def test_each_number_is_explained_and_linked_to(page):
    text = page()
    linked = set(re.findall(r'href="#(numbers-\w+)"', text))
    there = re.findall(r'<dt id="(numbers-\w+)">', text)
    assert linked and linked <= set(there) and len(there) == len(set(there)) > 10
    assert "docs/numbers.md" in text


# --- an edge of which one model alone has a dictionary -------------------------------------------------------


def alone(side, **verdicts):
    """A summary of base → chat without a match: `side` alone has a dictionary."""
    counts = {"kept": 6, "found": 0, "drifted": 3, "lost": 1}
    rows = verdict_rows("base", "chat", counts, side=side)
    rows = [row | {"share": None} if row["verdict"] == "found" else row for row in rows]
    empty = {"edges": [], "bands": [], "origins": {}, "new": [], "placebos": [], "readings": [], "weights": []}
    lineage = {"models": ["base", "chat", "later"], "lineage": [["base", "chat"], ["chat", "later"]]}
    return SUMMARY | empty | lineage | {"verdicts": rows, "no_placebo": [], "directions": [], "stability": []}


def test_the_parents_dictionary_alone_says_what_is_kept_and_no_more():
    near, far = answers(alone("parent"), None, {})
    assert (near.alone, near.matched, near.there) == ("base", None, None) and near.became["all"].kept.edge.share == 0.6
    assert (far.alone, far.matched, far.became) == (None, None, {})
    said = quote(alone("parent"), None, {}, {})
    assert "60.0% of base's 10 features keep firing the same way in chat" in said
    assert "chat has no dictionary of its own" in said and "another" not in said
    assert "The paper's count was not taken" in said


def test_the_childs_dictionary_alone_says_what_was_there_already():
    near, _ = answers(alone("child"), None, {})
    assert (near.alone, near.became) == ("chat", {}) and near.there.kept.edge.share == 0.6
    lines = headline(alone("child"), None, {}, {})
    assert "60.0% (95 % interval 58.0% to 62.0%) of chat's 10 features fire the same way in base already" in lines[0]
    assert "chat → later: what became of chat's features was not measured." in lines[1]


def test_a_dictionary_that_fails_stops_the_finding_though_nothing_is_matched():
    found = answers(alone("parent"), None, {("base", 0): ["L0 is off."]})
    assert [edge.failed for edge in found] == [True, False]


def test_the_gate_of_a_dictionary_made_elsewhere_stands_on_the_page(page):
    assert 'id="gates"' not in page()
    measured = {"l0": 40.0, "variance_explained": -3.2, "loss_recovered": 0.4, "dead_share": 0.25}
    gate = {
        "source": "owner/<b>name</b>", "format": "saelens", "measured": measured, "claimed": {"l0": 64.0},
        "problems": ["Variance explained is -3.2, below 0.5."], "causes": [], "accepted": True,
        "remarks": ["25.0% of the features fire on none of the tokens."],
    }  # fmt: skip
    text = page(gates=[("base", 0, gate)])
    (row,) = cells(text, '<table id="gates">')
    assert row[:5] == ["base", "0", "owner/name|saelens", "40.0", "64"] and "owner/&lt;b&gt;name" in text
    assert row[5:10] == ["-320.0%", "–", "40.0%", "–", "25.00%"]
    assert row[10].startswith("accepted all the same: Variance explained is -3.2") and row[10].endswith(
        "of the tokens."
    )
