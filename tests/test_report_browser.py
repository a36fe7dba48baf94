"""The report in a real browser, opened from disk."""

import json
import shutil

import pytest
from chromium import CHROMIUM, Page
from reports import EVIL, IMAGE, content, untraced, write

from feature_lineage.store.checksums import KEY
from feature_lineage.text.vocabulary import Texts

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

FOUND = "document.getElementById('found').textContent"
HEADING = "document.querySelector('#feature h3')?.textContent"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report with a space")
    write(folder, **content())
    return folder / "index.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def page(chromium):
    """The tab; whatever a test does, nothing may go wrong or leave the folder."""
    chromium.errors.clear()
    chromium.requests.clear()
    yield chromium
    assert chromium.errors == []
    assert [url for url in chromium.requests if not url.startswith(("file:", "data:", "about:", "blob:"))] == []


def filtered(page, name, value):
    page.run(
        f"(() => {{ const field = document.getElementById('filters').elements[{name!r}]; field.value = {value!r};"
        " field.dispatchEvent(new InputEvent('input', { bubbles: true })); })()"
    )


def test_opens_with_the_answer_and_the_sankey(page, index):
    page.open(index)
    page.wait("document.querySelectorAll('#verdicts .sankey-link').length === 5")
    assert page.run("document.querySelector('h1').textContent").startswith(
        "base → lua: 10.0% of base's 299 features keep"
    )
    for part in (".became", "#verdicts"):
        assert page.run(f"document.querySelector({part!r}).getBoundingClientRect().top < innerHeight")
    assert page.run("document.querySelector('.became').scrollWidth <= document.querySelector('main').clientWidth"), (
        "all columns show"
    )


def by_paper(page):
    """Open the report as the paper counts, by a click."""
    page.run("[...document.querySelectorAll('.switch [data-by=paper]')].find((one) => one.offsetParent).click()")


def test_the_papers_measure_is_one_click_away(page, index):
    page.open(index)
    shown = "[...document.querySelectorAll('.by-verdict, .by-paper')].filter((e) => e.tagName !== 'LABEL' && e.offsetParent).map((e) => e.className)"
    assert {kind.split()[-1] for kind in page.run(shown)} == {"by-verdict"}
    by_paper(page)
    page.wait("document.querySelectorAll('#sankey .sankey-link').length === 1")
    assert {kind.split()[-1] for kind in page.run(shown)} == {"by-paper"}
    assert page.run(
        "[...document.querySelectorAll('.switch [aria-pressed=true]')].every((e) => e.dataset.by === 'paper')"
    )
    assert page.run("document.activeElement === document.body || document.activeElement.offsetParent !== null")


def test_every_figure_is_drawn_when_it_comes_into_view(page, index):
    page.open(index)
    count = page.run("document.querySelectorAll('[data-figure]').length")
    assert count == 6
    for k in range(count):
        if k == 1:
            by_paper(page)
        page.run(f"document.querySelectorAll('[data-figure]')[{k}].scrollIntoView()")
        page.wait(f"document.querySelectorAll('[data-figure]')[{k}].querySelector('.main-svg')")


def click(page, selector):
    """Press and release the mouse in the middle of an element."""
    page.wait(f"document.querySelector({selector!r})")
    page.run(f"document.querySelector({selector!r}).scrollIntoView({{ block: 'center', behavior: 'instant' }})")
    box = page.run(
        f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        page.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)


def test_click_on_a_band_leaves_the_features_in_it(page, index):
    page.open(index)
    by_paper(page)
    click(page, "#sankey .sankey-link")
    page.wait(f"{FOUND}.startsWith('50 of 300 features that persist from base, first seen in base')")
    assert page.run("location.hash") == "#browse?model=lua&seed=0&via=base&origin=base"
    page.wait("document.querySelectorAll('#table .tabulator-row').length > 5")
    assert page.run("document.querySelector('#table .tabulator-row a').textContent") == "lua #0"


def test_click_on_a_verdict_leaves_the_features_in_it(page, index):
    page.open(index)
    click(page, "#verdicts .sankey-link")
    page.wait(f"{FOUND} === '30 of 300 features'")
    assert page.run("location.hash") == "#browse?model=base&seed=0&verdict=kept&edge=lua"
    page.open(index)
    click(page, "#verdicts .sankey-link:last-of-type")
    page.wait(f"{FOUND} === '269 of 300 features'")
    assert page.run("location.hash") == "#browse?model=lua&seed=0&verdict=new"


def test_click_on_a_node_leaves_the_features_of_its_origin(page, index):
    page.open(index)
    by_paper(page)
    click(page, "#sankey .sankey-node:last-of-type .node-rect")
    page.wait(f"{FOUND}.startsWith('50 of 300 features')")
    assert page.run("location.hash") == "#browse?model=lua&seed=0&origin=base"


def test_search_by_token_number_and_explanation(page, index):
    page.open(index, "#browse?model=base&seed=0")
    page.wait(f"{FOUND} === '300 of 300 features'")
    filtered(page, "q", "needle")
    page.wait(f"{FOUND} === '1 of 300 features'")
    page.wait("document.querySelector('#table .tabulator-row a')?.getAttribute('href') === '#feature=base/0/270'")
    assert page.run("location.hash") == "#browse?model=base&seed=0&q=needle"
    filtered(page, "q", "#12")
    page.wait("document.querySelector('#table .tabulator-row a')?.getAttribute('href') === '#feature=base/0/12'")
    filtered(page, "q", "fires on")
    page.wait("document.querySelector('#table .tabulator-row a')?.getAttribute('href') === '#feature=base/0/5'")


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("model=base&fate=persisting", "50 of 300"),
        ("model=base&fate=disappearing", "249 of 300"),
        ("model=base&fate=dead", "1 of 300"),
        ("model=lua&fate=inherited", "50 of 300"),
        ("model=lua&fate=emerging", "249 of 300"),
        ("model=lua&via=base", "50 of 300"),
        ("model=base&verdict=kept", "30 of 300"),
        ("model=base&verdict=found&edge=lua", "40 of 300"),
        ("model=base&verdict=found&edge=base", "0 of 300"),
        ("model=base&verdict=drifted", "30 of 300"),
        ("model=base&verdict=lost", "199 of 300"),
        ("model=base&verdict=dead", "1 of 300"),
        ("model=lua&verdict=there", "30 of 300"),
        ("model=lua&verdict=new", "269 of 300"),
        ("model=base&verdict=kept&reproducible=1", "10 of 300"),
        ("model=base&verdict=kept&by=paper", "300 of 300"),
        ("model=lua&category=word", "99 of 300"),
        ("model=lua&corpus=code&fate=inherited", "0 of 300"),
        ("model=*&single=1", "2 of 600"),
    ],
)
def test_filters_in_the_address(page, index, query, count):
    page.open(index, f"#browse?{query}")
    page.wait(f"{FOUND}.startsWith('{count} features')")


def test_filters_of_the_other_measure_are_hidden_and_do_not_count(page, index):
    page.open(index, "#browse?model=base&seed=0&verdict=kept")
    page.wait(f"{FOUND} === '30 of 300 features'")
    shown = "[...document.querySelectorAll('#filters label')].filter((e) => e.offsetParent).map((e) => e.firstChild.textContent.trim())"
    assert {"Verdict", "In"} <= set(page.run(shown)) and not {"Fate", "First seen in"} & set(page.run(shown))
    assert "verdict" in page.run("document.querySelector('#table .tabulator-header').innerText")
    filtered(page, "by", "paper")
    page.wait(f"{FOUND} === '300 of 300 features'")
    assert {"Fate", "First seen in"} <= set(page.run(shown)) and not {"Verdict", "In"} & set(page.run(shown))
    assert "r, parent" in page.run("document.querySelector('#table .tabulator-header').innerText")
    page.open(index, "#browse?model=lua&seed=0&fate=inherited")
    page.wait(f"{FOUND} === '50 of 300 features'")
    assert page.run("document.getElementById('filters').elements.by.value") == "paper"


def test_a_feature_shows_its_verdict_with_the_evidence(page, index):
    page.open(index, "#feature=base/0/6")
    page.wait(f"{HEADING} === 'base #6'")
    text = page.run("document.getElementById('feature').innerText").replace("\n", " ")
    for part in (
        "What became of it lua: found again", "r of its own dictionary 0.10", "best match in lua lua #6 r = 0.90", "direction of the match same",
        "cosine with it: decoder, encoder 0.50, –", "verdict on the held-out half found again", "lua: found again as lua #6 (r 0.95)",
        "reproducible yes",
    ):  # fmt: skip
        assert part in text, part
    assert "Goes on as" not in text, "the paper's measure is closed"
    page.open(index, "#feature=lua/0/10")
    page.wait(f"{HEADING} === 'lua #10'")
    text = page.run("document.getElementById('feature').innerText").replace("\n", " ")
    assert "Whether it was there before base: already there" in text and "new no" in text


def test_deep_link_opens_a_feature_with_its_lineage_and_contexts(page, index):
    page.open(index, "#feature=base/0/270")
    page.wait(f"{HEADING} === 'base #270'")
    text = page.run("document.getElementById('feature').textContent")
    for part in ("lua #270 r = 0.90", "persisting", "punctuation (80.0% of its activation)", "needle", "0.25"):
        assert part in text
    marked = page.run(
        "[...document.querySelectorAll('#feature .context .on')].map((e) => [e.textContent, e.style.getPropertyValue('--a')])"
    )
    assert marked == [["t6", "1.000"], ["t7", "0.250"]]
    page.run("document.querySelector('#feature details .tree a').click()")  # down the lineage
    page.wait(f"{HEADING} === 'lua #270'")
    assert "Comes from" in page.run("document.getElementById('feature').textContent")
    page.run("history.back()")
    page.wait(f"{HEADING} === 'base #270'")


def test_texts_of_corpora_tokens_and_language_models_stay_texts(page, index):
    page.run("window.alert = () => console.error('a text was run')")
    page.open(index, "#feature=base/0/5")
    page.wait(f"{HEADING} === 'base #5'")
    text = page.run("document.getElementById('feature').textContent")
    assert f"fires on {EVIL}" in text and EVIL in text and IMAGE.replace(" ", "·") in text
    assert IMAGE in page.run("document.querySelector('#feature .context').textContent")  # in a document
    page.open(index, "#feature=base/0/6")
    page.wait(f"{HEADING} === 'base #6'")
    assert f"No explanation: no answer {IMAGE}" in page.run("document.getElementById('feature').textContent")
    assert page.run("document.querySelectorAll('img[src=x], main script').length") == 0


def test_a_context_shows_characters_of_several_tokens_whole(page, tmp_path):
    given = content()
    pieces = [text.encode() for text in given["vocabulary"]]
    pieces[6:9] = [b" \xe6\x97", b"\xa5\xe6", b"\x9c\xac"]  # 日本 in three tokens, of which the window has two
    write(tmp_path / "report", **(given | {"vocabulary": Texts(pieces)}))
    page.open(tmp_path / "report" / "index.html", "#feature=base/0/270")
    page.wait(f"{HEADING} === 'base #270'")
    shown = page.run(
        "[...document.querySelectorAll('#feature .context span:not(.corpus)')].map((e) => [e.textContent, e.className, e.title])"
    )
    assert shown == [["t5", "", ""], [" 日\ufffd", "on", "2.00"]]


@pytest.mark.parametrize("name", ["base/0/300", "nobody/0/1", "base/9/1", "nonsense", "%3Cimg%20src=x%3E/0/1"])
def test_a_link_to_no_feature_says_so(page, index, name):
    page.open(index, f"#feature={name}")
    page.wait("document.querySelector('#feature [role=alert]')")
    assert "There is no" in page.run("document.querySelector('#feature').textContent") or "there is no" in page.run(
        "document.querySelector('#feature').textContent"
    )


def test_sorting_and_opening_by_keyboard(page, index):
    page.open(index, "#browse?model=base&seed=0")
    page.wait("document.querySelector('#table .tabulator-row')")
    page.run("document.querySelector('#table [tabulator-field=density]').focus()")
    for _ in range(2):  # ascending, then descending
        for kind in ("keyDown", "keyUp"):
            page.send(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
            )
    page.wait("document.querySelector('#table .tabulator-row a')?.textContent === 'base #298'")
    page.run("document.querySelector('#table .tabulator-row a').focus()")
    for kind in ("keyDown", "keyUp"):
        page.send("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    page.wait(f"{HEADING} === 'base #298'")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_and_dark(page, index, scheme):
    page.send("Emulation.setDeviceMetricsOverride", width=380, height=800, deviceScaleFactor=1, mobile=True)
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        page.open(index, "#feature=base/0/5")
        page.wait(f"{HEADING} === 'base #5'")
        assert page.run("document.documentElement.scrollWidth") == 380, "the page scrolls sideways"
        dark = page.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
        page.wait(
            "document.querySelector('#verdicts .main-svg') || (document.querySelector('#verdicts').scrollIntoView(), false)"
        )
        colour = page.run("getComputedStyle(document.querySelector('#verdicts .node-label')).fill")
        assert colour == page.run("getComputedStyle(document.body).color")
    finally:
        page.send("Emulation.clearDeviceMetricsOverride")
        page.send("Emulation.setEmulatedMedia", features=[])


def test_a_folder_that_lost_its_data_says_so(chromium, tmp_path, index):
    shutil.copytree(index.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("base.seed0.0.js"))
    chromium.open(tmp_path / "copy" / "index.html", "#feature=base/0/5")
    chromium.wait("/copied as a whole/.test(document.querySelector('#feature [role=alert]')?.textContent)")
    chromium.wait("document.getElementById('found').textContent !== 'Loading…'")


def test_a_folder_without_an_index_does_not_go_on_loading(chromium, tmp_path, index):
    shutil.copytree(index.parent, tmp_path / "copy", ignore=shutil.ignore_patterns("base.seed0.js"))
    chromium.open(tmp_path / "copy" / "index.html", "#browse?model=base&seed=0")
    chromium.wait(f"{FOUND} === 'The features could not be loaded.'")


def test_the_reason_for_effects_that_were_not_measured_is_shown(page, tmp_path):
    given = content()
    given["features"] = [
        one._replace(
            effects=one.effects.replace_schema_metadata({KEY: json.dumps({"not_measured": f"no way {IMAGE}"})})
        )
        for one in given["features"]
    ]
    write(tmp_path, **given)
    page.open(tmp_path / "index.html", "#feature=base/0/7")
    page.wait(f"{HEADING} === 'base #7'")
    assert f"Not measured: no way {IMAGE}." in page.run("document.getElementById('feature').textContent")


def test_what_scrolls_sideways_is_reached_by_keyboard_and_named(page, index):
    page.open(index)
    found = page.run("[...document.querySelectorAll('.scroll')].map((e) => [e.tabIndex, e.role, e.ariaLabel])")
    assert found and all(place[:2] == [0, "region"] and place[2] for place in found)


def test_a_change_of_colours_leaves_the_sankeys_buttons(page, index):
    page.open(index)
    page.wait("document.querySelectorAll('#verdicts .modebar-btn').length === 1")
    page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        page.wait(
            "getComputedStyle(document.querySelector('#verdicts .node-label')).fill === getComputedStyle(document.body).color"
        )
        assert page.run("document.querySelectorAll('#verdicts .modebar-btn').length") == 1
    finally:
        page.send("Emulation.setEmulatedMedia", features=[])


@pytest.mark.parametrize("name", ["stories260K", "Llama-3_2-1B-Instruct-finetuned", "m"])
def test_a_features_number_is_shown_however_long_its_models_name_is(page, tmp_path, name):
    """Of a name that is too long the end is cut, not the number behind it: whole in its cell, on one line, with five digits too."""
    given = content()
    flows = {kind: given["figures"][kind] for kind in ("verdicts", "sankey")}
    summary, flows = json.loads(json.dumps([given["summary"], flows]).replace('"lua"', json.dumps(name)))

    def renamed(table, *columns):
        for column in columns:
            values = [name if value == "lua" else value for value in table[column].to_pylist()]
            table = table.set_column(table.column_names.index(column), column, [values])
        return table

    flow = renamed(given["flow"], "model", "child")
    found = [one._replace(model=name) if one.model == "lua" else one for one in given["features"]]
    changes = {
        "summary": summary,
        "figures": given["figures"] | flows,
        "flow": flow,
        "lineages": untraced(renamed(given["lineages"], "model", "origin")),
        "features": found,
        "shown": [("base", 0), (name, 0)],
        "cases": [],
    }
    write(tmp_path / "report", **(given | changes))
    page.open(tmp_path / "report" / "index.html", f"#browse?model={name}&seed=0")
    page.wait(f"document.querySelector('#table .tabulator-row a')?.textContent === '{name} #0'")
    inside = page.run(
        "(() => { const link = document.querySelector('#table .tabulator-row a'), text = link.lastChild;"
        " text.textContent = text.textContent.replace('#0', '#16383'); const range = document.createRange();"
        " range.setStart(text, text.textContent.indexOf('#')); range.setEnd(text, text.textContent.length);"
        " const [place] = range.getClientRects(); const cell = link.closest('.tabulator-cell').getBoundingClientRect();"
        " return [place.right <= cell.right, place.left >= cell.left, place.width > 20, range.getClientRects().length === 1]; })()"
    )
    assert inside == [True, True, True, True]
