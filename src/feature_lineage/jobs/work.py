"""What each job of a study does: tokens read, floating-point operations, seconds and bytes written.

Seconds of a job are its start and the work over a rate. The rates were measured on the demo (2 cores of an AMD EPYC, one thread a job,
27 November 2026); `tests/test_cost.py` holds the sums to those measurements. A study of another shape is predicted from the same rates,
and its own benchmark files mend them (`cost.calibration`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from feature_lineage.jobs.job_list import Job
from feature_lineage.jobs.resources import ON_GPU
from feature_lineage.jobs.sizes import FLOAT, Sizes
from feature_lineage.study.keys import PretrainedModel, Training

LOADS_MODEL, LOADS_NOTHING = 5.0, 1.3  # seconds until a job works: imports with torch and transformers, and without

# --- a CPU, per thread ---
OPERATIONS = 6e10  # floating-point operations a second of large products in float32
STEP = 0.030  # seconds of a training step beside its products: the optimiser, small tensors, reading
TOKEN = 3.5e-5  # seconds of a token of evaluation beside its products: normalisations, softmax, counting
ENTRY = 2.0e-6  # seconds to find, sort, write and compress one active entry
PRODUCT = 1.6e-8  # seconds of one product of two active entries of a token
READ = 3e-7  # seconds to read one entry and add it up
CHECKPOINT = 1e9  # bytes a second of a checkpoint read from or written to disk
DOWNLOAD = 5e7  # bytes a second from the hub: an assumption

# --- a GPU: NVIDIA's data sheet of the H100 SXM (dense, without sparsity) times a utilisation. Nothing was measured on one. ---
H100_FLOAT32 = 67e12
H100_BFLOAT16 = 989e12
UTILISATION = 0.35
GPU_STEP = 0.010  # seconds of a training step beside its products: an assumption
GPU_NAME = "one H100 SXM"

BYTES_PER_TOKEN = 4  # of text
ENTRY_BYTES = 5.2  # of an active entry on disk, compressed: 25.6 MB of 4.92 million in the demo


class Work(NamedTuple):
    """Of one job."""

    tokens: float = 0.0  # that it reads
    products: float = 0.0  # floating-point operations of matrix products
    seconds: float = 0.0  # beside those and the start, on the host's clock
    steps: float = 0.0  # of a training
    disk: float = 0.0  # bytes that it leaves
    start: float = LOADS_NOTHING
    bfloat16: float = 0.0  # of those operations, the ones that a language model in bfloat16 makes


class Corpora(NamedTuple):
    """Tokens of each corpus, and which of them are assumed."""

    tokens: dict[str, float]
    assumed: dict[str, str]


def seconds(work: Work, job: Job, threads: int, gpu: bool) -> float:
    """What a job takes, in seconds."""
    if gpu and job.base in ON_GPU:
        products = (work.products - work.bfloat16) / H100_FLOAT32 + work.bfloat16 / H100_BFLOAT16
        return work.start + products / UTILISATION + work.steps * GPU_STEP + work.seconds
    return work.start + work.products / OPERATIONS / threads + work.steps * STEP + work.seconds


# --- text ---


def _build_corpus(job: Job, s: Sizes, c: Corpora) -> Work:
    tokens = c.tokens[job.corpus or ""]
    return Work(tokens, seconds=8e-7 * tokens, disk=1.2 * tokens)


def _train_tokenizer(job: Job, s: Sizes, c: Corpora) -> Work:
    tokens = sum(c.tokens[corpus] for corpus in s.study.tokenizer.train)
    return Work(tokens, seconds=6e-7 * tokens, start=2)


def _encode_corpus(job: Job, s: Sizes, c: Corpora) -> Work:
    tokens = c.tokens[job.corpus or ""]
    return Work(tokens, seconds=2.3e-6 * tokens, disk=(2 if s.vocabulary <= 1 << 16 else 4) * tokens, start=LOADS_MODEL)


# --- language models ---


def attention(s: Sizes, context: int) -> float:
    """Floating-point operations of a token's attention scores and what they weigh, in all layers."""
    return 4.0 * s.shape.num_hidden_layers * s.shape.num_attention_heads * s.shape.head_width * context


def _train_model(job: Job, s: Sizes, c: Corpora) -> Work:
    """A step is a forward pass and twice as much backward; then there are the evaluations."""
    training = s.trained or Training()
    placebo = s.study.placebos().get(job.model or "")
    corpora = s.study.own_corpora(placebo.fine_tunes[0] if placebo else job.model)
    a_pass = min(training.tokens or math.inf, sum(c.tokens[corpus] for corpus in corpora))
    if training.tokens is None and getattr(s.study.models.get(job.model or ""), "balance", "none") == "tokens":
        a_pass = len(corpora) * min(c.tokens[corpus] for corpus in corpora)
    tokens = a_pass * training.epochs
    steps = tokens / training.batch / training.block
    evaluated = training.evaluations * s.study.evaluation_tokens * len(s.study.seen_corpora(job.model or ""))
    a_token = s.products + attention(s, training.block)
    return Work(tokens, a_token * (3 * tokens + evaluated), 1e-5 * evaluated, steps, FLOAT * s.parameters, LOADS_MODEL)


def _import_model(job: Job, s: Sizes, c: Corpora) -> Work:
    """Reading, hashing and writing; of a name on the hub, the download."""
    block = s.study.models.get(job.model or "")
    hub = isinstance(block, PretrainedModel) and job.base == "import_model"
    return Work(seconds=s.checkpoint * (3 / CHECKPOINT + hub / DOWNLOAD), disk=s.checkpoint, start=LOADS_MODEL)


def _import_autoencoder(job: Job, s: Sizes, c: Corpora) -> Work:
    return Work(seconds=3 * s.weights / CHECKPOINT, disk=s.weights, start=LOADS_MODEL)


def _merge_models(job: Job, s: Sizes, c: Corpora) -> Work:
    parents = len(s.study.origins(job.model or ""))
    return Work(seconds=2e-9 * s.parameters * (parents + 4), disk=FLOAT * s.parameters, start=LOADS_MODEL + 1)


def _half(s: Sizes, products: float) -> float:
    """Of a language model's operations those in bfloat16: all or none."""
    return products if s.number < FLOAT else 0.0


def _evaluated(s: Sizes, tokens: float, models: int = 1) -> Work:
    block = max(map(s.study.block, s.study.models))
    loading = models * s.checkpoint / CHECKPOINT
    products = tokens * (s.products + attention(s, block))
    return Work(tokens, products, TOKEN * tokens + loading, start=LOADS_MODEL, bfloat16=_half(s, products))


def _evaluate_model(job: Job, s: Sizes, c: Corpora) -> Work:
    return _evaluated(s, sum(_held_out(s, c, corpus) for corpus in s.study.flow_corpora()))


def _sweep_merge(job: Job, s: Sizes, c: Corpora) -> Work:
    merge = s.study.models[job.model or ""].merge
    corpora = s.study.own_corpora(job.model or "") or s.study.flow_corpora()
    return _evaluated(s, merge.points * sum(_held_out(s, c, corpus) for corpus in corpora), merge.points)


def _check_hook(job: Job, s: Sizes, c: Corpora) -> Work:
    return _evaluated(s, 2 * s.study.context)


def _held_out(s: Sizes, c: Corpora, corpus: str) -> float:
    """Tokens of a corpus on which something is evaluated."""
    return min(s.study.evaluation_tokens, c.tokens[corpus] * s.study.corpora[corpus].validation)


# --- autoencoders ---


def to_hook(s: Sizes) -> float:
    """Floating-point operations of a token's way to the hook point: the layers up to it."""
    layers = s.shape.num_hidden_layers
    parts = s.study.autoencoder.hook.split(".")
    read = min(layers, int(parts[1]) + 1) if parts[0] == "blocks" else layers
    return (2 * s.body + attention(s, s.study.context)) * read / layers


def encoding(s: Sizes) -> float:
    """Floating-point operations of encoding one activation."""
    return 2.0 * s.elements * s.features


def training_autoencoder(s: Sizes) -> float:
    """Of one token: encoded, then decoded and differentiated for the entries that are active (four products of a vector each)."""
    return encoding(s) + 4 * 2.0 * s.elements * s.active


def _train_autoencoder(job: Job, s: Sizes, c: Corpora) -> Work:
    options = s.study.autoencoder
    steps = options.tokens // s.study.context // options.batch
    products = options.tokens * (training_autoencoder(s) + to_hook(s))
    loading = s.checkpoint / CHECKPOINT
    return Work(
        options.tokens,
        products,
        loading,
        steps,
        s.weights,
        LOADS_MODEL,
        bfloat16=_half(s, options.tokens * to_hook(s)),
    )


def _evaluate_autoencoder(job: Job, s: Sizes, c: Corpora) -> Work:
    """Six times the autoencoder, and six passes of the language model to the logits, as `resources` bounds it."""
    tokens = sum(_held_out(s, c, corpus) for corpus in s.study.seen_corpora(job.seen or job.model or ""))
    products = tokens * 6 * (encoding(s) + s.products)
    half = _half(s, tokens * 6 * s.products)
    return Work(tokens, products, s.checkpoint / CHECKPOINT, 0, 24.0 * s.features, LOADS_MODEL, half)


def _collect_features(job: Job, s: Sizes, c: Corpora) -> Work:
    tokens = s.study.flow.tokens
    seconds = ENTRY * s.entries + s.checkpoint / CHECKPOINT
    drift = (
        1.5 if job.rule == "collect_readings" else 1.0
    )  # a dictionary fires more on a model that it was not trained on
    disk, half = ENTRY_BYTES * s.entries * drift, _half(s, tokens * to_hook(s))
    return Work(tokens, tokens * (encoding(s) + to_hook(s)), seconds, 0, disk, LOADS_MODEL, half)


def _weigh_logits(job: Job, s: Sizes, c: Corpora) -> Work:
    products = 2.0 * s.features * s.shape.hidden_size * s.vocabulary
    seconds = 1e-9 * s.features * s.vocabulary + s.checkpoint / CHECKPOINT
    return Work(products=products, seconds=seconds, disk=115.0 * s.features, start=LOADS_MODEL + 2.5)


def _correlate_neurons(job: Job, s: Sizes, c: Corpora) -> Work:
    tokens = s.study.flow.tokens
    seconds = TOKEN * tokens + 2 * s.checkpoint / CHECKPOINT
    half = _half(s, tokens * 2 * to_hook(s))
    return Work(tokens, tokens * 2.0 * s.elements**2 + tokens * 2 * to_hook(s), seconds, 0, 0, LOADS_MODEL + 1, half)


# --- the sample: what reads entries, on the host's clock ---


def _correlate(job: Job, s: Sizes, c: Corpora) -> Work:
    threads = s.study.threads if job.base in ("correlate", "correlate_part") else 1
    once = PRODUCT * s.entries * s.active / threads + 2 * READ * s.entries
    parts = s.study.flow.parts
    if job.rule == "correlate" and parts > 1:
        once = READ * s.entries
    if job.rule == "correlate_part":
        once /= parts
    return Work(s.study.flow.tokens, 0, (2 if job.rule == "correlate_shifted" else 1) * once, disk=50.0 * s.features)


def _correlate_published(job: Job, s: Sizes, c: Corpora) -> Work:
    return Work(s.study.flow.tokens, 0, 4e-11 * s.study.flow.tokens * s.features**2)


def _reading(entry: float, start: float = LOADS_NOTHING, disk: float = 0.0) -> Callable[[Job, Sizes, Corpora], Work]:
    """A step that goes through the entries of its sides once: seconds an entry, and bytes that it leaves for each feature."""

    def work(job: Job, s: Sizes, c: Corpora) -> Work:
        return Work(s.study.flow.tokens, 0, entry * job.sides * s.entries, disk=disk * s.features, start=start)

    return work


def _resampling(entry: float, disk: float) -> Callable[[Job, Sizes, Corpora], Work]:
    """The same for every replicate of a bootstrap, the sums once; seconds an entry with 200 replicates."""

    def work(job: Job, s: Sizes, c: Corpora) -> Work:
        seconds = entry * (1 + s.study.flow.bootstrap / 200) / 2 * job.sides * s.entries
        return Work(s.study.flow.tokens, 0, seconds, disk=disk * s.study.flow.bootstrap)

    return work


def _measure_stability(job: Job, s: Sizes, c: Corpora) -> Work:
    pairs = job.sides * (job.sides - 1) / 2
    return Work(s.study.flow.tokens, 0, pairs * (4.5e-7 * s.entries + 1e-7 * s.features**2), disk=40.0 * s.features)


# --- tables and pages ---


def _following(feature: float, start: float, disk: float = 0.0) -> Callable[[Job, Sizes, Corpora], Work]:
    """A step that follows all features of all models: seconds and bytes of each."""

    def work(job: Job, s: Sizes, c: Corpora) -> Work:
        count = s.features * len(s.study.models)
        return Work(seconds=feature * count, disk=disk * count, start=start)

    return work


def _fixed(start: float, disk: float = 0.0) -> Callable[[Job, Sizes, Corpora], Work]:
    return lambda job, s, c: Work(disk=disk, start=start)


def _trace_flows(job: Job, s: Sizes, c: Corpora) -> Work:
    once = _following(2e-4, 1.5, 100.0)(job, s, c)
    seeds = len(s.study.autoencoder.seeds)
    return once._replace(seconds=seeds * once.seconds, disk=seeds * once.disk)


def _compare_weights(job: Job, s: Sizes, c: Corpora) -> Work:
    return Work(seconds=2 * s.checkpoint * len(s.study.edges()) / CHECKPOINT, start=1.0)


WORK: dict[str, Callable[[Job, Sizes, Corpora], Work]] = {
    "build_corpus": _build_corpus,
    "train_tokenizer": _train_tokenizer,
    "encode_corpus": _encode_corpus,
    "train_model": _train_model,
    "keep_model": _import_model,
    "import_model": _import_model,
    "import_adapter": _import_model,
    "build_model": _import_model,
    "check_hook": _check_hook,
    "sweep_merge": _sweep_merge,
    "merge_models": _merge_models,
    "evaluate_model": _evaluate_model,
    "train_autoencoder": _train_autoencoder,
    "import_autoencoder": _import_autoencoder,
    "evaluate_autoencoder": _evaluate_autoencoder,
    "collect_features": _collect_features,
    "weigh_logits": _weigh_logits,
    "correlate": _correlate,
    "correlate_part": _correlate,
    "correlate_shifted": _correlate,
    "correlate_neurons": _correlate_neurons,
    "correlate_published": _correlate_published,
    "bootstrap_flow": _resampling(2.4e-7, 800.0),
    "bootstrap_verdicts": _resampling(6.5e-7, 1600.0),
    "judge_features": _reading(1.1e-6, disk=60.0),
    "measure_stability": _measure_stability,
    "compare_weights": _compare_weights,
    "weigh_tokens": _reading(2e-7, disk=21.0),
    "collect_contexts": _reading(6e-7, disk=250.0),
    "categorise_features": _reading(8e-7, disk=115.0),
    "find_case": _reading(6e-8),
    "interpret_features": _reading(7e-7, start=2.0),
    "trace_flows": _trace_flows,
    "write_report": _following(6e-4, 3.0, 2500.0),
    "import_tokenizer": _fixed(LOADS_MODEL, 2e6),
    "export_figures": _fixed(10.0, 2e6),
    "tabulate_figures": _fixed(0.5),
    "compare_merges": _fixed(1.6),
}
PLOT = _fixed(2.0, 4.7e6)
OTHERWISE = _fixed(1.5)  # tables of a few thousand rows


def work_of(job: Job, sizes: Sizes, corpora: Corpora) -> Work:
    """What a job does."""
    if job.rule.startswith("plot_"):
        return PLOT(job, sizes, corpora)
    return WORK.get(job.base, OTHERWISE)(job, sizes, corpora)
