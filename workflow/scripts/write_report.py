"""Write the page that shows the whole study."""

from typing import Any

from feature_lineage.artifacts import provenance, read_json, read_provenance, read_table
from feature_lineage.logs import job
from feature_lineage.report import write_report


def main(smk: Any) -> None:
    with job(smk.log[0]):
        names = [(model, seed) for model in smk.params.models for seed in smk.params.seeds]
        merges = {
            model: {
                "figure": read_json(figure),
                "tensors": read_table(path).to_pandas(),
                "record": read_provenance(path),
            }
            for model, figure, path in zip(smk.params.merges, smk.input.sweeps, smk.input.tensors, strict=True)
        }
        write_report(
            smk.output.page,
            study=smk.params.study,
            summary=read_json(smk.input.summary),
            sankey=read_json(smk.input.sankey),
            curves=read_json(smk.input.curves),
            strata=read_table(smk.input.strata).to_pandas(),
            merges=merges,
            training=read_json(smk.input.training),
            autoencoders=read_json(smk.input.autoencoders),
            models={m: read_json(path) for m, path in zip(smk.params.models, smk.input.models, strict=True)},
            saes=[(*name, read_json(path)) for name, path in zip(names, smk.input.saes, strict=True)],
            controls=next(map(read_json, smk.input.controls), None),
            record=provenance(smk.input, smk.params),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
