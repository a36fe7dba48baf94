"""Put the edges of a control into one table."""

from typing import Any

import pyarrow as pa

from feature_lineage.artifacts import provenance, read_table, write_table
from feature_lineage.controls import SCHEMAS
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        schema = SCHEMAS[smk.params.control]
        table = pa.concat_tables([schema.empty_table(), *map(read_table, smk.input.parts)])
        write_table(smk.output.table, table, schema, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
