"""Count what persists, emerges and disappears along each edge, and follow every feature up and down the lineage."""

from typing import Any

from feature_lineage.flow import fates as flow
from feature_lineage.flow import strata
from feature_lineage.flow import strata as strata_module
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        edges = [tuple(edge) for edge in smk.params.edges]
        seeds = flow.read_seeds(
            smk.params.seeds,
            smk.params.models,
            edges,
            smk.input.correlations,
            smk.input.statistics,
            smk.params.min_active,
        )
        tables = flow.trace_seeds(seeds, smk.params.models, smk.params.threshold)
        names = [(model, seed) for seed in smk.params.seeds for model in smk.params.models]
        tokens = {name: read_table(path) for name, path in zip(names, smk.input.tokens, strict=True)}
        record = provenance(smk.input, smk.params)
        write_table(smk.output.counts, tables.edges, flow.EDGES, record)
        write_table(smk.output.features, tables.features, flow.FEATURES, record)
        write_table(smk.output.lineages, tables.lineages, flow.LINEAGES, record)
        write_table(smk.output.curves, flow.curves(seeds, smk.params.floor), flow.CURVES, record)
        write_table(smk.output.strata, strata_module.strata(tables.features, tokens), strata.STRATA, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
