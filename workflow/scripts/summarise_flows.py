"""Give the counts of the flow their intervals, count verdicts beside the placebos', and sum all of it up."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from feature_lineage.flow.fates import EDGES
from feature_lineage.flow.intervals import ROWS, Compared
from feature_lineage.flow.summary import summarise_flows, summarise_verdicts, with_intervals
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_json, read_table, write_json, write_table
from feature_lineage.store.provenance import provenance


def compared(names: Sequence[Any], verdicts: Sequence[str], replicates: Sequence[str]) -> list[Compared]:
    drawn = list(map(read_table, replicates)) or [None] * len(names)
    files = zip(names, map(read_table, verdicts), drawn, strict=True)
    return [Compared(*pair, seed, judged, replicated) for (pair, seed), judged, replicated in files]


def main(smk: Any) -> None:
    with job(smk.log[0]):
        given, params = smk.input, smk.params
        table = with_intervals(read_table(given.counts), list(map(read_table, given.bootstrap)))
        edges = compared(params.compared, given.verdicts, given.replicates)
        placebos = compared(params.placebos, given.placebo_verdicts, given.placebo_replicates)
        found = summarise_flows(table, read_table(given.lineages), params.models, params.threshold, params.lineage)
        found |= summarise_verdicts(
            edges, {(one.child, one.seed): one for one in placebos}, params.placebo_of, params.threshold
        )
        found |= {"readings": [], "directions": [], "weights": read_table(given.weights).to_pylist()}
        for one, path in zip([*edges, *placebos], [*given.about, *given.placebo_about], strict=True):
            place, about = {"parent": one.parent, "child": one.child, "seed": one.seed}, read_json(path)
            found["readings"] += [place | reading for reading in about["readings"]]
            found["directions"].append(place | about["cosines"])
        found["placebos"] = [row for path in given.placebo for row in read_table(path).to_pylist()]
        found["no_placebo"] = [dict(zip(("parent", "child", "reason"), row, strict=True)) for row in params.no_placebo]
        record = provenance(given, params)
        write_table(smk.output.edges, table, EDGES, record)
        write_table(smk.output.verdicts, pa.Table.from_pylist(found["verdicts"], ROWS), ROWS, record)
        write_json(smk.output.summary, found, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
