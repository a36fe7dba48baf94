"""Measure two models' accuracy along the path between them."""

from pathlib import Path
from typing import Any

import torch

from feature_lineage.devices import device
from feature_lineage.jobs.job import job
from feature_lineage.models.checkpoint import load_model
from feature_lineage.models.merge import SWEEP, sweep_merge
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import provenance
from feature_lineage.text.shards import token_directories


def main(smk: Any) -> None:
    with job(smk.log[0]):
        torch.set_num_threads(smk.params.threads)
        first, second = (
            load_model(Path(files[0]).parent, torch.float32).to(device())
            for files in (smk.input.first, smk.input.second)
        )
        table = sweep_merge(
            first,
            second,
            smk.params.method,
            smk.params.points,
            token_directories(smk.params.corpora, smk.input.validation),
            block=smk.params.block,
            evaluation_tokens=smk.params.evaluation_tokens,
        )
        write_table(smk.output.sweep, table, SWEEP, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
