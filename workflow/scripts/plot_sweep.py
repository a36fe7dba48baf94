"""Draw accuracy along a merge's path (the paper's figure 5)."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.report.figures import plot_sweep, write_figure
from feature_lineage.store.formats import read_json, read_provenance, read_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        figure = plot_sweep(
            read_table(smk.input.sweep).to_pandas(),
            read_provenance(smk.input.tensors)["t"],
            smk.params.parents,
            {root: read_json(path) for root, path in zip(smk.params.roots, smk.input.roots, strict=True)},
            smk.params.places,
        )
        write_figure(figure, smk.output.figure, smk.output.page, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
