"""Make a model of a step that a training has kept."""

from pathlib import Path
from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.models.checkpoint import save_model
from feature_lineage.models.training import keep_model, kept_file
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        record = provenance(smk.input, smk.params)
        model = keep_model(Path(smk.input.model[0]).parent, kept_file(smk.input.kept, smk.params.step))
        save_model(model, Path(smk.input.tokenizer).parent, Path(smk.output[0]).parent, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
