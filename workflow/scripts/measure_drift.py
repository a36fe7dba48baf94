"""Compare what a dictionary reads on its own model and on another, feature by feature."""

from typing import Any

from feature_lineage.flow.drift import FEATURES, measure_drift
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        table = measure_drift(smk.input.own, smk.input.other)
        write_table(smk.output.drift, table, FEATURES, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
