"""Measure how far each training and merge moved the weights."""

from typing import Any

import pyarrow as pa

from feature_lineage.jobs.job import job
from feature_lineage.models.distance import WEIGHTS, compare_weights
from feature_lineage.models.linked import read_weights
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        rows = []
        for (parent, child), *files in zip(smk.params.pairs, smk.input.parents, smk.input.children, strict=True):
            found = compare_weights(*map(read_weights, files), smk.params.hook)
            rows.append({"parent": parent, "child": child} | found)
        table = pa.Table.from_pylist(rows, WEIGHTS)
        write_table(smk.output.weights, table, WEIGHTS, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
