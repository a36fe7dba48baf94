"""Write the numbers behind each figure as CSV."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.report.export import tabulate_figures
from feature_lineage.store.formats import read_json


def main(smk: Any) -> None:
    with job(smk.log[0]):
        for figure, table in zip(smk.input.figures, smk.output.tables, strict=True):
            tabulate_figures(read_json(figure), table)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
