# One sample of tokens that all models read, and the features that fire on it.


rule draw_sample:
    input:
        validation=tokens(study.flow_corpora(), "validation"),
    output:
        sample="<results>/samples/{sample}.safetensors",
    log:
        "<logs>/draw_sample/{sample}.log",
    benchmark:
        "<benchmarks>/draw_sample/{sample}.tsv"
    conda:
        CONDA
    threads: 1
    params:
        seed=study.seed,
        corpora=study.flow_corpora(),
        tokens=study.flow.tokens,
        context=study.autoencoder.context,
        code=code("draw_sample"),
    script:
        "../scripts/draw_sample.py"


rule collect_features:
    input:
        model=lambda w: checkpoint_files(w.model),
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
        sample="<results>/samples/{sample}.safetensors",
    output:
        activations="<results>/features/{model}/seed{seed}/{sample}/activations.parquet",
        statistics="<results>/features/{model}/seed{seed}/{sample}/statistics.parquet",
    log:
        "<logs>/collect_features/{model}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/collect_features/{model}.seed{seed}.{sample}.tsv"
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("collect_features"),
    params:
        threads=study.threads,
        hook=study.autoencoder.hook,
        code=code("collect_features"),
    script:
        "../scripts/collect_features.py"
