"""A study whose language model is hostile and whose config tries a shell: nothing of it runs, and the key is nowhere."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import time
from urllib.parse import quote

import pytest
from chromium import CHROMIUM, Page
from scripted_endpoint import KEY, KEY_ENV, completion, serve, status
from tiny_study import environment

from feature_lineage.store.formats import read_table

CALL = "document.title='the attack worked'"
TAG = f"<script>{CALL}</script>"
ATTACKS = [TAG, f'<img src=x onerror="{CALL}">', "{{7*7}}${7*7}", "\x1b]0;title\x07", "\u202etxt.exe"]
SHELL = ["$(touch pwned-1)", "`touch pwned-2`", "; touch pwned-3 #", "' touch pwned-4 '", "a\nb | touch pwned-5"]
FORMS = [KEY, quote(KEY, safe=""), base64.b64encode(KEY.encode()).decode().rstrip("=")]
REPORT = "results/tiny/report/index.html"
BASE = "results/tiny/interpretations/base/seed0.parquet"


def told(body, number):
    """An endpoint that quotes the key and tells the reader's browser, shell and template engine what to do."""
    system, user = (message["content"] for message in body["messages"])
    if "one line for each numbered token" in system:  # an endpoint of which no simulation can be read ends the job
        numbered = re.findall(r"^(\d+)\t", user, re.MULTILINE)
        return completion("\n".join(f"{token}\t{int(token) % 7}" for token in numbered))
    if "What does the feature respond to?" in user:
        return completion(
            f"{TAG} {ATTACKS[number % len(ATTACKS)]} {SHELL[number % len(SHELL)]} {FORMS[number % len(FORMS)]} {number}"
        )
    return completion(f"{TAG} [1] {FORMS[0]}")


def holding_the_key(place):
    files = [path for path in place.root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(".snakemake" in path.parts for path in files)
    return [str(path) for path in files if any(form.encode() in path.read_bytes() for form in FORMS)]


@pytest.fixture(scope="module")
def hostile(study, tmp_path_factory):
    """The study, explained by that endpoint up to the report."""
    place = study.copy(tmp_path_factory.mktemp("hostile") / "study")
    block = {
        "model": f"scripted {TAG} {SHELL[0]}",
        "key_env": KEY_ENV,
        "features": 2,
        "prompt_price": 0,
        "completion_price": 0,
    }
    with pytest.MonkeyPatch.context() as patch, serve(told) as server:
        patch.setenv(KEY_ENV, KEY)
        patch.setenv("OPENAI_LOG", "debug")
        place.config["interpretation"] = block | {"base_url": server.url}
        run = place.snakemake("-c2", "--show-failed-logs", "--printshellcmds", "--verbose", REPORT)
        story = {"place": place, "run": run, "keys": set(server.keys)}
    assert run.code == 0, run
    return story


def test_what_a_language_model_says_is_shown_and_not_done(hostile):
    explained = read_table(hostile["place"].root / BASE)["explanation"].to_pylist()
    assert any(text and TAG in text for text in explained)
    assert [str(path) for path in hostile["place"].root.rglob("pwned*")] == []


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
    feature = read_table(hostile["place"].root / BASE)["feature"].to_pylist()[0]
    page = Page(tmp_path / "profile")
    try:
        page.open(hostile["place"].root / REPORT, f"#feature=base/0/{feature}")
        page.wait("document.querySelector('#feature h3')")
        page.run("document.querySelector('#verdicts').scrollIntoView()")  # figures are drawn when they come into view
        page.wait("document.querySelector('#verdicts .main-svg')")
        assert TAG in page.run("document.querySelector('#feature').textContent")
        assert page.run("document.querySelectorAll('main script, iframe, [onerror], main img').length") == 0
        assert page.run("document.title").startswith("tiny")
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


def test_snakemakes_own_report_does_not_hold_the_key(hostile):
    place = hostile["place"]
    run = place.snakemake("--report", "snakemake-report.html", REPORT)
    assert run.code == 0, run
    assert holding_the_key(place) == []


def test_no_name_or_text_of_a_config_reaches_a_shell(bare, tmp_path):
    place = bare.copy(tmp_path / "place")
    files = [f"data/{name}.txt" for name in SHELL if "\n" not in name]  # no path is of two lines
    for number, file in enumerate(files):
        (place.root / file).write_text(f"Some text, the {number}th.")
    files += ["data/prose.jsonl"]
    place.config["corpora"]["prose"] = {"files": files, "license": "".join(SHELL), "validation": 0.3}
    place.config["cases"]["article"] = {"tokens": SHELL}
    place.config["interpretation"] = {"model": "".join(SHELL), "prompt_price": 0, "completion_price": 0}
    documents = "results/tiny/corpora/prose/train.parquet"
    run = place.snakemake("-c1", "--printshellcmds", documents)
    assert run.code == 0, run
    assert set(read_table(place.root / documents)["license"].to_pylist()) == {"".join(SHELL)}
    assert [path.name for path in place.root.rglob("pwned*")] == []


def test_a_tag_in_a_config_file_makes_no_python_object(bare, tmp_path):
    place = bare.copy(tmp_path / "place")
    (place.root / "evil.yaml").write_text("study: !!python/object/apply:os.mkdir [pwned]\n")
    command = [place.command()[0], "-n", "--configfile", "evil.yaml"]
    done = subprocess.run(command, cwd=place.root, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0 and "not valid JSON or YAML" in done.stdout + done.stderr
    assert not (place.root / "pwned").exists()
