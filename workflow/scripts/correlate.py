"""Correlate all features of two models over the sample."""

from typing import Any

from feature_lineage.features.activations import ActivationFile
from feature_lineage.flow.correlation import CORRELATIONS, correlate, merge_parts
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        a, b = ActivationFile(smk.input.a), ActivationFile(smk.input.b)
        params = smk.params
        if smk.input.parts:
            table = merge_parts(a, b, smk.input.parts, params.floor, smk.threads, params.min_active)
        else:
            table = correlate(a, b, params.floor, smk.threads, params.min_active)
        record = provenance({"a": smk.input.a, "b": smk.input.b}, smk.params)
        write_table(smk.output.correlations, table, CORRELATIONS, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
