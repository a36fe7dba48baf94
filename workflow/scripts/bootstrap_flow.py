"""Count what persists along an edge in samples whose documents are drawn anew."""

from typing import Any

from feature_lineage.flow.bootstrap import REPLICATES, bootstrap_flow, number_documents, sample_documents
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, read_tensors, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        sample = read_tensors(smk.input.sample)
        document, corpus = number_documents(sample["corpus"], sample["document"], sample.get("kept"))
        table = bootstrap_flow(
            smk.input.parent,
            smk.input.child,
            read_table(smk.input.correlations),
            document,
            sample_documents(corpus, smk.params.replicates, smk.params.seed),
            smk.params.threshold,
            smk.params.min_active,
        )
        write_table(smk.output.replicates, table, REPLICATES, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
