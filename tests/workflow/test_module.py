"""The study as a part of somebody else's workflow, in another folder than the checkout."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from tiny_study import MINUTES, SNAKEMAKE, STUDY, Run, Workplace, environment, read_plan

from feature_lineage.study.measures import Controls

REPORTING = "import feature_lineage\n\nprint('runs', feature_lineage.__file__)\n\n\ndef main"
MODULE = """
module {name}:
    snakefile: "../checkout/Snakefile"
    config: config["{name}"]
{more}
use rule * from {name} as {name}_*
"""
HOST = """
configfile: "host.yaml"

rule all:
    input: "edges.txt"
{modules}
rule edges:
    input: rules.lineage_trace_flows.output[0], {targets}
    output: "edges.txt"
    shell: "wc -c < {{input[0]}} > {{output}}"
"""


@dataclass
class Host:
    """A folder with a workflow that uses a checkout beside it."""

    root: Path
    checkout: Workplace

    def write(self, snakefile: str, **studies) -> None:
        (self.root / "Snakefile").write_text(snakefile)
        (self.root / "host.yaml").write_text(yaml.safe_dump(studies, sort_keys=False))

    def snakemake(self, *arguments: str) -> Run:
        done = subprocess.run(
            [SNAKEMAKE, *arguments, "--workflow-profile", "../checkout/profiles/default"],
            cwd=self.root,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=15 * MINUTES,
        )
        return Run(done.returncode, done.stdout)


@pytest.fixture
def host(bare, tmp_path) -> Host:
    checkout = bare.copy(tmp_path / "checkout")
    (tmp_path / "host").mkdir()
    (checkout.root / "data").rename(tmp_path / "host" / "data")  # where the study is run
    return Host(tmp_path / "host", checkout)


def workflow(*modules):
    targets = ", ".join(
        f"rules.{line.split()[1][:-1]}_all.input"
        for module in modules
        for line in module.splitlines()
        if line.startswith("module")
    )
    return HOST.format(modules="".join(modules), targets=targets)


def module(name, more=""):
    return MODULE.format(name=name, more=more)


def study(**changes):
    return json.loads(json.dumps(STUDY)) | changes


def test_a_whole_study_runs_as_a_module_in_another_folder(host):
    """Scripts, captions, environment and library are the checkout's, data and results are in the importing folder.

    Once scripts and `src` were looked for in the folder of the importing workflow, and the library was that of another checkout.
    """
    host.checkout.edit("workflow/scripts/build_corpus.py", "def main", REPORTING)
    before = {path for path in host.checkout.root.rglob("*") if "__pycache__" not in path.parts}
    code = {name: STUDY["models"][name] | {"train": ["code"]} for name in ("base", "coder")}
    corpora = {"code": STUDY["corpora"]["code"]}
    small = study(corpora=corpora, models=code, cases={}, tokenizer={"train": ["code"], "vocab_size": 400})
    small["flow"] |= {"corpora": ["code"], "bootstrap": 0}
    host.write(workflow(module("lineage")), lineage=small)

    run = host.snakemake("-c2")
    assert run.code == 0, run
    library = host.checkout.root / "src" / "feature_lineage" / "__init__.py"
    assert run.output.splitlines().count(f"runs {library}") == 1, run
    assert int((host.root / "edges.txt").read_text()) > 0
    assert (host.root / "results" / "tiny" / "report" / "index.html").is_file()
    assert {path for path in host.checkout.root.rglob("*") if "__pycache__" not in path.parts} == before
    assert "localrules" not in run.output

    run = host.snakemake("-n")
    assert run.code == 0 and "Nothing to be done" in run.output, run
    run = host.snakemake("--report", "report.zip")
    assert run.code == 0 and (host.root / "report.zip").stat().st_size, run


def test_two_studies_are_modules_of_one_workflow_that_keeps_its_own_target(host):
    """One of them with a prefix, which is before its results and not before what it reads."""
    snakefile = workflow(module("lineage"), module("other", '    prefix: "there"\n'))
    every = dict.fromkeys(Controls.model_fields, True)
    seeds = STUDY["autoencoder"] | {"seeds": [0, 1]}
    studies = {name: study(study=name, controls=every, autoencoder=seeds) for name in ("lineage", "other")}
    host.write(snakefile, **studies)
    run = host.snakemake("-n")
    assert run.code == 0, run
    jobs = read_plan(run.output)
    ours, others = ({job.split("_", 1)[1] for job in jobs if job.startswith(name)} for name in ("lineage", "other"))
    assert ours - {"all"} == others - {"all"} and "train_autoencoder both 0" in ours and "edges" in jobs
    assert "output: there/results/other/report/index.html, " in run.output
    assert "input: data/prose.jsonl" in run.output and "there/data" not in run.output


def test_what_is_wrong_with_a_module_is_said_of_its_own_part(host):
    """No config at all; a key of the study twice; the host's own keys are its own business; a second checkout."""
    host.write(module("lineage").replace('    config: config["lineage"]\n', ""))
    run = host.snakemake("-n")
    assert run.refused() and "study: found nothing" in run.output and "module lineage" in run.output, run

    host.write(workflow(module("lineage")), lineage=study())
    own = (host.root / "host.yaml").read_text()
    (host.root / "host.yaml").write_text(f"mine: 1\nmine: 2\n{own}")
    run = host.snakemake("-n")
    assert run.code == 0, run
    (host.root / "host.yaml").write_text(f"{own}  seed: 1\n  seed: 2\n")
    run = host.snakemake("-n")
    assert run.refused() and "lineage.seed: found in lines" in run.output, run

    host.checkout.copy(host.root.parent / "second")
    second = module("other").replace("../checkout", "../second")
    host.write(workflow(module("lineage"), second), lineage=study(), other=study(study="other"))
    run = host.snakemake("-n")
    assert run.refused() and "must be of one checkout" in run.output, run
