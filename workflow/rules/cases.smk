# What features are about: their contexts, their categories, and those that the configuration asks to follow.

CASES = expand("<results>/cases/{case}/case.json", case=study.cases)


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
        seed=FIRST_SEED,
        models=study.order(),
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
        edges=study.edges(),
        seed=FIRST_SEED,
        corpora=study.flow_corpora(),
        code=code("find_case"),
    script:
        "../scripts/find_case.py"
