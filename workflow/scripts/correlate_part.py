"""Sum the products of all pairs of features of two models over one range of the sample's tokens."""

from typing import Any

from feature_lineage.features.activations import ActivationFile
from feature_lineage.flow.correlation import PARTIAL_SUMS, correlate_part
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        a, b = ActivationFile(smk.input.a), ActivationFile(smk.input.b)
        sums = correlate_part(a, b, smk.params.part, smk.params.parts, smk.threads)
        write_table(smk.output.sums, sums, PARTIAL_SUMS, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
