"""Train the study's tokenizer."""

from pathlib import Path
from typing import Any

from feature_lineage.artifacts import provenance
from feature_lineage.logs import job
from feature_lineage.tokens import save_tokenizer, train_tokenizer


def main(smk: Any) -> None:
    with job(smk.log[0]):
        tokenizer = train_tokenizer(smk.input.corpora, smk.params.vocab_size)
        save_tokenizer(tokenizer, Path(smk.output[0]).parent, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
