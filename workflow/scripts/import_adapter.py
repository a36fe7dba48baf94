"""Merge a published adapter into its parent."""

from pathlib import Path
from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.models.adapter import Adapter, import_adapter
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        params = smk.params
        import_adapter(
            Path(smk.input.parent[0]).parent,
            Adapter(params.source, params.revision, params.parent, params.trained_on),
            Path(smk.input.tokenizer).parent,
            Path(smk.output[0]).parent,
            provenance(smk.input, params),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
