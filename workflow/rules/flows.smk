# What correlations along every edge say about the features.


rule bootstrap_flow:
    input:
        parent="<results>/features/{a}/seed{i}/{sample}/activations.parquet",
        child="<results>/features/{b}/seed{j}/{sample}/activations.parquet",
        correlations="<results>/correlations/{sample}/{a}.seed{i}--{b}.seed{j}.parquet",
        sample="<results>/samples/{sample}.safetensors",
    output:
        replicates="<results>/flows/bootstrap/{sample}/{a}.seed{i}--{b}.seed{j}.parquet",
    log:
        "<logs>/bootstrap_flow/{sample}.{a}.seed{i}--{b}.seed{j}.log",
    benchmark:
        "<benchmarks>/bootstrap_flow/{sample}.{a}.seed{i}--{b}.seed{j}.tsv"
    wildcard_constraints:
        a=COMPARED,
        b=COMPARED,
        i="[0-9]+",
        j="[0-9]+",
    conda:
        CONDA
    threads: 1
    resources:
        **needs("bootstrap_flow"),
    params:
        seed=study.seed,
        replicates=study.flow.bootstrap,
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("bootstrap_flow"),
    script:
        "../scripts/bootstrap_flow.py"


rule weigh_tokens:
    input:
        activations="<results>/features/{model}/seed{seed}/{sample}/activations.parquet",
        sample="<results>/samples/{sample}.safetensors",
    output:
        tokens="<results>/features/{model}/seed{seed}/{sample}/tokens.parquet",
    log:
        "<logs>/weigh_tokens/{model}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/weigh_tokens/{model}.seed{seed}.{sample}.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("weigh_tokens"),
    params:
        corpora=study.flow_corpora(),
        code=code("weigh_tokens"),
    script:
        "../scripts/weigh_tokens.py"


rule weigh_logits:
    input:
        model=lambda w: checkpoint_files(w.model),
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
    output:
        effects="<results>/features/{model}/seed{seed}/{sample}/logit_effects.parquet",
    log:
        "<logs>/weigh_logits/{model}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/weigh_logits/{model}.seed{seed}.{sample}.tsv"
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("weigh_logits"),
    params:
        threads=study.threads,
        hook=study.autoencoder.hook,
        code=code("weigh_logits"),
    script:
        "../scripts/weigh_logits.py"


rule trace_flows:
    input:
        correlations=seed_correlations(study.edges()),
        statistics=seed_statistics(study.order()),
        tokens=[
            f"<results>/features/{model}/seed{seed}/{SAMPLE}/tokens.parquet"
            for seed in study.autoencoder.seeds
            for model in study.order()
        ],
    output:
        counts="<results>/flows/counts.parquet",
        features="<results>/flows/features.parquet",
        lineages="<results>/flows/lineages.parquet",
        curves="<results>/flows/curves.parquet",
        strata="<results>/flows/strata.parquet",
    log:
        "<logs>/trace_flows.log",
    benchmark:
        "<benchmarks>/trace_flows.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("trace_flows"),
    params:
        seeds=study.autoencoder.seeds,
        models=study.order(),
        edges=study.edges(),
        threshold=study.flow.threshold,
        floor=study.flow.floor,
        min_active=study.flow.min_active,
        code=code("trace_flows"),
    script:
        "../scripts/trace_flows.py"


# Apart from the flow, so that other intervals rerun nothing that reads features' fates.
rule summarise_flows:
    input:
        counts="<results>/flows/counts.parquet",
        lineages="<results>/flows/lineages.parquet",
        bootstrap=[
            path.replace("<results>/correlations", "<results>/flows/bootstrap")
            for path in seed_correlations(study.edges())
            if study.flow.bootstrap
        ],
    output:
        edges="<results>/flows/edges.parquet",
        summary="<results>/flows/summary.json",
    log:
        "<logs>/summarise_flows.log",
    benchmark:
        "<benchmarks>/summarise_flows.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        models=study.order(),
        threshold=study.flow.threshold,
        code=code("summarise_flows"),
    script:
        "../scripts/summarise_flows.py"


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
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        code=code("draw_sankey"),
    script:
        "../scripts/draw_sankey.py"


rule draw_curves:
    input:
        curves="<results>/flows/curves.parquet",
        ceiling=[
            "<results>/controls/ceiling_curves.parquet"
            for name in MEASURED
            if name == "ceiling"
        ],
        null=[
            "<results>/controls/alignment_null.parquet"
            for name in MEASURED
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
        "<logs>/draw_curves.log",
    benchmark:
        "<benchmarks>/draw_curves.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        threshold=study.flow.threshold,
        code=code("draw_curves"),
    script:
        "../scripts/draw_curves.py"
