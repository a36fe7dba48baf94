"""Tell by the tokens that each feature fires on what kind of feature it is."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.meaning.categories import CATEGORISED, categorise_features, token_classes
from feature_lineage.store.formats import read_tensors, write_table
from feature_lineage.store.provenance import provenance
from feature_lineage.text.vocabulary import token_texts


def main(smk: Any) -> None:
    with job(smk.log[0]):
        sample = read_tensors(smk.input.sample)
        texts, special = token_texts(smk.input.tokenizer)
        classes = token_classes(sample["tokens"], sample["corpus"], texts, special)
        table = categorise_features(smk.input.activations, sample["tokens"], classes, len(texts))
        write_table(smk.output.categories, table, CATEGORISED, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
