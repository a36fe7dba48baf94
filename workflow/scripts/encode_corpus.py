"""Encode a corpus's documents as token shards."""

from pathlib import Path
from typing import Any

from feature_lineage.artifacts import provenance
from feature_lineage.logs import job
from feature_lineage.tokens import encode_corpus


def main(smk: Any) -> None:
    with job(smk.log[0]):
        tokenizer = Path(smk.input.tokenizer).parent
        encode_corpus(smk.input.documents, tokenizer, smk.output[0], provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
