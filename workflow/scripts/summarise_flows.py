"""Give the counts of the flow their intervals, and sum them up."""

from typing import Any

from feature_lineage.flow.fates import EDGES
from feature_lineage.flow.summary import summarise_flows, with_intervals
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, write_json, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        edges = with_intervals(read_table(smk.input.counts), list(map(read_table, smk.input.bootstrap)))
        found = summarise_flows(edges, read_table(smk.input.lineages), smk.params.models, smk.params.threshold)
        record = provenance(smk.input, smk.params)
        write_table(smk.output.edges, edges, EDGES, record)
        write_json(smk.output.summary, found, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
