"""Count what persists, emerges and disappears along each edge, and follow every feature up and down the lineage."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pyarrow as pa

from feature_lineage.flow import fates, strata, traced
from feature_lineage.flow.intervals import Compared
from feature_lineage.flow.summary import new_features
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, write_table
from feature_lineage.store.provenance import provenance


def read_judged(pairs: Iterable[tuple[str, str]], seeds: Sequence[int], files: Sequence[str]) -> dict[Any, pa.Table]:
    """Verdicts by pair and seed."""
    names = [(*pair, seed) for seed, pair in product(seeds, list(pairs))]
    return dict(zip(names, map(read_table, files), strict=True))


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
        pairs = [*edges, *map(tuple, smk.params.passed_down)]
        judged = read_judged(pairs, smk.params.seeds, smk.input.verdicts)
        placebos = read_judged(map(tuple, smk.params.placebos), smk.params.seeds, smk.input.placebos)
        along = {pair: table for pair, table in judged.items() if pair[:2] in edges}
        new = new_features([Compared(*pair, table) for pair, table in along.items()])
        features = traced.with_verdicts(tables.features, along, new)
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
