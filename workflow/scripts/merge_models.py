"""Write a merged model: at the chosen point of its parents' path, or of any number of parents."""

from pathlib import Path
from typing import Any

import torch

from feature_lineage.jobs.job import job
from feature_lineage.models.checkpoint import load_model, save_model
from feature_lineage.models.merge import choose_t, merge_models
from feature_lineage.models.task_vectors import Recipe, merge_any_number
from feature_lineage.store.formats import read_table, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        folders = dict.fromkeys(Path(file).parent for file in smk.input.parents)
        parents, record = [load_model(folder, torch.float32) for folder in folders], provenance(smk.input, smk.params)
        if smk.params.recipe is None:
            chosen = choose_t(smk.params.t, read_table(smk.input.sweep[0]), *smk.params.corpora)
            record |= {"t": chosen.t, "crosses": chosen.crosses}
            table = merge_models(*parents, smk.params.method, chosen.t)
        else:
            base = load_model(Path(smk.input.base[0]).parent, torch.float32) if smk.input.base else None
            table = merge_any_number(parents, Recipe(**smk.params.recipe), base)
            del base, parents[1:]  # not needed while the merged model is written
        write_table(smk.output.tensors, table, table.schema, record)
        save_model(parents[0], Path(smk.input.tokenizer).parent, Path(smk.output.tensors).parent, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
