"""Count the features of each category, corpus and fate along every edge."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.meaning.categories import COUNTS, count_categories
from feature_lineage.store.formats import read_table, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        names = [(model, smk.params.seed) for model in smk.params.models]
        categories = dict(zip(names, map(read_table, smk.input.categories), strict=True))
        tokens = dict(zip(names, map(read_table, smk.input.tokens), strict=True))
        counts = count_categories(read_table(smk.input.features), categories, tokens)
        write_table(smk.output.counts, counts, COUNTS, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
