# Correlations along every edge, and what they say about the features.


rule correlate:
    input:
        a="<results>/features/{a}/seed{i}/{sample}/activations.parquet",
        b="<results>/features/{b}/seed{j}/{sample}/activations.parquet",
    output:
        correlations="<results>/correlations/{sample}/{a}.seed{i}--{b}.seed{j}.parquet",
    log:
        "<logs>/correlate/{sample}.{a}.seed{i}--{b}.seed{j}.log",
    benchmark:
        "<benchmarks>/correlate/{sample}.{a}.seed{i}--{b}.seed{j}.tsv"
    wildcard_constraints:
        a="|".join([*study.models, *UNTRAINED, *STARTED]),
        b="|".join([*study.models, *UNTRAINED, *STARTED]),
        i="[0-9]+",
        j="[0-9]+",
    conda:
        CONDA
    threads: 1
    params:
        floor=study.flow.floor,
        code=code("correlate"),
    script:
        "../scripts/correlate.py"


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
