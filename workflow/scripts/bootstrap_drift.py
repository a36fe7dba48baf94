"""Count the features that are kept in samples whose documents are sampled again."""

from typing import Any

from feature_lineage.flow.bootstrap import number_documents, sample_documents
from feature_lineage.flow.drift import REPLICATES, bootstrap_drift
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_tensors, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        sample = read_tensors(smk.input.sample)
        document, corpus = number_documents(sample["corpus"], sample["document"])
        table = bootstrap_drift(
            smk.input.own,
            smk.input.other,
            document,
            sample_documents(corpus, smk.params.replicates, smk.params.seed),
            smk.params.threshold,
            smk.params.min_active,
        )
        write_table(smk.output.replicates, table, REPLICATES, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
