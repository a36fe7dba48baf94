"""Put the merges by SLERP and by a straight line side by side."""

from typing import Any

import pyarrow as pa

from feature_lineage.controls.baselines import LINEAR_MERGE, Merged, compare_merges
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_json, read_provenance, read_table, read_tensors, write_table
from feature_lineage.store.provenance import provenance

FILES = ("weights", "tensors", "evaluation", "autoencoder")


def read(weights: str, tensors: str, evaluation: str, autoencoder: str) -> Merged:
    return Merged(read_tensors(weights), read_table(tensors), read_json(evaluation)["corpora"], read_json(autoencoder))


def main(smk: Any) -> None:
    with job(smk.log[0]):
        rows = []
        for number, (model, method) in enumerate(zip(smk.params.models, smk.params.methods, strict=True)):
            merged = read(*(smk.input[name][number] for name in FILES))
            other = read(*(smk.input[f"other_{name}"][number] for name in FILES))
            t = read_provenance(smk.input.tensors[number])["t"]
            slerp, linear = (merged, other) if method == "slerp" else (other, merged)
            rows += [{"model": model, "method": method, "t": t} | row for row in compare_merges(slerp, linear)]
        table = pa.Table.from_pylist(rows, LINEAR_MERGE)
        write_table(smk.output.table, table, LINEAR_MERGE, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
