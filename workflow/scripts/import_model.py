"""Take over a published language model."""

from pathlib import Path
from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.models.checkpoint import import_model
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        record = provenance(smk.input, smk.params)
        output, params = Path(smk.output.record).parent, smk.params
        import_model(params.source, Path(smk.input.tokenizer).parent, output, record, params.revision, params.dtype)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
