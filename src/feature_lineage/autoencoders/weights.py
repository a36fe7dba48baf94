"""An autoencoder in training: its weights and what precedes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder

NORM_OFF = 1e-4  # by how much the norm of a decoder row may be off 1 by rounding


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


def unfold(autoencoder: SparseAutoencoder, centring: Centring, threshold: torch.Tensor) -> Weights:
    """Weights that compute the features of a saved autoencoder behind this centring: the other way round from `export`.

    Decoder rows of another norm than 1, as some that were made elsewhere have, get norm 1, and their features are multiplied by it.
    With `centring.elements` the encoder must be blind to the mean of its input, as every autoencoder exported with it is.
    """
    scale, norm = centring.scale, autoencoder.W_dec.double().norm(dim=1)
    norm = torch.where((norm - 1).abs() > NORM_OFF, norm, 1.0).clamp_min(1e-12).float()
    return Weights(
        encoder=autoencoder.W_enc.T * norm[:, None],
        encoder_bias=autoencoder.b_enc * scale * norm,
        decoder=autoencoder.W_dec / norm[:, None],
        decoder_bias=(autoencoder.b_dec - centring.shift) * scale,
        threshold=threshold if autoencoder.threshold is None else autoencoder.threshold * scale * norm,
    )
