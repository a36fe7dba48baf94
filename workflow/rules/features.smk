# The features that fire on the sample.


rule collect_features:
    input:
        model=lambda w: checkpoint_files(w.model),
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


# A dictionary on another model than its own: what drift is measured on.
use rule collect_features as collect_reading with:
    input:
        model=lambda w: checkpoint_files(w.model),
        weights="<results>/saes/{dictionary}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{dictionary}/seed{seed}/cfg.json",
        sample="<results>/samples/{sample}.safetensors",
    output:
        activations="<results>/readings/{dictionary}--{model}/seed{seed}/{sample}/activations.parquet",
        statistics="<results>/readings/{dictionary}--{model}/seed{seed}/{sample}/statistics.parquet",
        quality="<results>/readings/{dictionary}--{model}/seed{seed}/{sample}/quality.json",
    log:
        "<logs>/collect_reading/{dictionary}--{model}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/collect_reading/{dictionary}--{model}.seed{seed}.{sample}.tsv"
    wildcard_constraints:
        dictionary=one_of(study.models),
