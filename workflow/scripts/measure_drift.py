"""Compare, feature by feature, what each dictionary of an edge reads on its own model and on the other."""

from typing import Any

from feature_lineage.flow.drift import SIDED, measure_drift
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        table = measure_drift(smk.input.own, smk.input.other)
        write_table(smk.output.drift, table, SIDED, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
