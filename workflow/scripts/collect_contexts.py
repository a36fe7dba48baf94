"""Find the windows of the sample on which each feature has its highest activations."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.meaning.contexts import CONTEXTS, collect_contexts
from feature_lineage.store.formats import read_tensors, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        shape = read_tensors(smk.input.sample)["tokens"].shape
        table = collect_contexts(smk.input.activations, shape)
        write_table(smk.output.contexts, table, CONTEXTS, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
