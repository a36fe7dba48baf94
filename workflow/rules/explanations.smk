# Explanations of features by a language model, and what they are worth beside token statistics.


rule interpret_features:
    input:
        activations=f"<results>/features/{{model}}/seed{{seed}}/{SAMPLE}/activations.parquet",
        statistics=f"<results>/features/{{model}}/seed{{seed}}/{SAMPLE}/statistics.parquet",
        tokens=f"<results>/features/{{model}}/seed{{seed}}/{SAMPLE}/tokens.parquet",
        sample=f"<results>/samples/{SAMPLE}.safetensors",
        lineages="<results>/flows/lineages.parquet",
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        table="<results>/interpretations/{model}/seed{seed}.parquet",
    log:
        "<logs>/interpret_features/{model}.seed{seed}.log",
    benchmark:
        "<benchmarks>/interpret_features/{model}.seed{seed}.tsv"
    wildcard_constraints:
        model=one_of(study.models),
    conda:
        CONDA
    threads: 1
    # Each job sends requests in parallel: profiles/default lets one at a time use an endpoint, whose rate limit is for all.
    resources:
        **needs("interpret_features"),
        api=0 if study.interpretation.model is None else 1,
    params:
        seed=study.seed,
        model=lambda w: w.model,
        autoencoder=lambda w: int(w.seed),
        features=study.interpretation.features,
        language_model=plan.language_model(),
        code=code("interpret_features"),
    script:
        "../scripts/interpret_features.py"
