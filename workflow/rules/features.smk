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


# Along an edge, the parent's dictionary on the child (`parent.…`) and the child's on the parent (`child.…`).
use rule collect_features as collect_readings with:
    input:
        model=lambda w: checkpoint_files(w.child) + checkpoint_files(w.parent),
        weights=[
            "<results>/saes/{parent}/seed{seed}/sae_weights.safetensors",
            "<results>/saes/{child}/seed{seed}/sae_weights.safetensors",
        ],
        config=[
            "<results>/saes/{parent}/seed{seed}/cfg.json",
            "<results>/saes/{child}/seed{seed}/cfg.json",
        ],
        sample="<results>/samples/{sample}.safetensors",
    output:
        activations=readings("activations.parquet"),
        statistics=readings("statistics.parquet"),
        quality=readings("quality.json"),
    log:
        "<logs>/collect_readings/{parent}--{child}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/collect_readings/{parent}--{child}.seed{seed}.{sample}.tsv"
    wildcard_constraints:
        parent=one_of(study.models),
        child=one_of(study.models),
