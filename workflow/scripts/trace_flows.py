"""Count what persists, emerges and disappears along each edge, and follow every feature back."""

from typing import Any

from feature_lineage.artifacts import provenance, write_json, write_table
from feature_lineage.flow import EDGES, FEATURES, LINEAGES, summarise, trace_seeds
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        tables = trace_seeds(
            smk.params.seeds,
            smk.params.models,
            [tuple(edge) for edge in smk.params.edges],
            smk.input.correlations,
            smk.input.statistics,
            smk.params.threshold,
        )
        record = provenance(smk.input, smk.params)
        write_table(smk.output.edges, tables.edges, EDGES, record)
        write_table(smk.output.features, tables.features, FEATURES, record)
        write_table(smk.output.lineages, tables.lineages, LINEAGES, record)
        write_json(smk.output.summary, summarise(tables, smk.params.threshold), record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
