"""Train the study's tokenizer."""

from pathlib import Path
from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.progress import logger
from feature_lineage.store.provenance import provenance
from feature_lineage.text.boundaries import choose_boundaries
from feature_lineage.text.tokenizer import save_tokenizer, train_tokenizer


def main(smk: Any) -> None:
    with job(smk.log[0]):
        tokenizer = train_tokenizer(smk.input.corpora, smk.params.vocab_size)
        boundaries = choose_boundaries(tokenizer, smk.params.boundaries)
        logger.info("tokens around documents and windows: %s", boundaries.words(tokenizer.backend_tokenizer))
        save_tokenizer(tokenizer, Path(smk.output[0]).parent, provenance(smk.input, smk.params), boundaries)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
