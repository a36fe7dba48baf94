# The features that fire on the sample.


rule collect_features:
    input:
        model=lambda w: checkpoint_files(w.model),
        gate=gate,
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
        sample="<results>/samples/{sample}.safetensors",
    output:
        activations="<results>/features/{model}/seed{seed}/{sample}/activations.parquet",
        statistics="<results>/features/{model}/seed{seed}/{sample}/statistics.parquet",
        quality="<results>/features/{model}/seed{seed}/{sample}/quality.json",
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


# One dictionary on another model: what it reads there, beside what it reads on its own.
use rule collect_features as collect_readings with:
    input:
        model=lambda w: checkpoint_files(w.read),
        gate=gate,
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
        sample="<results>/samples/{sample}.safetensors",
    output:
        activations="<results>/readings/{model}--{read}/seed{seed}/{sample}/activations.parquet",
        statistics="<results>/readings/{model}--{read}/seed{seed}/{sample}/statistics.parquet",
        quality="<results>/readings/{model}--{read}/seed{seed}/{sample}/quality.json",
    log:
        "<logs>/collect_readings/{model}--{read}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/collect_readings/{model}--{read}.seed{seed}.{sample}.tsv"
