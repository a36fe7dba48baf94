"""Evaluate an autoencoder on its model's validation corpora."""

from pathlib import Path
from typing import Any

import torch

from feature_lineage.autoencoders.autoencoder import load_autoencoder
from feature_lineage.autoencoders.evaluation import evaluate_autoencoder
from feature_lineage.autoencoders.gate import warn
from feature_lineage.devices import device
from feature_lineage.jobs.job import job
from feature_lineage.models.hooks import load_hooked
from feature_lineage.store.formats import write_json
from feature_lineage.store.provenance import provenance
from feature_lineage.text.shards import token_directories


def main(smk: Any) -> None:
    with job(smk.log[0]):
        torch.set_num_threads(smk.params.threads)
        found = evaluate_autoencoder(
            load_hooked(Path(smk.input.model[0]).parent, smk.params.hook),
            smk.params.hook,
            load_autoencoder(Path(smk.input.weights).parent, device()),
            token_directories(smk.params.corpora, smk.input.validation),
            smk.params.context,
            smk.params.evaluation_tokens,
        )
        if smk.params.judged:
            found["l0_target"] = smk.params.l0
            warn(Path(smk.log[0]).stem, found)
        write_json(smk.output.evaluation, found, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
