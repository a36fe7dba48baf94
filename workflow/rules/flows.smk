# Correlations along every edge, and what they say about the features.


def edge_correlations(seed):
    """Correlations of every edge between autoencoders of one seed."""
    pattern = R + "/correlations/{}/{}.seed{}--{}.seed{}.parquet"
    return [pattern.format(SAMPLE, parent, seed, child, seed) for parent, child in study.edges()]


rule correlate:
    input:
        a=R + "/features/{a}/seed{i}/{sample}/activations.parquet",
        b=R + "/features/{b}/seed{j}/{sample}/activations.parquet",
    output:
        correlations=R + "/correlations/{sample}/{a}.seed{i}--{b}.seed{j}.parquet",
    wildcard_constraints:
        a=names(object),
        b=names(object),
        i="[0-9]+",
        j="[0-9]+",
    params:
        floor=study.flow.floor,
        code=code("correlate"),
    log:
        R + "/logs/correlate/{sample}.{a}.seed{i}--{b}.seed{j}.log",
    benchmark:
        R + "/benchmarks/correlate/{sample}.{a}.seed{i}--{b}.seed{j}.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/correlate.py"


rule trace_flows:
    input:
        correlations=[path for seed in study.autoencoder.seeds for path in edge_correlations(seed)],
        statistics=[
            f"{R}/features/{model}/seed{seed}/{SAMPLE}/statistics.parquet"
            for seed in study.autoencoder.seeds
            for model in study.order()
        ],
    output:
        edges=R + "/flows/edges.parquet",
        features=R + "/flows/features.parquet",
        lineages=R + "/flows/lineages.parquet",
        summary=R + "/flows/summary.json",
    params:
        seeds=study.autoencoder.seeds,
        models=study.order(),
        edges=study.edges(),
        threshold=study.flow.threshold,
        code=code("trace_flows"),
    log:
        R + "/logs/trace_flows.log",
    benchmark:
        R + "/benchmarks/trace_flows.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/trace_flows.py"


rule draw_sankey:
    input:
        summary=R + "/flows/summary.json",
    output:
        figure=R + "/flows/sankey.json",
        page=report(
            R + "/figures/sankey.html",
            caption="../report/sankey.rst",
            category="Feature flow",
            labels={"figure": "Sankey"},
        ),
    params:
        code=code("draw_sankey"),
    log:
        R + "/logs/draw_sankey.log",
    benchmark:
        R + "/benchmarks/draw_sankey.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/draw_sankey.py"
