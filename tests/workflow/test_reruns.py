"""What reruns, and what does not: the design's sentences, each asked of a dry run after the tiny study is complete."""

from __future__ import annotations

import shutil

import pytest

LIBRARY = "src/feature_lineage"
MODELS = ("base", "coder", "writer", "both")


def rules(plan):
    return {job.split()[0] for job in plan}


def autoencoder_jobs(model, seed=0):
    return {f"{rule} {model} {seed}" for rule in ("train_autoencoder", "evaluate_autoencoder")} | {
        f"collect_features {model} {seed} validation"
    }


def correlation(parent, child, seed=0):
    return f"correlate validation {parent} {seed} {child} {seed}"


EDGES = [("base", "coder"), ("base", "writer"), ("coder", "both"), ("writer", "both")]
FLOWS = {"trace_flows", "draw_sankey", "write_report"}


def test_nothing_to_do_after_a_full_run(study):
    assert study.plan() == {}


def test_comments_docstrings_and_layout_rerun_nothing(copy):
    for path in (copy.root / LIBRARY).glob("*.py"):
        text = path.read_text()
        if '"""' in text:
            text = text.replace('"""', '"""Reworded: ', 1)
        path.write_text(f"# A comment at the head.\n\n{text}\n\n\n# A comment at the end.\n")
    copy.edit(
        f"{LIBRARY}/autoencoder.py",
        "def encode(self, x: torch.Tensor)",
        "def encode(\n        self,\n        x: torch.Tensor)",
    )
    for path in (copy.root / "workflow" / "scripts").glob("*.py"):
        path.write_text(path.read_text() + "\n# Another comment.\n")
    for path in (copy.root / "workflow" / "rules").glob("*.smk"):
        path.write_text(path.read_text() + "\n# Another comment.\n")
    assert copy.plan() == {}


def test_a_figure_edited_redraws_and_nothing_else(copy):
    copy.add_statement(f"{LIBRARY}/figures.py", "sankey")
    assert rules(copy.plan()) == {
        "draw_sankey",
        "draw_sweep",
        "draw_training",
        "draw_autoencoders",
        "write_report",
    }


@pytest.mark.parametrize("function", ["encode", "loss_and_gradients"])
def test_the_autoencoder_edited_reruns_every_autoencoder_and_what_hangs_on_it(copy, function):
    copy.add_statement(f"{LIBRARY}/autoencoder.py", function)
    expected = {job for model in MODELS for job in autoencoder_jobs(model)} | {correlation(*edge) for edge in EDGES}
    assert set(copy.plan()) == expected | FLOWS | {"draw_autoencoders"}


def test_a_script_edited_reruns_its_own_rule_and_what_hangs_on_it(copy):
    copy.add_statement("workflow/scripts/trace_flows.py", "main")
    assert set(copy.plan()) == FLOWS


def test_a_model_added_adds_its_jobs_and_reruns_none_that_stand(study):
    new = dict(study.config["models"]["coder"])
    study = type(study)(study.root)
    study.config["models"]["again"] = new
    plan = study.plan()
    own = {"train_model again", "evaluate_model again", correlation("base", "again")} | autoencoder_jobs("again")
    assert set(plan) == own | FLOWS | {"draw_training", "draw_autoencoders"}
