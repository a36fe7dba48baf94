"""Write the merged model at the chosen point of its parents' path."""

from pathlib import Path
from typing import Any

import torch

from feature_lineage.jobs.job import job
from feature_lineage.models.checkpoint import load_model, save_model
from feature_lineage.models.merge import TENSORS, choose_t, merge_models
from feature_lineage.store.formats import read_table, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        first, second = (
            load_model(Path(files[0]).parent, torch.float32) for files in (smk.input.first, smk.input.second)
        )
        chosen = choose_t(smk.params.t, read_table(smk.input.sweep), *smk.params.corpora)
        record = provenance(smk.input, smk.params) | {"t": chosen.t, "crosses": chosen.crosses}
        table = merge_models(first, second, smk.params.method, chosen.t)
        write_table(smk.output.tensors, table, TENSORS, record)
        save_model(first, Path(smk.input.tokenizer).parent, Path(smk.output.tensors).parent, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
