"""Draw the token windows on which all models are compared."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.store.formats import write_tensors
from feature_lineage.store.provenance import provenance
from feature_lineage.text.sample import sample_windows
from feature_lineage.text.shards import token_directories


def main(smk: Any) -> None:
    with job(smk.log[0]):
        directories = token_directories(smk.params.corpora, smk.input.validation)
        sample = sample_windows(directories, smk.params.tokens, smk.params.context, smk.params.seed)
        write_tensors(smk.output.sample, sample, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
