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


# --- what became of each feature: one dictionary on two models, and whether another of the same model has it, too ---


rule measure_stability:
    input:
        activations=lambda w: expand(
            f"<results>/features/{w.model}/seed{{seed}}/{w.sample}/activations.parquet",
            seed=plan.seeds(w.model),
        ),
        statistics=lambda w: expand(
            f"<results>/features/{w.model}/seed{{seed}}/{w.sample}/statistics.parquet",
            seed=plan.seeds(w.model),
        ),
        weights=lambda w: expand(
            f"<results>/saes/{w.model}/seed{{seed}}/sae_weights.safetensors",
            seed=plan.seeds(w.model),
        ),
        correlations=lambda w: [
            f"<results>/correlations/{w.sample}/{w.model}.seed{a}--{w.model}.seed{b}.parquet"
            for a, b in plan.seed_pairs(w.model)
        ],
        sample="<results>/samples/{sample}.safetensors",
    output:
        stability="<results>/flows/stability/{sample}/{model}.parquet",
        cosines="<results>/flows/stability/{sample}/{model}.json",
    log:
        "<logs>/measure_stability/{sample}.{model}.log",
    benchmark:
        "<benchmarks>/measure_stability/{sample}.{model}.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("measure_stability"),
    params:
        seeds=lambda w: plan.seeds(w.model),
        seed_pairs=lambda w: plan.seed_pairs(w.model),
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("measure_stability"),
    script:
        "../scripts/measure_stability.py"


rule judge_features:
    input:
        own=both_sides(
            "<results>/features/{own}/seed{seed}/{sample}/activations.parquet"
        ),
        other=both_sides(
            "<results>/readings/{own}--{other}/seed{seed}/{sample}/activations.parquet"
        ),
        correlations=between,
        weights=both_sides("<results>/saes/{own}/seed{seed}/sae_weights.safetensors"),
        stability=with_stability("<results>/flows/stability/{sample}/{own}.parquet"),
        cosines=with_stability("<results>/flows/stability/{sample}/{own}.json"),
        own_quality=both_sides(
            "<results>/features/{own}/seed{seed}/{sample}/quality.json"
        ),
        other_quality=both_sides(
            "<results>/readings/{own}--{other}/seed{seed}/{sample}/quality.json"
        ),
        sample="<results>/samples/{sample}.safetensors",
    output:
        judged="<results>/flows/verdicts/{sample}/{parent}--{child}.seed{seed}/judged.parquet",
        about="<results>/flows/verdicts/{sample}/{parent}--{child}.seed{seed}/about.json",
    log:
        "<logs>/judge_features/{sample}.{parent}--{child}.seed{seed}.log",
    benchmark:
        "<benchmarks>/judge_features/{sample}.{parent}--{child}.seed{seed}.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("judge_features"),
    params:
        seed=lambda w: int(w.seed),
        sides=sides,
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("judge_features"),
    script:
        "../scripts/judge_features.py"


rule bootstrap_verdicts:
    input:
        own=both_sides(
            "<results>/features/{own}/seed{seed}/{sample}/activations.parquet"
        ),
        other=both_sides(
            "<results>/readings/{own}--{other}/seed{seed}/{sample}/activations.parquet"
        ),
        correlations=between,
        judged="<results>/flows/verdicts/{sample}/{parent}--{child}.seed{seed}/judged.parquet",
        sample="<results>/samples/{sample}.safetensors",
    output:
        replicates="<results>/flows/verdicts/{sample}/{parent}--{child}.seed{seed}/replicates.parquet",
    log:
        "<logs>/bootstrap_verdicts/{sample}.{parent}--{child}.seed{seed}.log",
    benchmark:
        "<benchmarks>/bootstrap_verdicts/{sample}.{parent}--{child}.seed{seed}.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("bootstrap_verdicts"),
    params:
        seed=study.seed,
        sides=sides,
        replicates=study.flow.bootstrap,
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("bootstrap_verdicts"),
    script:
        "../scripts/bootstrap_verdicts.py"


rule compare_weights:
    input:
        parents=[
            f"<results>/models/{parent}/model.safetensors"
            for parent, _ in [*study.edges(), *plan.placebo_pairs]
        ],
        children=[
            f"<results>/models/{child}/model.safetensors"
            for _, child in [*study.edges(), *plan.placebo_pairs]
        ],
    output:
        weights="<results>/flows/weights.parquet",
    log:
        "<logs>/compare_weights.log",
    benchmark:
        "<benchmarks>/compare_weights.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("compare_weights"),
    params:
        pairs=[*study.edges(), *plan.placebo_pairs],
        hook=study.autoencoder.hook,
        code=code("compare_weights"),
    script:
        "../scripts/compare_weights.py"


# --- counted ---


rule trace_flows:
    input:
        correlations=seed_correlations(study.edges()),
        statistics=all_features("statistics.parquet"),
        tokens=all_features("tokens.parquet"),
        verdicts=verdicts([*study.edges(), *plan.passed_down], "judged.parquet"),
        placebos=verdicts(plan.placebo_pairs, "judged.parquet"),
    output:
        counts="<results>/flows/counts.parquet",
        features="<results>/flows/features.parquet",
        lineages="<results>/flows/lineages.parquet",
        curves="<results>/flows/curves.parquet",
        strata="<results>/flows/strata.parquet",
        drift="<results>/flows/drift.parquet",
        drift_curves="<results>/flows/drift_curves.parquet",
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
        autoencoders=plan.autoencoders,
        models=study.order(),
        edges=study.edges(),
        matched=plan.each_pair(study.edges()),
        judged=plan.each_reading([*study.edges(), *plan.passed_down]),
        placebos=plan.each_reading(plan.placebo_pairs),
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
        verdicts=verdicts(study.edges(), "judged.parquet"),
        replicates=verdicts(study.edges(), "replicates.parquet"),
        about=verdicts(study.edges(), "about.json"),
        placebo_verdicts=verdicts(plan.placebo_pairs, "judged.parquet"),
        placebo_replicates=verdicts(plan.placebo_pairs, "replicates.parquet"),
        placebo_about=verdicts(plan.placebo_pairs, "about.json"),
        placebo=PLACEBO,
        weights="<results>/flows/weights.parquet",
    output:
        edges="<results>/flows/edges.parquet",
        verdicts="<results>/flows/verdicts.parquet",
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
        lineage=study.edges(),
        compared=plan.each_reading(study.edges()),
        placebos=plan.each_reading(plan.placebo_pairs),
        placebo_of={
            child: plan.placebo(parent, child) for parent, child in study.edges()
        },
        no_placebo=plan.no_placebo,
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("summarise_flows"),
    script:
        "../scripts/summarise_flows.py"
