"""Put what becomes of a root's features in a training without new data into one table."""

from typing import Any

import pyarrow as pa

from feature_lineage.controls.placebo import PLACEBO, measure_placebo
from feature_lineage.flow.intervals import Compared
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_json, read_table, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        given, params = smk.input, smk.params
        weights = {(row["parent"], row["child"]): row for row in read_table(given.weights).to_pylist()}
        replicates = list(map(read_table, given.replicates)) or [None] * len(params.compared)
        files = zip(params.compared, given.verdicts, replicates, given.about, strict=True)
        rows = [
            measure_placebo(
                Compared(root, placebo, seed, read_table(judged), drawn),
                params.fine_tunes[placebo],
                read_json(about)["readings"][0],
                weights[root, placebo],
                params.threshold,
            )
            for ((root, placebo), seed), judged, drawn, about in files
        ]
        write_table(smk.output.table, pa.Table.from_pylist(rows, PLACEBO), PLACEBO, provenance(given, params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
