"""Correlate the features of an edge's two models with one side's activations shifted."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_lineage.artifacts import provenance, read_tensors, write_table
from feature_lineage.controls import NULL, alignment_null, living, offsets
from feature_lineage.correlation import read_activations
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        sample = read_tensors(smk.input.sample)
        rows = alignment_null(
            living(read_activations(smk.input.parent), smk.params.min_active),
            living(read_activations(smk.input.child), smk.params.min_active),
            sample["corpus"],
            sample["document"],
            offsets(smk.params.seed),
            smk.params.threshold,
            f"shifted {Path(smk.output.null).stem}",
        )
        table = pa.Table.from_pylist([smk.params.edge | row for row in rows], NULL)
        write_table(smk.output.null, table, NULL, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
