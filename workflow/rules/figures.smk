# Curves; and of every figure its numbers, and images where there is a browser to draw them.
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
        roots=lambda w: [
            f"<results>/models/{root}/evaluation.json" for root in study.roots(w.model)
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
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        model=lambda w: w.model,
        parents=lambda w: study.parents(w.model),
        roots=lambda w: study.roots(w.model),
        places=lambda w: places(study.own_corpora(w.model), study.corpora),
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
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        models=TRAINED,
        places=places(TRAINED, study.order()),
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
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        names=expand(
            "{model}, seed {seed}", model=study.order(), seed=study.autoencoder.seeds
        ),
        places=places(study.order(), study.order()),
        code=code("draw_autoencoders"),
    script:
        "../scripts/draw_autoencoders.py"


# --- for papers ---

FIGURES = {
    "sankey": "<results>/flows/sankey.json",
    **{name: f"<results>/figures/{name}.json" for name in DRAWN},
}


onstart:
    if browser.cache_info().currsize and not browser():
        print("No browser: figures are left without SVG and PNG; install Chromium.")


rule tabulate_figures:
    input:
        figures=list(FIGURES.values()),
    output:
        tables=expand("<results>/figures/{figure}.csv", figure=FIGURES),
    log:
        "<logs>/tabulate_figures.log",
    benchmark:
        "<benchmarks>/tabulate_figures.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        code=code("tabulate_figures"),
    script:
        "../scripts/tabulate_figures.py"


rule export_figures:
    input:
        figures=list(FIGURES.values()),
    output:
        images=expand(
            "<results>/figures/{figure}.{kind}", figure=FIGURES, kind=("svg", "png")
        ),
    log:
        "<logs>/export_figures.log",
    benchmark:
        "<benchmarks>/export_figures.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        code=code("export_figures"),
    script:
        "../scripts/export_figures.py"
