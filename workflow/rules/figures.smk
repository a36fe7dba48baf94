# Curves; and of every figure its numbers, and images where there is a browser to draw them.
from functools import cache

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


def places(names, study):
    """The place of each name in the study, from which its colour follows."""
    order = list(study)
    return {name: order.index(name) for name in names}


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


@cache
def browser():
    """Whether there is a browser that draws images: looked for when a job needs to know, as it takes time."""
    from feature_lineage.export import find_browser

    return find_browser() is not None


def images(wildcards):
    """SVG and PNG of each figure, as far as they can be had.

    They are drawn where Snakemake runs. A job may run on another machine, with no browser or with one more: it takes the images that
    it finds, unless they are of an earlier figure.
    """
    found = []
    for figure, source in FIGURES.items():
        for path in (f"<results>/figures/{figure}.{kind}" for kind in ("svg", "png")):
            drawn, of = (p.replace("<results>", RESULTS) for p in (path, source))
            if (
                browser()
                if workflow.is_main_process
                else os.path.exists(drawn)
                and os.path.getmtime(drawn) >= os.path.getmtime(of)
            ):
                found.append(path)
    return found


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
    conda:
        CONDA
    threads: 1
    params:
        code=code("export_figures"),
    script:
        "../scripts/export_figures.py"
