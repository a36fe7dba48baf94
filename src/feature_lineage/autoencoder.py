"""The paper's sparse autoencoder (section 3.2, appendix B; method of Bricken et al. 2023): training, use, evaluation.

While training, the encoder and decoder are two matrices of one row per feature. Saved, it is the standard autoencoder of
SAELens: f = ReLU((x - b_dec) W_enc + b_enc), x̂ = f W_dec + b_dec. All that comes before the encoder's matrix is linear and is
folded into these weights (`export`), so whoever loads them needs to know nothing else.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn.functional import embedding_bag

from feature_lineage.artifacts import read_json, read_tensors, staged, write_json, write_tensors
from feature_lineage.logs import InputError, Stopped, logger, progress

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
    ]
)
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")

BETAS = (0.9, 0.9999)
# Below this share of active entries, products over the active entries alone are faster than dense ones (measured on CPU).
SPARSE_BELOW = 0.10
GLANCE = 64  # tokens by which that share is judged
BUFFER = 1 << 24  # elements of the encoder's product held at a time
CURVE_POINTS = 200
SAELENS_FORMAT = "6.0.0"  # the version whose form of cfg.json this is; without it SAELens takes an older one


# --- the autoencoder as it is saved ------------------------------------------------------------------------


@dataclass(frozen=True)
class SparseAutoencoder:
    """A trained autoencoder: `W_enc` [n, m], `b_enc` [m], `W_dec` [m, n] with rows of unit norm, `b_dec` [n]; float32."""

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Feature activations [tokens, m] of activations [tokens, n]; equation (2)."""
        return torch.relu((x - self.b_dec) @ self.W_enc + self.b_enc)

    def decode(self, features: torch.Tensor) -> torch.Tensor:
        """Reconstructions [tokens, n] of feature activations [tokens, m]; equation (3)."""
        return features @ self.W_dec + self.b_dec


def save_autoencoder(
    autoencoder: SparseAutoencoder, folder: str | Path, hook: str, context: int, record: dict[str, Any]
) -> None:
    """Write `sae_weights.safetensors` and `cfg.json`, in the form that SAELens loads."""
    folder = Path(folder)
    tensors = {name: getattr(autoencoder, name).cpu().numpy() for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    config = {
        "architecture": "standard",
        "d_in": tensors["W_enc"].shape[0],
        "d_sae": tensors["W_enc"].shape[1],
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": SAELENS_FORMAT,
            "hook_name": hook,
            "context_size": context,
            "prepend_bos": False,
        },
    }
    write_json(folder / "cfg.json", config, record)
    write_tensors(folder / "sae_weights.safetensors", tensors, record)


def load_autoencoder(folder: str | Path, place: torch.device | str = "cpu") -> SparseAutoencoder:
    """Load what `save_autoencoder` wrote.

    Raises:
        InputError: a file is missing or damaged, or tensors do not fit together.
    """
    weights = Path(folder) / "sae_weights.safetensors"
    tensors = read_tensors(weights)
    config = read_json(Path(folder) / "cfg.json")
    n, m = config["d_in"], config["d_sae"]
    expected = {"W_enc": (n, m), "b_enc": (m,), "W_dec": (m, n), "b_dec": (n,)}
    if (found := {name: tensor.shape for name, tensor in tensors.items()}) != expected:
        raise InputError(
            f"{weights}: tensors of shapes {found} where cfg.json means {expected}; delete both and run Snakemake again"
        )
    return SparseAutoencoder(**{name: torch.from_numpy(tensor).to(place) for name, tensor in tensors.items()})


# --- training ----------------------------------------------------------------------------------------------


@dataclass
class Weights:
    """The autoencoder in training: `encoder` and `decoder` [m, n], one row per feature; biases [m] and [n]."""

    encoder: torch.Tensor
    encoder_bias: torch.Tensor
    decoder: torch.Tensor
    decoder_bias: torch.Tensor

    def tensors(self) -> list[torch.Tensor]:
        """All four, in the order of the fields."""
        return [self.encoder, self.encoder_bias, self.decoder, self.decoder_bias]


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


def export(weights: Weights, centring: Centring) -> SparseAutoencoder:
    """Fold scaling and centring into the weights: the same features (in units of the model's activations), any `x`."""
    W_enc = weights.encoder
    b_enc = weights.encoder_bias
    if centring.elements:
        b_enc = b_enc - weights.decoder_bias.mean() * W_enc.sum(1)
        W_enc = W_enc - W_enc.mean(1, keepdim=True)
    return SparseAutoencoder(
        W_enc=W_enc.T.contiguous(),
        b_enc=b_enc / centring.scale,
        W_dec=weights.decoder.clone(),
        b_dec=weights.decoder_bias / centring.scale + centring.shift,
    )


def geometric_median(x: torch.Tensor, iterations: int = 100) -> torch.Tensor:
    """Point with the least summed distance to the rows of `x` [tokens, n]: Weiszfeld's iteration in float64, [n]."""
    x = x.double()
    point = x.mean(0)
    for _ in range(iterations):
        weights = 1 / (x - point).norm(dim=1).clamp_min(1e-12)
        moved = weights @ x / weights.sum()
        if (moved - point).norm() <= 1e-8 * moved.norm():
            break
        point = moved
    return moved.float()


def start(
    n: int, m: int, sample: torch.Tensor, *, seed: int, normalize: bool, mean: str, init: str
) -> tuple[Weights, Centring]:
    """Weights and centring before the first step.

    Args:
        n: elements of an activation.
        m: features.
        sample: activations [tokens, n] that the scale, the mean over the data and the geometric median are taken from.
        seed: of the random weights.
        normalize, mean, init: as in `study.Autoencoder`.
    """
    place = sample.device
    shift = sample.mean(0, dtype=torch.float64).float() if mean == "data" else torch.zeros(n, device=place)
    scale = float((sample - shift).double().square().mean().rsqrt()) if normalize else 1.0
    centring = Centring(scale, shift, elements=mean == "elements")
    random = torch.Generator().manual_seed(seed)
    encoder, decoder = torch.empty(m, n), torch.empty(m, n)
    torch.nn.init.kaiming_uniform_(encoder, a=5**0.5, generator=random)
    torch.nn.init.kaiming_uniform_(decoder, a=5**0.5, generator=random)
    decoder /= decoder.norm(dim=1, keepdim=True)
    if init == "transpose":
        encoder = decoder.clone()
    bias = geometric_median(centring.target(sample))
    return Weights(encoder.to(place), torch.zeros(m, device=place), decoder.to(place), bias), centring


@dataclass
class Step:
    """Loss terms and gradients of one batch; gradients in the order of `Weights.tensors`."""

    mse: float
    l1: float
    l0: float
    fired: torch.Tensor
    gradients: list[torch.Tensor]


def loss_and_gradients(
    weights: Weights, centring: Centring, x: torch.Tensor, l1: float, sparse_below: float = SPARSE_BELOW
) -> Step:
    """Equations (1) to (4) and their gradients, by hand.

    Where few features are active, all that follows the encoder's product is done for the active entries alone: the same numbers
    for a fraction of the work.

    Args:
        weights: the autoencoder.
        centring: what precedes it.
        x: activations [tokens, n].
        l1: λ of equation (4): mean over tokens of (mean over elements of the squared error + λ · sum over features).
        sparse_below: share of active entries, among the first tokens, below which only these are computed with.

    Returns:
        Loss terms averaged over tokens (`l1` without λ), features that fired (bool [m]), gradients.
    """
    target = centring.target(x)
    inputs = centring.input(target)
    bias = weights.encoder_bias - weights.encoder @ weights.decoder_bias
    glance = torch.addmm(bias, inputs[:GLANCE], weights.encoder.T)
    few = int(torch.count_nonzero(glance > 0)) < sparse_below * glance.numel()
    step = _sparse_step if few and _has_sparse_products(x.device) else _dense_step
    return step(weights, bias, inputs, target, l1)


def _dense_step(weights: Weights, bias: torch.Tensor, inputs: torch.Tensor, target: torch.Tensor, l1: float) -> Step:
    tokens, n = target.shape
    features = torch.addmm(bias, inputs, weights.encoder.T).relu_()
    error = torch.addmm(weights.decoder_bias - target, features, weights.decoder)
    upstream = error * (2 / (tokens * n))
    active = features > 0
    pre = (upstream @ weights.decoder.T).add_(l1 / tokens).mul_(active)
    return Step(
        mse=float(error.square().sum(dtype=torch.float64) / (tokens * n)),
        l1=float(features.sum(dtype=torch.float64) / tokens),
        l0=int(torch.count_nonzero(active)) / tokens,
        fired=active.any(0),
        gradients=_gradients(weights, pre.sum(0), pre.T @ inputs, features.T @ upstream, upstream),
    )


def _sparse_step(weights: Weights, bias: torch.Tensor, inputs: torch.Tensor, target: torch.Tensor, l1: float) -> Step:
    tokens, n = target.shape
    token, feature, value = _active_entries(inputs, weights.encoder, bias)
    rows = _starts(token, tokens)
    error = embedding_bag(feature, weights.decoder, rows, mode="sum", per_sample_weights=value)
    error += weights.decoder_bias - target
    upstream = error * (2 / (tokens * n))
    ends = torch.cat([rows, rows.new_tensor([len(value)])]).int()
    shape = (tokens, len(bias))
    pattern = torch.sparse_csr_tensor(ends, feature.int(), value, shape, check_invariants=False)
    pre = torch.sparse.sampled_addmm(pattern, upstream, weights.decoder.T, beta=0.0).values() + l1 / tokens
    order = torch.argsort(feature, stable=True)
    columns, by_feature = _starts(feature, len(bias)), token[order]
    decoder_gradient = embedding_bag(by_feature, upstream, columns, mode="sum", per_sample_weights=value[order])
    encoder_gradient = embedding_bag(by_feature, inputs, columns, mode="sum", per_sample_weights=pre[order])
    bias_gradient = torch.bincount(feature, pre, minlength=len(bias)).to(pre)
    return Step(
        mse=float(error.square().sum(dtype=torch.float64) / (tokens * n)),
        l1=float(value.sum(dtype=torch.float64) / tokens),
        l0=len(value) / tokens,
        fired=torch.bincount(feature, minlength=len(bias)) > 0,
        gradients=_gradients(weights, bias_gradient, encoder_gradient, decoder_gradient, upstream),
    )


def _gradients(
    weights: Weights, bias: torch.Tensor, encoder: torch.Tensor, decoder: torch.Tensor, upstream: torch.Tensor
) -> list[torch.Tensor]:
    """All four gradients, from those that leave out that the decoder's bias is subtracted from the encoder's input."""
    encoder.addr_(bias, weights.decoder_bias, alpha=-1)
    return [encoder, bias, decoder, upstream.sum(0) - bias @ weights.encoder]


def _active_entries(
    inputs: torch.Tensor, encoder: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token, feature and value of each positive pre-activation, ordered by token, then feature.

    The product is made some tokens at a time, into one buffer that is searched at once: all of it is never held.
    """
    m = len(encoder)
    rows = min(len(inputs), max(256, BUFFER // m))
    buffer = inputs.new_empty(rows, m)
    places, values = [], []
    for first in range(0, len(inputs), rows):
        part = inputs[first : first + rows]
        pre = torch.addmm(bias, part, encoder.T, out=buffer[: len(part)]).view(-1)
        place = (pre > 0).nonzero().squeeze(1)
        values.append(pre[place])
        places.append(place + first * m)
    place = torch.cat(places)
    return place // m, place % m, torch.cat(values)


def _starts(numbers: torch.Tensor, count: int) -> torch.Tensor:
    """Where each of `count` numbers begins in their sorted list, int64 [count]."""
    counts = torch.bincount(numbers, minlength=count)
    return counts.cumsum(0) - counts


def _has_sparse_products(place: torch.device) -> bool:
    """Whether torch multiplies sparse matrices here: on a CPU only where it was built with MKL."""
    return place.type == "cuda" or torch.backends.mkl.is_available()


def keep_unit_norm(gradient: torch.Tensor, decoder: torch.Tensor) -> None:
    """Remove from the decoder's gradient [m, n] what is parallel to each feature's row (in place)."""
    gradient.addcmul_(torch.linalg.vecdot(gradient, decoder)[:, None], decoder, value=-1)


def training_step(weights: Weights, centring: Centring, adam: torch.optim.Adam, x: torch.Tensor, l1: float) -> Step:
    """One step of Adam on a batch [tokens, n], in place; the decoder's rows stay at unit norm."""
    found = loss_and_gradients(weights, centring, x, l1)
    keep_unit_norm(found.gradients[2], weights.decoder)
    for tensor, gradient in zip(weights.tensors(), found.gradients, strict=True):
        tensor.grad = gradient
    adam.step()
    weights.decoder /= weights.decoder.norm(dim=1, keepdim=True)
    return found


def draw_by_squared_loss(
    pool: Iterable[torch.Tensor],
    losses: Callable[[torch.Tensor], torch.Tensor],
    count: int,
    random: torch.Generator,
) -> torch.Tensor:
    """Draw `count` activations with p ∝ loss², one after another without replacement, from a stream; [≤ count, n].

    Keeps the `count` largest of u^(1 / loss²), u uniform in (0, 1), which is that draw (Efraimidis & Spirakis 2006): one pass,
    and no more than `count` activations held.
    """
    kept_keys, kept = torch.empty(0), None
    for x in pool:
        weight = losses(x).double().square().cpu()
        keys = torch.log(torch.rand(len(x), generator=random, dtype=torch.float64)) / weight
        kept = x if kept is None else torch.cat([kept, x])
        kept_keys, order = torch.cat([kept_keys, keys]).topk(min(count, len(kept)))
        kept = kept[order.to(kept.device)]
    if kept is None:
        raise ValueError("the pool is empty")
    return kept


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
    l1: float,
    l1_warmup_steps: int,
    normalize: bool,
    mean: str,
    init: str,
    resample_steps: Sequence[int],
    silent_steps: int,
    checkpoint_seconds: float = 120.0,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[SparseAutoencoder, pa.Table]:
    """Train an autoencoder on a stream of activations; goes on from `checkpoint` if that file exists.

    Args:
        batches: `batches(step)` yields the activations [tokens, n] of that step and all after it, the same at every call.
        pool: `pool(step)` yields the activations that dead features are resampled from at that step.
        sample: activations [tokens, n] for the start (see `start`).
        checkpoint: file of this run alone, written now and then, gone when training ends.
        label: name in the progress bar.
        steps: batches to train on.
        tokens_per_step: tokens in a batch.
        features: m.
        seed, lr, l1, l1_warmup_steps, normalize, mean, init: as in `study.Autoencoder`.
        resample_steps, silent_steps: as in `study.Resampling`.
        checkpoint_seconds: time between checkpoints.
        stop: asked after each step; once it says yes, a checkpoint is written and `Stopped` raised.

    Returns:
        The autoencoder, and its training curve (schema `CURVE`; loss, mse and l1 as in equation (4), in scaled units if
        `normalize`; `dead_share`: features silent in the last `silent_steps` steps).
    """
    n = sample.shape[1]
    weights, centring = start(n, features, sample, seed=seed, normalize=normalize, mean=mean, init=init)
    adam = torch.optim.Adam(weights.tensors(), lr=lr, betas=BETAS, fused=True)
    last_fired = torch.zeros(features, dtype=torch.int64, device=sample.device)
    rows: list[dict[str, float]] = []
    first = _restore(checkpoint, weights, adam, last_fired, rows)
    if first:
        logger.info("%s: going on from step %d of %d, %s", label, first, steps, checkpoint)
    saved = time.monotonic()
    stream = batches(first)
    every = max(1, steps // CURVE_POINTS)
    with progress(steps * tokens_per_step, "tok", label) as bar:
        bar.update(first * tokens_per_step)
        for step in range(first, steps):
            x = next(stream, None)
            if x is None:
                raise InputError(
                    f"{label}: activations ended after {step} of {steps} steps; lower autoencoder.tokens or add documents"
                )
            coefficient = l1 * min(1.0, (step + 1) / l1_warmup_steps) if l1_warmup_steps else l1
            found = training_step(weights, centring, adam, x, coefficient)
            loss = found.mse + coefficient * found.l1
            if not np.isfinite(loss):
                raise InputError(
                    f"{label}: the loss is {loss} at step {step}; lower autoencoder.lr, or look at the model's activations"
                )
            last_fired[found.fired] = step + 1
            bar.update(tokens_per_step)
            if step + 1 in resample_steps:
                dead = torch.nonzero(last_fired <= step + 1 - silent_steps).flatten()
                _resample(weights, centring, adam, dead, pool(step + 1), coefficient, seed=[seed, step + 1])
                last_fired[dead] = step + 1
                logger.info("%s step %d: %d dead features resampled", label, step + 1, len(dead))
            if (step + 1) % every == 0 or step + 1 == steps:
                rows.append(
                    {
                        "step": step + 1,
                        "tokens": (step + 1) * tokens_per_step,
                        "loss": loss,
                        "mse": found.mse,
                        "l1": found.l1,
                        "l0": found.l0,
                        "dead_share": float((last_fired <= step + 1 - silent_steps).float().mean()),
                        "l1_coefficient": coefficient,
                    }
                )
                bar.set_postfix(loss=f"{loss:.4f}", l0=f"{found.l0:.1f}", refresh=False)
            if stop() or (step + 1 < steps and time.monotonic() - saved >= checkpoint_seconds):
                _checkpoint(checkpoint, step + 1, weights, adam, last_fired, rows)
                saved = time.monotonic()
                if stop():
                    raise Stopped(
                        f"{label}: stopped after step {step + 1} of {steps}; started again it goes on from {checkpoint}"
                    )
    logger.info(
        "%s: %d steps, loss %.5f, L0 %.1f, dead %.2f %%",
        label,
        steps,
        rows[-1]["loss"],
        rows[-1]["l0"],
        100 * rows[-1]["dead_share"],
    )
    return export(weights, centring), pa.Table.from_pylist(rows, CURVE)


def _resample(
    weights: Weights,
    centring: Centring,
    adam: torch.optim.Adam,
    dead: torch.Tensor,
    pool: Iterable[torch.Tensor],
    l1: float,
    seed: Sequence[int],
) -> None:
    """Give dead features a new start (Bricken et al. 2023, "Neuron Resampling").

    A feature's decoder row becomes an input drawn with p ∝ loss², at unit norm; its encoder row the same direction at 0.2 times
    the mean norm of the living encoder rows; its bias 0; and Adam forgets these rows. The input is what the encoder multiplies,
    equation (1)'s x̄.
    """
    if not len(dead):
        return

    def centred(x: torch.Tensor) -> torch.Tensor:
        return centring.input(centring.target(x)) - weights.decoder_bias

    def losses(x: torch.Tensor) -> torch.Tensor:
        acts = torch.addmm(weights.encoder_bias, centred(x), weights.encoder.T).relu_()
        error = acts @ weights.decoder + weights.decoder_bias - centring.target(x)
        return error.square().mean(1) + l1 * acts.sum(1)

    random = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    drawn = centred(draw_by_squared_loss(pool, losses, len(dead), random))
    dead = dead[: len(drawn)]
    directions = drawn / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12)
    living = torch.ones(len(weights.encoder), dtype=torch.bool, device=dead.device)
    living[dead] = False
    norm = weights.encoder[living].norm(dim=1).mean() if living.any() else weights.encoder.norm(dim=1).mean()
    weights.decoder[dead] = directions
    weights.encoder[dead] = 0.2 * norm * directions
    weights.encoder_bias[dead] = 0
    for tensor in (weights.encoder, weights.encoder_bias, weights.decoder):
        for moment in ("exp_avg", "exp_avg_sq"):
            adam.state[tensor][moment][dead] = 0


# --- checkpoints -------------------------------------------------------------------------------------------

_NAMES = ("encoder", "encoder_bias", "decoder", "decoder_bias")


def _checkpoint(
    path: str | Path,
    step: int,
    weights: Weights,
    adam: torch.optim.Adam,
    last_fired: torch.Tensor,
    rows: list[dict[str, float]],
) -> None:
    tensors = {"last_fired": last_fired}
    for name, tensor in zip(_NAMES, weights.tensors(), strict=True):
        tensors[name] = tensor
        tensors |= {f"{name}.{key}": value for key, value in adam.state[tensor].items()}
    with staged(path) as temporary:
        save_file(tensors, temporary, metadata={"step": str(step), "rows": json.dumps(rows)})


def _restore(
    path: str | Path,
    weights: Weights,
    adam: torch.optim.Adam,
    last_fired: torch.Tensor,
    rows: list[dict[str, float]],
) -> int:
    """Take up a checkpoint, if there is one; returns the steps that it has behind it."""
    if not Path(path).exists():
        return 0
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        last_fired.copy_(file.get_tensor("last_fired"))
        for name, tensor in zip(_NAMES, weights.tensors(), strict=True):
            tensor.copy_(file.get_tensor(name))
            adam.state[tensor] = {
                key: file.get_tensor(f"{name}.{key}").to(tensor.device if key != "step" else "cpu")
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    rows += json.loads(metadata["rows"])
    return int(metadata["step"])


# --- evaluation --------------------------------------------------------------------------------------------


class Evaluation:
    """Sums over tokens, in float64, from which `evaluation.json` is made."""

    def __init__(self, n: int, m: int) -> None:
        self.tokens = 0
        self.active = torch.zeros(m, dtype=torch.float64)
        self.x = torch.zeros(n, dtype=torch.float64)
        self.x2 = self.error2 = 0.0

    def add(self, x: torch.Tensor, features: torch.Tensor, reconstruction: torch.Tensor) -> None:
        """Count activations [tokens, n], their features [tokens, m] and reconstructions [tokens, n]."""
        self.tokens += len(x)
        self.active += (features > 0).sum(0).double().cpu()
        self.x += x.sum(0, dtype=torch.float64).cpu()
        self.x2 += float(x.double().square().sum())
        self.error2 += float((x - reconstruction).double().square().sum())

    def result(self) -> dict[str, Any]:
        """L0, MSE, variance explained, dead share and densities."""
        n = len(self.x)
        variance = self.x2 - float(self.x.square().sum()) / self.tokens
        density = self.active / self.tokens
        return {
            "tokens": self.tokens,
            "l0": float(density.sum()),
            "mse": self.error2 / (self.tokens * n),
            "variance_explained": 1 - self.error2 / variance if variance > 0 else None,
            "dead_share": float((self.active == 0).double().mean()),
            "densities": density.tolist(),
        }


DEFINITIONS: Mapping[str, str] = {
    "tokens": "validation tokens evaluated, as many from each corpus of the model's trace as it holds, up to the number asked",
    "l0": "mean number of features with activation > 0 per token",
    "mse": "mean over tokens and elements of (x - x̂)², in units of the model's activations",
    "variance_explained": "1 - Σ|x - x̂|² / Σ|x - mean(x)|²",
    "loss_recovered": "(zero-ablated loss - spliced loss) / (zero-ablated loss - clean loss), next-token cross-entropy, nats",
    "loss_clean": "cross-entropy of the model as it is",
    "loss_spliced": "cross-entropy with the activations replaced by their reconstructions",
    "loss_zero": "cross-entropy with the activations replaced by zero",
    "dead_share": "share of features that fire on none of these tokens",
    "densities": "per feature, share of these tokens on which it fires",
}
