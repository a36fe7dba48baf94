"""Write the report that shows the whole study."""

from pathlib import Path
from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.report.browser import Browsed, read_features
from feature_lineage.report.data import Drawn, Findings, Run, Trained
from feature_lineage.report.page import parameters, write_report
from feature_lineage.store.formats import read_json, read_provenance, read_table, read_tensors
from feature_lineage.store.provenance import provenance
from feature_lineage.text.boundaries import recorded_words
from feature_lineage.text.vocabulary import token_texts

TABLES = ("statistics", "tokens", "contexts", "categories", "effects", "interpretations")


def main(smk: Any) -> None:
    with job(smk.log[0]):
        given, params = smk.input, smk.params
        names = [tuple(name) for name in params.autoencoders]
        titles = [f"{model}, seed {seed}" for model, seed in names]
        figures = {name: read_json(path) for name, path in zip(params.figures, given.figures, strict=True)}
        shown = [tuple(name) for name in params.shown]
        steps = {
            **{f"Corpus {name}": path for name, path in zip(params.read, given.documents, strict=True)},
            "Tokenizer": given.tokenizer_config,
            **{f"Model {name}, imported": path for name, path in zip(params.imported, given.imported, strict=True)},
            **{f"Model {name}": path for name, path in zip(params.trained, given.curves, strict=True)},
            **{f"Model {name}, merged": path for name, path in zip(params.merges, given.tensors, strict=True)},
            **{f"Autoencoder of {title}": path for title, path in zip(titles, given.configs, strict=True)},
            "Sample": given.sample,
            "Flow": given.summary,
            **dict(zip(["Controls"], given.controls, strict=False)),
            **{f"Baseline {Path(path).stem}": path for path in given.baselines},
            **{f"Case {name}": path for name, path in zip(params.cases, given.cases, strict=True)},
            **{
                f"Interpretation of {model}, seed {seed}": path
                for (model, seed), path in zip(shown, given.interpretations, strict=True)
            },
        }
        write_report(
            Path(smk.output.page).parent,
            run=Run(
                study=params.study,
                steps=parameters({step: read_provenance(path) for step, path in steps.items()}),
                record=provenance(given, params),
            ),
            trained=Trained(
                models={model: read_json(path) for model, path in zip(params.models, given.models, strict=True)},
                merges={
                    model: {"tensors": read_table(path).to_pandas(), "record": read_provenance(path)}
                    for model, path in zip(params.merges, given.tensors, strict=True)
                },
                saes=[(*name, read_json(path)) for name, path in zip(names, given.saes, strict=True)],
                started=[(*name, read_json(path)) for name, path in zip(params.started, given.started, strict=True)],
                init=params.init,
                gates=[(*name, read_json(path)) for name, path in zip(params.gates, given.gates, strict=True)],
                boundaries=recorded_words(Path(given.tokenizer_config).parent),
            ),
            findings=Findings(
                summary=read_json(given.summary),
                strata=read_table(given.strata).to_pandas(),
                controls=next(map(read_json, given.controls), None),
                not_measured=params.not_measured,
                baselines={Path(path).stem: read_table(path).to_pylist() for path in given.baselines},
                categories=read_table(given.groups),
                cases=[read_json(path) for path in given.cases],
                interpretations=dict(zip(shown, map(read_table, given.interpretations), strict=True)),
            ),
            drawn=Drawn(
                figures=figures | {"verdicts": read_json(given.verdicts), "sankey": read_json(given.sankey)},
                files=[Path(path) for path in (*given.images, *given.tables)],
                tracking=dict(zip(params.cases, map(read_table, given.tracking), strict=True)),
            ),
            browsed=Browsed(
                shown=shown,
                features=read_features(shown, {name: getattr(given, name) for name in TABLES}),
                flow=read_table(given.flow),
                lineages=read_table(given.lineages),
                sample=read_tensors(given.sample),
                corpora=params.corpora,
                vocabulary=token_texts(given.tokenizer)[0],
            ),
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
