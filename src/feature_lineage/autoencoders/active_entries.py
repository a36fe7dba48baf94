"""The active entries of the encoder's product: which features are on for which tokens, found without holding all of it.

The product is first made in bfloat16, where the processor is much faster at that, with a bound on its error added: what stays below the
threshold even then is inactive for certain, and the rest is computed in float32.

How many entries there are is known on the device that finds them. A CPU has the number at once. A GPU would be waited for, so a step there
is given as many places as the step before has needed and some more (`Capacity`); if these do not suffice, it is made again with exact sizes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

GLANCE = 64  # tokens that tell where the k largest begin
BUFFER = {"cpu": 1 << 24, "cuda": 1 << 26}  # elements of the product held at a time
LOWEST = torch.finfo(torch.float32).min  # pre-activation of a place that is left over
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # `candidates` counts on sums in float32


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


class Entries(NamedTuple):
    """Token and feature (int64) and pre-activation (float32) of each entry, ordered by token. A place that is left over is one of the
    last token, at `LOWEST`."""

    token: torch.Tensor
    feature: torch.Tensor
    pre: torch.Tensor


class Capacity(NamedTuple):
    """Places for what the searches of a step find: candidates; then those that are active, or with topk the tokens computed whole."""

    first: int
    second: int

    def suffices(self, first: float, second: float) -> bool:
        """Whether places are left over: a search that has filled all of them may have missed something."""
        return first < self.first and second < self.second

    @classmethod
    def after(cls, first: float, second: float, before: Capacity | None) -> Capacity:
        """With room to spare for the step after one that has found so much, and for what the steps before it have found.

        Candidates vary more from batch to batch: some tokens decide where they begin.
        """
        kept = before or cls(0, 0)
        return cls(
            max(256, int(1.5 * first), int(0.95 * kept.first)), max(256, int(1.25 * second), int(0.95 * kept.second))
        )


@dataclass
class Searches:
    """The two searches of a step: in exact sizes, or with a capacity that a GPU is not waited for. `counts`: what they have found,
    float64 on the device."""

    capacity: Capacity | None
    counts: list[torch.Tensor] = field(default_factory=list)

    def true(self, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Numbers of the true elements of a mask, in order, int64; and which of them are places left over, if there can be such."""
        if self.capacity is None:
            return self.counted(mask.nonzero().squeeze(1)), None
        places = self.capacity[len(self.counts)]
        found = mask.nonzero_static(size=places, fill_value=-1).squeeze(1)
        missing = found < 0
        self.counts.append(places - missing.sum(dtype=torch.float64))
        return found, missing

    def counted(self, found: torch.Tensor) -> torch.Tensor:
        """What a search has found in exact sizes."""
        self.counts.append(torch.full((), len(found), dtype=torch.float64, device=found.device))
        return found


def ends(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """Where each of `count` numbers begins in their sorted list, and where the last one ends, int64 [count + 1]."""
    return torch.searchsorted(numbers, torch.arange(count + 1, device=numbers.device))


def above(
    batch: Batch, encoder: torch.Tensor, floor: torch.Tensor, searches: Searches, most: int | None = None
) -> Entries | None:
    """The pre-activations above `floor` [m]; None where there turn out to be more than `most`.

    The product is made some tokens at a time, into one buffer that is searched at once: all of it is never held.
    """
    # About half of the candidates turn out to be active, where few are.
    entries = reaching(batch, encoder, floor, searches, None if most is None else 2 * most)
    if entries is None:
        return None
    kept, missing = searches.true(entries.pre > floor[entries.feature])
    if missing is None and most is not None and len(kept) > most:
        return None
    pre = entries.pre[kept]
    return Entries(
        entries.token[kept], entries.feature[kept], pre if missing is None else pre.masked_fill_(missing, LOWEST)
    )


def reaching(
    batch: Batch, encoder: torch.Tensor, floor: torch.Tensor, searches: Searches, most: int | None = None
) -> Entries | None:
    """All pre-activations above `floor` [m], and perhaps some below it; None where there turn out to be more than `most`."""
    if not has_fast_bfloat16(encoder.device):
        return _in_float32(batch, encoder, floor, searches, most)
    found = candidates(batch, encoder, batch.bias - floor, searches, most)
    if found is None:
        return None
    token, feature, missing = found
    pre = dots(batch.inputs, encoder, token, feature) + batch.bias[feature]
    return Entries(token, feature, pre if missing is None else pre.masked_fill_(missing, LOWEST))


def _in_float32(
    batch: Batch, encoder: torch.Tensor, floor: torch.Tensor, searches: Searches, most: int | None
) -> Entries | None:
    searches.capacity = None  # the sizes of such a product are waited for: on an old GPU it takes longer than that
    m, parts = len(encoder), batch.parts()
    buffer = batch.inputs.new_empty(parts[0].stop, m)
    places, values = [], []
    for part in parts:
        pre = torch.addmm(batch.bias, batch.inputs[part], encoder.T, out=buffer[: part.stop - part.start])
        place = (pre > floor).view(-1).nonzero().squeeze(1)
        values.append(pre.view(-1)[place])
        places.append(place + part.start * m)
        if most is not None and sum(map(len, places)) > most:
            return None
    place = searches.counted(torch.cat(places))
    return Entries(place // m, place % m, torch.cat(values))


def candidates(
    batch: Batch, encoder: torch.Tensor, offset: torch.Tensor, searches: Searches, most: int | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None:
    """Token and feature of every entry where inputs · encoder + offset may be positive, by a product in bfloat16, and which of them
    are places left over, if there can be such; None where there turn out to be more than `most`.

    Rounding both factors to bfloat16 moves a product by at most (2⁻⁷ + 2⁻¹⁶) |input| |encoder row|, summing in float32 by at most
    n 2⁻²³ of that. Further columns of the two factors add this bound, and the offset as a sum of two bfloat16 numbers, themselves
    bounded: the result is positive wherever the true sum is. Its own rounding does not change its sign.
    """
    m, n = encoder.shape
    width = -(-(n + 3) // 32) * 32
    slack = 2**-7 + 2**-16 + n * 2**-23
    up = 1 + 2**-7  # what is rounded to bfloat16 after this is not smaller than before

    def extended(matrix: torch.Tensor) -> torch.Tensor:
        found = matrix.new_zeros(len(matrix), width, dtype=torch.bfloat16)
        found[:, :n] = matrix
        return found

    high = offset.bfloat16().float()
    left, right = extended(batch.inputs), extended(encoder)
    left[:, n], left[:, n + 1 : n + 3] = batch.inputs.norm(dim=1) * up, 1
    columns = [encoder.norm(dim=1) * (slack * up), high, offset - high + offset.abs() * slack]
    right[:, n : n + 3] = torch.stack(columns, 1)
    parts = batch.parts()
    if len(parts) > 1:
        searches.capacity = None
    buffer = left.new_empty(parts[0].stop, m)
    places = []
    for part in parts:
        product = torch.mm(left[part], right.T, out=buffer[: part.stop - part.start])
        # As integers of the same bits: quicker to compare, and positive for the same numbers.
        positive = (product.view(torch.int16) > 0).view(-1)
        if searches.capacity is not None:
            place, missing = searches.true(positive)
            place = place.masked_fill(missing, positive.numel() - 1)  # of the last token, to keep the order
            return place // m, place % m, missing
        places.append(positive.nonzero().squeeze(1) + part.start * m)
        if most is not None and sum(map(len, places)) > most:
            return None
    place = searches.counted(torch.cat(places))
    return place // m, place % m, None


def has_fast_bfloat16(place: torch.device) -> bool:
    """Whether products in bfloat16 are much faster than in float32 here.

    By what the processor says of itself, never by a timing: the same machine writes the same bytes.
    """
    if place.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found = torch.cpu.get_capabilities() if place.type == "cpu" else {}
    return any(found.get(flag) for flag in ("amx_bf16", "avx512_bf16"))


def dots(
    a: torch.Tensor, b: torch.Tensor, token: torch.Tensor, feature: torch.Tensor, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """a[token] · b[feature] of each entry, ordered by token; a [tokens, n], b [m, n]; `rows` are the `ends` of `token`."""
    if a.is_cuda or torch.backends.mkl.is_available():
        rows, nothing = ends(token, len(a)) if rows is None else rows, a.new_zeros(len(token))
        pattern = torch.sparse_csr_tensor(rows.int(), feature.int(), nothing, (len(a), len(b)), check_invariants=False)
        return torch.sparse.sampled_addmm(pattern, a, b.T, beta=0.0).values()
    parts = zip(token.split(4096), feature.split(4096), strict=True)
    return torch.cat([torch.linalg.vecdot(a[t], b[f]) for t, f in parts])


# --- the k largest ----------------------------------------------------------------------------------------------


def largest_of_tokens(batch: Batch, encoder: torch.Tensor, k: int, searches: Searches) -> Entries:
    """The `k` largest pre-activations of each token, those that are not positive as 0.

    Some tokens tell where the k largest begin. All that exceed this floor are computed; a token that has fewer than k of them is
    computed whole.
    """
    tokens, m = len(batch.inputs), len(encoder)
    k = min(k, m)
    glance = torch.addmm(batch.bias, _some(batch.inputs), encoder.T)
    floor = glance.topk(k, dim=1).values[:, -1].min().clamp_min(0)
    token, feature, pre = reaching(batch, encoder, torch.zeros_like(batch.bias) + floor, searches)
    by_size = pre.argsort(descending=True, stable=True)
    by_token = by_size[token[by_size].argsort(stable=True)]
    rows = ends(token, tokens)
    place = rows[:-1, None] + torch.arange(k, device=rows.device)
    missing = place >= rows[1:, None]
    # One entry more, for a batch that has none: what is missing reads it, and is not used.
    by_token, feature, pre = (torch.nn.functional.pad(column, (0, 1)) for column in (by_token, feature, pre))
    chosen = by_token[place.clamp_max(len(by_token) - 1)]
    features, values = feature[chosen].masked_fill_(missing, 0), pre[chosen].masked_fill_(missing, 0)
    # A place that is left over stands for the last token, which is then computed whole as well.
    few, _ = searches.true((values[:, -1] <= floor) & (floor > 0))
    values[few], features[few] = torch.addmm(batch.bias, batch.inputs[few], encoder.T).topk(k, dim=1)
    features, order = features.sort(dim=1)
    token = torch.arange(tokens, device=order.device)[:, None].expand(-1, k)
    return Entries(token.flatten(), features.flatten(), values.gather(1, order).clamp_min_(0).flatten())


def largest_of_batch(batch: Batch, encoder: torch.Tensor, k: int, searches: Searches) -> Entries:
    """The k · tokens largest positive pre-activations of the batch.

    All that exceed a floor are computed first; some tokens tell where to set it. Where it was too high, 0 takes its place.
    """
    wanted = min(k, len(encoder)) * len(batch.inputs)
    zero = torch.zeros_like(batch.bias)
    glance = torch.addmm(batch.bias, _some(batch.inputs), encoder.T)
    floor = glance.flatten().topk(min(glance.numel(), 3 * k * len(glance) // 2)).values[-1].clamp_min(0)
    found = above(batch, encoder, zero + floor, searches)
    if searches.capacity is not None:
        short = (searches.counts[-1] < wanted) & (floor > 0)
        searches.counts[-1] = torch.where(short, torch.inf, searches.counts[-1])  # no capacity suffices
    elif len(found.pre) < wanted:
        found = above(batch, encoder, zero, Searches(None))
    chosen = found.pre.topk(min(len(found.pre), wanted), sorted=False).indices.sort().values
    return Entries(found.token[chosen], found.feature[chosen], found.pre[chosen])


def _some(inputs: torch.Tensor) -> torch.Tensor:
    """Some tokens from all over the batch."""
    return inputs[:: max(1, len(inputs) // GLANCE)][:GLANCE]
