"""Draw the language models' training curves."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.report.figures import plot_training, write_figure
from feature_lineage.store.formats import read_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        curves = {m: read_table(path).to_pandas() for m, path in zip(smk.params.models, smk.input.curves, strict=True)}
        write_figure(
            plot_training(curves, smk.params.places),
            smk.output.figure,
            smk.output.page,
            provenance(smk.input, smk.params),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
