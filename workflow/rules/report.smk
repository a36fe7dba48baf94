# Curves, and the page that shows everything.

MERGES = [name for name, block in study.models.items() if isinstance(block, MergedModel)]
TRAINED = [name for name, block in study.models.items() if hasattr(block, "training")]


rule draw_sweep:
    input:
        sweep=R + "/models/{model}/sweep.parquet",
        tensors=R + "/models/{model}/tensors.parquet",
        base=lambda w: [
            f"{R}/models/{root}/evaluation.json"
            for root in study.roots(w.model)
            if set(study.own_corpora(w.model)) <= set(study.flow_corpora())
        ],
    output:
        figure=R + "/figures/sweep-{model}.json",
        page=report(
            R + "/figures/sweep-{model}.html",
            caption="../report/sweep.rst",
            category="Language models",
            labels={"figure": "Merge sweep", "model": "{model}"},
        ),
    wildcard_constraints:
        model=names(MergedModel),
    params:
        model=lambda w: w.model,
        parents=lambda w: study.parents(w.model),
        roots=lambda w: study.roots(w.model),
        code=code("draw_sweep"),
    log:
        R + "/logs/draw_sweep/{model}.log",
    benchmark:
        R + "/benchmarks/draw_sweep/{model}.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/draw_sweep.py"


rule draw_training:
    input:
        curves=expand(R + "/models/{model}/training.parquet", model=TRAINED),
    output:
        figure=R + "/figures/training.json",
        page=report(
            R + "/figures/training.html",
            caption="../report/training.rst",
            category="Language models",
            labels={"figure": "Training curves"},
        ),
    params:
        models=TRAINED,
        code=code("draw_training"),
    log:
        R + "/logs/draw_training.log",
    benchmark:
        R + "/benchmarks/draw_training.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/draw_training.py"


rule draw_autoencoders:
    input:
        curves=expand(
            R + "/saes/{model}/seed{seed}/training.parquet",
            model=study.order(),
            seed=study.autoencoder.seeds,
        ),
    output:
        figure=R + "/figures/autoencoders.json",
        page=report(
            R + "/figures/autoencoders.html",
            caption="../report/autoencoders.rst",
            category="Autoencoders",
            labels={"figure": "Training curves"},
        ),
    params:
        names=expand(
            "{model}, seed {seed}", model=study.order(), seed=study.autoencoder.seeds
        ),
        code=code("draw_autoencoders"),
    log:
        R + "/logs/draw_autoencoders.log",
    benchmark:
        R + "/benchmarks/draw_autoencoders.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/draw_autoencoders.py"


rule write_report:
    input:
        summary=R + "/flows/summary.json",
        sankey=R + "/flows/sankey.json",
        sweeps=expand(R + "/figures/sweep-{model}.json", model=MERGES),
        tensors=expand(R + "/models/{model}/tensors.parquet", model=MERGES),
        training=R + "/figures/training.json",
        autoencoders=R + "/figures/autoencoders.json",
        models=expand(R + "/models/{model}/evaluation.json", model=study.order()),
        saes=expand(
            R + "/saes/{model}/seed{seed}/evaluation.json",
            model=study.order(),
            seed=study.autoencoder.seeds,
        ),
    output:
        page=report(
            R + "/report/index.html",
            caption="../report/study.rst",
            category="Report",
            labels={"figure": "The whole study"},
        ),
    params:
        study=study.study,
        models=study.order(),
        merges=MERGES,
        seeds=study.autoencoder.seeds,
        code=code("write_report"),
    log:
        R + "/logs/write_report.log",
    benchmark:
        R + "/benchmarks/write_report.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/write_report.py"
