"""Train a model's sparse autoencoder."""

import shutil
from pathlib import Path
from typing import Any

import torch

from feature_lineage.activations import load_hooked
from feature_lineage.artifacts import checkpoint_folder, provenance, write_table
from feature_lineage.autoencoder import CURVE, save_autoencoder
from feature_lineage.features import train_on_model
from feature_lineage.logs import job, stop_signal


def main(smk: Any) -> None:
    with job(smk.log[0]), stop_signal() as stop:
        torch.set_num_threads(smk.params.threads)
        record = provenance(smk.input, smk.params)
        output = Path(smk.output.weights).parent
        checkpoints = checkpoint_folder(output, record)
        options = smk.params.autoencoder
        autoencoder, curve = train_on_model(
            load_hooked(Path(smk.input.model[0]).parent, options["hook"]),
            dict(zip(smk.params.corpora, smk.input.train, strict=True)),
            checkpoints / "autoencoder.safetensors",
            label=f"autoencoder {output.parent.name} {output.name}",
            seed=smk.params.seed,
            stop=stop,
            **options,
        )
        save_autoencoder(autoencoder, output, options["hook"], options["context"], record)
        write_table(smk.output.curve, curve, CURVE, record)
        shutil.rmtree(checkpoints.parent)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
