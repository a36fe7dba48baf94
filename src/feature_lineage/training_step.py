"""One training step of a sparse autoencoder: forward pass, loss, gradients by hand, Adam (paper, section 3.2 and appendix B).

A trained autoencoder has some thirty of its thousands of features on per token. After the encoder's product nothing but these
active entries takes part, so all that follows is computed for them alone: the same numbers for a fraction of the work. The
product itself is first made in bfloat16, where the processor is much faster at that, with a bound on its error added: what stays
below the threshold even then is inactive for certain, and the rest is computed in float32.

In training, encoder and decoder are two matrices of one row per feature. What tells one variant from another is a `Variant`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch.nn.functional import embedding_bag

from feature_lineage.autoencoder import SparseAutoencoder, activate

BETAS = (0.9, 0.9999)
SPARSE_BELOW = 0.05  # share of active entries below which a step over these alone is faster (docs/benchmarks.md)
GLANCE = 64  # tokens that tell where the k largest begin
BUFFER = {
    "cpu": 1 << 24,
    "cuda": 1 << 26,
}  # elements of the encoder's product held at a time; on a GPU each part costs a wait
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # `_candidates` counts on sums in float32


@dataclass
class Weights:
    """The autoencoder in training: `encoder` and `decoder` [m, n], one row per feature; `encoder_bias` and `threshold` [m],
    `decoder_bias` [n]; float32. A pre-activation at or below its threshold activates nothing."""

    encoder: torch.Tensor
    encoder_bias: torch.Tensor
    decoder: torch.Tensor
    decoder_bias: torch.Tensor
    threshold: torch.Tensor


@dataclass(frozen=True)
class Centring:
    """What precedes the encoder: y = scale (x - shift), then equation (1)'s mean over elements if `elements`.

    The mean over the data is subtracted from input and target alike (`shift`); the mean over elements from the encoder's input
    only, since equation (3) adds nothing back.
    """

    scale: float
    shift: torch.Tensor
    elements: bool

    def target(self, x: torch.Tensor) -> torch.Tensor:
        """What is reconstructed, [tokens, n]."""
        return (x - self.shift) * self.scale

    def input(self, target: torch.Tensor) -> torch.Tensor:
        """What the encoder reads, before the decoder bias is subtracted, [tokens, n]."""
        return target - target.mean(1, keepdim=True) if self.elements else target


def export(variant: Variant, weights: Weights, centring: Centring) -> SparseAutoencoder:
    """Fold scaling and centring into the weights: the same features (in units of the model's activations), any `x`."""
    encoder, bias = weights.encoder, weights.encoder_bias
    if centring.elements:
        bias = bias - weights.decoder_bias.mean() * encoder.sum(1)
        encoder = encoder - encoder.mean(1, keepdim=True)
    return SparseAutoencoder(
        W_enc=encoder.T.contiguous(),
        b_enc=bias / centring.scale,
        W_dec=weights.decoder.clone(),
        b_dec=weights.decoder_bias / centring.scale + centring.shift,
        threshold=weights.threshold / centring.scale if variant.saved == "jumprelu" else None,
        k=variant.k if variant.saved == "topk" else None,
    )


def unfold(autoencoder: SparseAutoencoder, centring: Centring, threshold: torch.Tensor) -> Weights:
    """Weights that compute the features of a saved autoencoder behind this centring: the other way round from `export`.

    With `centring.elements` the encoder must be blind to the mean of its input, as every autoencoder exported with it is.
    """
    scale = centring.scale
    return Weights(
        encoder=autoencoder.W_enc.T.contiguous(),
        encoder_bias=autoencoder.b_enc * scale,
        decoder=autoencoder.W_dec.clone(),
        decoder_bias=(autoencoder.b_dec - centring.shift) * scale,
        threshold=threshold if autoencoder.threshold is None else autoencoder.threshold * scale,
    )


# --- variants: which entries are active, what they cost, what flows back ------------------------------------

# Of a gradient at activations, their pre-activations and thresholds, and what a unit of penalty costs: the gradients at
# pre-activations and at thresholds (None: thresholds are not trained). Elementwise, any shape; the first may be overwritten.
Backward = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class Variant:
    """What tells one sparse autoencoder from another.

    Args:
        saved: SAELens's name for what the trained autoencoder computes.
        backward: see `Backward`.
        penalty: what λ multiplies: the sum over a token's features of their activation, their number, or nothing.
        k: how many of the largest positive pre-activations are active ...
        among: ... of each token, or per token of the whole batch; all above the threshold where None.
        start: value of the thresholds before the first step.
        band: pre-activations up to this far below their threshold have a gradient.
    """

    saved: Literal["standard", "topk", "jumprelu"]
    backward: Backward
    penalty: Literal["l1", "l0"] | None = None
    k: int = 0
    among: Literal["token", "batch"] | None = None
    start: float = 0.0
    band: float = 0.0

    def trained(self, weights: Weights) -> list[torch.Tensor]:
        """The tensors that Adam moves, in the order of `Step.gradients`."""
        found = [weights.encoder, weights.encoder_bias, weights.decoder, weights.decoder_bias]
        return [*found, weights.threshold] if self.band else found


def l1() -> Variant:
    """ReLU and a penalty on the sum of activations: the paper's, equation (4)."""

    def backward(
        at: torch.Tensor, pre: torch.Tensor, threshold: torch.Tensor, cost: float
    ) -> tuple[torch.Tensor, None]:
        return _through(at.add_(cost), pre, threshold, 0.0)

    return Variant("standard", backward, penalty="l1")


def topk(k: int) -> Variant:
    """The k largest pre-activations of each token (Gao et al. 2024)."""
    return Variant("topk", _through, k=k, among="token")


def batchtopk(k: int) -> Variant:
    """The k · tokens largest of the batch (Bussmann et al. 2024); saved with the mean of the smallest of these as threshold."""
    return Variant("jumprelu", _through, k=k, among="batch")


def _through(at: torch.Tensor, pre: torch.Tensor, threshold: torch.Tensor, cost: float) -> tuple[torch.Tensor, None]:
    return at.masked_fill_(pre <= threshold, 0), None


def jumprelu(bandwidth: float = 0.05) -> Variant:
    """Trained thresholds and a penalty on the number of active features (Rajamanoharan et al. 2024).

    The threshold's gradient is the straight-through estimate with a rectangle of this width, in units of the scaled activations.
    It is trained itself, kept at or above 0, not its logarithm: Adam would hardly move that in a short run.
    """

    def backward(
        at: torch.Tensor, pre: torch.Tensor, threshold: torch.Tensor, cost: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        near = (pre - threshold).abs() < bandwidth / 2
        at_threshold = (at * threshold + cost).mul_(near).div_(-bandwidth)
        return at.masked_fill_(pre <= threshold, 0), at_threshold

    return Variant("jumprelu", backward, penalty="l0", start=bandwidth / 2, band=bandwidth / 2)


# --- loss and gradients -------------------------------------------------------------------------------------


class Terms(NamedTuple):
    """Of one batch: squared error, and L1 and L0 per token (means over tokens); the mean square of the target; the smallest
    activation (batchtopk alone, else 0)."""

    mse: float
    l1: float
    l0: float
    input: float
    least: float


@dataclass
class Step:
    """Loss terms and gradients of one batch, on its device; `read` alone waits for a GPU.

    `numbers` are the fields of `Terms`, float64; `fired` bool [m]; `parallel` [m] each feature's component of the decoder's
    gradient along its row; `gradients` in the order of `Variant.trained`.
    """

    numbers: torch.Tensor
    fired: torch.Tensor
    parallel: torch.Tensor
    gradients: list[torch.Tensor]

    def read(self, *others: torch.Tensor) -> tuple[Terms, *tuple[float, ...]]:
        """The loss terms, and other numbers [] that are on the device, in one wait."""
        found = torch.cat([self.numbers, *(other[None] for other in others)]).tolist()
        return Terms(*found[: len(Terms._fields)]), *found[len(Terms._fields) :]


@dataclass(frozen=True)
class Batch:
    """`target` [tokens, n] to reconstruct, `inputs` [tokens, n] of the encoder, and its `bias` [m] once the decoder's bias is
    subtracted from what it reads."""

    target: torch.Tensor
    inputs: torch.Tensor
    bias: torch.Tensor

    def parts(self, buffers: int = 1) -> list[slice]:
        """The tokens in parts whose pre-activations, in so many matrices, fit into `BUFFER`."""
        tokens, m = len(self.inputs), len(self.bias)
        rows = max(64, BUFFER["cuda" if self.inputs.is_cuda else "cpu"] // (buffers * m))
        return [slice(first, min(first + rows, tokens)) for first in range(0, tokens, rows)]


def loss_and_gradients(
    variant: Variant,
    weights: Weights,
    centring: Centring,
    x: torch.Tensor,
    cost: float,
    dead: torch.Tensor | None = None,
    dense: bool = False,
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
        sparse_below: share of active entries below which only these are computed with.
    """
    target = centring.target(x)
    batch = Batch(target, centring.input(target), weights.encoder_bias - weights.encoder @ weights.decoder_bias)
    if variant.among == "token":
        entries = _largest_of_tokens(batch, weights.encoder, variant.k)
    elif variant.among == "batch":
        entries = _largest_of_batch(batch, weights.encoder, variant.k)
    else:
        most = int(sparse_below * len(x) * len(batch.bias))
        floor = weights.threshold - variant.band
        entries = None if dense else _above(batch, weights.encoder, floor, most)
        if entries is None:
            return _dense_step(variant, weights, batch, cost)
    return _sparse_step(variant, weights, batch, entries, cost, dead)


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
        _numbers(batch.target, squares, l1, _sum(active), torch.zeros_like(l1)),
        fired=active > 0,
        parallel=torch.linalg.vecdot(decoder, weights.decoder),
        gradients=[
            *_gradients(weights, bias, encoder, decoder, upstream),
            *([threshold] if variant.band else []),
        ],
    )


def _sparse_step(
    variant: Variant, weights: Weights, batch: Batch, entries: Entries, cost: float, dead: torch.Tensor | None
) -> Step:
    """Over the active entries; one whose pre-activation is at or below its threshold adds nothing."""
    tokens, n = batch.target.shape
    m = len(batch.bias)
    token, feature, pre = entries
    threshold = weights.threshold[feature] if variant.band else weights.threshold.new_zeros(())
    value = activate(pre, threshold)
    error = embedding_bag(feature, weights.decoder, _ends(token, tokens)[:-1], mode="sum", per_sample_weights=value)
    error += weights.decoder_bias - batch.target
    upstream = error * (2 / (tokens * n))
    at = _dots(upstream, weights.decoder, token, feature)
    along = at * value
    at, at_threshold = variant.backward(at, pre, threshold, cost / tokens)
    order = torch.argsort(feature, stable=True)
    ends, by_feature = _ends(feature[order], m), token[order]
    decoder_gradient = embedding_bag(by_feature, upstream, ends[:-1], mode="sum", per_sample_weights=value[order])
    encoder_gradient = embedding_bag(by_feature, batch.inputs, ends[:-1], mode="sum", per_sample_weights=at[order])
    columns = [value > 0, along, at, *([] if at_threshold is None else [at_threshold])]
    # In float64, and in an order that does not change: sums by atomics, as `bincount` has them on a GPU, change in their last bits.
    fired, *sums = torch.segment_reduce(
        torch.stack([column.double() for column in columns], 1)[order], "sum", offsets=ends, axis=0, unsafe=True
    ).unbind(1)
    parallel, bias, *at_thresholds = (column.float() for column in sums)
    least = value.min().double() if variant.among == "batch" and len(value) else fired.new_zeros(())
    step = Step(
        _numbers(batch.target, _sum(error.square()), _sum(value), fired.sum(), least),
        fired=fired > 0,
        parallel=parallel,
        gradients=[*_gradients(weights, bias, encoder_gradient, decoder_gradient, upstream), *at_thresholds],
    )
    if variant.among and dead is not None and len(dead):
        _revive(step, weights, batch, error, dead)
    return step


def _numbers(
    target: torch.Tensor, squares: torch.Tensor, l1: torch.Tensor, l0: torch.Tensor, least: torch.Tensor
) -> torch.Tensor:
    """The fields of `Terms` from sums over a batch."""
    tokens, elements = len(target), target.numel()
    means = [squares / elements, l1 / tokens, l0 / tokens, _sum(target.square()) / elements]
    return torch.stack([*means, least])


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


def _ends(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """Where each of `count` numbers begins in their sorted list, and where the last one ends, int64 [count + 1]."""
    return torch.searchsorted(numbers, torch.arange(count + 1, device=numbers.device))


def _some(inputs: torch.Tensor) -> torch.Tensor:
    """Some tokens from all over the batch."""
    return inputs[:: max(1, len(inputs) // GLANCE)][:GLANCE]


# --- the encoder's product: its active entries ----------------------------------------------------------------

# Token, feature (int64) and pre-activation (float32) of each entry, ordered by token, then feature.
Entries = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _above(batch: Batch, encoder: torch.Tensor, floor: torch.Tensor, most: int | None = None) -> Entries | None:
    """The pre-activations above `floor` [m]; None where there are more than `most`.

    The product is made some tokens at a time, into one buffer that is searched at once: all of it is never held. Two waits for
    a GPU: how many entries there may be, and how many there are.
    """
    if not has_fast_bfloat16(encoder.device):
        return _above_in_float32(batch, encoder, floor, most)
    # About half of the candidates turn out to be active, where few are.
    candidates = _candidates(batch, encoder, batch.bias - floor, None if most is None else 2 * most)
    if candidates is None:
        return None
    token, feature = candidates
    pre = _dots(batch.inputs, encoder, token, feature) + batch.bias[feature]
    kept = (pre > floor[feature]).nonzero().squeeze(1)
    return None if most is not None and len(kept) > most else (token[kept], feature[kept], pre[kept])


def _above_in_float32(
    batch: Batch, encoder: torch.Tensor, floor: torch.Tensor, most: int | None = None
) -> Entries | None:
    m, parts = len(encoder), batch.parts()
    buffer = batch.inputs.new_empty(parts[0].stop, m)
    places, values = [], []
    for part in parts:
        pre = torch.addmm(batch.bias, batch.inputs[part], encoder.T, out=buffer[: part.stop - part.start]).view(-1)
        place = (pre.view(-1, m) > floor).view(-1).nonzero().squeeze(1)
        values.append(pre[place])
        places.append(place + part.start * m)
        if most is not None and sum(map(len, places)) > most:
            return None
    place = torch.cat(places)
    return place // m, place % m, torch.cat(values)


def _candidates(
    batch: Batch, encoder: torch.Tensor, offset: torch.Tensor, most: int | None = None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Token and feature of every entry where inputs · encoder + offset may be positive, by a product in bfloat16; None where there are
    more than `most`.

    Rounding both factors to bfloat16 moves a product by at most (2⁻⁷ + 2⁻¹⁶) |input| |encoder row|, summing in float32 by at most
    n 2⁻²³ of that. Further columns of the two factors add this bound, and the offset as a sum of two bfloat16 numbers, themselves
    bounded: the result is positive wherever the true sum is. Its own rounding does not change its sign.
    """
    m, n = encoder.shape
    width = -(-(n + 3) // 32) * 32
    slack = 2**-7 + 2**-16 + n * 2**-23
    up = 1 + 2**-7  # what is rounded to bfloat16 after this is not smaller than before

    def extended(matrix: torch.Tensor, columns: list[torch.Tensor | float]) -> torch.Tensor:
        found = matrix.new_empty(len(matrix), width, dtype=torch.bfloat16)
        found[:, :n] = matrix
        found[:, n + len(columns) :] = 0
        for number, column in enumerate(columns, start=n):
            found[:, number] = column
        return found

    high = offset.bfloat16().float()
    left = extended(batch.inputs, [batch.inputs.norm(dim=1) * up, 1.0, 1.0])
    right = extended(encoder, [encoder.norm(dim=1) * (slack * up), high, offset - high + offset.abs() * slack])
    parts = batch.parts()
    buffer = left.new_empty(parts[0].stop, m)
    places = []
    for part in parts:
        product = torch.mm(left[part], right.T, out=buffer[: part.stop - part.start])
        # As integers of the same bits: quicker to compare, and positive for the same numbers.
        places.append((product.view(torch.int16) > 0).view(-1).nonzero().squeeze(1) + part.start * m)
        if most is not None and sum(map(len, places)) > most:
            return None
    place = torch.cat(places)
    return place // m, place % m


def has_fast_bfloat16(place: torch.device) -> bool:
    """Whether products in bfloat16 are much faster than in float32 here.

    By what the processor says of itself, never by a timing: the same machine writes the same bytes.
    """
    if place.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if place.type == "cpu" else {}
    return any(found.get(flag) for flag in ("amx_bf16", "avx512_bf16"))


def _dots(a: torch.Tensor, b: torch.Tensor, token: torch.Tensor, feature: torch.Tensor) -> torch.Tensor:
    """a[token] · b[feature] of each entry, ordered by token; a [tokens, n], b [m, n]."""
    if a.is_cuda or torch.backends.mkl.is_available():
        ends, nothing = _ends(token, len(a)).int(), a.new_zeros(len(token))
        pattern = torch.sparse_csr_tensor(ends, feature.int(), nothing, (len(a), len(b)), check_invariants=False)
        return torch.sparse.sampled_addmm(pattern, a, b.T, beta=0.0).values()
    parts = zip(token.split(4096), feature.split(4096), strict=True)
    return torch.cat([torch.linalg.vecdot(a[t], b[f]) for t, f in parts])


def _largest_of_tokens(batch: Batch, encoder: torch.Tensor, k: int) -> Entries:
    """The `k` largest pre-activations of each token, those that are not positive as 0.

    Some tokens tell where the k largest begin. All that exceed this floor are computed; a token that has fewer than k of them is
    computed whole. Two waits for a GPU: how many entries there may be, and how many such tokens there are.
    """
    tokens, m = len(batch.inputs), len(encoder)
    k = min(k, m)
    glance = torch.addmm(batch.bias, _some(batch.inputs), encoder.T)
    floor = glance.topk(k, dim=1).values[:, -1].min().clamp_min(0)
    token, feature, pre = _reaching(batch, encoder, floor)
    by_size = pre.argsort(descending=True, stable=True)
    by_token = by_size[token[by_size].argsort(stable=True)]
    ends = _ends(token, tokens)
    place = ends[:-1, None] + torch.arange(k, device=ends.device)
    missing = place >= ends[1:, None]
    # One entry more, for a batch that has none: what is missing reads it, and is not used.
    chosen = torch.nn.functional.pad(by_token, (0, 1))[place.clamp_max(len(by_token))]
    features = torch.nn.functional.pad(feature, (0, 1))[chosen].masked_fill_(missing, 0)
    values = torch.nn.functional.pad(pre, (0, 1))[chosen].masked_fill_(missing, 0)
    few = ((values[:, -1] <= floor) & (floor > 0)).nonzero().squeeze(1)
    values[few], features[few] = torch.addmm(batch.bias, batch.inputs[few], encoder.T).topk(k, dim=1)
    features, order = features.sort(dim=1)
    token = torch.arange(tokens, device=order.device)[:, None].expand(-1, k)
    return token.flatten(), features.flatten(), values.gather(1, order).clamp_min_(0).flatten()


def _largest_of_batch(batch: Batch, encoder: torch.Tensor, k: int) -> Entries:
    """The k · tokens largest positive pre-activations of the batch.

    All that exceed a floor are computed first; some tokens tell where to set it. Where it was too high, 0 takes its place.
    """
    wanted = min(k, len(encoder)) * len(batch.inputs)
    zero = torch.zeros_like(batch.bias)
    glance = torch.addmm(batch.bias, _some(batch.inputs), encoder.T)
    floor = glance.flatten().topk(min(glance.numel(), 3 * k * len(glance) // 2)).values[-1].clamp_min(0)
    token, feature, pre = _above(batch, encoder, zero + floor)
    if len(pre) < wanted:
        token, feature, pre = _above(batch, encoder, zero)
    chosen = pre.topk(min(len(pre), wanted), sorted=False).indices.sort().values
    return token[chosen], feature[chosen], pre[chosen]


def _reaching(batch: Batch, encoder: torch.Tensor, floor: torch.Tensor) -> Entries:
    """All pre-activations above `floor`, a number on the device, and perhaps some below it."""
    if not has_fast_bfloat16(encoder.device):
        return _above_in_float32(batch, encoder, floor)
    token, feature = _candidates(batch, encoder, batch.bias - floor)
    return token, feature, _dots(batch.inputs, encoder, token, feature) + batch.bias[feature]


# --- the step ---------------------------------------------------------------------------------------------------


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
) -> Step:
    """One step of Adam on a batch [tokens, n], in place; the decoder's rows stay at unit norm. See `loss_and_gradients`.

    A sparse step waits for a GPU twice, and a third time when its loss terms are read.
    """
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
