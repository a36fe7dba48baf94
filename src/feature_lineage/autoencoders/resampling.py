"""Resampling of dead features (Bricken et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from feature_lineage.autoencoders.autoencoder import activate
from feature_lineage.autoencoders.resume import Progress
from feature_lineage.autoencoders.variants import Variant
from feature_lineage.autoencoders.weights import Centring
from feature_lineage.streams import torch_seed


def resampling_steps(steps: int, at: Sequence[float], silent: float) -> tuple[list[int], int]:
    """When dead features are resampled, and after how many steps without activity a feature is dead.

    In a run too short to tell two shares apart they are one step. No resampling comes before a feature can be dead, and none after
    the last step, which would leave new features untrained.

    Args:
        steps: of the run.
        at, silent: shares of the run, as in `measures.Resampling`.

    Returns:
        Steps, ascending, and the number of steps.
    """
    quiet = max(1, round(silent * steps))
    found = {min(max(quiet, round(share * steps)), steps - 1) for share in at}
    return sorted(step for step in found if step >= quiet), quiet


def sample_by_squared_loss(
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


def resample_features(
    variant: Variant,
    run: Progress,
    centring: Centring,
    dead: torch.Tensor,
    pool: Iterable[torch.Tensor],
    coefficient: float,
    seed: Sequence[int],
) -> None:
    """Give dead features a new start (Bricken et al. 2023, "Neuron Resampling").

    A feature's decoder row becomes an input drawn with p ∝ loss², at unit norm; its encoder row the same direction at 0.2 times
    the mean norm of the living encoder rows; its bias 0, its threshold where it began; and Adam forgets these rows. The input is
    what the encoder multiplies, equation (1)'s x̄.
    """
    if not len(dead):
        return
    weights = run.weights

    def centred(x: torch.Tensor) -> torch.Tensor:
        return centring.input(centring.target(x)) - weights.decoder_bias

    def losses(x: torch.Tensor) -> torch.Tensor:
        acts = activate(torch.addmm(weights.encoder_bias, centred(x), weights.encoder.T), weights.threshold)
        error = acts @ weights.decoder + weights.decoder_bias - centring.target(x)
        penalty = acts.sum(1) if variant.penalty == "l1" else (acts > 0).sum(1)
        return error.square().mean(1) + coefficient * penalty

    random = torch.Generator().manual_seed(torch_seed(seed))
    drawn = centred(sample_by_squared_loss(pool, losses, len(dead), random))
    dead = dead[: len(drawn)]
    directions = drawn / drawn.norm(dim=1, keepdim=True).clamp_min(1e-12)
    living = torch.ones(len(weights.encoder), dtype=torch.bool, device=dead.device)
    living[dead] = False
    norm = weights.encoder[living].norm(dim=1).mean() if living.any() else weights.encoder.norm(dim=1).mean()
    weights.decoder[dead] = directions
    weights.encoder[dead] = 0.2 * norm * directions
    weights.encoder_bias[dead] = 0
    weights.threshold[dead] = variant.start
    for tensor in variant.trained(weights):
        if tensor is not weights.decoder_bias:
            for moment in ("exp_avg", "exp_avg_sq"):
                run.adam.state[tensor][moment][dead] = 0
