"""Draw the autoencoders' training curves."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.report.figures import plot_autoencoders, write_figure
from feature_lineage.store.formats import read_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        curves = {n: read_table(path).to_pandas() for n, path in zip(smk.params.names, smk.input.curves, strict=True)}
        write_figure(
            plot_autoencoders(curves, smk.params.places),
            smk.output.figure,
            smk.output.page,
            provenance(smk.input, smk.params),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
