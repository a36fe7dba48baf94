"""All jobs of a study, rule by rule, as the workflow plans them when nothing has run; `tests/workflow/test_cost_counts.py` compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from feature_lineage.study.plan import Plan
from feature_lineage.study.texts import TrainedTokenizer

# Rules that are another rule with other inputs, and that rule.
DERIVED = {
    "train_keeping": "train_model",
    "train_placebo": "train_model",
    "evaluate_other_merge": "evaluate_model",
    "merge_otherwise": "merge_models",
    "train_started": "train_autoencoder",
    "train_same_corpora": "train_autoencoder",
    "evaluate_started": "evaluate_autoencoder",
    "transfer_autoencoder": "evaluate_autoencoder",
    "transfer_to_other_merge": "evaluate_autoencoder",
    "collect_readings": "collect_features",
    "collect_started": "collect_features",
    "collect_same_corpora": "collect_features",
}


class Job(NamedTuple):
    """One job, and what its cost depends on beside the study."""

    rule: str
    model: str | None = None  # whose checkpoint is read or made; None of a job about several
    corpus: str | None = None
    sides: int = 1  # files of activations of each model that are read, or autoencoders that are compared
    seen: str | None = None  # model whose corpora an autoencoder is evaluated on

    @property
    def base(self) -> str:
        """The rule whose script runs."""
        return DERIVED.get(self.rule, self.rule)


def jobs(plan: Plan, images: bool = False) -> Iterator[Job]:
    """The jobs of a whole run, in the order of the workflow; of `all` none.

    Args:
        plan: of the study.
        images: whether figures are drawn as images, too, which needs a browser.
    """
    yield from _text(plan)
    yield from _models(plan)
    yield from _autoencoders(plan)
    yield from _features(plan)
    yield from _flow(plan)
    yield from _meaning(plan)
    yield from _controls(plan)
    yield from _report(plan, images)


def _text(plan: Plan) -> Iterator[Job]:
    study = plan.study
    encoded = {*study.flow_corpora(), *(corpus for model in study.models for corpus in study.own_corpora(model))}
    for corpus in study.read_corpora():
        yield Job("build_corpus", corpus=corpus)
    yield Job("train_tokenizer" if isinstance(study.tokenizer, TrainedTokenizer) else "import_tokenizer")
    for corpus in study.corpora:
        if corpus in encoded:
            yield Job("encode_corpus", corpus=corpus)
    yield Job("sample_windows")


def _models(plan: Plan) -> Iterator[Job]:
    for model in plan.trained:
        yield Job("train_keeping" if model in plan.keeping else "train_model", model)
    for rule, models in (
        ("keep_model", plan.kept),
        ("import_model", plan.imported),
        ("import_adapter", plan.adapted),
        ("check_hook", [*plan.imported, *plan.adapted]),
        ("sweep_merge", plan.on_a_path),
        ("merge_models", plan.merged),
        ("evaluate_model", plan.study.models),
        ("build_model", plan.untrained),
        ("train_placebo", plan.placebos),
    ):
        for model in models:
            yield Job(rule, model)


def _autoencoders(plan: Plan) -> Iterator[Job]:
    own = plan.each_seed([*plan.study.order(), *plan.beside])
    imported = plan.each_seed(plan.imported_autoencoders)
    for rule, names in (
        ("train_autoencoder", [name for name in own if name not in imported]),
        ("import_autoencoder", imported),
        ("check_autoencoder", imported),
        ("evaluate_autoencoder", own),
    ):
        for model, _ in names:
            yield Job(rule, model, seen=model)


def judged(plan: Plan) -> list[tuple[str, str]]:
    """Pairs of models of which one dictionary reads both, or each reads both."""
    return [*plan.study.edges(), *plan.passed_down, *plan.placebo_pairs]


def _features(plan: Plan) -> Iterator[Job]:
    study = plan.study
    for model, _ in plan.each_seed([*study.order(), *plan.beside]):
        yield Job("collect_features", model)
    readings: dict[tuple[str, str, int], None] = {}
    for (parent, child), seed in plan.each_reading(judged(plan)):
        for side in plan.sides(parent, child, seed):
            readings[(parent, child, seed) if side == "parent" else (child, parent, seed)] = None
    for _, read, _ in readings:
        yield Job("collect_readings", read)


def _correlated(plan: Plan) -> set[tuple[str, str, int, int]]:
    """Autoencoders that are correlated: (name, name, seed, seed)."""
    pairs = {*plan.study.edges(), *plan.placebo_pairs}
    pairs |= {(first, other) for baseline in plan.baseline_pairs.values() for *_, first, other in baseline}
    found = {(*pair, seed, seed) for pair, seed in plan.each_pair(pairs)}
    if "ceiling" in plan.measured:
        names = {*plan.read, *_stable(plan)}
        found |= {(name, name, *seeds) for name in names for seeds in plan.seed_pairs(name)}
    return found


def _stable(plan: Plan) -> list[str]:
    """Models whose autoencoders are compared with one another."""
    if "ceiling" not in plan.measured:
        return []
    both = [
        [{"parent": parent, "child": child}[side] for side in plan.sides(parent, child, seed)]
        for (parent, child), seed in plan.each_reading(judged(plan))
    ]
    return list(dict.fromkeys(name for pair in both for name in pair))


def _flow(plan: Plan) -> Iterator[Job]:
    study, flow = plan.study, plan.study.flow
    for _ in _correlated(plan):
        for _ in range(flow.parts if flow.parts > 1 else 0):
            yield Job("correlate_part", sides=2)
        yield Job("correlate", sides=2)
    for _ in plan.each_pair(study.edges() if flow.bootstrap else []):
        yield Job("bootstrap_flow", sides=2)
    for model in _stable(plan):
        yield Job("measure_stability", model, sides=len(plan.seeds(model)))
    for rule, pairs in (
        ("judge_features", judged(plan)),
        ("bootstrap_verdicts", [*study.edges(), *plan.placebo_pairs] if flow.bootstrap else []),
    ):
        for (parent, child), seed in plan.each_reading(pairs):
            yield Job(rule, parent, sides=len(plan.sides(parent, child, seed)))
    for rule in ("compare_weights", "trace_flows", "summarise_flows"):
        yield Job(rule)


def _meaning(plan: Plan) -> Iterator[Job]:
    study = plan.study
    for model, _ in plan.autoencoders:
        yield Job("weigh_tokens", model)
    for rule in ("weigh_logits", "collect_contexts", "categorise_features"):
        for model in plan.read:
            yield Job(rule, model)
    yield Job("count_categories")
    for case in study.cases:
        yield Job("find_case", sides=len(study.case_models(case)))
    for model in plan.read:
        yield Job("interpret_features", model)


def _controls(plan: Plan) -> Iterator[Job]:
    edges = plan.study.edges()
    by_edge = {
        "alignment_null": "correlate_shifted",
        "neurons": "correlate_neurons",
        "as_published": "correlate_published",
    }
    for control, rule in by_edge.items():
        if control in plan.measured:
            pairs = edges if control == "neurons" else plan.matched_edges
            for _, child in pairs:
                yield Job(rule, child, sides=2)
            yield Job("join_control", sides=len(pairs))
    if "ceiling" in plan.measured:
        yield Job("measure_ceiling")
    if plan.summed_up:
        yield Job("summarise_controls")
    if plan.placebos:
        yield Job("measure_placebo")
    for _, child in plan.transferred:
        yield Job("transfer_autoencoder", child, seen=child)
    if plan.transferred:
        yield Job("compare_transfers")
    for rule in ("train_started", "evaluate_started", "collect_started"):
        for pair, _ in plan.each_seed(plan.started):
            child = pair.split("--")[1]
            yield Job(rule, child, seen=child)
    for pair, _ in plan.each_seed(plan.corpora_differ):
        yield Job("train_same_corpora", pair.split("--")[0])
        yield Job("collect_same_corpora", pair.split("--")[0])
    for baseline in plan.baselines:
        if baseline in plan.baseline_pairs:
            yield Job("compare_baseline")
    for model in plan.other_merges:
        yield Job("merge_otherwise", model)
        yield Job("evaluate_other_merge", model)
        yield Job("transfer_to_other_merge", model, seen=model)
    if plan.other_merges:
        yield Job("compare_merges")


def _report(plan: Plan, images: bool) -> Iterator[Job]:
    for name in ("verdicts", "sankey", *plan.figures):
        rule, _, model = name.partition("-")
        yield Job(f"plot_{rule}", model or None)
    yield Job("tabulate_figures")
    if images:
        yield Job("export_figures")
    yield Job("write_report")
