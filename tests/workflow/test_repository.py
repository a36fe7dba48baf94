"""The workflow's own files: linted, formatted, complete; profiles and configs that plan a run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_study import CHECKOUT, SNAKEMAKE, environment, read_plan

from feature_lineage.study.loading import load_study

RULES = [
    pytest.param(name, body, id=name)
    for path in sorted((CHECKOUT / "workflow" / "rules").glob("*.smk"))
    for name, body in re.findall(r"^ *rule (\w+):\n((?:(?: {4,}.*)?\n)+)", path.read_text(), re.MULTILINE)
]
CONTROLS = {  # what `make controls` adds to the demo
    name
    for name in re.findall(
        r"^ *rule (\w+):", (CHECKOUT / "workflow" / "rules" / "controls.smk").read_text(), re.MULTILINE
    )
}
SWITCHED_OFF = {"build_model", "compare_baseline"}  # by default, as they cost an autoencoder
NO_BROWSER = {"export_figures"}


def tool(name, *arguments, cwd=CHECKOUT):
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{name} is not installed beside {sys.executable}")
    done = subprocess.run([path, *arguments], cwd=cwd, env=environment(), capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [["check", "."], ["format", "--check", "."]], ids=" ".join)
def test_ruff_has_nothing_to_say(arguments):
    code, output = tool("ruff", *arguments)
    assert code == 0, output


def test_snakefmt_would_leave_the_rules_as_they_are():
    code, output = tool("snakefmt", "--check", "Snakefile", "workflow")
    assert code == 0, output


def test_snakemake_lint_has_nothing_to_say(bare):
    code, output = tool("snakemake", "--lint", cwd=bare.root)
    assert code == 0, output
    assert "in a good condition" in output


@pytest.mark.parametrize("profile", ["local", "slurm"])
@pytest.mark.parametrize("config", ["config.yaml", "config.yaml controls.yaml", "paper.yaml"])
def test_a_dry_run_plans_every_step_of_a_study(bare, profile, config):
    if not (bare.root / "profiles" / profile).exists():
        pytest.skip(f"there is no profiles/{profile}")
    if profile == "slurm":
        pytest.importorskip("snakemake_executor_plugin_slurm", reason="the SLURM plugin is not installed")
    # The default study needs no --configfile.
    chosen = ["--configfile", *(f"config/{name}" for name in config.split())] if config != "config.yaml" else []
    run = subprocess.run(
        [SNAKEMAKE, "-n", "--profile", f"profiles/{profile}", *chosen],
        cwd=bare.root,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    planned = {job.split()[0] for job in read_plan(run.stdout + run.stderr)}
    every = {rule.values[0] for rule in RULES}
    optional = {"import_model", "import_adapter", "keep_model", "import_tokenizer", "check_hook"}
    optional |= {"train_tokenizer", "correlate_part", "import_autoencoder", "check_autoencoder"}
    optional |= SWITCHED_OFF | NO_BROWSER
    if config == "config.yaml":
        optional |= CONTROLS
    assert every - planned <= optional


def test_rules_are_found():
    assert len(RULES) >= 20


@pytest.mark.parametrize(("name", "body"), RULES)
def test_a_rule_its_script_its_log_and_its_benchmark_share_one_name(name, body):
    found = dict(re.findall(r'^ +(script|log|benchmark):\s*\n\s*[^"\n]*"([^"]+)"', body, re.MULTILINE))
    assert set(found) == {"script", "log", "benchmark"}
    assert found["script"] == f"../scripts/{name}.py"
    assert (CHECKOUT / "workflow" / "scripts" / f"{name}.py").is_file()
    for kind, folder in (("log", "logs"), ("benchmark", "benchmarks")):
        assert re.search(rf"{folder}[>]?/{name}(/|\.)", found[kind]), found[kind]
    assert f'code("{name}")' in body, "the rule does not rerun when its code changes"


@pytest.mark.parametrize("path", sorted((CHECKOUT / "workflow" / "rules").glob("*.smk")), ids=lambda path: path.stem)
def test_a_rule_made_from_another_has_a_log_and_a_benchmark_of_its_own(path):
    for name, body in re.findall(
        r"^use rule \w+ as (\w+) with:\n((?:(?: {4,}.*)?\n)+)", path.read_text(), re.MULTILINE
    ):
        found = dict(re.findall(r'^ +(log|benchmark):\s*\n\s*"([^"]+)"', body, re.MULTILINE))
        assert found.keys() == {"log", "benchmark"}
        assert found["log"].startswith(f"<logs>/{name}/") and found["benchmark"].startswith(f"<benchmarks>/{name}/")


def test_every_script_has_its_rule():
    scripts = {path.stem for path in (CHECKOUT / "workflow" / "scripts").glob("*.py")}
    assert scripts == {rule.values[0] for rule in RULES}


def test_every_test_that_the_docs_name_exists():
    named = {
        (file, test)
        for page in [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("*.md")]
        for file, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text())
    }
    assert len(named) > 60
    missing = {
        f"{file}::{test}"
        for file, test in named
        if not (CHECKOUT / file).exists() or (test and f"def {test}(" not in (CHECKOUT / file).read_text())
    }
    assert not missing, missing


BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CHANGELOG.md", CHECKOUT / "config" / "README.md"]
PAGES += sorted((CHECKOUT / "docs").glob("*.md"))


def links_of(page):
    """Where a page's links and pictures lead in this repository: (path, anchor). Code blocks and code spans hold none."""
    prose = re.sub(r"`[^`\n]*`", "``", BLOCK.sub("", page.read_text()))
    found = re.findall(r"\]\(\s*([^)\s]+)", prose)
    return [target.partition("#")[::2] for target in found if not re.match(r"[a-z]+:", target)]


def anchors_of(page):
    """Anchors of a page's headings, as GitHub makes them: lower case, spaces to hyphens, other punctuation gone."""
    seen, anchors = {}, set()
    for title in re.findall(r"^#{1,6} +(.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
        again = seen[anchor] = seen.get(anchor, -1) + 1
        anchors.add(f"{anchor}-{again}" if again else anchor)
    return anchors


def test_the_readme_is_short():
    assert len((CHECKOUT / "README.md").read_text().splitlines()) <= 120


def test_the_study_in_the_readme_is_one():
    (text,) = re.findall(r"^```yaml\n(.*?)^```", (CHECKOUT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert load_study(yaml.safe_load(text)).edges() == [("base", "lawyer")]


def test_every_page_of_the_docs_is_linked_from_the_readme():
    linked = {CHECKOUT / path for path, _ in links_of(CHECKOUT / "README.md")}
    missing = {str(page) for page in PAGES[1:] if page not in linked}
    assert not missing, missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page):
    broken = []
    for path, anchor in links_of(page):
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(CHECKOUT.resolve()) or not target.exists():
            broken.append(f"{path}: no such file")
        elif anchor and anchor not in anchors_of(target):
            broken.append(f"{path}#{anchor}: no such heading")
    assert not broken, broken


def test_links_are_found():
    assert len(links_of(CHECKOUT / "README.md")) >= 12
    assert len(links_of(CHECKOUT / "config" / "README.md")) >= 12
