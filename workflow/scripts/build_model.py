"""Build a model of a root's architecture with random weights."""

from pathlib import Path
from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.models.checkpoint import build_model, save_model
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        tokenizer = Path(smk.input.tokenizer).parent
        model = build_model(smk.params.architecture, tokenizer, smk.params.seed)
        save_model(model, tokenizer, Path(smk.output[0]).parent, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
