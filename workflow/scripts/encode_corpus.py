"""Encode a corpus's documents as token shards."""

from pathlib import Path
from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.store.provenance import provenance
from feature_lineage.text.shards import encode_corpus


def main(smk: Any) -> None:
    with job(smk.log[0]):
        tokenizer = Path(smk.input.tokenizer).parent
        record = provenance(smk.input, smk.params)
        for split in ("train", "validation"):
            encode_corpus(smk.input[split], tokenizer, Path(smk.output[split]).parent, record, roles=smk.params.roles)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
