"""Put the edges of a control into one table."""

from typing import Any

from feature_lineage.controls.summary import SCHEMAS, join_control
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        table = join_control(smk.params.control, smk.input.parts)
        write_table(smk.output.table, table, SCHEMAS[smk.params.control], provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
