"""Collect the features of a dictionary that fire on the sample: on its own model, or, along an edge, of each dictionary on the other's."""

from pathlib import Path
from typing import Any

import torch

from feature_lineage.autoencoders.autoencoder import load_autoencoder
from feature_lineage.autoencoders.evaluation import Evaluation
from feature_lineage.devices import device
from feature_lineage.features.collect import ACTIVATIONS, STATISTICS, Statistics, collect_features
from feature_lineage.jobs.job import job
from feature_lineage.models.hooks import load_hooked
from feature_lineage.store.formats import read_tensors, write_json, write_table
from feature_lineage.store.provenance import provenance

OUTPUTS = ("activations", "statistics", "quality")


def each(files: Any) -> list[str]:
    return [files] if isinstance(files, str) else list(files)


def main(smk: Any) -> None:
    with job(smk.log[0]):
        torch.set_num_threads(smk.params.threads)
        tokens = read_tensors(smk.input.sample)["tokens"]
        models = [Path(file).parent for file in smk.input.model if Path(file).name == "config.json"]
        outputs = zip(*(each(getattr(smk.output, name)) for name in OUTPUTS), strict=True)
        for model, weights, (activations, table, told) in zip(models, each(smk.input.weights), outputs, strict=True):
            autoencoder = load_autoencoder(Path(weights).parent, device())
            record = provenance(smk.input, smk.params) | {"tokens": tokens.size, "features": len(autoencoder.b_enc)}
            statistics = Statistics(tokens.size, len(autoencoder.b_enc))
            quality = Evaluation(*autoencoder.W_enc.shape, autoencoder.b_enc.device)
            bridge = load_hooked(model, smk.params.hook)
            batches = collect_features(bridge, smk.params.hook, autoencoder, tokens, quality)
            write_table(activations, statistics.counting(batches), ACTIVATIONS, record)
            write_table(table, statistics.table(), STATISTICS, record)
            found = quality.result()
            write_json(told, {name: found[name] for name in ("tokens", "l0", "variance_explained")}, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
