# What features are about: their tokens, contexts, categories and effects, and the cases that the configuration asks to follow.


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


rule collect_contexts:
    input:
        activations="<results>/features/{model}/seed{seed}/{sample}/activations.parquet",
        sample="<results>/samples/{sample}.safetensors",
    output:
        contexts="<results>/features/{model}/seed{seed}/{sample}/contexts.parquet",
    log:
        "<logs>/collect_contexts/{model}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/collect_contexts/{model}.seed{seed}.{sample}.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("collect_contexts"),
    params:
        code=code("collect_contexts"),
    script:
        "../scripts/collect_contexts.py"


rule categorise_features:
    input:
        activations="<results>/features/{model}/seed{seed}/{sample}/activations.parquet",
        sample="<results>/samples/{sample}.safetensors",
        tokenizer="<results>/tokenizer/tokenizer.json",
    output:
        categories="<results>/features/{model}/seed{seed}/{sample}/categories.parquet",
    log:
        "<logs>/categorise_features/{model}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/categorise_features/{model}.seed{seed}.{sample}.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("categorise_features"),
    params:
        code=code("categorise_features"),
    script:
        "../scripts/categorise_features.py"


rule count_categories:
    input:
        features="<results>/flows/features.parquet",
        categories=shown_features("categories.parquet"),
        tokens=shown_features("tokens.parquet"),
    output:
        counts="<results>/flows/categories.parquet",
    log:
        "<logs>/count_categories.log",
    benchmark:
        "<benchmarks>/count_categories.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        seed=plan.first_seed,
        models=plan.read,
        code=code("count_categories"),
    script:
        "../scripts/count_categories.py"


rule find_case:
    input:
        features="<results>/flows/features.parquet",
        lineages="<results>/flows/lineages.parquet",
        activations=case_features("activations.parquet"),
        contexts=case_features("contexts.parquet"),
        sample=f"<results>/samples/{SAMPLE}.safetensors",
        tokenizer="<results>/tokenizer/tokenizer.json",
    output:
        case="<results>/cases/{case}/case.json",
        tracking="<results>/cases/{case}/tracking.parquet",
    log:
        "<logs>/find_case/{case}.log",
    benchmark:
        "<benchmarks>/find_case/{case}.tsv"
    wildcard_constraints:
        case=NAME,
    conda:
        CONDA
    threads: 1
    resources:
        **needs("find_case"),
    params:
        case=lambda w: study.cases[w.case].model_dump(exclude_none=True),
        models=lambda w: study.case_models(w.case),
        edges=plan.matched_edges,
        seed=plan.first_seed,
        corpora=study.flow_corpora(),
        code=code("find_case"),
    script:
        "../scripts/find_case.py"
