"""Put the edges of a control into one table."""

from typing import Any

import pyarrow as pa

from feature_lineage.controls.summary import SCHEMAS
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        schema = SCHEMAS[smk.params.control]
        table = pa.concat_tables([schema.empty_table(), *map(read_table, smk.input.parts)])
        write_table(smk.output.table, table, schema, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
