"""Draw shares of features against the threshold: those that are kept, and those that persist by the paper's measure."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.report.figures import write_figure
from feature_lineage.report.flow_figures import plot_curves
from feature_lineage.store.formats import read_json, read_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        ceiling, null = (
            next((read_table(path).to_pandas() for path in paths), None)
            for paths in (smk.input.ceiling, smk.input.null)
        )
        figure = plot_curves(
            read_table(smk.input.curves).to_pandas(),
            smk.params.threshold,
            ceiling,
            null,
            read_table(smk.input.drift).to_pandas(),
            read_json(smk.input.summary),
        )
        write_figure(figure, smk.output.figure, smk.output.page, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
