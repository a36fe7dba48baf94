"""Compare the autoencoder seeds of each model with one another."""

from typing import Any

from feature_lineage.controls.ceiling import CEILING, CEILING_CURVES, ceiling_curves, measure_ceiling
from feature_lineage.controls.sides import read_comparisons
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        params = smk.params
        statistics = dict(zip(map(tuple, params.autoencoders), smk.input.statistics, strict=True))
        pairs = [((model, a), (model, b)) for model, found in params.seed_pairs.items() for a, b in found]
        between = read_comparisons(pairs, smk.input.correlations, statistics, params.min_active)
        record = provenance(smk.input, params)
        write_table(smk.output.ceiling, measure_ceiling(between, params.threshold), CEILING, record)
        write_table(smk.output.curves, ceiling_curves(between, params.floor), CEILING_CURVES, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
