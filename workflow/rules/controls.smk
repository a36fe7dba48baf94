# What the flow of features is held against: other seeds, shifted samples, raw neurons, the published measure.


rule correlate_shifted:
    input:
        parent=f"<results>/features/{{parent}}/seed{{seed}}/{SAMPLE}/activations.parquet",
        child=f"<results>/features/{{child}}/seed{{seed}}/{SAMPLE}/activations.parquet",
        sample=f"<results>/samples/{SAMPLE}.safetensors",
    output:
        null="<results>/controls/alignment_null/{parent}--{child}.seed{seed}.parquet",
    log:
        "<logs>/correlate_shifted/{parent}--{child}.seed{seed}.log",
    benchmark:
        "<benchmarks>/correlate_shifted/{parent}--{child}.seed{seed}.tsv"
    wildcard_constraints:
        parent=names(object),
        child=names(object),
    conda:
        CONDA
    threads: 1
    resources:
        **needs("correlate_shifted"),
    params:
        edge=lambda w: {"parent": w.parent, "child": w.child, "seed": int(w.seed)},
        seed=study.seed,
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("correlate_shifted"),
    script:
        "../scripts/correlate_shifted.py"


rule correlate_neurons:
    input:
        parent=lambda w: checkpoint_files(w.parent),
        child=lambda w: checkpoint_files(w.child),
        sample=f"<results>/samples/{SAMPLE}.safetensors",
    output:
        neurons="<results>/controls/neurons/{parent}--{child}.parquet",
    log:
        "<logs>/correlate_neurons/{parent}--{child}.log",
    benchmark:
        "<benchmarks>/correlate_neurons/{parent}--{child}.tsv"
    wildcard_constraints:
        parent=names(object),
        child=names(object),
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("correlate_neurons"),
    params:
        edge=lambda w: {"parent": w.parent, "child": w.child},
        threads=study.threads,
        hook=study.autoencoder.hook,
        threshold=study.flow.threshold,
        code=code("correlate_neurons"),
    script:
        "../scripts/correlate_neurons.py"


rule correlate_published:
    input:
        parent=f"<results>/features/{{parent}}/seed{{seed}}/{SAMPLE}/activations.parquet",
        child=f"<results>/features/{{child}}/seed{{seed}}/{SAMPLE}/activations.parquet",
        correlations=f"<results>/correlations/{SAMPLE}/{{parent}}.seed{{seed}}--{{child}}.seed{{seed}}.parquet",
        sample=f"<results>/samples/{SAMPLE}.safetensors",
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        as_published="<results>/controls/as_published/{parent}--{child}.seed{seed}.parquet",
    log:
        "<logs>/correlate_published/{parent}--{child}.seed{seed}.log",
    benchmark:
        "<benchmarks>/correlate_published/{parent}--{child}.seed{seed}.tsv"
    wildcard_constraints:
        parent=names(object),
        child=names(object),
    conda:
        CONDA
    threads: 1
    resources:
        **needs("correlate_published"),
    params:
        edge=lambda w: {"parent": w.parent, "child": w.child, "seed": int(w.seed)},
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("correlate_published"),
    script:
        "../scripts/correlate_published.py"


rule join_control:
    input:
        parts=control_parts,
    output:
        table="<results>/controls/{control}.parquet",
    log:
        "<logs>/join_control/{control}.log",
    benchmark:
        "<benchmarks>/join_control/{control}.tsv"
    wildcard_constraints:
        control="alignment_null|neurons|as_published",
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        control=lambda w: w.control,
        code=code("join_control"),
    script:
        "../scripts/join_control.py"


rule measure_ceiling:
    input:
        correlations=[
            f"<results>/correlations/{SAMPLE}/{model}.seed{a}--{model}.seed{b}.parquet"
            for model in study.order()
            for a, b in SEED_PAIRS
        ],
        statistics=seed_statistics(study.order()),
    output:
        ceiling="<results>/controls/ceiling.parquet",
        curves="<results>/controls/ceiling_curves.parquet",
    log:
        "<logs>/measure_ceiling.log",
    benchmark:
        "<benchmarks>/measure_ceiling.tsv"
    conda:
        CONDA
    threads: 1
    params:
        seeds=study.autoencoder.seeds,
        seed_pairs=SEED_PAIRS,
        models=study.order(),
        threshold=study.flow.threshold,
        floor=study.flow.floor,
        min_active=study.flow.min_active,
        code=code("measure_ceiling"),
    script:
        "../scripts/measure_ceiling.py"


rule summarise_controls:
    input:
        correlations=seed_correlations(study.edges()),
        statistics=seed_statistics(study.order()),
        tables=expand("<results>/controls/{control}.parquet", control=MEASURED),
    output:
        summary="<results>/controls/summary.json",
    log:
        "<logs>/summarise_controls.log",
    benchmark:
        "<benchmarks>/summarise_controls.tsv"
    conda:
        CONDA
    threads: 1
    params:
        seeds=study.autoencoder.seeds,
        models=study.order(),
        edges=study.edges(),
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        measured=MEASURED,
        not_measured=NOT_MEASURED,
        code=code("summarise_controls"),
    script:
        "../scripts/summarise_controls.py"
