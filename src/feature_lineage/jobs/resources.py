"""What each step of a study asks a cluster for: memory and run time, from the sizes in its configuration.

Memory is counted: the tensors and tables that a step holds at once, in bytes, what a Python process with torch takes, and a quarter
more. On a GPU most of it is there, but the request is the same, so that a cluster without GPUs needs no other. Run time is bounded, for
a slow processor and no GPU: a job that ends early costs nothing, and one that is stopped goes on from its checkpoint when it is tried
again. A step that is tried again asks for twice as much memory, and twice the time up to `LONGEST`. `tests/test_resources.py` holds
both to what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from feature_lineage.jobs.sizes import FLOAT, Sizes, sizes_of
from feature_lineage.study.keys import MergedModel, Training
from feature_lineage.study.study import Study

LONGEST = 24 * 60  # minutes, as long as most partitions take jobs: one that asks for more would wait for ever
SHORTEST = 30
MARGIN = 1.25
PROCESS = 1.2e9  # bytes of a process with torch and transformers, 0.6e9 measured, and of the two of Snakemake that start it, 0.2e9 each
DRIVER = 2.0e9  # what CUDA and its libraries add to that in the host's memory: an allowance, not measured
OPERATIONS = 2e10  # floating-point operations a second and thread of a slow processor
PRODUCTS = 5e9  # activations × features a second and thread, Adam and resampling included
GIGABYTE = 1e9
HOUR = 3600.0


class Request(NamedTuple):
    """What a job asks for: memory in MB, run time in minutes."""

    mem_mb: int
    runtime: int


class _Need(NamedTuple):
    """Bytes beside those of the process, and seconds."""

    memory: float
    seconds: float


# --- language models ---------------------------------------------------------------------------------------


def _train_model(s: Sizes) -> _Need:
    """Weights, gradients and Adam's moments; the activations of all layers; the logits, their gradient and two copies."""
    training = s.trained or Training()
    tokens = training.batch * training.block
    layer = 16 * s.shape.hidden_size + 8 * s.shape.intermediate_size + 3 * s.shape.num_attention_heads * training.block
    memory = FLOAT * (4 * s.parameters + tokens * (s.shape.num_hidden_layers * layer + 4 * s.vocabulary))
    if training.tokens is None:  # as many as the corpora have
        return _Need(memory, math.inf)
    read = 3 * training.tokens * training.epochs + training.evaluations * s.evaluated
    return _Need(memory, 2 * s.parameters * read / OPERATIONS / s.study.threads + 0.1 * read / (3 * tokens))


def _evaluate_model(s: Sizes) -> _Need:
    seconds = 2 * s.parameters * s.evaluated / OPERATIONS / s.study.threads
    return _Need(s.forward(32 * max(map(s.study.block, s.study.models))), seconds)


def _sweep_merge(s: Sizes) -> _Need:
    """Both parents and the merged model; evaluated at all points of the path."""
    points = max((model.merge.points for model in s.study.models.values() if hasattr(model, "merge")), default=0)
    one = _evaluate_model(s)
    return _Need(one.memory + 2 * FLOAT * s.parameters, one.seconds * points)


def _merge_models(s: Sizes) -> _Need:
    """On a path both parents and the merged model, as it is made, saved and saved again with its provenance.

    Beside it all parents and the base, the first being overwritten, and copies of the largest tensor: what each parent changed, its
    magnitudes, and two in float64.
    """
    blocks = [(name, model) for name, model in s.study.models.items() if isinstance(model, MergedModel)]
    held = [(len(model.parents), s.study.merge_base(name) is not None) for name, model in blocks if not model.on_a_path]
    largest = s.shape.hidden_size * max(s.vocabulary, s.shape.intermediate_size)
    memory = [(parents + base) * s.parameters + (parents + 8) * largest for parents, base in held]
    return _Need(FLOAT * max([6 * s.parameters, *memory]), HOUR / 4 if memory else 0)


def _import_model(s: Sizes) -> _Need:
    """A model, as it is made or downloaded, saved, and saved again with its provenance."""
    return _Need(3 * FLOAT * s.parameters, HOUR)


# --- autoencoders ------------------------------------------------------------------------------------------


def _check_hook(s: Sizes) -> _Need:
    """A model, as it is read, and passes of two windows."""
    return _Need(s.forward(2 * s.study.context) + FLOAT * s.parameters, HOUR / 4)


def _train_autoencoder(s: Sizes) -> _Need:
    """Weights, gradient, Adam's moments, what is exported to be measured and what a checkpoint is written from; a batch's
    pre-activations, activations and two of resampling; batches read ahead, queued and sampled; the language model, which reads
    several batches at once.
    """
    options = s.study.autoencoder
    batch = options.batch * s.study.context
    read = 8 * batch
    memory = 6 * s.weights + 4 * FLOAT * batch * s.features + 3 * FLOAT * read * s.elements
    memory += max(
        s.forward(4096) + s.weights, FLOAT * (s.parameters + read * (8 * s.shape.hidden_size + 4 * s.elements))
    )
    seconds = options.tokens * (s.elements * s.features / PRODUCTS + 2 * s.body / OPERATIONS) / s.study.threads
    return _Need(memory, seconds + 600)


def _import_autoencoder(s: Sizes) -> _Need:
    """Weights as they are stored and as they are written, and the encoder in float64; from the hub, a download."""
    return _Need(4 * s.weights, HOUR)


def _evaluate_autoencoder(s: Sizes) -> _Need:
    """The autoencoder is applied several times, beside passes of the language model to the logits."""
    token = 6 * s.elements * s.features / PRODUCTS + 6 * s.parameters / OPERATIONS
    return _Need(s.encoded(64 * s.study.context), s.evaluated * token / s.study.threads)


def _collect_features(s: Sizes) -> _Need:
    token = 2 * s.elements * s.features / PRODUCTS + 2 * s.body / OPERATIONS
    return _Need(s.encoded(64 * s.study.context), s.study.flow.tokens * token / s.study.threads)


def _weigh_logits(s: Sizes) -> _Need:
    """The language model, the decoder, the path from it to the logits, and a block of effects with its largest."""
    seconds = 2 * s.features * s.shape.hidden_size * s.vocabulary / OPERATIONS / s.study.threads
    return _Need(2 * FLOAT * s.parameters + 2 * s.weights + 4 * FLOAT * 2**24, seconds)


def _correlate_neurons(s: Sizes) -> _Need:
    """Both language models; float64 activations of a batch, and four matrices of all pairs."""
    pairs = s.elements**2
    tokens = 64 * s.study.context
    seconds = s.study.flow.tokens * (2 * pairs + 4 * s.body) / OPERATIONS / s.study.threads
    return _Need(2 * s.forward(tokens) + 4 * 8 * (pairs + tokens * s.elements), seconds)


# --- the sample --------------------------------------------------------------------------------------------


def _correlate(s: Sizes) -> _Need:
    """Both sides' activations of a window, 12 bytes each. Where the sample needs several windows, sums of 4 GiB too, and three times
    that in all: what was measured far beyond the paper's size.
    """
    window = 2**27
    memory = 2 * 12 * min(s.entries, window)
    if s.entries > window:
        memory = 3 * (memory + 2**32)
    seconds = 1e-7 * (s.entries * s.active + s.features**2)
    return _Need(memory + 64 * s.features, seconds)


def _correlate_shifted(s: Sizes) -> _Need:
    """Three times, on tokens in another order: what is read is put together from several pieces."""
    once = _correlate(s)
    return _Need(1.5 * once.memory, 4 * once.seconds)


def _correlate_published(s: Sizes) -> _Need:
    """All of both sides in memory, several times over; every pair of features that fire together at all."""
    return _Need(2 * 90 * s.entries, 1e-10 * s.study.flow.tokens * s.features**2)


def _batch(s: Sizes, files: int) -> float:
    """Activations of several files, and those of pairs of features, that are worked through at once (`bootstrap.ENTRIES`)."""
    return 160 * min(files * s.entries, 2**23 + files * 2**14 * s.active)


def _sums(s: Sizes, rows: float) -> float:
    """So many sums for each feature and replicate, or as many as `bootstrap.MEMORY` holds, and half of them again as r is computed."""
    return 1.5 * min(8 * rows * s.features * s.study.flow.bootstrap, 2**32)


def _bootstrap_flow(s: Sizes) -> _Need:
    """Five sums of either side's features, and of three pairs a feature; a batch of the sample."""
    return _Need(_sums(s, 13) + _batch(s, 2), 1e-8 * s.entries * s.study.flow.bootstrap)


def _cosines(s: Sizes) -> float:
    """All between two dictionaries in float64, if they are assigned (`direction.ASSIGNED`); else a block of them, and decoders in float32."""
    pairs = s.features**2
    return s.weights + (3 * 8 * pairs if pairs <= 2**28 else 2 * FLOAT * 2**11 * s.features)


def _comparing(s: Sizes) -> float:
    """Seconds of those cosines, and of their assignment."""
    return 2e-6 * min(s.features**2, 2**28) + 2 * s.features**2 * s.elements / OPERATIONS / s.study.threads


def _measure_stability(s: Sizes) -> _Need:
    """The directions of all dictionaries, in float64, and cosines; pairs of features in half of the documents."""
    pairs = len(s.study.autoencoder.seeds) * (len(s.study.autoencoder.seeds) - 1) / 2
    memory = 2 * s.weights * len(s.study.autoencoder.seeds) + _cosines(s) + _batch(s, 2)
    return _Need(memory, pairs * (2e-7 * s.entries + _comparing(s)))


def _judge_features(s: Sizes) -> _Need:
    """The same for one pair of dictionaries, and batches of four readings."""
    once = _measure_stability(s)
    return _Need(4 * s.weights + _cosines(s) + _batch(s, 4), 1e-6 * s.entries + _comparing(s) + once.seconds)


def _bootstrap_verdicts(s: Sizes) -> _Need:
    """Nine sums of either side's features, and of three pairs a feature, in the whole sample and in its half; batches of four readings."""
    return _Need(_sums(s, 2 * 21) + _batch(s, 4), 4e-8 * s.entries * s.study.flow.bootstrap)


def _compare_weights(s: Sizes) -> _Need:
    """Two models, and two copies of their largest tensor in float64."""
    return _Need(4 * FLOAT * s.parameters, 0)


def _read_sample(s: Sizes) -> _Need:
    """What goes through the activations block by block: numbers for each feature, for each token of the sample, and for each activation in
    ten contexts of a feature: twenty times as many as in a window of the sample, and twenty.
    """
    shown = min(s.study.context, 20 * (1 + s.study.context * s.active / s.features))
    own = s.features * (10 * 64 * shown + 1000)
    seconds = 1e-6 * s.entries * max(1, s.features * s.vocabulary / 2**25 / 10)
    return _Need(4 * 2**28 + 2 * own + 64 * s.study.flow.tokens + 200 * 2**14 * s.active, seconds)


def _categorise_features(s: Sizes) -> _Need:
    """The activations of one range of features (`categories.ENTRIES`), or of a feature that fires on a tenth of the tokens; masses on
    positions (`categories.MASSES`); rows.
    """
    held = max(2**22, s.entries / 64, s.study.flow.tokens / 10)
    memory = 100 * min(held, s.entries) + 2 * 8 * 2**25 + 3000 * s.features + 64 * s.study.flow.tokens
    return _Need(memory + 200 * 2**14 * s.active, 3e-6 * s.entries)


def _follow_features(s: Sizes) -> _Need:
    """Tables of all features of all autoencoders: matches, fates, lineages."""
    count = s.features * len(s.study.models) * len(s.study.autoencoder.seeds)
    return _Need(20e3 * count, 0.01 * count)


def _write_report(s: Sizes) -> _Need:
    """All that is shown of the features of one autoencoder a model: contexts, tokens, effects, explanations."""
    count = s.features * len(s.study.models)
    return _Need(100e3 * count, 0.01 * count)


def _interpret_features(s: Sizes) -> _Need:
    """Excerpts of the features asked about; with a language model, the time is its endpoint's."""
    asked = s.study.interpretation
    return _Need(_read_sample(s).memory, math.inf if asked.model else _read_sample(s).seconds + HOUR)


# --- all of them -------------------------------------------------------------------------------------------

# Corpora are of unknown size, and streamed; a tokenizer's training counts their words.
_NEEDS: dict[str, Callable[[Sizes], _Need]] = {
    "build_corpus": lambda s: _Need(3 * GIGABYTE, 4 * HOUR),
    "train_tokenizer": lambda s: _Need(4 * GIGABYTE, 4 * HOUR),
    "encode_corpus": lambda s: _Need(3 * GIGABYTE, 4 * HOUR),
    "train_model": _train_model,
    "import_model": _import_model,
    "keep_model": _import_model,
    "import_adapter": _import_model,
    "check_hook": _check_hook,
    "build_model": _import_model,
    "sweep_merge": _sweep_merge,
    "merge_models": _merge_models,
    "compare_merges": _merge_models,
    "evaluate_model": _evaluate_model,
    "train_autoencoder": _train_autoencoder,
    "import_autoencoder": _import_autoencoder,
    "evaluate_autoencoder": _evaluate_autoencoder,
    "collect_features": _collect_features,
    "weigh_logits": _weigh_logits,
    "correlate": _correlate,
    "correlate_part": _correlate,
    "correlate_shifted": _correlate_shifted,
    "correlate_neurons": _correlate_neurons,
    "correlate_published": _correlate_published,
    "bootstrap_flow": _bootstrap_flow,
    "measure_stability": _measure_stability,
    "judge_features": _judge_features,
    "bootstrap_verdicts": _bootstrap_verdicts,
    "compare_weights": _compare_weights,
    "weigh_tokens": _read_sample,
    "collect_contexts": _read_sample,
    "categorise_features": _categorise_features,
    "find_case": _read_sample,
    "trace_flows": _follow_features,
    "interpret_features": _interpret_features,
    "write_report": _write_report,
}
# Steps that compute on a GPU if there is one.
ON_GPU = frozenset(
    (
        "train_model",
        "sweep_merge",
        "evaluate_model",
        "check_hook",
        "train_autoencoder",
        "evaluate_autoencoder",
        "collect_features",
        "weigh_logits",
        "correlate_neurons",
    )
)
SIZED = frozenset(_NEEDS)


def request(study: Study, step: str, model: str | None = None, attempt: int = 1) -> Request:
    """What a step asks for.

    Args:
        study: the study.
        step: name of its rule, one of `SIZED`.
        model: the model that the step is about; of the study's largest if it is about several or not named.
        attempt: how often it has been tried, this time counted.

    Returns:
        Memory and run time of the first request, both times 2 for every attempt after it; run time is at most `LONGEST`.

    Raises:
        KeyError: no such step.
    """
    need = _NEEDS[step](sizes_of(study, model))
    process = PROCESS + (DRIVER if step in ON_GPU else 0)
    mem_mb = 100 * math.ceil(MARGIN * (process + need.memory) / 100e6)
    minutes = math.ceil(min(LONGEST, max(SHORTEST, 2 * need.seconds / 60)) / 10) * 10
    return Request(mem_mb * 2 ** (attempt - 1), min(LONGEST, minutes * 2 ** (attempt - 1)))
