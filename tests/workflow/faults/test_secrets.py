"""A study of hostile documents, tokens, names and replies, from corpora to the report: nothing of it runs, and the key is nowhere."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from urllib.parse import quote

import pytest
from chromium import CHROMIUM, Page
from scripted_endpoint import KEY, KEY_ENV, completion, serve, status
from test_interpretations import script as honest
from tiny_study import environment

from feature_lineage.artifacts import read_table
from feature_lineage.contexts import token_texts

CALL = "document.title='the attack worked'"
TAG = f"<script>{CALL}</script>"
ATTACKS = [TAG, f'<img src=x onerror="{CALL}">', "{{7*7}}${7*7}", "\x1b]0;title\x07", "\u202etxt.exe"]
SHELL = ["$(touch pwned-1)", "`touch pwned-2`", "; touch pwned-3 #", "' touch pwned-4 '", "a\nb | touch pwned-5"]
FORMS = [KEY, quote(KEY, safe=""), base64.b64encode(KEY.encode()).decode().rstrip("=")]
BASE = "results/tiny/interpretations/base/seed0.parquet"


def told(body, number):
    """An endpoint that quotes the key and tells the reader's browser, shell and template engine what to do."""
    user = body["messages"][1]["content"]
    if "What does the feature respond to?" in user:
        return completion(
            f"{TAG} {ATTACKS[number % len(ATTACKS)]} {SHELL[number % len(SHELL)]} {FORMS[number % len(FORMS)]} {number}"
        )
    return honest(body, number)


def holding_the_key(place):
    files = [path for path in place.root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(".snakemake" in path.parts for path in files)
    return [str(path) for path in files if any(form.encode() in path.read_bytes() for form in FORMS)]


@pytest.fixture(scope="module")
def hostile(bare, tmp_path_factory):
    """The study, run to its end."""
    from transformers import AutoTokenizer

    from feature_lineage.corpora import build_corpus, documents_of
    from feature_lineage.tokens import train_tokenizer

    place = bare.copy(tmp_path_factory.mktemp("hostile") / "study")
    data = place.root / "data"
    build_corpus(
        documents_of("files", {"files": str(data / "prose.jsonl")}),
        data / "prose.parquet", data / "held-out.parquet", {}, name="prose", validation_share=0.2,
    )  # fmt: skip
    tokenizer = train_tokenizer([data / "prose.parquet"], 400)
    tokenizer.add_tokens(ATTACKS)
    tokenizer.save_pretrained(data / "tokenizer")
    (data / "tokenizer" / "evil.py").write_text("import os\nos.mkdir('pwned-6')\n")
    config = json.loads((data / "tokenizer" / "tokenizer_config.json").read_text())
    config["auto_map"] = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (data / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(data / "tokenizer").get_vocab().keys() > set(ATTACKS)

    for number, name in enumerate(SHELL):
        (data / f"{name}.txt").write_text(" ".join(ATTACKS) + f" {number}")
    with (data / "odd.jsonl").open("w") as file:
        for number in range(150):
            texts = [f"{ATTACKS[(number + k) % len(ATTACKS)]} word {number}" for k in range(12)]
            file.write(json.dumps({"text": " ".join(texts), "license": ATTACKS[number % 3]}) + "\n")
    license = f"{TAG} {SHELL[0]} {SHELL[1]}"
    config = place.config
    config["corpora"]["code"] = {"files": ["data/odd.jsonl", *(f"data/{name}.txt" for name in SHELL)]}
    config["corpora"]["code"] |= {"license": license, "validation": 0.3}
    config["tokenizer"] = {"pretrained": "data/tokenizer"}
    config["models"] = {name: config["models"][name] for name in ("base", "coder")}
    config["cases"] = {"tag": {"tokens": [TAG, SHELL[0], f" {TAG}"]}}
    config["interpretation"] = {"model": f"scripted {TAG} {SHELL[0]}", "key_env": KEY_ENV, "features": 4}
    config["interpretation"] |= {"prompt_price": 0, "completion_price": 0}
    with pytest.MonkeyPatch.context() as patch, serve(told) as server:
        patch.setenv(KEY_ENV, KEY)
        patch.setenv("OPENAI_LOG", "debug")
        config["interpretation"]["base_url"] = server.url
        run = place.snakemake("-c2", "--show-failed-logs", "--printshellcmds", "--verbose")
        story = {"place": place, "run": run, "keys": set(server.keys)}
    assert run.code == 0, run
    return story


def test_a_hostile_study_runs_to_its_report_and_nothing_of_it_is_run(hostile):
    place = hostile["place"]
    assert [str(path) for path in place.root.rglob("pwned*")] == []
    texts = token_texts(place.results / "tokenizer" / "tokenizer.json")[0]
    assert TAG in texts
    explained = read_table(place.root / BASE)["explanation"].to_pylist()
    assert any(text and TAG in text for text in explained)
    licences = read_table(place.results / "corpora" / "code" / "train.parquet")["license"].to_pylist()
    assert f"{TAG} {SHELL[0]} {SHELL[1]}" in licences


def test_the_key_is_in_no_file_and_no_output_though_the_endpoint_quotes_it(hostile):
    assert hostile["keys"] == {f"Bearer {KEY}"}
    assert holding_the_key(hostile["place"]) == []
    assert [form for form in FORMS if form in hostile["run"].output] == []
    assert "***" in (hostile["place"].results / "interpretations" / ".replies" / "base.seed0.jsonl").read_text()


def test_nobody_else_can_write_what_was_made(hostile):
    loose = [
        path for path in hostile["place"].results.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o002
    ]
    assert loose == []


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_its_report_shows_all_as_text_and_asks_for_nothing(hostile, tmp_path):
    report = hostile["place"].results / "report" / "index.html"
    figures = sorted((hostile["place"].results / "figures").glob("*.html"))
    assert len(figures) >= 4
    page = Page(tmp_path / "profile")
    try:
        page.open(report, "#browse?model=base&seed=0&q=script")
        page.wait("document.querySelector('#table .tabulator-row a')")
        page.run("document.querySelector('#table .tabulator-row a').click()")
        page.wait("document.querySelector('#feature h3')")
        page.run("document.querySelectorAll('details').forEach((place) => { place.open = true; })")
        page.wait("document.querySelector('#sankey .main-svg')")
        text = page.run("document.body.innerText")
        assert TAG in text and "\\u202etxt.exe" in text and "***" not in page.run("document.title")
        assert page.run("document.querySelectorAll('main script, iframe, [onerror], main img').length") == 0
        assert page.run("document.title").startswith("tiny")
        for figure in figures:
            page.open(figure)
            page.wait("document.querySelector('.main-svg')")
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith(("file:", "data:", "about:", "blob:"))] == []
    finally:
        page.close()


def test_the_key_is_in_no_file_of_a_run_that_is_refused_or_interrupted(hostile, tmp_path, monkeypatch):
    place = hostile["place"].copy(tmp_path / "copy")
    monkeypatch.setenv(KEY_ENV, KEY)
    monkeypatch.setenv("OPENAI_LOG", "debug")
    shutil.rmtree(place.results / "interpretations")
    with serve(lambda body, number: status(401, f"Incorrect API key: {' '.join(FORMS)}", FORMS[2])) as server:
        place.config["interpretation"]["base_url"] = server.url
        run = place.snakemake("-c1", "--show-failed-logs", "--verbose", BASE)
    assert run.code != 0 and "Incorrect API key: *** ***" in run.output and "unexpected error" not in run.output, run
    assert [form for form in FORMS if form in run.output] == []
    with serve(lambda body, number: told(body, number) | {"wait": 0.5}) as server:
        place.config["interpretation"] |= {"base_url": server.url, "parallel": 1}
        process = place.start("-c1", "--verbose", BASE)
        end = time.monotonic() + 120
        while len(server.bodies) < 2 and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(120) != 0
        assert server.bodies
    assert holding_the_key(place) == []


def test_snakemakes_own_report_holds_neither_key_nor_markup(hostile, monkeypatch):
    place = hostile["place"]
    monkeypatch.setenv(KEY_ENV, KEY)
    run = place.snakemake("--report", "snakemake-report.html")
    assert run.code == 0, run
    assert holding_the_key(place) == []
    assert TAG not in (place.root / "snakemake-report.html").read_text()


def test_python_in_a_config_file_does_not_run(bare, tmp_path):
    place = bare.copy(tmp_path / "place")
    for text in (
        "study: !!python/object/apply:os.mkdir [pwned]\n",
        "study: !!python/name:os.system\n",
        "__use_yte__: true\n__definitions__:\n- import os\n- os.mkdir('pwned')\nstudy: ?os.mkdir('pwned')\n",
    ):
        (place.root / "evil.yaml").write_text(text)
        command = [place.command()[0], "-n", "--configfile", "evil.yaml"]
        done = subprocess.run(command, cwd=place.root, env=environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode != 0 and not (place.root / "pwned").exists(), done.stderr
