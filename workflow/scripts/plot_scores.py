"""Draw how well explanations, or token statistics alone, predict activations."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.report.figures import plot_scores, write_figure
from feature_lineage.store.formats import read_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        tables = [read_table(path).to_pandas() for path in smk.input.tables]
        figure = plot_scores(dict(zip(smk.params.names, tables, strict=True)))
        write_figure(figure, smk.output.figure, smk.output.page, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
