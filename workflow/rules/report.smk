# The report that shows everything.

AUTOENCODERS = [
    (model, seed) for seed in study.autoencoder.seeds for model in study.order()
]
STARTED_AUTOENCODERS = [
    (pair, seed) for seed in study.autoencoder.seeds for pair in STARTED
]
READ = study.read_corpora()
IMPORTED = [
    name for name, block in study.models.items() if isinstance(block, PretrainedModel)
]
CONTROL_TABLES = [
    path
    for path in BASELINES
    if path.startswith("<results>/controls/") and path.endswith(".parquet")
]


rule write_report:
    input:
        summary="<results>/flows/summary.json",
        flow="<results>/flows/features.parquet",
        lineages="<results>/flows/lineages.parquet",
        strata="<results>/flows/strata.parquet",
        groups="<results>/flows/categories.parquet",
        sankey="<results>/flows/sankey.json",
        figures=expand("<results>/figures/{name}.json", name=DRAWN),
        tables=expand("<results>/figures/{figure}.csv", figure=FIGURES),
        images=images,
        tensors=expand("<results>/models/{model}/tensors.parquet", model=MERGES),
        curves=expand("<results>/models/{model}/training.parquet", model=TRAINED),
        imported=expand("<results>/models/{model}/model.safetensors", model=IMPORTED),
        documents=expand("<results>/corpora/{corpus}/train.parquet", corpus=READ),
        models=expand("<results>/models/{model}/evaluation.json", model=study.order()),
        saes=all_autoencoders("evaluation.json"),
        started=[
            f"<results>/controls/started/{pair}/seed{seed}/evaluation.json"
            for pair, seed in STARTED_AUTOENCODERS
        ],
        configs=all_autoencoders("cfg.json"),
        statistics=shown_features("statistics.parquet"),
        tokens=shown_features("tokens.parquet"),
        contexts=shown_features("contexts.parquet"),
        categories=shown_features("categories.parquet"),
        effects=shown_features("logit_effects.parquet"),
        interpretations=INTERPRETATIONS,
        cases=CASES,
        tracking=expand("<results>/cases/{case}/tracking.parquet", case=study.cases),
        controls=CONTROLS,
        baselines=CONTROL_TABLES,
        sample=f"<results>/samples/{SAMPLE}.safetensors",
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        page="<results>/report/index.html",
        assets=directory("<results>/report/assets"),
        data=directory("<results>/report/data"),
        files=directory("<results>/report/figures"),
    log:
        "<logs>/write_report.log",
    benchmark:
        "<benchmarks>/write_report.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("write_report"),
    params:
        study=study.study,
        models=study.order(),
        autoencoders=AUTOENCODERS,
        started=STARTED_AUTOENCODERS,
        shown=[(model, FIRST_SEED) for model in study.order()],
        figures=DRAWN,
        cases=list(study.cases),
        merges=MERGES,
        trained=TRAINED,
        imported=IMPORTED,
        read=READ,
        init=study.autoencoder.init,
        corpora=study.flow_corpora(),
        not_measured=NOT_MEASURED,
        code=code("write_report"),
    script:
        "../scripts/write_report.py"
