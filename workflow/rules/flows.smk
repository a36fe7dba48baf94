# What correlations along every edge say about the features.


rule trace_flows:
    input:
        correlations=[
            path
            for seed in study.autoencoder.seeds
            for path in edge_correlations(seed)
        ],
        statistics=[
            f"<results>/features/{model}/seed{seed}/{SAMPLE}/statistics.parquet"
            for seed in study.autoencoder.seeds
            for model in study.order()
        ],
    output:
        edges="<results>/flows/edges.parquet",
        features="<results>/flows/features.parquet",
        lineages="<results>/flows/lineages.parquet",
        summary="<results>/flows/summary.json",
    log:
        "<logs>/trace_flows.log",
    benchmark:
        "<benchmarks>/trace_flows.tsv"
    conda:
        CONDA
    threads: 1
    params:
        seeds=study.autoencoder.seeds,
        models=study.order(),
        edges=study.edges(),
        threshold=study.flow.threshold,
        code=code("trace_flows"),
    script:
        "../scripts/trace_flows.py"


rule draw_sankey:
    input:
        summary="<results>/flows/summary.json",
    output:
        figure="<results>/flows/sankey.json",
        page=report(
            "<results>/figures/sankey.html",
            caption="../report/sankey.rst",
            category="Feature flow",
            labels={"figure": "Sankey"},
        ),
    log:
        "<logs>/draw_sankey.log",
    benchmark:
        "<benchmarks>/draw_sankey.tsv"
    conda:
        CONDA
    threads: 1
    params:
        code=code("draw_sankey"),
    script:
        "../scripts/draw_sankey.py"
