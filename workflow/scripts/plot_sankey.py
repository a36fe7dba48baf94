"""Draw the flow of features through the lineage by the paper's measure (its figure 2)."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.report.figures import plot_sankey, write_figure
from feature_lineage.store.formats import read_json
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        controls = next(map(read_json, smk.input.controls), None)
        figure = plot_sankey(read_json(smk.input.summary), controls)
        write_figure(figure, smk.output.figure, smk.output.page, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
