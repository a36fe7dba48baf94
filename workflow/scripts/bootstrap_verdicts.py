"""Count the verdicts on an edge in samples whose documents are drawn again."""

from typing import Any

import numpy as np

from feature_lineage.flow.bootstrap import number_documents, sample_documents
from feature_lineage.flow.intervals import REPLICATES, Drawn, bootstrap_verdicts
from feature_lineage.flow.stability import judged_documents
from feature_lineage.flow.verdicts import Activations, Limits
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, read_tensors, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        given, params = smk.input, smk.params
        sample = read_tensors(given.sample)
        document, corpus = number_documents(sample["corpus"], sample["document"], sample.get("kept"))
        half = ~judged_documents(document, corpus)
        held_out = np.zeros((len(corpus), params.replicates), np.int64)
        held_out[half] = sample_documents(corpus[half], params.replicates, params.seed)
        table = bootstrap_verdicts(
            Activations(given.own, given.other, params.sides),
            next(map(read_table, given.correlations), None),
            read_table(given.judged),
            Drawn(document, sample_documents(corpus, params.replicates, params.seed), held_out),
            Limits(threshold=params.threshold, min_active=params.min_active),
        )
        write_table(smk.output.replicates, table, REPLICATES, provenance(given, params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
