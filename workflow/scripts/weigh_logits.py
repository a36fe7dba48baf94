"""Find the tokens that each feature promotes and suppresses by itself."""

from pathlib import Path
from typing import Any

import torch

from feature_lineage.autoencoders.autoencoder import load_autoencoder
from feature_lineage.devices import device
from feature_lineage.jobs.job import job
from feature_lineage.meaning.logit_effects import EFFECTS, weigh_logits
from feature_lineage.models.checkpoint import load_model
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import provenance
from feature_lineage.text.tokenizer import load_tokenizer, vocabulary_size


def main(smk: Any) -> None:
    with job(smk.log[0]):
        torch.set_num_threads(smk.params.threads)
        folder, place = Path(smk.input.model[0]).parent, device()
        table, reason = weigh_logits(
            load_model(folder).to(place),
            smk.params.hook,
            load_autoencoder(Path(smk.input.weights).parent, place).W_dec,
            vocabulary_size(load_tokenizer(folder)),
        )
        record = provenance(smk.input, smk.params)
        write_table(smk.output.effects, table, EFFECTS, record | {"not_measured": reason})


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
