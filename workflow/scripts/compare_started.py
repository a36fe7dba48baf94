"""Count what persists from each parent's autoencoder into the child's that started from it."""

from typing import Any

import pyarrow as pa

from feature_lineage.artifacts import provenance, read_table, write_table
from feature_lineage.baselines import STARTED, started_rows
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        rows = []
        files = zip(
            smk.params.compared,
            smk.input.correlations,
            smk.input.parent_statistics,
            smk.input.child_statistics,
            strict=True,
        )
        for (parent, child, seed), correlations, *statistics in files:
            densities = tuple(read_table(path)["density"].to_numpy() for path in statistics)
            found = started_rows(read_table(correlations), densities, smk.params.threshold)
            rows += [{"parent": parent, "child": child, "seed": seed} | row for row in found]
        table = pa.Table.from_pylist(rows, STARTED)
        write_table(smk.output.table, table, STARTED, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
