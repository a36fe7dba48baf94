# Figures, their numbers and images, and the report that shows everything.


rule plot_verdicts:
    input:
        summary="<results>/flows/summary.json",
        controls=CONTROLS,
    output:
        figure="<results>/flows/verdicts.json",
        page=report(
            "<results>/figures/verdicts.html",
            caption="../report/verdicts.rst",
            category="Feature flow",
            labels={"figure": "What became of the features"},
        ),
    log:
        "<logs>/plot_verdicts.log",
    benchmark:
        "<benchmarks>/plot_verdicts.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        code=code("plot_verdicts"),
    script:
        "../scripts/plot_verdicts.py"


rule plot_sankey:
    input:
        summary="<results>/flows/summary.json",
        controls=CONTROLS,
    output:
        figure="<results>/flows/sankey.json",
        page=report(
            "<results>/figures/sankey.html",
            caption="../report/sankey.rst",
            category="Feature flow",
            labels={"figure": "Sankey by the paper's measure"},
        ),
    log:
        "<logs>/plot_sankey.log",
    benchmark:
        "<benchmarks>/plot_sankey.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        code=code("plot_sankey"),
    script:
        "../scripts/plot_sankey.py"


rule plot_curves:
    input:
        curves="<results>/flows/curves.parquet",
        drift="<results>/flows/drift_curves.parquet",
        summary="<results>/flows/summary.json",
        ceiling=[
            "<results>/controls/ceiling_curves.parquet"
            for name in plan.measured
            if name == "ceiling"
        ],
        null=[
            "<results>/controls/alignment_null.parquet"
            for name in plan.measured
            if name == "alignment_null"
        ],
    output:
        figure="<results>/figures/curves.json",
        page=report(
            "<results>/figures/curves.html",
            caption="../report/curves.rst",
            category="Feature flow",
            labels={"figure": "Share against the threshold"},
        ),
    log:
        "<logs>/plot_curves.log",
    benchmark:
        "<benchmarks>/plot_curves.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        threshold=study.flow.threshold,
        code=code("plot_curves"),
    script:
        "../scripts/plot_curves.py"


rule plot_sweep:
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
        "<logs>/plot_sweep/{model}.log",
    benchmark:
        "<benchmarks>/plot_sweep/{model}.tsv"
    wildcard_constraints:
        model=one_of(plan.on_a_path),
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        model=lambda w: w.model,
        parents=lambda w: study.parents(w.model),
        roots=lambda w: study.roots(w.model),
        places=lambda w: places(study.own_corpora(w.model), study.corpora),
        code=code("plot_sweep"),
    script:
        "../scripts/plot_sweep.py"


rule plot_training:
    input:
        curves=expand("<results>/models/{model}/training.parquet", model=plan.trained),
    output:
        figure="<results>/figures/training.json",
        page=report(
            "<results>/figures/training.html",
            caption="../report/training.rst",
            category="Language models",
            labels={"figure": "Training curves"},
        ),
    log:
        "<logs>/plot_training.log",
    benchmark:
        "<benchmarks>/plot_training.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        models=plan.trained,
        places=places(plan.trained, study.order()),
        code=code("plot_training"),
    script:
        "../scripts/plot_training.py"


rule plot_autoencoders:
    input:
        curves=[
            f"<results>/saes/{model}/seed{seed}/training.parquet"
            for model, seed in plan.trained_autoencoders
        ],
    output:
        figure="<results>/figures/autoencoders.json",
        page=report(
            "<results>/figures/autoencoders.html",
            caption="../report/autoencoders.rst",
            category="Autoencoders",
            labels={"figure": "Training curves"},
        ),
    log:
        "<logs>/plot_autoencoders.log",
    benchmark:
        "<benchmarks>/plot_autoencoders.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        names=[f"{model}, seed {seed}" for model, seed in plan.trained_autoencoders],
        places=places(study.order(), study.order()),
        code=code("plot_autoencoders"),
    script:
        "../scripts/plot_autoencoders.py"


rule plot_scores:
    input:
        tables=INTERPRETATIONS,
    output:
        figure="<results>/figures/scores.json",
        page=report(
            "<results>/figures/scores.html",
            caption="../report/scores.rst",
            category="Interpretation",
            labels={"figure": "Scores"},
        ),
    log:
        "<logs>/plot_scores.log",
    benchmark:
        "<benchmarks>/plot_scores.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        names=plan.read,
        code=code("plot_scores"),
    script:
        "../scripts/plot_scores.py"


# --- for papers ---


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


rule write_report:
    input:
        summary="<results>/flows/summary.json",
        flow="<results>/flows/features.parquet",
        lineages="<results>/flows/lineages.parquet",
        strata="<results>/flows/strata.parquet",
        groups="<results>/flows/categories.parquet",
        verdicts="<results>/flows/verdicts.json",
        sankey="<results>/flows/sankey.json",
        figures=expand("<results>/figures/{name}.json", name=plan.figures),
        tables=expand("<results>/figures/{figure}.csv", figure=FIGURES),
        images=images,
        tensors=expand("<results>/models/{model}/tensors.parquet", model=plan.merged),
        curves=expand("<results>/models/{model}/training.parquet", model=plan.trained),
        imported=[
            *expand("<results>/models/{model}/import.json", model=plan.imported),
            *expand("<results>/models/{model}/model.safetensors", model=plan.adapted),
        ],
        documents=expand(
            "<results>/corpora/{corpus}/train.parquet", corpus=study.read_corpora()
        ),
        models=expand("<results>/models/{model}/evaluation.json", model=study.order()),
        saes=all_autoencoders("evaluation.json"),
        started=started_evaluations(),
        configs=all_autoencoders("cfg.json"),
        gates=[
            f"<results>/saes/{model}/seed{seed}/gate.json"
            for model, seed in plan.each_seed(plan.imported_autoencoders)
        ],
        statistics=shown_features("statistics.parquet"),
        tokens=shown_features("tokens.parquet"),
        contexts=shown_features("contexts.parquet"),
        categories=shown_features("categories.parquet"),
        effects=shown_features("logit_effects.parquet"),
        interpretations=INTERPRETATIONS,
        cases=CASES,
        tracking=expand("<results>/cases/{case}/tracking.parquet", case=study.cases),
        controls=CONTROLS,
        baselines=BASELINES,
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
        autoencoders=plan.autoencoders,
        started=plan.each_seed(plan.started),
        gates=plan.each_seed(plan.imported_autoencoders),
        shown=[(model, plan.first_seed) for model in plan.read],
        figures=plan.figures,
        cases=list(study.cases),
        merges=plan.merged,
        trained=plan.trained,
        imported=[*plan.imported, *plan.adapted],
        read=study.read_corpora(),
        init=study.autoencoder.init,
        corpora=study.flow_corpora(),
        not_measured=plan.not_measured,
        code=code("write_report"),
    script:
        "../scripts/write_report.py"
