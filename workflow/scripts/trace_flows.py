"""Count what persists, emerges and disappears along each edge, and follow every feature up and down the lineage."""

from typing import Any

from feature_lineage.flow import fates, strata
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        edges = [tuple(edge) for edge in smk.params.edges]
        seeds = fates.read_seeds(
            smk.params.seeds,
            smk.params.models,
            edges,
            smk.input.correlations,
            smk.input.statistics,
            smk.params.min_active,
        )
        tables = fates.trace_flows(seeds, smk.params.models, smk.params.threshold)
        names = [(model, seed) for seed in smk.params.seeds for model in smk.params.models]
        tokens = {name: read_table(path) for name, path in zip(names, smk.input.tokens, strict=True)}
        record = provenance(smk.input, smk.params)
        write_table(smk.output.counts, tables.edges, fates.EDGES, record)
        write_table(smk.output.features, tables.features, fates.FEATURES, record)
        write_table(smk.output.lineages, tables.lineages, fates.LINEAGES, record)
        write_table(smk.output.curves, fates.threshold_curves(seeds, smk.params.floor), fates.CURVES, record)
        write_table(smk.output.strata, strata.strata(tables.features, tokens), strata.STRATA, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
