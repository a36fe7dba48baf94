"""Count what of each root's features persists into an untrained model."""

from typing import Any

import pyarrow as pa

from feature_lineage.artifacts import provenance, read_table, write_table
from feature_lineage.baselines import UNTRAINED, persistence
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        rows = []
        files = zip(
            smk.params.compared,
            smk.input.correlations,
            smk.input.statistics,
            smk.input.untrained_statistics,
            strict=True,
        )
        for (root, seed), correlations, *statistics in files:
            densities = tuple(read_table(path)["density"].to_numpy() for path in statistics)
            found = persistence(read_table(correlations), densities, smk.params.threshold, ("root", "untrained"))
            rows += [{"root": root, "seed": seed} | row for row in found]
        table = pa.Table.from_pylist(rows, UNTRAINED)
        write_table(smk.output.table, table, UNTRAINED, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
