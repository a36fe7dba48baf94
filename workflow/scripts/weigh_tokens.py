"""Find the token and the corpus on which most of each feature's activation lies."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.meaning.main_token import TOKENS, weigh_tokens
from feature_lineage.store.formats import read_tensors, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        sample = read_tensors(smk.input.sample)
        table = weigh_tokens(smk.input.activations, sample["tokens"], sample["corpus"], smk.params.corpora)
        write_table(smk.output.tokens, table, TOKENS, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
