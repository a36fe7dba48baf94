# Curves, and the report that shows everything.

MERGES = [
    name for name, block in study.models.items() if isinstance(block, MergedModel)
]
DRAWN = [
    "curves",
    *(f"sweep-{model}" for model in MERGES),
    "training",
    "autoencoders",
    "scores",
]
TRAINED = [name for name, block in study.models.items() if hasattr(block, "training")]


rule draw_sweep:
    input:
        sweep="<results>/models/{model}/sweep.parquet",
        tensors="<results>/models/{model}/tensors.parquet",
        base=lambda w: [
            f"<results>/models/{root}/evaluation.json"
            for root in study.roots(w.model)
            if set(study.own_corpora(w.model)) <= set(study.flow_corpora())
        ],
    output:
        figure="<results>/figures/sweep-{model}.json",
        page=report(
            "<results>/figures/sweep-{model}.html",
            caption="../report/sweep.rst",
            category="Language models",
            labels={"figure": "Merge sweep", "model": "{model}"},
        ),
    log:
        "<logs>/draw_sweep/{model}.log",
    benchmark:
        "<benchmarks>/draw_sweep/{model}.tsv"
    wildcard_constraints:
        model=names(MergedModel),
    conda:
        CONDA
    threads: 1
    params:
        model=lambda w: w.model,
        parents=lambda w: study.parents(w.model),
        roots=lambda w: study.roots(w.model),
        code=code("draw_sweep"),
    script:
        "../scripts/draw_sweep.py"


rule draw_training:
    input:
        curves=expand("<results>/models/{model}/training.parquet", model=TRAINED),
    output:
        figure="<results>/figures/training.json",
        page=report(
            "<results>/figures/training.html",
            caption="../report/training.rst",
            category="Language models",
            labels={"figure": "Training curves"},
        ),
    log:
        "<logs>/draw_training.log",
    benchmark:
        "<benchmarks>/draw_training.tsv"
    conda:
        CONDA
    threads: 1
    params:
        models=TRAINED,
        code=code("draw_training"),
    script:
        "../scripts/draw_training.py"


rule draw_autoencoders:
    input:
        curves=expand(
            "<results>/saes/{model}/seed{seed}/training.parquet",
            model=study.order(),
            seed=study.autoencoder.seeds,
        ),
    output:
        figure="<results>/figures/autoencoders.json",
        page=report(
            "<results>/figures/autoencoders.html",
            caption="../report/autoencoders.rst",
            category="Autoencoders",
            labels={"figure": "Training curves"},
        ),
    log:
        "<logs>/draw_autoencoders.log",
    benchmark:
        "<benchmarks>/draw_autoencoders.tsv"
    conda:
        CONDA
    threads: 1
    params:
        names=expand(
            "{model}, seed {seed}", model=study.order(), seed=study.autoencoder.seeds
        ),
        code=code("draw_autoencoders"),
    script:
        "../scripts/draw_autoencoders.py"


# --- the report ---

AUTOENCODERS = [
    (model, seed) for seed in study.autoencoder.seeds for model in study.order()
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
        tensors=expand("<results>/models/{model}/tensors.parquet", model=MERGES),
        curves=expand("<results>/models/{model}/training.parquet", model=TRAINED),
        models=expand("<results>/models/{model}/evaluation.json", model=study.order()),
        saes=all_autoencoders("evaluation.json"),
        configs=all_autoencoders("cfg.json"),
        statistics=shown_features("statistics.parquet"),
        tokens=shown_features("tokens.parquet"),
        contexts=shown_features("contexts.parquet"),
        categories=shown_features("categories.parquet"),
        effects=shown_features("logit_effects.parquet"),
        interpretations=INTERPRETATIONS,
        cases=CASES,
        controls=CONTROLS,
        baselines=CONTROL_TABLES,
        sample=f"<results>/samples/{SAMPLE}.safetensors",
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        page="<results>/report/index.html",
        assets=directory("<results>/report/assets"),
        data=directory("<results>/report/data"),
    log:
        "<logs>/write_report.log",
    benchmark:
        "<benchmarks>/write_report.tsv"
    conda:
        CONDA
    threads: 1
    params:
        study=study.study,
        models=study.order(),
        autoencoders=AUTOENCODERS,
        shown=[(model, FIRST_SEED) for model in study.order()],
        figures=DRAWN,
        merges=MERGES,
        trained=TRAINED,
        corpora=study.flow_corpora(),
        not_measured=NOT_MEASURED,
        code=code("write_report"),
    script:
        "../scripts/write_report.py"
