"""Training of a sparse autoencoder on a model's activations (paper, appendix B; method of Bricken et al. 2023).

How it starts, what a run does around its steps (`training_step`): resampling, steering λ to an L0, checkpoints, the curve.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tqdm.auto import tqdm

from feature_lineage.autoencoders.active_entries import Capacity
from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.resampling import resample_features, resampling_steps
from feature_lineage.autoencoders.resume import Progress, checkpoint_step, restore, write_checkpoint
from feature_lineage.autoencoders.start import start, variant_of
from feature_lineage.autoencoders.steering import Steering
from feature_lineage.autoencoders.step import BETAS, SPARSE_BELOW, Terms, training_step
from feature_lineage.autoencoders.variants import export
from feature_lineage.errors import InputError, Stopped
from feature_lineage.models.hooks import activation_batches, activations, loss_recovered, spliced_losses
from feature_lineage.models.read_ahead import ReadAhead
from feature_lineage.progress import logger, progress
from feature_lineage.streams import Stream, entropy
from feature_lineage.study.measures import Autoencoder
from feature_lineage.text.windows import Windows

CURVE = pa.schema(
    [
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("loss", pa.float64()),
        ("mse", pa.float64()),
        ("l1", pa.float64()),
        ("l0", pa.float64()),
        ("dead_share", pa.float64()),
        ("l1_coefficient", pa.float64()),
        ("loss_recovered", pa.float64()),  # null where it was not measured
    ]
)
CURVE_POINTS = 200
MEASUREMENTS = 20  # of these with loss recovered,
MEASURED_TOKENS = 4096  # each on so many validation tokens
CHECKPOINT_SECONDS = 120.0
AHEAD = 8  # batches that the language model reads at once
SAMPLE_BATCHES = 8  # batches that scale, mean and geometric median are taken from
DIVERGED = 1e4  # a squared error of so many times the target's mean square has diverged; random starts stay below it


@dataclass(frozen=True)
class Data:
    """What an autoencoder is trained on.

    Args:
        batches: `batches(step)` yields the activations [tokens, n] of that step and all after it, the same at every call.
        pool: `pool(step)` yields the activations that dead features are resampled from at that step.
        sample: activations [tokens, n] for the start (see `start`).
    """

    batches: Callable[[int], Iterator[torch.Tensor]]
    pool: Callable[[int], Iterable[torch.Tensor]]
    sample: torch.Tensor


@dataclass(frozen=True)
class Length:
    """How long a run is and how many features it trains.

    Args:
        steps: batches to train on.
        tokens_per_step: tokens in a batch.
        features: m.
        silent_steps: a feature that has not fired for so many steps is dead.
        resample_steps: steps after which dead features are resampled; not with topk and batchtopk, which have an auxiliary loss.
    """

    steps: int
    tokens_per_step: int
    features: int
    silent_steps: int
    resample_steps: Sequence[int] = ()


@dataclass(frozen=True)
class Watch:
    """What goes on beside a run and changes none of its weights.

    Args:
        measure: loss recovered by an autoencoder, for the curve.
        describe: names the batch of a step, for the error when training diverges.
        checkpoint_seconds: time between checkpoints.
        stop: asked after each step; once it says yes, a checkpoint is written and `Stopped` raised.
    """

    measure: Callable[[SparseAutoencoder], float] | None = None
    describe: Callable[[int], str] = "batch {}".format
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    stop: Callable[[], bool] = lambda: False


def train_on_activations(
    data: Data,
    checkpoint: str | Path,
    options: Autoencoder,
    length: Length,
    seed: int,
    parent: SparseAutoencoder | None = None,
    watch: Watch | None = None,
) -> tuple[SparseAutoencoder, pa.Table]:
    """Train an autoencoder on a stream of activations; goes on from `checkpoint` if that file exists and is whole.

    Args:
        data: the activations.
        checkpoint: file of this run alone, written now and then, left in place when training ends; `.before` the one before it.
        options: variant, learning rate, penalty and start; its tokens, batch, expansion and resampling are in `length` here.
        length: of the run.
        seed: of the weights and of what is resampled.
        parent: the autoencoder to start from with `init: parent`, if there is one.
        watch: see `Watch`.

    Returns:
        The autoencoder, and its training curve (schema `CURVE`; loss, mse and l1 as in equation (4), in scaled units if
        `normalize`; `dead_share`: features silent in the last `silent_steps` steps; `l1_coefficient`: λ).

    Raises:
        InputError: activations ended early, training diverged, or `l0` exceeds `features`.
        Stopped: asked to.
    """
    if options.l0 is not None and options.l0 > length.features:
        raise InputError(
            f"autoencoder.l0 is {options.l0:g}, more than the {length.features} features that there are; lower it"
        )
    with torch.no_grad():
        return _Training(data, Path(checkpoint), options, length, seed, parent, watch or Watch()).run()


class _Training:
    """A run, from its start or its last checkpoint to its end."""

    def __init__(
        self,
        data: Data,
        checkpoint: Path,
        options: Autoencoder,
        length: Length,
        seed: int,
        parent: SparseAutoencoder | None,
        watch: Watch,
    ) -> None:
        self.data, self.checkpoint, self.options, self.length = data, checkpoint, options, length
        self.seed, self.watch = seed, watch
        self.kind = variant_of(options.variant, options.l0)
        weights, self.centring = start(self.kind, length.features, data.sample, options, seed, parent)
        self.state = Progress(
            weights,
            torch.optim.Adam(self.kind.trained(weights), lr=options.lr, betas=BETAS, fused=True),
            torch.zeros(length.features, dtype=torch.int64, device=data.sample.device),
            Steering(options.l1),
            dense=not self.kind.among,
        )
        if restored := restore(checkpoint, self.state):
            logger.info("going on from step %d of %d, %s", self.state.step, length.steps, restored)
        self.variance = float(self.centring.target(data.sample).double().var(0, correction=0).mean())
        self.capacity: Capacity | None = None  # of no consequence for any number: it is in no checkpoint

    def run(self) -> tuple[SparseAutoencoder, pa.Table]:
        """All steps that are left."""
        state, length = self.state, self.length
        first, began = state.step, time.monotonic()
        saved, tokens = began, length.tokens_per_step
        with ReadAhead(self.data.batches(first), AHEAD) as stream, progress(length.steps * tokens, "tok") as bar:
            bar.update(first * tokens)
            while state.step < length.steps:
                x = next(stream, None)
                if x is None:
                    raise InputError(
                        f"activations ended after {state.step} of {length.steps} steps; lower autoencoder.tokens or add documents"
                    )
                terms, loss, coefficient = self._step(x)
                bar.update(tokens)
                if state.step in length.resample_steps and not self.kind.among:
                    self._resample(coefficient)
                self._record(terms, loss, coefficient, bar)
                late = time.monotonic() - saved >= self.watch.checkpoint_seconds
                if self.watch.stop() or (late and state.step < length.steps):
                    self._save()
                    saved = time.monotonic()
        seconds, end = time.monotonic() - began, state.rows[-1]
        logger.info(
            "%d steps, %.0f tokens/s, loss %.5f, L0 %.1f, dead %.2f %%; activations were computed in %.1f %% of the wall time, "
            "beside the training, and waited for in %.1f %%",
            length.steps, (length.steps - first) * tokens / seconds, end["loss"], end["l0"], 100 * end["dead_share"],
            100 * stream.busy / seconds, 100 * stream.waited / seconds,
        )  # fmt: skip
        return export(self.kind, state.weights, self.centring), pa.Table.from_pylist(state.rows, CURVE)

    def _step(self, x: torch.Tensor) -> tuple[Terms, float, float]:
        """Move the weights by a batch: its terms, its loss and the λ that it was taken with."""
        kind, state, options = self.kind, self.state, self.options
        warm = min(1.0, (state.step + 1) / options.l1_warmup_steps) if options.l1_warmup_steps else 1.0
        coefficient = state.steering.l1 * warm if kind.penalty else 0.0
        dead = self._dead() if kind.among else None
        found = training_step(
            kind, state.weights, self.centring, state.adam, x, coefficient, dead, state.dense, self.capacity
        )
        terms = found.terms
        if x.is_cuda and terms.first:
            self.capacity = Capacity.after(terms.first, terms.second, self.capacity)
        penalty = getattr(terms, kind.penalty) if kind.penalty else 0.0
        loss = terms.mse + coefficient * penalty
        if not math.isfinite(loss) or terms.mse > DIVERGED * max(terms.input, 1e-30):
            raise self._diverged(f"the loss is {loss:.4g} (squared error {terms.mse:.4g})", state.step)
        if options.l0 is not None and kind.penalty and warm == 1.0:
            state.steering.observe(terms.l0, options.l0, self.length.steps, self.variance - terms.mse, penalty)
        state.dense = not kind.among and terms.l0 > SPARSE_BELOW * self.length.features
        state.step += 1
        state.last_fired.masked_fill_(found.fired, state.step)
        return terms, loss, coefficient

    def _dead(self) -> torch.Tensor:
        """Numbers of the features that have been silent for `silent_steps` steps, int64."""
        return (self.state.last_fired <= self.state.step - self.length.silent_steps).nonzero().squeeze(1)

    def _resample(self, coefficient: float) -> None:
        state, dead = self.state, self._dead()
        pool = self.data.pool(state.step)
        resample_features(self.kind, state, self.centring, dead, pool, coefficient, [self.seed, state.step])
        state.last_fired[dead] = state.step
        logger.info("step %d: %d dead features resampled", state.step, len(dead))

    def _record(self, terms: Terms, loss: float, coefficient: float, bar: tqdm[Any]) -> None:
        """Add a row to the curve, where one is due."""
        state, length = self.state, self.length
        last, recovered = state.step == length.steps, None
        if self.watch.measure and (state.step % max(1, length.steps // MEASUREMENTS) == 0 or last):
            recovered = self.watch.measure(export(self.kind, state.weights, self.centring))
        if state.step % max(1, length.steps // CURVE_POINTS) == 0 or last or recovered is not None:
            row = {"loss": loss, "mse": terms.mse, "l1": terms.l1, "l0": terms.l0, "l1_coefficient": coefficient}
            row |= {"dead_share": len(self._dead()) / length.features, "loss_recovered": recovered}
            state.rows.append({"step": state.step, "tokens": state.step * length.tokens_per_step} | row)
            bar.set_postfix(loss=f"{loss:.4f}", l0=f"{terms.l0:.1f}", refresh=False)

    def _save(self) -> None:
        """Write a checkpoint, and stop if asked to."""
        state = self.state
        if not all(bool(tensor.isfinite().all()) for tensor in self.kind.trained(state.weights)):
            raise self._diverged("a weight is not finite", state.step - 1)
        write_checkpoint(self.checkpoint, state)
        if self.watch.stop():
            raise Stopped(
                f"stopped after step {state.step} of {self.length.steps}; started again it goes on from {self.checkpoint}"
            )

    def _diverged(self, what: str, batch: int) -> InputError:
        last = "none yet"
        if self.checkpoint.exists():
            last = f"{self.checkpoint}, written after step {checkpoint_step(self.checkpoint)}"
        return InputError(
            f"training has diverged, {what} at step {batch + 1} of {self.length.steps}, on {self.watch.describe(batch)}; the last "
            f"checkpoint is {last}; lower autoencoder.lr ({self.options.lr:g}), or look at the model's activations"
        )


def train_autoencoder(
    bridge: Any,
    train: Mapping[str, str | Path],
    validation: Mapping[str, str | Path],
    checkpoint: str | Path,
    options: Autoencoder,
    seed: int,
    parent: SparseAutoencoder | None = None,
    watch: Watch | None = None,
) -> tuple[SparseAutoencoder, pa.Table]:
    """Train an autoencoder on a model's activations, in blocks drawn uniformly without replacement from all its corpora.

    Args:
        bridge: the model (`hooks.load_hooked`).
        train: training token directory by corpus of the model's trace.
        validation: their validation token directories, for the curve's loss recovered.
        checkpoint: file of this run alone.
        options: of the autoencoder; its seeds are not read.
        seed: of the weights and of the blocks drawn.
        parent, watch: see `train_autoencoder`; loss recovered and the name of a batch are those of this model.

    Returns:
        As `train_autoencoder`.

    Raises:
        InputError: as `train_autoencoder`, or λ's warm-up is longer than the run.
    """
    windows = Windows(train, options.context)
    chosen = windows.sample(options.tokens, entropy(seed, Stream.AUTOENCODER), "autoencoder.tokens")
    steps = len(chosen) // options.batch
    if options.l1_warmup_steps >= steps:
        raise InputError(
            f"autoencoder.l1_warmup_steps is {options.l1_warmup_steps}, and the run has {steps} steps, so that λ never gets to its full "
            "value; lower it or raise autoencoder.tokens"
        )
    resample_steps, silent_steps = resampling_steps(steps, options.resampling.at, options.resampling.silent)

    def describe(step: int) -> str:
        corpus, position = windows.places(chosen[step * options.batch : (step + 1) * options.batch])
        first = windows.directories[windows.corpora[corpus[0]]]
        return f"batch {step}, {len(corpus)} blocks of {options.context} tokens, the first at token {position[0]:,} of {first}"

    measure = _loss_recovered(bridge, options.hook, Windows(validation, options.context))
    return train_on_activations(
        _data(bridge, windows, chosen, options, seed),
        checkpoint,
        options,
        Length(
            steps=steps,
            tokens_per_step=options.batch * options.context,
            features=options.expansion * activations(bridge, options.hook, windows[chosen[:1]]).shape[1]
            if parent is None
            else len(parent.W_dec),
            silent_steps=silent_steps,
            resample_steps=resample_steps,
        ),
        seed,
        parent,
        replace(watch or Watch(), measure=measure, describe=describe),
    )


def _data(bridge: Any, windows: Windows, chosen: np.ndarray, options: Autoencoder, seed: int) -> Data:
    """A model's activations on chosen windows, in batches of blocks."""
    batch = options.batch

    def batches(step: int) -> Iterator[torch.Tensor]:
        # From any step on, the model reads the same windows together: the last bits depend on how many they are.
        first = step - step % AHEAD
        found = activation_batches(bridge, options.hook, windows, chosen[first * batch :], batch, AHEAD)
        return islice(found, step - first, None)

    def pool(step: int) -> Iterator[torch.Tensor]:
        wanted = min(options.resampling.pool_tokens, len(windows) * options.context)
        drawn = windows.sample(wanted, entropy(seed, Stream.POOL, step), "autoencoder.resampling.pool_tokens")
        return activation_batches(bridge, options.hook, windows, drawn, batch=min(batch, len(drawn)), ahead=AHEAD)

    return Data(batches, pool, torch.cat(list(islice(batches(0), SAMPLE_BATCHES))))


def _loss_recovered(bridge: Any, hook: str, windows: Windows) -> Callable[[SparseAutoencoder], float]:
    """Of an autoencoder, on validation windows of equal number from each corpus."""
    corpora = len(windows.corpora)
    each = max(1, MEASURED_TOKENS // corpora)
    chosen = np.concatenate([windows.spread(number, each) for number in range(corpora)])
    watched, kept = windows[chosen], windows.kept(chosen)
    clean_and_zero = spliced_losses(bridge, hook, watched, (None, torch.zeros_like), kept)

    def measure(autoencoder: SparseAutoencoder) -> float:
        (spliced,) = spliced_losses(
            bridge, hook, watched, (lambda x: autoencoder.decode(autoencoder.encode(x), x),), kept
        )
        return loss_recovered(*clean_and_zero, spliced)

    return measure
