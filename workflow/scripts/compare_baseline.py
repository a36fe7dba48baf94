"""Count what persists between pairs of autoencoders that are no edge of the lineage."""

from typing import Any

import pyarrow as pa

from feature_lineage.controls.baselines import PERSISTENCE, compare_baseline
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        inputs = (smk.input.correlations, smk.input.parent_statistics, smk.input.child_statistics)
        rows = []
        for (parent, child, seed), correlations, *statistics in zip(smk.params.compared, *inputs, strict=True):
            active = tuple(read_table(path, ["active"])["active"].to_numpy() for path in statistics)
            found = compare_baseline(read_table(correlations), active, smk.params.min_active, smk.params.threshold)
            rows += [{"parent": parent, "child": child, "seed": seed} | row for row in found]
        table = pa.Table.from_pylist(rows, PERSISTENCE)
        write_table(smk.output.table, table, PERSISTENCE, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
