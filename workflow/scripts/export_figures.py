"""Draw each figure as SVG and PNG."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.report.export import export_figures


def main(smk: Any) -> None:
    with job(smk.log[0]):
        images = list(smk.output.images)
        export_figures(smk.input.figures, list(zip(images[::2], images[1::2], strict=True)))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
