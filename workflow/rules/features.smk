# One sample of tokens that all models read, and the features that fire on it.


rule draw_sample:
    input:
        validation=tokens(study.flow_corpora(), "validation"),
    output:
        sample=R + "/samples/{sample}.safetensors",
    params:
        seed=study.seed,
        corpora=study.flow_corpora(),
        tokens=study.flow.tokens,
        context=study.autoencoder.context,
        code=code("draw_sample"),
    log:
        R + "/logs/draw_sample/{sample}.log",
    benchmark:
        R + "/benchmarks/draw_sample/{sample}.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/draw_sample.py"


rule collect_features:
    input:
        model=lambda w: checkpoint_files(w.model),
        weights=R + "/saes/{model}/seed{seed}/sae_weights.safetensors",
        config=R + "/saes/{model}/seed{seed}/cfg.json",
        sample=R + "/samples/{sample}.safetensors",
    output:
        activations=R + "/features/{model}/seed{seed}/{sample}/activations.parquet",
        statistics=R + "/features/{model}/seed{seed}/{sample}/statistics.parquet",
    params:
        threads=study.threads,
        hook=study.autoencoder.hook,
        code=code("collect_features"),
    log:
        R + "/logs/collect_features/{model}.seed{seed}.{sample}.log",
    benchmark:
        R + "/benchmarks/collect_features/{model}.seed{seed}.{sample}.tsv"
    conda:
        CONDA
    threads: study.threads
    script:
        "../scripts/collect_features.py"
