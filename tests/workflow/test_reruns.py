"""What reruns, and what does not: the design's sentences, each asked of a dry run after the tiny study is complete."""

from __future__ import annotations

import shutil

import pytest
from reworded import reword

from feature_lineage.store.checksums import sha256
from feature_lineage.store.formats import read_provenance

LIBRARY = "src/feature_lineage"
MODELS = ("base", "coder", "writer", "both")
EDGES = (("base", "coder"), ("base", "writer"), ("coder", "both"), ("writer", "both"))
PASSED_DOWN = (("base", "both"),)  # the root's autoencoder reads what comes from its children
CASE = "find_case article"
INTERPRETATIONS = {"plot_scores", *(f"interpret_features {model} 0" for model in MODELS)}
SUMMARY = {
    "summarise_flows",
    "plot_verdicts",
    "plot_sankey",
    "plot_curves",
    "write_report",
    "tabulate_figures",
}  # and what reads the flow's numbers alone
FLOWS = {"trace_flows", "count_categories", CASE} | SUMMARY | INTERPRETATIONS
CHANGED = "Params have changed"


def features(model, seed=0):
    """Jobs of a model's autoencoder."""
    jobs = {f"train_autoencoder {model} {seed}", f"evaluate_autoencoder {model} {seed}"}
    rules = ["collect_features", "weigh_tokens"]
    if not seed:  # what a reader looks at is of the first seed alone
        rules += ["collect_contexts", "categorise_features", "weigh_logits"]
    return jobs | {f"{rule} {model} {seed} validation" for rule in rules}


def correlations(*edges, seed=0):
    """Jobs of some edges: each edge's correlations, what each side's autoencoder reads on the other, and what they come to."""
    found = {f"correlate validation {parent} {seed} {child} {seed}" for parent, child in edges}
    back = [(child, parent) for parent, child in edges]
    return found | readings(*edges, *back, seed=seed) | verdicts(*edges, seed=seed) | bootstraps(*edges, seed=seed)


def passed_down(seed=0):
    return readings(*PASSED_DOWN, seed=seed) | verdicts(*PASSED_DOWN, seed=seed)


def readings(*pairs, seed=0):
    return {f"collect_readings {model} {read} {seed} validation" for model, read in pairs}


def verdicts(*pairs, seed=0):
    return {f"judge_features validation {parent} {child} {seed}" for parent, child in pairs}


def bootstraps(*edges, seed=0):
    found = {f"bootstrap_flow validation {parent} {seed} {child} {seed}" for parent, child in edges}
    return found | {f"bootstrap_verdicts validation {parent} {child} {seed}" for parent, child in edges}


def all_features(seed=0):
    own = set().union(*(features(model, seed) for model in MODELS))
    return own | correlations(*EDGES, seed=seed) | passed_down(seed)


def causes(plan):
    """The jobs that run for a reason of their own, not because another job runs."""
    return {job for job, reason in plan.items() if not reason.startswith("Input files updated by another job")}


def test_nothing_to_do_after_a_full_run(study):
    assert study.plan() == {}


def test_words_and_job_control_rerun_nothing(copy):
    """Every message of the library and its scripts reworded, the job wrapper, the progress bar and memory requests changed."""
    assert reword(copy.root / LIBRARY) + reword(copy.root / "workflow" / "scripts") > 300
    for module, function in (("jobs/job", "job"), ("progress", "progress"), ("jobs/resources", "request")):
        copy.add_statement(f"{LIBRARY}/{module}.py", function)
    assert copy.plan() == {}


def test_the_bootstrap_edited_reruns_no_explanation(copy):
    copy.add_statement(f"{LIBRARY}/flow/bootstrap.py", "bootstrap_flow")
    plan = copy.plan()
    edited = {job for job in bootstraps(*EDGES) if job.startswith("bootstrap_flow")}
    assert set(plan) == edited | SUMMARY
    assert causes(plan) == edited


def test_verdicts_drawn_again_rerun_no_explanation(copy):
    copy.add_statement(f"{LIBRARY}/flow/intervals.py", "bootstrap_verdicts")
    plan = copy.plan()
    edited = {job for job in bootstraps(*EDGES) if job.startswith("bootstrap_verdicts")}
    assert set(plan) == edited | SUMMARY and causes(plan) == edited


def test_the_sparse_step_edited_trains_no_language_model(copy):
    copy.add_statement(f"{LIBRARY}/autoencoders/active_entries.py", "above")
    plan = copy.plan()
    assert set(plan) == all_features() | FLOWS | {"plot_autoencoders"}
    assert causes(plan) == {f"train_autoencoder {model} 0" for model in MODELS}


def test_comments_docstrings_and_layout_rerun_nothing(copy):
    for path in (copy.root / LIBRARY).rglob("*.py"):
        text = path.read_text().replace('"""', '"""Reworded. ', 1)
        path.write_text(f"# A comment at the head.\n\n{text}\n\n\n# A comment at the end.\n")
    method = "def encode(self, x: torch.Tensor)"
    copy.edit(
        f"{LIBRARY}/autoencoders/autoencoder.py", method, "def encode(  # on two lines\n        self, x: torch.Tensor)"
    )
    for path in (copy.root / "workflow").glob("*/*.[ps][ym]*"):
        path.write_text(f"{path.read_text()}\n# Another comment.\n")
    assert copy.plan() == {}


def test_a_figure_edited_draws_the_figures_again_and_trains_nothing(copy):
    copy.add_statement(f"{LIBRARY}/report/figures.py", "plot_sankey")
    plan = copy.plan()
    assert set(plan) == {"plot_sankey", "write_report", "tabulate_figures"}
    assert causes(plan) == {"plot_sankey"}
    assert CHANGED in plan["plot_sankey"]


@pytest.mark.parametrize(
    ("module", "function"), [("autoencoders/autoencoder", "encode"), ("autoencoders/step", "loss_and_gradients")]
)
def test_the_forward_pass_edited_reruns_every_autoencoder_and_what_hangs_on_it(copy, module, function):
    copy.add_statement(f"{LIBRARY}/{module}.py", function)
    plan = copy.plan()
    assert set(plan) == all_features() | FLOWS | {"plot_autoencoders"}
    assert all(CHANGED in plan[f"train_autoencoder {model} 0"] for model in MODELS)


def test_the_evaluation_edited_evaluates_again_and_trains_nothing(copy):
    copy.add_statement(f"{LIBRARY}/autoencoders/evaluation.py", "evaluate_autoencoder")
    plan = copy.plan()
    assert set(plan) == {f"evaluate_autoencoder {model} 0" for model in MODELS} | {"write_report"}


def test_autoencoders_that_start_from_their_parents_wait_for_them(copy):
    copy.config["autoencoder"]["init"] = "parent"
    coder = "results/tiny/saes/coder/seed0/sae_weights.safetensors"
    both = "results/tiny/saes/both/seed0/sae_weights.safetensors"
    assert set(copy.plan(coder)) == {"train_autoencoder base 0", "train_autoencoder coder 0"}
    assert set(copy.plan(both)) == {f"train_autoencoder {model} 0" for model in ("base", "coder", "both")}
    run = copy.snakemake("-c2", both)
    assert run.code == 0, run
    assert sha256(copy.root / coder) in read_provenance(copy.root / both)["inputs"]["parent"]


def test_a_script_edited_reruns_its_own_rule_and_what_hangs_on_it(copy):
    copy.add_statement("workflow/scripts/trace_flows.py", "main")
    plan = copy.plan()
    assert set(plan) == FLOWS
    assert causes(plan) == {"trace_flows"}


def test_a_model_and_its_corpus_added_rerun_none_that_stand(copy):
    copy.config["corpora"]["more"] = {"files": "data/code/j*.py", "validation": 0.5}
    copy.config["models"]["new"] = copy.config["models"]["coder"] | {"train": ["more"]}
    plan = copy.plan()
    own = {"build_corpus more", "encode_corpus more", "train_model new", "evaluate_model new"}
    own |= features("new") | correlations(("base", "new")) | {"interpret_features new 0", "compare_weights"}
    assert set(plan) == own | FLOWS | {"plot_training", "plot_autoencoders"}
    assert "Missing output files" in plan["train_model new"]
    assert "Set of input files has changed" in plan["trace_flows"]


def test_a_seed_added_trains_the_autoencoders_of_that_seed_alone(copy):
    copy.config["autoencoder"]["seeds"] = [0, 1]
    assert set(copy.plan()) == all_features(seed=1) | FLOWS | {"plot_autoencoders"}


@pytest.mark.parametrize("case", [{"pattern": " ?in"}, {"feature": 3}, {"characters": "digits", "model": "coder"}])
def test_a_case_added_adds_its_own_job_and_the_report_alone(copy, case):
    copy.config["cases"]["other"] = case
    assert set(copy.plan()) == {"find_case other", "write_report"}
    copy.config["cases"] = {"other": case}
    assert set(copy.plan()) == {"find_case other", "write_report"}


def test_a_case_changed_is_looked_for_again_alone(copy):
    copy.config["cases"]["article"] = {"tokens": [" a"]}
    plan = copy.plan()
    assert set(plan) == {CASE, "write_report"}
    assert CHANGED in plan[CASE]


def test_another_threshold_reruns_the_flows_and_below(copy):
    copy.config["flow"]["threshold"] = 0.75
    plan = copy.plan()
    judged = verdicts(*EDGES, *PASSED_DOWN)
    assert set(plan) == judged | bootstraps(*EDGES) | FLOWS
    drawn = {job for job in bootstraps(*EDGES) if job.startswith("bootstrap_flow")}
    assert drawn | judged <= causes(plan) <= judged | bootstraps(*EDGES) | {"trace_flows"}
    assert all(CHANGED in plan[job] for job in causes(plan))


def test_another_number_of_replicates_reruns_the_bootstrap_and_no_explanation(copy):
    copy.config["flow"]["bootstrap"] = 30
    plan = copy.plan()
    assert set(plan) == bootstraps(*EDGES) | SUMMARY
    assert causes(plan) == bootstraps(*EDGES)
    assert all(CHANGED in plan[job] for job in bootstraps(*EDGES))


def test_no_replicates_rerun_the_summary_alone(copy):
    copy.config["flow"]["bootstrap"] = 0
    assert set(copy.plan()) == SUMMARY


def test_another_learning_rate_reruns_the_model_and_what_hangs_on_it_but_no_sibling(copy):
    copy.config["models"]["coder"]["training"]["lr"] = 2e-3
    plan = copy.plan()
    models = {
        "train_model coder",
        "evaluate_model coder",
        "sweep_merge both",
        "merge_models both",
        "evaluate_model both",
        "compare_weights",
    }
    edges = correlations(("base", "coder"), ("coder", "both"), ("writer", "both"))
    drawn = {"plot_training", "plot_autoencoders", "plot_sweep both"}
    assert set(plan) == models | features("coder") | features("both") | edges | passed_down() | drawn | FLOWS
    assert causes(plan) == {"train_model coder"}
    assert CHANGED in plan["train_model coder"]


def test_a_document_added_reruns_its_corpus_and_not_the_other(copy):
    with (copy.root / "data" / "prose.jsonl").open("a") as file:
        file.write('{"text": "One more document."}\n')
    plan = copy.plan()
    assert causes(plan) == {"build_corpus prose"}
    assert "Updated input files: data/prose.jsonl" in plan["build_corpus prose"]
    assert "build_corpus code" not in plan


def test_deleted_autoencoders_of_a_model_rerun_with_what_hangs_on_them_and_one_can_be_made_alone(copy):
    weights = "results/tiny/saes/coder/seed0/sae_weights.safetensors"
    before = (copy.root / weights).read_bytes()
    shutil.rmtree(copy.results / "saes" / "coder")

    plan = copy.plan()
    edges = correlations(("base", "coder"), ("coder", "both"))
    edges -= readings(("base", "coder"), ("both", "coder"))  # what others read on the model itself stands
    assert set(plan) == features("coder") | edges | FLOWS | {"plot_autoencoders"}
    assert causes(plan) == {"train_autoencoder coder 0", "evaluate_autoencoder coder 0"}
    assert "Missing output files" in plan["train_autoencoder coder 0"]

    assert set(copy.plan(weights)) == {"train_autoencoder coder 0"}
    run = copy.snakemake("-c2", weights)
    assert run.code == 0, run
    assert (copy.root / weights).read_bytes() == before
    assert copy.plan(weights) == {}
