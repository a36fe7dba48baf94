"""Measure a model's loss and accuracy on every corpus of the comparison."""

from pathlib import Path
from typing import Any

import torch

from feature_lineage.devices import device
from feature_lineage.jobs.job import job
from feature_lineage.models.checkpoint import evaluate_model, load_model, readable
from feature_lineage.models.readings import evaluate_plainly, warn_of_reading
from feature_lineage.store.formats import write_json
from feature_lineage.store.provenance import provenance
from feature_lineage.text.shards import token_directories
from feature_lineage.text.windows import Windows


def main(smk: Any) -> None:
    with job(smk.log[0]):
        torch.set_num_threads(smk.params.threads)
        folder = Path(smk.input.model[0]).parent
        model = load_model(folder).to(device())
        block = readable(model, smk.params.block)
        windows = Windows(token_directories(smk.params.corpora, smk.input.validation), block)
        found = {
            corpus: evaluate_model(model, windows, windows.spread(number, smk.params.evaluation_tokens))
            for number, corpus in enumerate(windows.corpora)
        }
        content = {"corpora": found, "block": block}
        plain = evaluate_plainly(model, folder, windows.directories, block, smk.params.evaluation_tokens)
        if plain is not None:
            content["plain"] = plain
            warn_of_reading(folder.name, found, plain)
        write_json(smk.output.evaluation, content, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
