"""Draw what became of the features along every edge, by verdict."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.report.figures import write_figure
from feature_lineage.report.flow_figures import plot_verdicts
from feature_lineage.store.formats import read_json
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        controls = next(map(read_json, smk.input.controls), None)
        figure = plot_verdicts(read_json(smk.input.summary), controls)
        write_figure(figure, smk.output.figure, smk.output.page, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
