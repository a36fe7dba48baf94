# Curves, and the page that shows everything.

MERGES = [
    name for name, block in study.models.items() if isinstance(block, MergedModel)
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


rule write_report:
    input:
        summary="<results>/flows/summary.json",
        sankey="<results>/flows/sankey.json",
        curves="<results>/figures/curves.json",
        strata="<results>/flows/strata.parquet",
        sweeps=expand("<results>/figures/sweep-{model}.json", model=MERGES),
        tensors=expand("<results>/models/{model}/tensors.parquet", model=MERGES),
        training="<results>/figures/training.json",
        autoencoders="<results>/figures/autoencoders.json",
        models=expand("<results>/models/{model}/evaluation.json", model=study.order()),
        saes=expand(
            "<results>/saes/{model}/seed{seed}/evaluation.json",
            model=study.order(),
            seed=study.autoencoder.seeds,
        ),
        controls=CONTROLS,
    output:
        page=report(
            "<results>/report/index.html",
            caption="../report/study.rst",
            category="Report",
            labels={"figure": "The whole study"},
        ),
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
        merges=MERGES,
        seeds=study.autoencoder.seeds,
        code=code("write_report"),
    script:
        "../scripts/write_report.py"
