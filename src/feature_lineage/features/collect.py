"""The features of an autoencoder that fire on a sample of tokens, and their statistics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.autoencoders.evaluation import Evaluation
from feature_lineage.devices import windows_at_once
from feature_lineage.features.activations import ROW
from feature_lineage.models.hooks import activations, mask_like
from feature_lineage.progress import progress

STATISTICS = pa.schema(
    [
        ("feature", pa.int32()),
        ("active", pa.int64()),
        ("density", pa.float64()),
        ("mean", pa.float64()),
        ("max", pa.float64()),
    ]
)
QUALITY_TOKENS = 20_000  # on which a reading's quality is measured
ACTIVATIONS = pa.schema([("token", pa.int32()), ("feature", pa.int32()), ("activation", pa.float32())])
KEPT_ACTIVATIONS = ACTIVATIONS.append(pa.field(ROW, pa.int32()))  # of a sample of which some tokens are left out


@torch.no_grad()
def collect_features(
    bridge: Any,
    hook: str,
    autoencoder: SparseAutoencoder,
    tokens: np.ndarray,
    quality: Evaluation | None = None,
    kept: np.ndarray | None = None,
) -> Iterator[pa.RecordBatch]:
    """Non-zero feature activations of a sample, ordered by token, then feature; schema `ACTIVATIONS`, or `KEPT_ACTIVATIONS` with `kept`.

    Args:
        bridge: the model (`hooks.load_hooked`).
        hook: hook point.
        autoencoder: the model's autoencoder, on the same device.
        tokens: the sample, [windows, length]; token `t` of window `w` has the number `w * length + t`.
        quality: counts how well the activations are reconstructed, on about `QUALITY_TOKENS` tokens spread over the sample.
        kept: which tokens are read, bool [windows, length], all if None; `row` is a token's number among these.
    """
    batch = windows_at_once(autoencoder.b_enc.device, tokens.shape[1], len(autoencoder.b_enc))
    every = max(1, tokens.size // QUALITY_TOKENS)
    schema, rows = ACTIVATIONS if kept is None else KEPT_ACTIVATIONS, 0
    with progress(tokens.size, "tok") as bar:
        for first in range(0, len(tokens), batch):
            part = tokens[first : first + batch].astype(np.int64)
            x = activations(bridge, hook, part)
            if kept is not None:
                numbers = torch.from_numpy(np.flatnonzero(kept[first : first + batch])).to(x.device)
                x = x[numbers]
            found = autoencoder.encode(x)
            if quality is not None and (first // batch) % every == 0:
                quality.add(x, found, autoencoder.decode(found, x))
            row, feature = found.nonzero(as_tuple=True)
            token = row if kept is None else numbers[row]
            columns = [token + first * tokens.shape[1], feature, found[row, feature]]
            if kept is not None:
                columns.append(row + rows)
            rows += len(x)
            arrays = [pa.array(c.cpu().numpy(), field.type) for c, field in zip(columns, schema, strict=True)]
            yield pa.record_batch(arrays, schema=schema)
            bar.update(part.size)


class Statistics:
    """Per feature: tokens on which it fires, and the mean (when active) and maximum of its activation."""

    def __init__(self, tokens: int, features: int) -> None:
        self.tokens = tokens
        self.active = np.zeros(features, np.int64)
        self.sum, self.max = np.zeros(features), np.zeros(features)

    def counting(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass batches of `collect_features` on, counting them."""
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


def paired_activations(
    bridges: Sequence[Any], hook: str, tokens: np.ndarray, kept: np.ndarray | None = None
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Activations of several models for the same token ids [windows, length], some windows at a time, [tokens, n] each.

    Of those alone that are `kept`, bool [windows, length], where it is given.
    """
    place = torch.device(bridges[0].cfg.device)
    width = max(bridge.original_model.config.hidden_size for bridge in bridges)
    batch = windows_at_once(
        place, tokens.shape[1], 16 * width
    )  # an MLP is up to eight times as wide inside, in float64
    for first in range(0, len(tokens), batch):
        part = tokens[first : first + batch].astype(np.int64)
        found = tuple(activations(bridge, hook, part) for bridge in bridges)
        if kept is not None:
            mask = mask_like(kept[first : first + batch], found[0])
            found = tuple(one[mask] for one in found)
        yield found
