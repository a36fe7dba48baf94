"""One training step of a sparse autoencoder: forward pass, loss, gradients by hand, Adam (paper, section 3.2 and appendix B).

A trained autoencoder has some thirty of its thousands of features on per token. After the encoder's product nothing but these
active entries takes part, so all that follows is computed for them alone: the same numbers for a fraction of the work
(`active_entries` finds them).

In training, encoder and decoder are two matrices of one row per feature. What tells one variant from another is a `Variant`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch.nn.functional import embedding_bag

from feature_lineage.autoencoders.active_entries import (
    Batch,
    Capacity,
    Entries,
    Searches,
    above,
    dots,
    ends,
    largest_of_batch,
    largest_of_tokens,
)
from feature_lineage.autoencoders.autoencoder import activate
from feature_lineage.autoencoders.variants import Variant
from feature_lineage.autoencoders.weights import Centring, Weights

BETAS = (0.9, 0.9999)
SPARSE_BELOW = 0.05  # share of active entries below which a step over these alone is faster (docs/benchmarks.md)


class Terms(NamedTuple):
    """Of one batch: squared error, and L1 and L0 per token (means over tokens); the mean square of the target; the smallest
    activation (batchtopk alone, else 0); and what the two searches for active entries have found, 0 in a dense step."""

    mse: float
    l1: float
    l0: float
    input: float
    least: float
    first: float
    second: float


@dataclass
class Step:
    """Loss terms and gradients of one batch, on its device.

    `numbers` are the fields of `Terms`, float64; `fired` bool [m]; `parallel` [m] each feature's component of the decoder's
    gradient along its row; `gradients` in the order of `Variant.trained`.
    """

    numbers: torch.Tensor
    fired: torch.Tensor
    parallel: torch.Tensor
    gradients: list[torch.Tensor]

    @cached_property
    def terms(self) -> Terms:
        """The loss terms. Reading them waits for a GPU, once."""
        return Terms(*self.numbers.tolist())


def loss_and_gradients(
    variant: Variant,
    weights: Weights,
    centring: Centring,
    x: torch.Tensor,
    cost: float,
    dead: torch.Tensor | None = None,
    dense: bool = False,
    capacity: Capacity | None = None,
    sparse_below: float = SPARSE_BELOW,
) -> Step:
    """Equations (1) to (4) and their gradients, by hand.

    Args:
        variant: of autoencoder.
        weights: the autoencoder.
        centring: what precedes it.
        x: activations [tokens, n].
        cost: λ of equation (4): mean over tokens of (mean over elements of the squared error + λ · penalty).
        dead: numbers of the dead features, int64; with topk and batchtopk an auxiliary loss revives them.
        dense: whether most features are expected to be active, so that the active entries need not be looked for.
        capacity: places for active entries, so that a GPU is not waited for; None for exact sizes. What is returned holds if it suffices.
        sparse_below: share of active entries below which only these are computed with.
    """
    target = centring.target(x)
    batch = Batch(target, centring.input(target), weights.encoder_bias - weights.encoder @ weights.decoder_bias)
    searches = Searches(capacity)
    if variant.among == "token":
        entries = largest_of_tokens(batch, weights.encoder, variant.k, searches)
    elif variant.among == "batch":
        entries = largest_of_batch(batch, weights.encoder, variant.k, searches)
    else:
        most = int(sparse_below * len(x) * len(batch.bias))
        floor = weights.threshold - variant.band
        entries = None if dense else above(batch, weights.encoder, floor, searches, most)
        if entries is None:
            return _dense_step(variant, weights, batch, cost)
    return _sparse_step(variant, weights, batch, entries, searches, cost, dead)


def _dense_step(variant: Variant, weights: Weights, batch: Batch, cost: float) -> Step:
    """Some tokens at a time, in buffers that stay in place: what is as large as tokens times features is never held whole."""
    tokens, n = batch.target.shape
    m = len(batch.bias)
    parts = batch.parts(buffers=2)
    pre, value, at = batch.inputs.new_empty(3, parts[0].stop, m)
    encoder, decoder = torch.zeros_like(weights.encoder), torch.zeros_like(weights.decoder)
    bias, threshold, active = torch.zeros_like(batch.bias), torch.zeros_like(batch.bias), torch.zeros_like(batch.bias)
    upstream = torch.empty_like(batch.target)
    squares, l1 = batch.inputs.new_zeros(2, dtype=torch.float64)
    for part in parts:
        size = part.stop - part.start
        pre, value, at = pre[:size], value[:size], at[:size]
        torch.addmm(batch.bias, batch.inputs[part], weights.encoder.T, out=pre)
        value.copy_(pre).masked_fill_(pre <= weights.threshold, 0)
        error = torch.addmm(weights.decoder_bias - batch.target[part], value, weights.decoder)
        squares += _sum(error.square())
        l1 += _sum(value.sum(1))
        active += torch.count_nonzero(value, 0)
        upstream[part] = error.mul_(2 / (tokens * n))
        torch.mm(error, weights.decoder.T, out=at)
        at_pre, at_threshold = variant.backward(at, pre, weights.threshold, cost / tokens)
        decoder.addmm_(value.T, error)
        encoder.addmm_(at_pre.T, batch.inputs[part])
        bias += at_pre.sum(0)
        if at_threshold is not None:
            threshold += at_threshold.sum(0)
    return Step(
        _numbers(batch.target, squares, l1, _sum(active), *l1.new_zeros(3)),
        fired=active > 0,
        parallel=torch.linalg.vecdot(decoder, weights.decoder),
        gradients=[
            *_gradients(weights, bias, encoder, decoder, upstream),
            *([threshold] if variant.band else []),
        ],
    )


def _sparse_step(
    variant: Variant,
    weights: Weights,
    batch: Batch,
    entries: Entries,
    searches: Searches,
    cost: float,
    dead: torch.Tensor | None,
) -> Step:
    """Over the active entries; one whose pre-activation is at or below its threshold adds nothing."""
    tokens, n = batch.target.shape
    m = len(batch.bias)
    token, feature, pre = entries
    threshold = weights.threshold[feature] if variant.band else weights.threshold.new_zeros(())
    value = activate(pre, threshold)
    rows = ends(token, tokens)
    error = embedding_bag(feature, weights.decoder, rows[:-1], mode="sum", per_sample_weights=value)
    error += weights.decoder_bias - batch.target
    upstream = error * (2 / (tokens * n))
    at = dots(upstream, weights.decoder, token, feature, rows)
    along = at * value
    at, at_threshold = variant.backward(at, pre, threshold, cost / tokens)
    order = torch.argsort(feature, stable=True)
    starts, by_feature = ends(feature[order], m), token[order]
    decoder_gradient = embedding_bag(by_feature, upstream, starts[:-1], mode="sum", per_sample_weights=value[order])
    encoder_gradient = embedding_bag(by_feature, batch.inputs, starts[:-1], mode="sum", per_sample_weights=at[order])
    columns = torch.stack([value > 0, along, at, *([] if at_threshold is None else [at_threshold])], 1)
    # In float64, and in an order that does not change: sums by atomics, as `bincount` has them on a GPU, change in their last bits.
    sums = torch.segment_reduce(columns.double()[order], "sum", offsets=starts, axis=0, unsafe=True)
    fired = sums[:, 0]
    # Side by side in memory, as fused Adam reads them.
    parallel, bias, *at_thresholds = sums[:, 1:].T.float(memory_format=torch.contiguous_format)
    least = _least(value) if variant.among == "batch" and len(value) else fired.new_zeros(())
    step = Step(
        _numbers(
            batch.target, _sum(error.square()), _sum(value), fired.sum(), least, searches.counts[0], searches.counts[-1]
        ),
        fired=fired > 0,
        parallel=parallel,
        gradients=[*_gradients(weights, bias, encoder_gradient, decoder_gradient, upstream), *at_thresholds],
    )
    if variant.among and dead is not None and len(dead):
        _revive(step, weights, batch, error, dead)
    return step


def _numbers(
    target: torch.Tensor, squares: torch.Tensor, l1: torch.Tensor, l0: torch.Tensor, *others: torch.Tensor
) -> torch.Tensor:
    """The fields of `Terms` from sums over a batch."""
    tokens, elements = len(target), target.numel()
    means = [squares / elements, l1 / tokens, l0 / tokens, _sum(target.square()) / elements]
    return torch.stack([*means, *others])


def _least(value: torch.Tensor) -> torch.Tensor:
    """The smallest positive activation, 0 if there is none."""
    least = torch.where(value > 0, value, torch.inf).min().double()
    return torch.where(least.isinf(), 0.0, least)


AUXILIARY = 1 / 32  # weight of the auxiliary loss


def _revive(step: Step, weights: Weights, batch: Batch, error: torch.Tensor, dead: torch.Tensor) -> None:
    """Add the gradients of the auxiliary loss: dead features reconstruct what the living ones leave (Gao et al. 2024, A.2).

    The n / 2 largest of them per token take part, whatever their sign: one that is negative everywhere is reached too. The error
    is taken as given.
    """
    tokens, n = error.shape
    some = Weights(
        weights.encoder[dead], weights.encoder_bias[dead], weights.decoder[dead], weights.decoder_bias,
        weights.threshold[dead],
    )  # fmt: skip
    value = torch.addmm(batch.bias[dead], batch.inputs, some.encoder.T)
    chosen = value >= value.topk(min(len(dead), max(1, n // 2))).values[:, -1:]
    value *= chosen
    upstream = (value @ some.decoder).add_(error).mul_(2 * AUXILIARY / (tokens * n))
    at = (upstream @ some.decoder.T).mul_(chosen)
    decoder_gradient = value.T @ upstream
    nothing = torch.zeros_like(upstream[:1])
    found = _gradients(some, at.sum(0), at.T @ batch.inputs, decoder_gradient, nothing)
    for whole, part in zip(step.gradients[:3], found[:3], strict=True):
        whole.index_add_(0, dead, part)
    step.gradients[3] += found[3]
    step.parallel.index_add_(0, dead, torch.linalg.vecdot(decoder_gradient, some.decoder))


def _gradients(
    weights: Weights, bias: torch.Tensor, encoder: torch.Tensor, decoder: torch.Tensor, upstream: torch.Tensor
) -> list[torch.Tensor]:
    """All four gradients, from those that leave out that the decoder's bias is subtracted from the encoder's input."""
    encoder.addr_(bias, weights.decoder_bias, alpha=-1)
    return [encoder, bias, decoder, upstream.sum(0) - bias @ weights.encoder]


def _sum(x: torch.Tensor) -> torch.Tensor:
    return x.sum(dtype=torch.float64)


def keep_unit_norm(gradient: torch.Tensor, decoder: torch.Tensor, parallel: torch.Tensor) -> None:
    """Remove from the decoder's gradient [m, n] its component `parallel` [m] along each feature's row (in place)."""
    gradient.addcmul_(parallel[:, None], decoder, value=-1)


def training_step(
    variant: Variant,
    weights: Weights,
    centring: Centring,
    adam: torch.optim.Adam,
    x: torch.Tensor,
    cost: float,
    dead: torch.Tensor | None = None,
    dense: bool = False,
    capacity: Capacity | None = None,
) -> Step:
    """One step of Adam on a batch [tokens, n], in place; the decoder's rows stay at unit norm. See `loss_and_gradients`.

    A GPU is waited for once, when the loss terms are read; twice more without a capacity, or where it does not suffice.
    """
    found = loss_and_gradients(variant, weights, centring, x, cost, dead, dense, capacity)
    if capacity is not None and not capacity.suffices(found.terms.first, found.terms.second):
        found = loss_and_gradients(variant, weights, centring, x, cost, dead, dense)
    keep_unit_norm(found.gradients[2], weights.decoder, found.parallel)
    for tensor, gradient in zip(variant.trained(weights), found.gradients, strict=True):
        tensor.grad = gradient
    adam.step()
    weights.decoder /= weights.decoder.norm(dim=1, keepdim=True)
    if variant.band:
        weights.threshold.clamp_(min=0)
    elif variant.among == "batch":
        before, least = weights.threshold[0].double(), found.numbers[Terms._fields.index("least")]
        weights.threshold.copy_(torch.where(before > 0, before + 0.01 * (least - before), least))
    return found
