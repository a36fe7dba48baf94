"""What tells one sparse autoencoder from another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.weights import Centring, Weights


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
