"""The report and the pages of figures in a real browser, full of texts that would do harm: all stay texts, nothing is asked for."""

import csv
import json
import shutil
import socket

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pytest
from chromium import CHROMIUM, Page
from reports import CASE, content, features, write

from feature_lineage.meaning.cases import TRACKING
from feature_lineage.report.figures import write_figure
from feature_lineage.text.shards import encode_corpus
from feature_lineage.text.tokenizer import save_tokenizer, train_tokenizer
from feature_lineage.text.vocabulary import token_texts
from feature_lineage.text.windows import Windows

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

CALL = "document.title='the attack worked'"
TAG = f"<script>{CALL}</script>"
ATTACKS = [
    TAG,
    f"</script>{TAG}<!--",
    f'<img src=x onerror="{CALL}">',
    f"<svg/onload={CALL}>",
    f'"><b autofocus tabindex=1 onfocus={CALL}>',
    f"' onmouseover='{CALL}",
    f'<a href="javascript:{CALL}">link</a>',
    f'<iframe srcdoc="{TAG}"></iframe>',
    f'<meta http-equiv=refresh content="0;url=javascript:{CALL}">',
    '<base href="https://x.invalid/"><link rel=stylesheet href=https://x.invalid/a.css>',
    "<style>*{background:url(https://x.invalid/leak)}</style>",
    '<img src="https://x.invalid/leak.png"><form action=https://x.invalid><input autofocus>',
    "]]><![CDATA[",
    "{{7*7}}{% raw %}${7*7}<%= 7*7 %>#{7*7}",
    f"\u2028{CALL}\u2029",
    f"`;{CALL};//",
    f"\\u003cscript>{CALL}",
    '=cmd|" /C calc"!A0',
    "\u202etxt.exe\u2066",
    "\x1b]0;title\x07\x00",
    "__proto__",
    "x" * 20_000,
]
HEADING = "document.querySelector('#feature h3')?.textContent"


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory, stdlib_texts, write_documents):
    """Documents that are attacks, through a tokenizer in which each is one token: windows of them, and the text of each token."""
    folder = tmp_path_factory.mktemp("hostile")
    documents = write_documents(folder / "train.parquet", [*stdlib_texts[:5], *ATTACKS])
    tokenizer = train_tokenizer([documents], 400)
    assert tokenizer.add_tokens(ATTACKS) == len(ATTACKS)
    save_tokenizer(tokenizer, folder / "tokenizer", {})
    write_documents(folder / "validation.parquet", [" ".join(ATTACKS[k:] + ATTACKS[:k]) for k in range(len(ATTACKS))])
    encode_corpus(folder / "validation.parquet", folder / "tokenizer", folder / "tokens", {})
    texts = token_texts(folder / "tokenizer" / "tokenizer.json")[0]
    windows = Windows({"c": folder / "tokens"}, 3)
    read = windows[np.arange(len(windows))]
    assert {texts[token] for token in read.ravel()} > set(ATTACKS), "each attack is one token of the documents"
    return texts, read


def hostile(vocabulary):
    """The report's content with an attack wherever a text of a corpus, a token or a language model is shown."""
    texts, windows = vocabulary
    numbers = [texts.index(attack) for attack in ATTACKS]
    windows = windows[np.isin(windows, numbers).any(1)]
    given = content()
    found = []
    for one in features():
        tables = {
            name: getattr(one, name).to_pylist() for name in ("contexts", "categories", "effects", "interpretations")
        }
        for row in tables["contexts"]:
            at = int(np.flatnonzero((windows == numbers[row["feature"] % len(numbers)]).any(1))[0])
            row["window"] = at
        for row in tables["categories"]:
            if row["tokens"]:
                row["tokens"] = [{"token": numbers[row["feature"] % len(numbers)], "share": 0.5}]
                row["category"] = ATTACKS[row["feature"] % 10]
        for row in tables["effects"]:
            for side in ("promoted", "suppressed"):
                row[side] = [{"token": numbers[row["feature"] % len(numbers)], "effect": 0.5}]
        tables["interpretations"] = [
            tables["interpretations"][k % 2]
            | {"feature": k, "model_used": TAG}
            | dict.fromkeys(("explanation", "reason"), attack)
            for k, attack in enumerate(ATTACKS)
        ]
        schemas = {name: getattr(one, name).schema for name in tables}
        found.append(one._replace(**{name: pa.Table.from_pylist(rows, schemas[name]) for name, rows in tables.items()}))
    nodes = [
        node
        | {
            "top_tokens": [{"text": attack, "share": 0.1} for attack in ATTACKS],
            "contexts": [{"corpus": "code", "tokens": ATTACKS, "activations": [1.0] * len(ATTACKS)}],
        }
        for node in CASE["nodes"]
    ]
    steps = [
        (f"Corpus {number}", [("license", attack), ("source.files", attack)]) for number, attack in enumerate(ATTACKS)
    ]
    return given | {
        "features": found,
        "vocabulary": texts,
        "sample": {"tokens": windows.astype(np.int32), "corpus": np.zeros(len(windows), np.int32)},
        "cases": [CASE | {"nodes": nodes, "hypothesis": "".join(ATTACKS), "tokens": ATTACKS}],
        "interpretations": {("base", 0): found[0].interpretations},
        "not_measured": {"ceiling": TAG},
        "steps": steps,
        "record": {"digest": "0" * 64, "parameters": {"note": "".join(ATTACKS)}},
    }  # fmt: skip


@pytest.fixture(scope="module")
def index(tmp_path_factory, vocabulary):
    folder = tmp_path_factory.mktemp("hostile-report")
    write(folder, **hostile(vocabulary))
    return folder / "index.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def page(chromium):
    chromium.errors.clear()
    chromium.requests.clear()
    return chromium


def outside(page):
    return [url for url in page.requests if not url.startswith(("file:", "data:", "about:", "blob:"))]


def test_no_text_in_the_report_runs_loads_or_becomes_an_element(page, index):
    page.open(index)
    title = page.run("document.title")
    page.wait("document.querySelector('#verdicts .main-svg')")
    for number, attack in enumerate(ATTACKS):
        page.run(f"location.hash = 'feature=base/0/{number}'")
        page.wait(f"{HEADING} === 'base #{number}'")
        shown = page.run("document.getElementById('feature').textContent")
        assert " ".join(attack.split())[:50] in " ".join(shown.split()) or not attack.isprintable()
    page.run("document.querySelectorAll('details').forEach((place) => { place.open = true; })")
    page.run("document.querySelectorAll('main *').forEach((e) => e.dispatchEvent(new MouseEvent('mouseover')))")
    odd = "main script, iframe, form[action], main img:not([src^='data:']), main base, main meta, main link, svg[onload], [onerror], [onfocus]"
    assert page.run(f"[...document.querySelectorAll({json.dumps(odd)})].map((e) => e.outerHTML)") == []
    assert (
        page.run(
            "[...document.querySelectorAll('[href]')].filter((e) => /^(javascript|data:text|http)/i.test(e.href)).length"
        )
        == 0
    )
    assert page.run("document.title") == title != "the attack worked"
    assert page.errors == [] and outside(page) == []
    assert page.run("document.body.innerText").count(CALL) > 10, "it is there, as text"


def test_control_characters_and_directions_of_writing_are_drawn(page, index):
    number = ATTACKS.index("\u202etxt.exe\u2066")
    page.open(index, f"#feature=base/0/{number}")
    page.wait(f"{HEADING} === 'base #{number}'")
    tokens = page.run("[...document.querySelectorAll('#feature .token')].map((e) => e.textContent)")
    assert "\\u202etxt.exe\\u2066" in tokens
    page.run(f"location.hash = 'feature=base/0/{number + 1}'")
    page.wait(f"{HEADING} === 'base #{number + 1}'")
    assert "\\x1b]0;title\\x07\\x00" in page.run("document.querySelector('#feature .token').textContent")
    first = page.run("document.querySelector('.node .context').textContent")  # by the template
    assert "\\u202etxt.exe\\u2066" in first and "\\x1b]0;title\\x07\\x00" in first


def asked(listener):
    """Whether anybody has connected."""
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("policy", [True, False])
def test_the_policy_stops_what_gets_into_the_page_all_the_same(page, index, tmp_path, policy):
    folder = tmp_path / "report"
    shutil.copytree(index.parent, folder)
    (tmp_path / "evil.js").write_text(CALL)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        planted = (
            f'{TAG}<script src="{(tmp_path / "evil.js").as_uri()}"></script><script src="{host}/evil.js" async></script>'
            f'<img src="{host}/a.png" onerror="{CALL}"><svg onload="{CALL}"></svg><iframe srcdoc="{TAG}"></iframe>'
            f'<i style="background: url({host}/b)">i</i><style>i {{ background: url({host}/c) }}</style>'
        )
        path = folder / "index.html"
        text = path.read_text(encoding="utf-8").replace("<main>", f"<main>{planted}", 1)
        path.write_text(text if policy else text.replace("Content-Security-Policy", "none", 1), encoding="utf-8")
        page.send("Page.navigate", url=path.as_uri())
        page.wait(
            "location.protocol === 'file:' && document.querySelector('#verdicts .main-svg')"
        )  # the page's own scripts run
        options = {"awaitPromise": True, "returnByValue": True, "allowUnsafeEvalBlockedByCSP": False}
        for attempt in (f"eval({CALL!r})", f"new Function({CALL!r})()", f"fetch('{host}/d')"):
            page.send(
                "Runtime.evaluate",
                expression=f"(async () => {attempt})().catch(() => 0)",
                **options | {"awaitPromise": policy},
            )
        assert (page.run("document.title") != "the attack worked") == policy
        assert asked(listener) != policy, "what is planted here does harm where there is no policy"
    page.send("Page.navigate", url="about:blank")


def test_no_text_in_a_figures_page_runs_or_loads(page, tmp_path):
    figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2], text=ATTACKS[:2], mode="text", name="".join(ATTACKS[:12])))
    figure.update_layout(title={"text": "".join(ATTACKS[:12])}, showlegend=True)
    write_figure(figure, tmp_path / "figure.json", tmp_path / "figure.html", {"note": "".join(ATTACKS)})
    page.open(tmp_path / "figure.html")
    page.wait("document.querySelector('.main-svg')")
    assert page.run("document.title") != "the attack worked"
    assert (
        page.run("document.querySelectorAll('.main-svg script, .main-svg img, iframe, [onerror], [onload]').length")
        == 0
    )
    assert (
        page.run(
            "[...document.querySelectorAll('a')].filter((e) => e.href.baseVal ?? /^javascript/i.test(e.href)).length"
        )
        == 0
    )
    assert (
        page.run(
            "Plotly.toImage(document.querySelector('.js-plotly-plot'), { format: 'svg' }).then((text) => text.length)"
        )
        > 1000
    )
    assert page.errors == [] and outside(page) == []


def test_the_policy_of_a_figures_page_allows_its_own_scripts_alone(page, tmp_path):
    write_figure(go.Figure(go.Scatter(x=[1], y=[1])), tmp_path / "figure.json", tmp_path / "figure.html", {})
    path = tmp_path / "figure.html"
    path.write_text(
        path.read_text(encoding="utf-8").replace(
            "</body>", f'{TAG}<img src=https://x.invalid/a onerror="{CALL}"></body>'
        ),
        encoding="utf-8",
    )
    page.open(path)
    page.wait("document.querySelector('.main-svg')")
    assert page.run("document.title") != "the attack worked"
    assert len([error for error in page.errors if "Content Security Policy" in error]) >= 2


def test_no_cell_of_a_table_for_spreadsheets_is_a_formula(tmp_path):
    rows = [
        {name: None for name in TRACKING.names}
        | {"model": "m", "feature": 1, "top_tokens": [{"text": text, "share": 0.1}]}
        for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=cmd|" /C calc"!A0')
    ]
    write(tmp_path, **content() | {"tracking": {"c": pa.Table.from_pylist(rows, TRACKING)}})
    with (tmp_path / "figures" / "case-c.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert any("=cmd|" in cell for cell in cells)
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
