"""Read a corpus's documents, drop duplicates, split them."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.store.provenance import provenance
from feature_lineage.text.corpora import CorpusOptions, build_corpus
from feature_lineage.text.sources import documents_of


def main(smk: Any) -> None:
    with job(smk.log[0]):
        kind, options = smk.params.source
        build_corpus(
            documents_of(kind, options),
            smk.output.train,
            smk.output.validation,
            provenance(smk.input, smk.params),
            smk.params.name,
            CorpusOptions(
                validation_share=smk.params.validation_share,
                fraction=smk.params.fraction,
                license=smk.params.license,
                strip_license_headers=smk.params.strip_license_headers,
            ),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
