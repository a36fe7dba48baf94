"""Find the token and the corpus on which most of each feature's activation lies."""

from typing import Any

from feature_lineage.artifacts import provenance, read_tensors, write_table
from feature_lineage.feature_tokens import TOKENS, token_masses
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        sample = read_tensors(smk.input.sample)
        label = f"tokens {smk.wildcards.model} seed{smk.wildcards.seed}"
        table = token_masses(smk.input.activations, sample["tokens"], sample["corpus"], smk.params.corpora, label)
        write_table(smk.output.tokens, table, TOKENS, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
