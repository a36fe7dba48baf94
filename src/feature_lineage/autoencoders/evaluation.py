"""Evaluation of an autoencoder on its model's validation tokens: sparsity, reconstruction, loss recovered (paper, appendix B)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.devices import windows_at_once
from feature_lineage.models.hooks import loss_recovered, next_token_losses, vocabulary
from feature_lineage.progress import progress
from feature_lineage.text.windows import Windows


class Evaluation:
    """Sums over tokens, in float64, from which `evaluation.json` is made; on the device of what is counted until `result`."""

    def __init__(self, n: int, m: int, place: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self.active, self.x, (self.x2, self.error2) = (
            torch.zeros(size, dtype=torch.float64, device=place) for size in (m, n, 2)
        )

    def add(self, x: torch.Tensor, features: torch.Tensor, reconstruction: torch.Tensor) -> None:
        """Count activations [tokens, n], their features [tokens, m] and reconstructions [tokens, n]."""
        self.tokens += len(x)
        self.active += (features > 0).sum(0)
        self.x += x.sum(0, dtype=torch.float64)
        self.x2 += x.double().square().sum()
        self.error2 += (x - reconstruction).double().square().sum()

    def result(self) -> dict[str, Any]:
        """L0, MSE, variance explained, dead share and densities."""
        n, error2 = len(self.x), float(self.error2)
        variance = float(self.x2) - float(self.x.square().sum()) / self.tokens
        density = self.active.cpu() / self.tokens
        return {
            "tokens": self.tokens,
            "l0": float(density.sum()),
            "mse": error2 / (self.tokens * n),
            "variance_explained": 1 - error2 / variance if variance > 0 else None,
            "dead_share": float((density == 0).double().mean()),
            "densities": density.tolist(),
        }


DEFINITIONS: Mapping[str, str] = {
    "tokens": "validation tokens evaluated: of each corpus of the model's trace the number asked, or all that it holds",
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


@torch.no_grad()
def evaluate_autoencoder(
    bridge: Any,
    hook: str,
    autoencoder: SparseAutoencoder,
    directories: Mapping[str, str | Path],
    context: int,
    tokens: int,
) -> dict[str, Any]:
    """Evaluate an autoencoder on validation windows of its model's corpora; see `DEFINITIONS`.

    Args:
        bridge: the model (`hooks.load_hooked`).
        hook: hook point.
        autoencoder: its autoencoder, on the same device.
        directories: validation token directory by corpus.
        context: tokens of a window.
        tokens: of each corpus, all that it holds if they are fewer.
    """
    windows = Windows(directories, context)
    chosen = [windows.spread(number, tokens) for number in range(len(windows.corpora))]
    (n, m), place = autoencoder.W_enc.shape, autoencoder.W_enc.device
    total = Evaluation(n, m, place)
    batch = windows_at_once(place, context, max(m, vocabulary(bridge)))
    losses: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}

    def splice(x: torch.Tensor) -> torch.Tensor:
        features = autoencoder.encode(x)
        reconstruction = autoencoder.decode(features, x)
        total.add(x, features, reconstruction)
        return reconstruction

    with progress(sum(len(part) * context for part in chosen), "tok") as bar:
        for corpus, part in zip(windows.corpora, chosen, strict=True):
            sums = {kind: torch.zeros((), dtype=torch.float64, device=place) for kind in ("clean", "spliced", "zero")}
            for first in range(0, len(part), batch):
                read = part[first : first + batch]
                ids, kept = windows[read], windows.kept(read)
                for kind, replace in (("clean", None), ("spliced", splice), ("zero", torch.zeros_like)):
                    sums[kind] += next_token_losses(bridge, hook, ids, replace, kept).sum(dtype=torch.float64)
                bar.update(ids.size)
            counts[corpus] = len(part) * (context - 1)
            losses[corpus] = {kind: float(value) for kind, value in sums.items()}
    whole = {
        kind: sum(sums[kind] for sums in losses.values()) / sum(counts.values())
        for kind in ("clean", "spliced", "zero")
    }
    return (
        total.result()
        | _recovered(whole)
        | {
            "corpora": {
                c: _recovered({kind: value / counts[c] for kind, value in sums.items()}) for c, sums in losses.items()
            }
        }
        | {"definitions": dict(DEFINITIONS)}
    )


def _recovered(losses: dict[str, float]) -> dict[str, float]:
    share = loss_recovered(losses["clean"], losses["zero"], losses["spliced"])
    return {"loss_recovered": share} | {f"loss_{kind}": value for kind, value in losses.items()}
