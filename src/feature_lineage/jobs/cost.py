"""What a study will cost, step by step, before anything has run: jobs, tokens, operations, memory, disk and hours."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from feature_lineage.jobs.job_list import DERIVED, Job, jobs
from feature_lineage.jobs.resources import SIZED, request
from feature_lineage.jobs.sizes import PUBLISHED, VOCABULARY, checkpoint_of, published, sizes_of
from feature_lineage.jobs.work import BYTES_PER_TOKEN, GPU_NAME, UTILISATION, Corpora, seconds, work_of
from feature_lineage.study.keys import AdaptedModel, PretrainedModel
from feature_lineage.study.plan import Plan
from feature_lineage.study.study import Study
from feature_lineage.study.texts import TrainedTokenizer

CORPUS = 1e8  # tokens of a corpus of the hub that is read as a whole: an assumption


class Row(NamedTuple):
    """One step of a study; sums over its jobs, but for memory, the largest of them."""

    step: str
    jobs: int
    tokens: float
    operations: float  # floating-point, of matrix products
    memory: float | None  # bytes that a job asks for; None where the profile says it
    disk: float  # bytes that it leaves
    hours: float


class Cost(NamedTuple):
    """Of a whole study."""

    rows: list[Row]
    assumptions: list[str]

    @property
    def total(self) -> Row:
        """All steps together."""
        memory = max((row.memory for row in self.rows if row.memory is not None), default=None)
        sums = [sum(column) for column in zip(*((r.jobs, r.tokens, r.operations) for r in self.rows), strict=True)]
        disk, hours = sum(row.disk for row in self.rows), sum(row.hours for row in self.rows)
        return Row("total", int(sums[0]), sums[1], sums[2], memory, disk, hours)


def cost(
    study: Study,
    corpus_bytes: Mapping[str, float],
    *,
    gpu: bool = False,
    images: bool = False,
    factors: Mapping[str, float] | None = None,
    hub_tokens: float = CORPUS,
) -> Cost:
    """The cost of a study, in the order of the workflow; reads no file but the `config.json` of checkpoints.

    Args:
        study: the study.
        corpus_bytes: bytes of text of the corpora whose files are known.
        gpu: whether the steps that can use a GPU have one.
        images: whether figures are drawn as images too.
        factors: of a step, measured seconds over predicted ones (`calibration`).
        hub_tokens: tokens of a corpus of unknown size that a step reads as a whole.
    """
    corpora = _corpora(study, corpus_bytes, hub_tokens)
    rows = _rows(study, corpora, images, gpu, factors or {})
    return Cost(rows, [*corpora.assumed.values(), *_models(study), *_rates(study, gpu, factors or {})])


def _rows(study: Study, corpora: Corpora, images: bool, gpu: bool, factors: Mapping[str, float]) -> list[Row]:
    by_rule: dict[str, list[Job]] = defaultdict(list)
    for job in jobs(Plan(study), images):
        by_rule[job.rule].append(job)
    known = {model: sizes_of(study, model) for model in {job.model for group in by_rule.values() for job in group}}
    rows = []
    for rule, group in by_rule.items():
        works = [work_of(job, known[job.model], corpora) for job in group]
        base = group[0].base
        models = {job.model for job in group}
        memory = max(request(study, base, model).mem_mb for model in models) * 1e6 if base in SIZED else None
        taken = sum(seconds(work, job, study.threads, gpu) for work, job in zip(works, group, strict=True))
        operations, tokens = sum(w.products for w in works), sum(w.tokens for w in works)
        taken *= factors.get(rule, factors.get(base, 1.0))
        rows.append(Row(rule, len(group), tokens, operations, memory, sum(w.disk for w in works), taken / 3600))
    return rows


def measured(benchmarks: Path) -> dict[str, list[float]]:
    """Seconds of each job in Snakemake's benchmark files, by rule: `<rule>.tsv`, or a folder `<rule>` of them; the mean of repeats."""
    found: dict[str, list[float]] = defaultdict(list)
    for path in sorted(benchmarks.rglob("*.tsv")):
        rule = path.relative_to(benchmarks).parts[0].removesuffix(".tsv")
        with path.open(encoding="utf-8", newline="") as file:
            try:
                taken = [float(row["s"]) for row in csv.DictReader(file, delimiter="\t")]
            except (KeyError, ValueError, TypeError):  # cut off, or of another program
                continue
        if taken:
            found[rule].append(sum(taken) / len(taken))
    return dict(found)


def calibration(predicted: Cost, found: Mapping[str, list[float]]) -> dict[str, float]:
    """Measured seconds of a mean job over the predicted ones, for each step that was measured; also of the rule that a step derives from.

    A step that was not measured has the factor of its rule: a second training of an autoencoder takes as long as the first.
    """
    factors = {}
    for row in predicted.rows:
        if row.step in found and row.hours:
            factors[row.step] = sum(found[row.step]) / len(found[row.step]) / (3600 * row.hours / row.jobs)
    for derived, base in DERIVED.items():
        if derived in factors:
            factors.setdefault(base, factors[derived])
    return factors


# --- what is assumed ---


def _corpora(study: Study, corpus_bytes: Mapping[str, float], hub_tokens: float) -> Corpora:
    """Tokens of each corpus: by its bytes, or as many as the study asks of it, and where that is all of them, `hub_tokens`."""
    tokens, assumed = {}, {}
    for name, block in study.corpora.items():
        if name in corpus_bytes:
            tokens[name] = max(1.0, corpus_bytes[name] * block.fraction / BYTES_PER_TOKEN)
            continue
        tokens[name] = max(hub_tokens, _asked(study, name))
        why = "as its size is not known here (--corpus-tokens)"
        if tokens[name] > hub_tokens:
            why = "as many as the study asks of it; its size is not known here"
        assumed[name] = f"corpora.{name}: {_short(tokens[name], 'B')} tokens, {why}"
    if len(tokens) > len(assumed):
        assumed[""] = f"other corpora: {BYTES_PER_TOKEN} bytes of text a token"
    return Corpora(tokens, assumed)


def _asked(study: Study, corpus: str) -> float:
    """The most training tokens that a model or an autoencoder takes of a corpus, if it takes as many of each."""
    found = [0.0]
    for model in study.models:
        training = getattr(study.models[model], "training", None)
        if training is not None and training.tokens is not None and corpus in study.own_corpora(model):
            found.append(training.tokens / len(study.own_corpora(model)))
        if corpus in (seen := study.seen_corpora(model)):
            found.append(study.autoencoder.tokens / len(seen))
    return max(found) / (1 - study.corpora[corpus].validation)


def _models(study: Study) -> list[str]:
    """What is assumed of models and tokenizers from the hub."""
    found = []
    for name, block in study.models.items():
        if isinstance(block, PretrainedModel) and checkpoint_of(study, name) == name and published(block) is None:
            size = f"{PUBLISHED.num_hidden_layers} layers of {PUBLISHED.hidden_size:,} elements"
            found.append(f"models.{name}: {size}, as no config.json of {block.pretrained} is on this machine")
        elif isinstance(block, PretrainedModel):
            found.append(
                f"models.{name}: {_short(sizes_of(study, name).parameters, 'B')} parameters, by its config.json"
            )
        elif isinstance(block, AdaptedModel):
            found.append(f"models.{name}: as large as {block.parent}; the adapter's own size is not counted")
    told = [isinstance(b, PretrainedModel) and published(b) is not None for b in study.models.values()]
    if not isinstance(study.tokenizer, TrainedTokenizer) and not any(told):
        found.append(f"tokenizer: {VOCABULARY:,} tokens, as it is not read here")
    return found


def _rates(study: Study, gpu: bool, factors: Mapping[str, float]) -> list[str]:
    found = []
    if study.autoencoder.l0 is None:
        active = sizes_of(study, None).active
        found.append(f"autoencoder.l0 is not set: {active:.0f} features are taken to fire on a token")
    if gpu:
        found.append(
            f"GPU: {GPU_NAME}, its published rates times {UTILISATION}; not measured. Other steps are on the CPU's clock"
        )
    found.append("time: of all jobs one after another; two that run at once take half as long")
    found.append(f"CPU: rates measured on the demo, 2 cores of an AMD EPYC, and {study.threads} thread(s) a job")
    if factors:
        found.append(f"calibrated by measured jobs: {', '.join(sorted(factors))}")
    if study.interpretation.model is not None:
        found.append("interpret_features: without the time and the price of the language model's endpoint")
    return found


# --- as text ---


def table(of: Cost) -> str:
    """Aligned plain text: a line a step, the total, what was assumed."""
    lines = [("step", "jobs", "tokens", "FLOPs", "memory", "disk", "time"), *map(_cells, [*of.rows, of.total])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(x, widths, strict=True)))
        for x in lines
    ]
    text.insert(-1, "-" * len(text[0]))
    return "\n".join([*text, "", "Assumed:", *(f"- {line}" for line in of.assumptions)])


def _cells(row: Row) -> tuple[str, ...]:
    memory = "-" if row.memory is None else _bytes(row.memory)
    return (
        row.step,
        f"{row.jobs:,}",
        _short(row.tokens, "B"),
        _short(row.operations),
        memory,
        _bytes(row.disk),
        _time(row.hours),
    )


def _short(number: float, giga: str = "G") -> str:
    """Three digits and a letter; a thousand million is G, and B of things that are counted."""
    if not number:
        return "-"
    power = min(6, max(0, int(math.log10(number) // 3)))
    return f"{number / 1000**power:.3g}{['', 'k', 'M', giga, 'T', 'P', 'E'][power]}"


def _bytes(number: float) -> str:
    return "-" if number < 1e5 else f"{number / 1e9:,.1f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def _time(hours: float) -> str:
    if hours >= 1.5:
        return f"{hours:,.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1.5 / 60 else f"{3600 * hours:.0f} s"
