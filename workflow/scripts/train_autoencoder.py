"""Train a model's sparse autoencoder."""

import shutil
from pathlib import Path
from typing import Any

import torch

from feature_lineage.autoencoders.autoencoder import load_autoencoder, save_autoencoder
from feature_lineage.autoencoders.training import CURVE, Watch, train_autoencoder
from feature_lineage.devices import device
from feature_lineage.jobs.job import job, stop_signal
from feature_lineage.models.hooks import load_hooked
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import checkpoint_folder, provenance
from feature_lineage.study.measures import Autoencoder
from feature_lineage.text.shards import token_directories


def main(smk: Any) -> None:
    with job(smk.log[0]), stop_signal() as stop:
        torch.set_num_threads(smk.params.threads)
        record = provenance(smk.input, smk.params)
        output = Path(smk.output.weights).parent
        checkpoints = checkpoint_folder(output, record)
        options = Autoencoder(**smk.params.autoencoder)
        parent = smk.input.parent
        autoencoder, curve = train_autoencoder(
            load_hooked(Path(smk.input.model[0]).parent, options.hook),
            token_directories(smk.params.corpora, smk.input.train),
            token_directories(smk.params.corpora, smk.input.validation),
            checkpoints / "autoencoder.safetensors",
            options,
            smk.params.seed,
            load_autoencoder(Path(parent[0]).parent, device()) if parent else None,
            Watch(stop=stop),
        )
        save_autoencoder(autoencoder, output, options.hook, options.context, record)
        write_table(smk.output.curve, curve, CURVE, record)
        shutil.rmtree(checkpoints.parent, ignore_errors=True)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
