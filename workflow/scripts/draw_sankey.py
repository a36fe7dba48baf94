"""Draw the flow of features through the lineage (the paper's figure 2)."""

from typing import Any

from feature_lineage.artifacts import provenance, read_json
from feature_lineage.figures import sankey, write_figure
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        figure = sankey(read_json(smk.input.summary))
        write_figure(figure, smk.output.figure, smk.output.page, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
