"""Put the controls beside what persists along each edge."""

from itertools import product
from typing import Any

import pyarrow as pa

from feature_lineage.artifacts import provenance, read_table, write_json, write_table
from feature_lineage.controls import SCHEMAS, read_comparisons, seed_ceiling, summarise
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        inputs, params = smk.input, smk.params
        statistics = {
            (model, seed): path
            for (seed, model), path in zip(product(params.seeds, params.models), inputs.statistics, strict=True)
        }
        edges = [((parent, seed), (child, seed)) for seed, (parent, child) in product(params.seeds, params.edges)]
        tables = {
            name: pa.concat_tables([SCHEMAS[name].empty_table(), *map(read_table, inputs[name])])
            for name in params.measured
            if name != "ceiling"
        }
        if "ceiling" in params.measured:
            pairs = [((model, a), (model, b)) for model, (a, b) in product(params.models, params.seed_pairs)]
            between = read_comparisons(pairs, inputs.ceiling, statistics, params.min_active)
            tables["ceiling"] = seed_ceiling(between, params.threshold)
        along = read_comparisons(edges, inputs.correlations, statistics, params.min_active)
        found = summarise(along, tables, params.threshold, params.not_measured)
        record = provenance(inputs, params)
        for name, table in tables.items():
            write_table(smk.output[name], table, SCHEMAS[name], record)
        write_json(smk.output.summary, found, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
