"""Put the drift along all edges into one table, count what is kept, and say how well each dictionary reads the other model."""

from typing import Any

from feature_lineage.flow.drift import CURVES, DRIFT, Quality, Reading, drift_curves, summarise_drift
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_json, read_table, write_json, write_table
from feature_lineage.store.provenance import provenance


def quality(path: str) -> Quality:
    found = read_json(path)
    return Quality(found["l0"], found["variance_explained"])


def main(smk: Any) -> None:
    with job(smk.log[0]):
        given, params = smk.input, smk.params
        replicates = list(map(read_table, given.replicates)) or [None] * len(params.readings)
        files = zip(params.readings, given.drift, given.own, given.other, replicates, strict=True)
        readings = [
            Reading(dictionary, model, seed, read_table(drift), quality(own), quality(other), table)
            for (dictionary, model, seed), drift, own, other, table in files
        ]
        edges = [tuple(edge) for edge in params.edges]
        table, rows = summarise_drift(readings, edges, params.threshold, params.min_active)
        record = provenance(given, params)
        write_table(smk.output.drift, table, DRIFT, record)
        write_table(smk.output.curves, drift_curves(readings, params.min_active), CURVES, record)
        write_json(smk.output.summary, {"threshold": params.threshold, "edges": rows}, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
