"""Count what persists, emerges and disappears along each edge, and follow every feature up and down the lineage."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from feature_lineage.flow import fates, strata, traced
from feature_lineage.flow.intervals import Compared
from feature_lineage.flow.summary import new_features
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, write_table
from feature_lineage.store.provenance import provenance


def by_pair(pairs: Sequence[Any], files: Sequence[str]) -> dict[tuple[str, str, int], str]:
    """Files by parent, child and seed."""
    return {(*pair, seed): path for (pair, seed), path in zip(pairs, files, strict=True)}


def read_judged(pairs: Sequence[Any], files: Sequence[str]) -> dict[Any, pa.Table]:
    """Verdicts by parent, child and seed."""
    return {pair: read_table(path) for pair, path in by_pair(pairs, files).items()}


def main(smk: Any) -> None:
    with job(smk.log[0]):
        edges = [tuple(edge) for edge in smk.params.edges]
        names = [tuple(name) for name in smk.params.autoencoders]
        statistics = dict(zip(names, smk.input.statistics, strict=True))
        seeds = fates.read_seeds(statistics, by_pair(smk.params.matched, smk.input.correlations), smk.params.min_active)
        tables = fates.trace_flows(seeds, smk.params.models, smk.params.threshold)
        tokens = {name: read_table(path) for name, path in zip(names, smk.input.tokens, strict=True)}
        judged = read_judged(smk.params.judged, smk.input.verdicts)
        placebos = read_judged(smk.params.placebos, smk.input.placebos)
        along = {pair: table for pair, table in judged.items() if pair[:2] in edges}
        new = new_features([Compared(*pair, table) for pair, table in along.items()])
        features = traced.with_verdicts(
            tables.features,
            along,
            new,
            {(model, one.seed): found for one in seeds for model, found in one.densities.items()},
        )
        lineages = traced.with_traced(tables.lineages, judged, smk.params.models, edges, smk.params.threshold)
        record = provenance(smk.input, smk.params)
        write_table(smk.output.counts, tables.edges, fates.EDGES, record)
        write_table(smk.output.features, features, traced.FEATURES, record)
        write_table(smk.output.lineages, lineages, traced.LINEAGES, record)
        write_table(smk.output.curves, fates.threshold_curves(seeds, smk.params.floor), fates.CURVES, record)
        write_table(smk.output.strata, strata.strata(tables.features, tokens), strata.STRATA, record)
        write_table(smk.output.drift, traced.drift_table(along), traced.DRIFTS, record)
        write_table(smk.output.drift_curves, traced.drift_curves(along, placebos), traced.CURVES, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
