"""Put the controls beside what persists along each edge."""

from typing import Any

from feature_lineage.controls.sides import read_comparisons
from feature_lineage.controls.summary import summarise_controls
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, write_json
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        params = smk.params
        statistics = dict(zip(map(tuple, params.autoencoders), smk.input.statistics, strict=True))
        edges = [((parent, seed), (child, seed)) for (parent, child), seed in params.edges]
        along = read_comparisons(edges, smk.input.correlations, statistics, params.min_active)
        tables = dict(zip(params.measured, map(read_table, smk.input.tables), strict=True))
        found = summarise_controls(along, tables, params.threshold, params.not_measured)
        write_json(smk.output.summary, found, provenance(smk.input, params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
