"""Put each parent's autoencoder on its child beside the child's own."""

from typing import Any

import pyarrow as pa

from feature_lineage.controls.baselines import TRANSFER, compare_transfers
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_json, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        read = map(read_json, smk.input.own)
        own = [next(read) if there else None for there in smk.params.own]  # a child may have none
        files = zip(smk.params.compared, smk.input.transfers, own, strict=True)
        rows = [
            {"parent": parent, "child": child, "seed": seed} | compare_transfers(read_json(transferred), found)
            for (parent, child, seed), transferred, found in files
        ]
        table = pa.Table.from_pylist(rows, TRANSFER)
        write_table(smk.output.table, table, TRANSFER, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
