"""Put the drift along all edges into one table, count what is kept, and say how well each dictionary reads the other model."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from feature_lineage.flow import drift
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_json, read_table, write_json, write_table
from feature_lineage.store.provenance import provenance


def quality(path: str) -> drift.Quality:
    found = read_json(path)
    return drift.Quality(found["l0"], found["variance_explained"])


def of(side: str, table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["side"], side)).drop(["side"])


def main(smk: Any) -> None:
    with job(smk.log[0]):
        given, params = smk.input, smk.params
        replicates = list(map(read_table, given.replicates)) or [None] * len(params.edges)
        readings = []
        for number, (parent, child, seed) in enumerate(params.edges):
            table, drawn = read_table(given.drift[number]), replicates[number]
            for side in drift.SIDES:
                own, other = (quality(getattr(given, f"{kind}_{side}")[number]) for kind in ("own", "other"))
                drawn_here = None if drawn is None else of(side, drawn)
                readings.append(drift.Reading(parent, child, seed, side, of(side, table), own, other, drawn_here))
        record = provenance(given, params)
        rows = drift.summarise_drift(readings, params.threshold, params.min_active)
        write_table(smk.output.drift, drift.drift_table(readings), drift.DRIFT, record)
        write_table(smk.output.curves, drift.drift_curves(readings, params.min_active), drift.CURVES, record)
        write_json(smk.output.summary, {"threshold": params.threshold, "edges": rows}, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
