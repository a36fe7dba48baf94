"""What a model and its autoencoder do together: training on activations, the features that fire, evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from feature_lineage.activations import activation_batches, activations, next_token_losses
from feature_lineage.autoencoder import DEFINITIONS, Evaluation, SparseAutoencoder, train_autoencoder
from feature_lineage.logs import progress
from feature_lineage.tokens import Windows

STATISTICS = pa.schema(
    [
        ("feature", pa.int32()),
        ("active", pa.int64()),
        ("density", pa.float64()),
        ("mean", pa.float64()),
        ("max", pa.float64()),
    ]
)
ACTIVATIONS = pa.schema([("token", pa.int32()), ("feature", pa.int32()), ("activation", pa.float32())])


@torch.no_grad()
def feature_batches(
    bridge: Any, hook: str, autoencoder: SparseAutoencoder, tokens: np.ndarray, label: str, batch: int = 256
) -> Iterator[pa.RecordBatch]:
    """Non-zero feature activations of a sample, ordered by token, then feature; schema `ACTIVATIONS`.

    Args:
        bridge: the model (`activations.load_hooked`).
        hook: hook point.
        autoencoder: the model's autoencoder, on the same device.
        tokens: the sample, [windows, length]; token `t` of window `w` has the number `w * length + t`.
        label: name in the progress bar.
        batch: windows at a time.
    """
    with progress(tokens.size, "tok", label) as bar:
        for first in range(0, len(tokens), batch):
            part = tokens[first : first + batch].astype(np.int64)
            found = autoencoder.encode(activations(bridge, hook, part))
            row, feature = found.nonzero(as_tuple=True)
            columns = [row + first * tokens.shape[1], feature, found[row, feature]]
            arrays = [pa.array(c.cpu().numpy(), field.type) for c, field in zip(columns, ACTIVATIONS, strict=True)]
            yield pa.record_batch(arrays, schema=ACTIVATIONS)
            bar.update(part.size)


class Statistics:
    """Per feature: tokens on which it fires, and the mean (when active) and maximum of its activation."""

    def __init__(self, tokens: int, features: int) -> None:
        self.tokens = tokens
        self.active = np.zeros(features, np.int64)
        self.sum, self.max = np.zeros(features), np.zeros(features)

    def counting(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass batches of `feature_batches` on, counting them."""
        for batch in batches:
            feature, activation = (
                batch["feature"].to_numpy(),
                batch["activation"].to_numpy().astype(np.float64),
            )
            self.active += np.bincount(feature, minlength=len(self.active))
            self.sum += np.bincount(feature, activation, minlength=len(self.active))
            np.maximum.at(self.max, feature, activation)
            yield batch

    def table(self) -> pa.Table:
        """One row a feature, schema `STATISTICS`; the mean of a feature that never fires is 0."""
        mean = np.divide(self.sum, self.active, out=np.zeros_like(self.sum), where=self.active > 0)
        columns = [
            np.arange(len(self.active), dtype=np.int32),
            self.active,
            self.active / self.tokens,
            mean,
            self.max,
        ]
        return pa.table(columns, schema=STATISTICS)


@torch.no_grad()
def evaluate_autoencoder(
    bridge: Any,
    hook: str,
    autoencoder: SparseAutoencoder,
    directories: Mapping[str, str | Path],
    context: int,
    tokens: int,
    label: str,
) -> dict[str, Any]:
    """Evaluate an autoencoder on validation windows of its model's corpora; see `autoencoder.DEFINITIONS`.

    Args:
        bridge: the model (`activations.load_hooked`).
        hook: hook point.
        autoencoder: its autoencoder, on the same device.
        directories: validation token directory by corpus.
        context: tokens of a window.
        tokens: tokens in all, the same from each corpus.
        label: name in the progress bar.
    """
    windows = Windows(directories, context)
    each = max(1, tokens // len(windows.corpora))
    total = Evaluation(*autoencoder.W_enc.shape)
    losses: dict[str, dict[str, float]] = {}
    counts: dict[str, int] = {}

    def splice(x: torch.Tensor) -> torch.Tensor:
        features = autoencoder.encode(x)
        reconstruction = autoencoder.decode(features)
        total.add(x, features, reconstruction)
        return reconstruction

    with progress(each * len(windows.corpora), "tok", label) as bar:
        for number, corpus in enumerate(windows.corpora):
            chosen = windows.spread(number, each)
            sums = dict.fromkeys(("clean", "spliced", "zero"), 0.0)
            for first in range(0, len(chosen), 256):
                ids = windows[chosen[first : first + 256]]
                for kind, replace in (("clean", None), ("spliced", splice), ("zero", torch.zeros_like)):
                    sums[kind] += float(next_token_losses(bridge, hook, ids, replace).sum(dtype=torch.float64))
                bar.update(ids.size)
            counts[corpus] = len(chosen) * (context - 1)
            losses[corpus] = sums
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
    gap = losses["zero"] - losses["clean"]
    share = (losses["zero"] - losses["spliced"]) / gap if gap else 0.0
    return {"loss_recovered": share} | {f"loss_{kind}": value for kind, value in losses.items()}


AHEAD = 8  # batches that the language model reads at once
SAMPLE_BATCHES = 8  # batches that scale, mean and geometric median are taken from


def train_on_model(
    bridge: Any,
    directories: Mapping[str, str | Path],
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
        bridge: the model (`activations.load_hooked`).
        directories: training token directory by corpus of the model's trace.
        checkpoint: file of this run alone.
        label: name in the progress bar.
        seed: of the weights and of the blocks drawn.
        hook, expansion, tokens, context, batch, resampling, options: as in `study.Autoencoder`.

    Returns:
        As `autoencoder.train_autoencoder`.
    """
    windows = Windows(directories, context)
    chosen = windows.draw(tokens, [seed, 2], "autoencoder.tokens")

    def batches(step: int) -> Iterator[torch.Tensor]:
        # From any step on, the model reads the same windows together: the last bits depend on how many they are.
        first = step - step % AHEAD
        found = activation_batches(bridge, hook, windows, chosen[first * batch :], batch, AHEAD)
        return islice(found, step - first, None)

    def pool(step: int) -> Iterator[torch.Tensor]:
        wanted = min(resampling["pool_tokens"], len(windows) * context)
        drawn = windows.draw(wanted, [seed, 2, step], "autoencoder.resampling.pool_tokens")
        return activation_batches(bridge, hook, windows, drawn, batch=min(batch, len(drawn)), ahead=AHEAD)

    return train_autoencoder(
        batches,
        pool,
        torch.cat(list(islice(batches(0), SAMPLE_BATCHES))),
        checkpoint,
        label=label,
        steps=len(chosen) // batch,
        tokens_per_step=batch * context,
        features=expansion * activations(bridge, hook, windows[chosen[:1]]).shape[1],
        seed=seed,
        resample_steps=resampling["steps"],
        silent_steps=resampling["silent_steps"],
        **options,
    )
