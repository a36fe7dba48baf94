"""How the training of an autoencoder starts."""

from __future__ import annotations

import torch

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.variants import Variant, batchtopk, jumprelu, l1, topk
from feature_lineage.autoencoders.weights import Centring, Weights, unfold
from feature_lineage.errors import InputError
from feature_lineage.study.measures import Autoencoder


def variant_of(name: str, l0: float | None) -> Variant:
    """The variant of a configuration (`measures.Autoencoder`): for topk and batchtopk, k is `l0`."""
    if name in ("topk", "batchtopk"):
        return {"topk": topk, "batchtopk": batchtopk}[name](int(l0 or 0))
    return {"l1": l1, "jumprelu": jumprelu}[name]()


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
    variant: Variant,
    m: int,
    sample: torch.Tensor,
    options: Autoencoder,
    seed: int,
    parent: SparseAutoencoder | None = None,
) -> tuple[Weights, Centring]:
    """Weights and centring before the first step.

    Args:
        variant: of autoencoder.
        m: features.
        sample: activations [tokens, n] that the scale, the mean over the data and the geometric median are taken from.
        options: `normalize`, `mean` and `init` are read.
        seed: of the random weights.
        parent: the autoencoder to start from, if any: its features, biases and thresholds as they are.

    Raises:
        InputError: the parent's autoencoder has another shape, or is of a kind that this variant cannot start from.
    """
    n, place = sample.shape[1], sample.device
    shift = sample.mean(0, dtype=torch.float64).float() if options.mean == "data" else torch.zeros(n, device=place)
    scale = float((sample - shift).double().square().mean().rsqrt()) if options.normalize else 1.0
    centring = Centring(scale, shift, elements=options.mean == "elements")
    threshold = torch.full((m,), variant.start, device=place)
    if parent is not None:
        if parent.W_dec.shape != (m, n):
            raise InputError(
                f"autoencoder.init is parent, and the parent's autoencoder has {len(parent.W_dec)} features of "
                f"{parent.W_dec.shape[1]} elements where this model's has {m} of {n}; set autoencoder.init to transpose"
            )
        if parent.scaling != "none":
            raise InputError(
                f"autoencoder.init is parent, and {parent.source} scales each token's activations ({parent.scaling}), which no autoencoder that is "
                "trained here does; set autoencoder.init to transpose"
            )
        if (parent.threshold is not None) != (variant.saved == "jumprelu"):
            has, kinds = (
                ("a threshold", "jumprelu or batchtopk") if parent.threshold is not None else ("none", "l1 or topk")
            )
            raise InputError(
                f"autoencoder.init is parent, and of thresholds {parent.source} has {has}; set autoencoder.variant to {kinds}, or "
                "autoencoder.init to transpose"
            )
        return unfold(parent, centring, threshold), centring
    random = torch.Generator().manual_seed(seed)
    encoder, decoder = torch.empty(m, n), torch.empty(m, n)
    torch.nn.init.kaiming_uniform_(encoder, a=5**0.5, generator=random)
    torch.nn.init.kaiming_uniform_(decoder, a=5**0.5, generator=random)
    decoder /= decoder.norm(dim=1, keepdim=True)
    if options.init != "kaiming":
        encoder = decoder.clone()
    bias = geometric_median(centring.target(sample))
    return Weights(encoder.to(place), torch.zeros(m, device=place), decoder.to(place), bias, threshold), centring
