"""Draw the token windows on which all models are compared."""

from typing import Any

from feature_lineage.artifacts import provenance, write_tensors
from feature_lineage.logs import job
from feature_lineage.samples import draw_sample


def main(smk: Any) -> None:
    with job(smk.log[0]):
        directories = dict(zip(smk.params.corpora, smk.input.validation, strict=True))
        sample = draw_sample(directories, smk.params.tokens, smk.params.context, smk.params.seed)
        write_tensors(smk.output.sample, sample, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
