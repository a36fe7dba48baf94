"""Correlate the features of an edge's two models with one side's activations shifted."""

from typing import Any

import pyarrow as pa

from feature_lineage.controls.alignment_null import NULL, correlate_shifted, offsets
from feature_lineage.features.activations import ActivationFile
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_tensors, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        sample = read_tensors(smk.input.sample)
        rows = correlate_shifted(
            ActivationFile(smk.input.parent),
            ActivationFile(smk.input.child),
            sample["corpus"],
            sample["document"],
            offsets(smk.params.seed),
            smk.params.threshold,
            smk.params.min_active,
            sample.get("kept"),
        )
        table = pa.Table.from_pylist([smk.params.edge | row for row in rows], NULL)
        write_table(smk.output.null, table, NULL, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
