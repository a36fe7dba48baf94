"""Training of a sparse autoencoder on a model's activations (paper, appendix B; method of Bricken et al. 2023).

How it starts, what a run does around its steps (`training_step`): resampling, steering λ to an L0, checkpoints, the curve.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from feature_lineage.autoencoders.active_entries import Capacity
from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.resample import _resample
from feature_lineage.autoencoders.resampling import resampling_steps
from feature_lineage.autoencoders.resume import Progress, _checkpoint, _checkpoint_step, _restore
from feature_lineage.autoencoders.start import start, variant_of
from feature_lineage.autoencoders.steering import Steering
from feature_lineage.autoencoders.step import BETAS, SPARSE_BELOW, training_step
from feature_lineage.autoencoders.variants import export
from feature_lineage.errors import InputError, Stopped
from feature_lineage.models.hooks import ReadAhead, activation_batches, activations, loss_recovered, spliced_losses
from feature_lineage.progress import logger, progress
from feature_lineage.streams import Stream, entropy
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


@torch.no_grad()
def train_autoencoder(
    batches: Callable[[int], Iterator[torch.Tensor]],
    pool: Callable[[int], Iterable[torch.Tensor]],
    sample: torch.Tensor,
    checkpoint: str | Path,
    *,
    label: str,
    steps: int,
    tokens_per_step: int,
    features: int,
    seed: int,
    lr: float,
    variant: str = "l1",
    l0: float | None = None,
    l1: float,
    l1_warmup_steps: int,
    normalize: bool,
    mean: str,
    init: str,
    resample_steps: Sequence[int],
    silent_steps: int,
    parent: SparseAutoencoder | None = None,
    measure: Callable[[SparseAutoencoder], float] | None = None,
    describe: Callable[[int], str] = "batch {}".format,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[SparseAutoencoder, pa.Table]:
    """Train an autoencoder on a stream of activations; goes on from `checkpoint` if that file exists and is whole.

    Args:
        batches: `batches(step)` yields the activations [tokens, n] of that step and all after it, the same at every call.
        pool: `pool(step)` yields the activations that dead features are resampled from at that step.
        sample: activations [tokens, n] for the start (see `start`).
        checkpoint: file of this run alone, written now and then, left in place when training ends; `.before` the one before it.
        label: name in the progress bar.
        steps: batches to train on.
        tokens_per_step: tokens in a batch.
        features: m.
        seed, lr, variant, l0, l1, l1_warmup_steps, normalize, mean, init: as in `measures.Autoencoder`.
        resample_steps: steps after which dead features are resampled; not with topk and batchtopk, which have an auxiliary loss.
        silent_steps: a feature that has not fired for so many steps is dead.
        parent: the autoencoder to start from with `init: parent`, if there is one.
        measure: loss recovered by an autoencoder, for the curve.
        describe: names the batch of a step, for the error when training diverges.
        checkpoint_seconds: time between checkpoints.
        stop: asked after each step; once it says yes, a checkpoint is written and `Stopped` raised.

    Returns:
        The autoencoder, and its training curve (schema `CURVE`; loss, mse and l1 as in equation (4), in scaled units if
        `normalize`; `dead_share`: features silent in the last `silent_steps` steps; `l1_coefficient`: λ).

    Raises:
        InputError: activations ended early, training diverged, or `l0` exceeds `features`.
        Stopped: asked to.
    """
    if l0 is not None and l0 > features:
        raise InputError(
            f"{label}: autoencoder.l0 is {l0:g}, more than the {features} features that there are; lower it"
        )
    kind = variant_of(variant, l0)
    weights, centring = start(
        kind, features, sample, seed=seed, normalize=normalize, mean=mean, init=init, parent=parent
    )
    run = Progress(
        weights,
        torch.optim.Adam(kind.trained(weights), lr=lr, betas=BETAS, fused=True),
        torch.zeros(features, dtype=torch.int64, device=sample.device),
        Steering(l1),
        dense=not kind.among,
    )
    if restored := _restore(checkpoint, run):
        logger.info("%s: going on from step %d of %d, %s", label, run.step, steps, restored)
    variance = float(centring.target(sample).double().var(0, correction=0).mean())
    capacity: Capacity | None = None  # of no consequence for any number: it is in no checkpoint
    first, began = run.step, time.monotonic()
    saved = began

    def diverged(what: str, batch: int) -> InputError:
        last = (
            f"{checkpoint}, written after step {_checkpoint_step(checkpoint)}"
            if Path(checkpoint).exists()
            else "none yet"
        )
        return InputError(
            f"{label}: training has diverged, {what} at step {batch + 1} of {steps}, on {describe(batch)}; the last "
            f"checkpoint is {last}; lower autoencoder.lr ({lr:g}), or look at the model's activations"
        )

    every, measured = max(1, steps // CURVE_POINTS), max(1, steps // MEASUREMENTS)
    with ReadAhead(batches(first), AHEAD) as stream, progress(steps * tokens_per_step, "tok", label) as bar:
        bar.update(first * tokens_per_step)
        while run.step < steps:
            x = next(stream, None)
            if x is None:
                raise InputError(
                    f"{label}: activations ended after {run.step} of {steps} steps; lower autoencoder.tokens or add documents"
                )
            warm = min(1.0, (run.step + 1) / l1_warmup_steps) if l1_warmup_steps else 1.0
            coefficient = run.steering.l1 * warm if kind.penalty else 0.0
            dead = _dead(run, silent_steps) if kind.among else None
            found = training_step(kind, weights, centring, run.adam, x, coefficient, dead, run.dense, capacity)
            terms = found.terms
            if x.is_cuda and terms.first:
                capacity = Capacity.after(terms.first, terms.second, capacity)
            loss = terms.mse + coefficient * (getattr(terms, kind.penalty) if kind.penalty else 0.0)
            if not math.isfinite(loss) or terms.mse > DIVERGED * max(terms.input, 1e-30):
                raise diverged(f"the loss is {loss:.4g} (squared error {terms.mse:.4g})", run.step)
            if l0 is not None and kind.penalty and warm == 1.0:
                run.steering.observe(terms.l0, l0, steps, variance - terms.mse, getattr(terms, kind.penalty))
            run.dense = not kind.among and terms.l0 > SPARSE_BELOW * features
            run.step += 1
            run.last_fired.masked_fill_(found.fired, run.step)
            bar.update(tokens_per_step)
            if run.step in resample_steps and not kind.among:
                dead = _dead(run, silent_steps)
                _resample(kind, run, centring, dead, pool(run.step), coefficient, [seed, run.step])
                run.last_fired[dead] = run.step
                logger.info("%s step %d: %d dead features resampled", label, run.step, len(dead))
            last = run.step == steps
            recovered = None
            if measure and (run.step % measured == 0 or last):
                recovered = measure(export(kind, weights, centring))
            if run.step % every == 0 or last or recovered is not None:
                row = {"loss": loss, "mse": terms.mse, "l1": terms.l1, "l0": terms.l0, "l1_coefficient": coefficient}
                place = {"step": run.step, "tokens": run.step * tokens_per_step}
                run.rows.append(
                    place | row | {"dead_share": len(_dead(run, silent_steps)) / features, "loss_recovered": recovered}
                )
                bar.set_postfix(loss=f"{loss:.4f}", l0=f"{terms.l0:.1f}", refresh=False)
            if stop() or (not last and time.monotonic() - saved >= checkpoint_seconds):
                if not all(bool(tensor.isfinite().all()) for tensor in kind.trained(weights)):
                    raise diverged("a weight is not finite", run.step - 1)
                _checkpoint(checkpoint, run)
                saved = time.monotonic()
                if stop():
                    raise Stopped(
                        f"{label}: stopped after step {run.step} of {steps}; started again it goes on from {checkpoint}"
                    )
    seconds = time.monotonic() - began
    logger.info(
        "%s: %d steps, %.0f tokens/s, loss %.5f, L0 %.1f, dead %.2f %%; activations were computed in %.1f %% of the wall time, "
        "beside the training, and waited for in %.1f %%",
        label, steps, (steps - first) * tokens_per_step / seconds, run.rows[-1]["loss"], run.rows[-1]["l0"],
        100 * run.rows[-1]["dead_share"], 100 * stream.busy / seconds, 100 * stream.waited / seconds,
    )  # fmt: skip
    return export(kind, weights, centring), pa.Table.from_pylist(run.rows, CURVE)


def _dead(run: Progress, silent_steps: int) -> torch.Tensor:
    """Numbers of the features that have been silent for so many steps, int64."""
    return (run.last_fired <= run.step - silent_steps).nonzero().squeeze(1)


def train_on_model(
    bridge: Any,
    train: Mapping[str, str | Path],
    validation: Mapping[str, str | Path],
    checkpoint: str | Path,
    *,
    label: str,
    seed: int,
    hook: str,
    expansion: int,
    tokens: int,
    context: int,
    batch: int,
    resampling: Mapping[str, Any],
    **options: Any,
) -> tuple[SparseAutoencoder, pa.Table]:
    """Train an autoencoder on a model's activations, in blocks drawn uniformly without replacement from all its corpora.

    Args:
        bridge: the model (`hooks.load_hooked`).
        train: training token directory by corpus of the model's trace.
        validation: their validation token directories, for the curve's loss recovered.
        checkpoint: file of this run alone.
        label: name in the progress bar.
        seed: of the weights and of the blocks drawn.
        hook, expansion, tokens, context, batch, resampling, options: as in `measures.Autoencoder` and `train_autoencoder`.

    Returns:
        As `train_autoencoder`.

    Raises:
        InputError: as `train_autoencoder`, or λ's warm-up is longer than the run.
    """
    windows, held_out = Windows(train, context), Windows(validation, context)
    chosen = windows.draw(tokens, entropy(seed, Stream.AUTOENCODER), "autoencoder.tokens")
    steps = len(chosen) // batch
    if (warmup := options["l1_warmup_steps"]) >= steps:
        raise InputError(
            f"{label}: autoencoder.l1_warmup_steps is {warmup}, and the run has {steps} steps, so that λ never gets to its full value; "
            "lower it or raise autoencoder.tokens"
        )
    resample_steps, silent_steps = resampling_steps(steps, resampling["at"], resampling["silent"])
    each = max(1, MEASURED_TOKENS // len(validation))
    watched = held_out[np.concatenate([held_out.spread(number, each) for number in range(len(validation))])]

    def batches(step: int) -> Iterator[torch.Tensor]:
        # From any step on, the model reads the same windows together: the last bits depend on how many they are.
        first = step - step % AHEAD
        found = activation_batches(bridge, hook, windows, chosen[first * batch :], batch, AHEAD)
        return islice(found, step - first, None)

    def pool(step: int) -> Iterator[torch.Tensor]:
        wanted = min(resampling["pool_tokens"], len(windows) * context)
        drawn = windows.draw(wanted, entropy(seed, Stream.POOL, step), "autoencoder.resampling.pool_tokens")
        return activation_batches(bridge, hook, windows, drawn, batch=min(batch, len(drawn)), ahead=AHEAD)

    def describe(step: int) -> str:
        corpus, position = windows.places(chosen[step * batch : (step + 1) * batch])
        first = windows.directories[windows.corpora[corpus[0]]]
        return f"batch {step}, {len(corpus)} blocks of {context} tokens, the first at token {position[0]:,} of {first}"

    clean_and_zero = spliced_losses(bridge, hook, watched, (None, torch.zeros_like))

    def measure(autoencoder: SparseAutoencoder) -> float:
        (spliced,) = spliced_losses(bridge, hook, watched, (lambda x: autoencoder.decode(autoencoder.encode(x)),))
        return loss_recovered(*clean_and_zero, spliced)

    return train_autoencoder(
        batches,
        pool,
        torch.cat(list(islice(batches(0), SAMPLE_BATCHES))),
        checkpoint,
        label=label,
        steps=steps,
        tokens_per_step=batch * context,
        features=expansion * activations(bridge, hook, windows[chosen[:1]]).shape[1],
        seed=seed,
        resample_steps=resample_steps,
        silent_steps=silent_steps,
        measure=measure,
        describe=describe,
        **options,
    )
