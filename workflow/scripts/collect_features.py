"""Collect the features of a dictionary that fire on the sample, and how well it reads the model."""

from pathlib import Path
from typing import Any

import torch

from feature_lineage.autoencoders.autoencoder import load_autoencoder
from feature_lineage.autoencoders.evaluation import Evaluation
from feature_lineage.devices import device
from feature_lineage.features.activations import PLACES
from feature_lineage.features.collect import ACTIVATIONS, KEPT_ACTIVATIONS, STATISTICS, Statistics, collect_features
from feature_lineage.jobs.job import job
from feature_lineage.models.hooks import load_hooked
from feature_lineage.store.formats import read_tensors, write_json, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        torch.set_num_threads(smk.params.threads)
        weights = Path(smk.input.weights).parent
        sample = read_tensors(smk.input.sample)
        tokens, kept = sample["tokens"], sample.get("kept")
        autoencoder = load_autoencoder(weights, device())
        bridge = load_hooked(Path(smk.input.model[0]).parent, smk.params.hook, activations_only=True)
        record, schema = provenance(smk.input, smk.params), ACTIVATIONS
        record |= {"tokens": tokens.size, "features": len(autoencoder.b_enc)}
        if kept is not None:
            schema = KEPT_ACTIVATIONS
            record |= {"tokens": int(kept.sum()), PLACES: tokens.size}
        statistics = Statistics(record["tokens"], record["features"])
        quality = Evaluation(*autoencoder.W_enc.shape, autoencoder.b_enc.device)
        batches = collect_features(bridge, smk.params.hook, autoencoder, tokens, quality, kept)
        write_table(smk.output.activations, statistics.counting(batches), schema, record)
        write_table(smk.output.statistics, statistics.table(), STATISTICS, record)
        found = quality.result()
        write_json(smk.output.quality, {name: found[name] for name in ("tokens", "l0", "variance_explained")}, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
