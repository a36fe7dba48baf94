# Which features persist along every edge: correlations of all features of two autoencoders, and what they say of each feature.


rule correlate_part:
    input:
        a="<results>/features/{a}/seed{i}/{sample}/activations.parquet",
        b="<results>/features/{b}/seed{j}/{sample}/activations.parquet",
    output:
        sums=temp(
            "<results>/correlations/{sample}/{a}.seed{i}--{b}.seed{j}.part{part}.parquet"
        ),
    log:
        "<logs>/correlate_part/{sample}.{a}.seed{i}--{b}.seed{j}.part{part}.log",
    benchmark:
        "<benchmarks>/correlate_part/{sample}.{a}.seed{i}--{b}.seed{j}.part{part}.tsv"
    wildcard_constraints:
        a=one_of(plan.compared),
        b=one_of(plan.compared),
        i="[0-9]+",
        j="[0-9]+",
        part="[0-9]+",
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("correlate_part"),
    params:
        part=lambda w: int(w.part),
        parts=study.flow.parts,
        code=code("correlate_part"),
    script:
        "../scripts/correlate_part.py"


# Provenance names the activations, not the parts: however many jobs share the work, the file is the same.
rule correlate:
    input:
        a="<results>/features/{a}/seed{i}/{sample}/activations.parquet",
        b="<results>/features/{b}/seed{j}/{sample}/activations.parquet",
        parts=correlation_parts,
    output:
        correlations="<results>/correlations/{sample}/{a}.seed{i}--{b}.seed{j}.parquet",
    log:
        "<logs>/correlate/{sample}.{a}.seed{i}--{b}.seed{j}.log",
    benchmark:
        "<benchmarks>/correlate/{sample}.{a}.seed{i}--{b}.seed{j}.tsv"
    wildcard_constraints:
        a=one_of(plan.compared),
        b=one_of(plan.compared),
        i="[0-9]+",
        j="[0-9]+",
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("correlate"),
    params:
        floor=study.flow.floor,
        min_active=study.flow.min_active,
        code=code("correlate"),
    script:
        "../scripts/correlate.py"


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
        a=one_of(plan.compared),
        b=one_of(plan.compared),
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


rule trace_flows:
    input:
        correlations=seed_correlations(study.edges()),
        statistics=seed_statistics(study.order()),
        tokens=all_features("tokens.parquet"),
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


# --- drift: one dictionary reads both models of an edge ---


rule measure_drift:
    input:
        own=[
            "<results>/features/{parent}/seed{seed}/{sample}/activations.parquet",
            "<results>/features/{child}/seed{seed}/{sample}/activations.parquet",
        ],
        other=readings("activations.parquet"),
    output:
        drift="<results>/readings/{parent}--{child}/seed{seed}/{sample}/drift.parquet",
    log:
        "<logs>/measure_drift/{parent}--{child}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/measure_drift/{parent}--{child}.seed{seed}.{sample}.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("measure_drift"),
    params:
        code=code("measure_drift"),
    script:
        "../scripts/measure_drift.py"


rule bootstrap_drift:
    input:
        own=[
            "<results>/features/{parent}/seed{seed}/{sample}/activations.parquet",
            "<results>/features/{child}/seed{seed}/{sample}/activations.parquet",
        ],
        other=readings("activations.parquet"),
        sample="<results>/samples/{sample}.safetensors",
    output:
        replicates="<results>/readings/{parent}--{child}/seed{seed}/{sample}/replicates.parquet",
    log:
        "<logs>/bootstrap_drift/{parent}--{child}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/bootstrap_drift/{parent}--{child}.seed{seed}.{sample}.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("bootstrap_drift"),
    params:
        seed=study.seed,
        replicates=study.flow.bootstrap,
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("bootstrap_drift"),
    script:
        "../scripts/bootstrap_drift.py"


rule summarise_drift:
    input:
        drift=edge_readings("drift.parquet"),
        replicates=edge_readings("replicates.parquet") if study.flow.bootstrap else [],
        own_parent=[
            f"<results>/features/{parent}/seed{seed}/{SAMPLE}/quality.json"
            for (parent, _), seed in plan.each_seed(study.edges())
        ],
        own_child=[
            f"<results>/features/{child}/seed{seed}/{SAMPLE}/quality.json"
            for (_, child), seed in plan.each_seed(study.edges())
        ],
        other_parent=edge_readings("parent.quality.json"),
        other_child=edge_readings("child.quality.json"),
    output:
        drift="<results>/flows/drift.parquet",
        curves="<results>/flows/drift_curves.parquet",
        summary="<results>/flows/drift.json",
    log:
        "<logs>/summarise_drift.log",
    benchmark:
        "<benchmarks>/summarise_drift.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        edges=[(*edge, seed) for edge, seed in plan.each_seed(study.edges())],
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("summarise_drift"),
    script:
        "../scripts/summarise_drift.py"
