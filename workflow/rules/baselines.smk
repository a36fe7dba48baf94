# What the flow is held against: untrained models, the parent's autoencoder on the child, the child's started from it, the other
# merge. Each is a switch of `controls`.

BASELINES = []

# --- untrained models: their autoencoders, features and correlations come from the same rules as all others ---

if UNTRAINED:
    BASELINES += ["<results>/controls/untrained.parquet"]
    BASELINES += [
        f"<results>/saes/{model}/seed{seed}/evaluation.json"
        for model in UNTRAINED
        for seed in study.autoencoder.seeds
    ]


rule make_untrained:
    input:
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        expand("<results>/models/{{model}}/{file}", file=CHECKPOINT),
    log:
        "<logs>/make_untrained/{model}.log",
    benchmark:
        "<benchmarks>/make_untrained/{model}.tsv"
    wildcard_constraints:
        model="|".join(map(re.escape, UNTRAINED)) or "(?!)",
    conda:
        CONDA
    threads: 1
    resources:
        **needs("make_untrained"),
    params:
        # Not the root's own start, which its training does not wholly leave behind.
        seed=study.seed + 1,
        architecture=lambda w: study.models[
            UNTRAINED[w.model]
        ].architecture.model_dump(),
        code=code("make_untrained"),
    script:
        "../scripts/make_untrained.py"


# --- the parent's autoencoder on the child, as it is ---

if study.controls.transfer and study.edges():
    BASELINES += ["<results>/controls/transfer.parquet"]


use rule evaluate_autoencoder as transfer_autoencoder with:
    input:
        model=lambda w: checkpoint_files(w.child),
        weights="<results>/saes/{parent}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{parent}/seed{seed}/cfg.json",
        validation=lambda w: tokens(study.trace(w.child), "validation"),
    output:
        evaluation="<results>/controls/transfer/{parent}.seed{seed}--{child}.json",
    log:
        "<logs>/transfer_autoencoder/{parent}.seed{seed}--{child}.log",
    benchmark:
        "<benchmarks>/transfer_autoencoder/{parent}.seed{seed}--{child}.tsv"
    params:
        judged=False,
        corpora=lambda w: study.trace(w.child),


rule compare_transfers:
    input:
        transfers=[
            f"<results>/controls/transfer/{parent}.seed{FIRST_SEED}--{child}.json"
            for parent, child in study.edges()
        ],
        own=[
            f"<results>/saes/{child}/seed{FIRST_SEED}/evaluation.json"
            for _, child in study.edges()
        ],
    output:
        table="<results>/controls/transfer.parquet",
    log:
        "<logs>/compare_transfers.log",
    benchmark:
        "<benchmarks>/compare_transfers.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        compared=[(parent, child, FIRST_SEED) for parent, child in study.edges()],
        code=code("compare_transfers"),
    script:
        "../scripts/compare_transfers.py"


# --- the child's autoencoder started from the parent's ---

if STARTED:
    BASELINES += ["<results>/controls/started.parquet"]
    BASELINES += [
        f"<results>/controls/started/{pair}/seed{seed}/evaluation.json"
        for pair in STARTED
        for seed in study.autoencoder.seeds
    ]


use rule train_autoencoder as train_started with:
    input:
        model=lambda w: checkpoint_files(w.child),
        train=lambda w: tokens(study.trace(w.child), "train"),
        validation=lambda w: tokens(study.trace(w.child), "validation"),
        parent=[
            "<results>/saes/{parent}/seed{seed}/sae_weights.safetensors",
            "<results>/saes/{parent}/seed{seed}/cfg.json",
        ],
    output:
        weights="<results>/controls/started/{parent}--{child}/seed{seed}/sae_weights.safetensors",
        config="<results>/controls/started/{parent}--{child}/seed{seed}/cfg.json",
        curve="<results>/controls/started/{parent}--{child}/seed{seed}/training.parquet",
    log:
        "<logs>/train_started/{parent}--{child}.seed{seed}.log",
    benchmark:
        "<benchmarks>/train_started/{parent}--{child}.seed{seed}.tsv"
    params:
        seed=lambda w: study.autoencoder_seed(w.child, int(w.seed)),
        corpora=lambda w: study.trace(w.child),
        autoencoder=study.autoencoder.model_dump(exclude={"seeds"}) | {"init": "parent"},


use rule evaluate_autoencoder as evaluate_started with:
    input:
        model=lambda w: checkpoint_files(w.child),
        weights="<results>/controls/started/{parent}--{child}/seed{seed}/sae_weights.safetensors",
        config="<results>/controls/started/{parent}--{child}/seed{seed}/cfg.json",
        validation=lambda w: tokens(study.trace(w.child), "validation"),
    output:
        evaluation="<results>/controls/started/{parent}--{child}/seed{seed}/evaluation.json",
    log:
        "<logs>/evaluate_started/{parent}--{child}.seed{seed}.log",
    benchmark:
        "<benchmarks>/evaluate_started/{parent}--{child}.seed{seed}.tsv"
    params:
        corpora=lambda w: study.trace(w.child),
        judged=True,


# Under a name of its own among the features, so that correlations with it are made as all others are.
use rule collect_features as collect_started with:
    input:
        model=lambda w: checkpoint_files(w.child),
        weights="<results>/controls/started/{parent}--{child}/seed{seed}/sae_weights.safetensors",
        config="<results>/controls/started/{parent}--{child}/seed{seed}/cfg.json",
        sample="<results>/samples/{sample}.safetensors",
    output:
        activations="<results>/features/{parent}--{child}/seed{seed}/{sample}/activations.parquet",
        statistics="<results>/features/{parent}--{child}/seed{seed}/{sample}/statistics.parquet",
    log:
        "<logs>/collect_started/{parent}--{child}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/collect_started/{parent}--{child}.seed{seed}.{sample}.tsv"


# --- what persists into either ---

# Which pairs are compared, and the name under which the other side's features are.
BASELINE_PAIRS = {
    "untrained": [(root, name, name) for name, root in UNTRAINED.items()],
    "started": [
        (parent, child, f"{parent}--{child}")
        for parent, child in study.edges()
        if STARTED
    ],
}


rule compare_baseline:
    input:
        correlations=lambda w: seed_correlations(
            [(parent, other) for parent, _, other in BASELINE_PAIRS[w.baseline]]
        ),
        parent_statistics=lambda w: seed_statistics(
            [parent for parent, _, _ in BASELINE_PAIRS[w.baseline]]
        ),
        child_statistics=lambda w: seed_statistics(
            [other for _, _, other in BASELINE_PAIRS[w.baseline]]
        ),
    output:
        table="<results>/controls/{baseline}.parquet",
    log:
        "<logs>/compare_baseline/{baseline}.log",
    benchmark:
        "<benchmarks>/compare_baseline/{baseline}.tsv"
    wildcard_constraints:
        baseline="|".join(BASELINE_PAIRS),
    conda:
        CONDA
    threads: 1
    params:
        compared=lambda w: [
            (parent, child, seed)
            for seed in study.autoencoder.seeds
            for parent, child, _ in BASELINE_PAIRS[w.baseline]
        ],
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("compare_baseline"),
    script:
        "../scripts/compare_baseline.py"


# --- the other merge: linear beside SLERP, or SLERP beside a linear one ---

OTHER_MERGES = {
    name: {"slerp": "linear", "linear": "slerp"}[block.merge.method]
    for name, block in study.models.items()
    if study.controls.linear_merge and isinstance(block, MergedModel)
}

if OTHER_MERGES:
    BASELINES += ["<results>/controls/linear_merge.parquet"]


use rule merge_models as merge_linearly with:
    output:
        expand("<results>/controls/linear/{{model}}/{file}", file=CHECKPOINT),
        tensors="<results>/controls/linear/{model}/tensors.parquet",
    log:
        "<logs>/merge_linearly/{model}.log",
    benchmark:
        "<benchmarks>/merge_linearly/{model}.tsv"
    wildcard_constraints:
        model=merged_otherwise("linear"),
    params:
        method=lambda w: OTHER_MERGES[w.model],


use rule evaluate_model as evaluate_linear_merge with:
    input:
        model=expand("<results>/controls/linear/{{model}}/{file}", file=CHECKPOINT),
        validation=tokens(study.flow_corpora(), "validation"),
    output:
        evaluation="<results>/controls/linear/{model}/evaluation.json",
    log:
        "<logs>/evaluate_linear_merge/{model}.log",
    benchmark:
        "<benchmarks>/evaluate_linear_merge/{model}.tsv"


use rule evaluate_autoencoder as transfer_to_linear_merge with:
    input:
        model=expand("<results>/controls/linear/{{model}}/{file}", file=CHECKPOINT),
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
        validation=lambda w: tokens(study.trace(w.model), "validation"),
    output:
        evaluation="<results>/controls/linear/{model}/seed{seed}.json",
    log:
        "<logs>/transfer_to_linear_merge/{model}.seed{seed}.log",
    benchmark:
        "<benchmarks>/transfer_to_linear_merge/{model}.seed{seed}.tsv"
    params:
        judged=False,


use rule merge_models as merge_by_slerp with:
    output:
        expand("<results>/controls/slerp/{{model}}/{file}", file=CHECKPOINT),
        tensors="<results>/controls/slerp/{model}/tensors.parquet",
    log:
        "<logs>/merge_by_slerp/{model}.log",
    benchmark:
        "<benchmarks>/merge_by_slerp/{model}.tsv"
    wildcard_constraints:
        model=merged_otherwise("slerp"),
    params:
        method=lambda w: OTHER_MERGES[w.model],


use rule evaluate_model as evaluate_slerp_merge with:
    input:
        model=expand("<results>/controls/slerp/{{model}}/{file}", file=CHECKPOINT),
        validation=tokens(study.flow_corpora(), "validation"),
    output:
        evaluation="<results>/controls/slerp/{model}/evaluation.json",
    log:
        "<logs>/evaluate_slerp_merge/{model}.log",
    benchmark:
        "<benchmarks>/evaluate_slerp_merge/{model}.tsv"


use rule evaluate_autoencoder as transfer_to_slerp_merge with:
    input:
        model=expand("<results>/controls/slerp/{{model}}/{file}", file=CHECKPOINT),
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
        validation=lambda w: tokens(study.trace(w.model), "validation"),
    output:
        evaluation="<results>/controls/slerp/{model}/seed{seed}.json",
    log:
        "<logs>/transfer_to_slerp_merge/{model}.seed{seed}.log",
    benchmark:
        "<benchmarks>/transfer_to_slerp_merge/{model}.seed{seed}.tsv"
    params:
        judged=False,


rule compare_merges:
    input:
        weights=expand("<results>/models/{model}/model.safetensors", model=OTHER_MERGES),
        tensors=expand("<results>/models/{model}/tensors.parquet", model=OTHER_MERGES),
        evaluation=expand(
            "<results>/models/{model}/evaluation.json", model=OTHER_MERGES
        ),
        autoencoder=expand(
            "<results>/saes/{model}/seed{seed}/evaluation.json",
            model=OTHER_MERGES,
            seed=FIRST_SEED,
        ),
        other_weights=other_merges("model.safetensors"),
        other_tensors=other_merges("tensors.parquet"),
        other_evaluation=other_merges("evaluation.json"),
        other_autoencoder=other_merges(f"seed{FIRST_SEED}.json"),
    output:
        table="<results>/controls/linear_merge.parquet",
    log:
        "<logs>/compare_merges.log",
    benchmark:
        "<benchmarks>/compare_merges.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("compare_merges"),
    params:
        models=list(OTHER_MERGES),
        methods=[study.models[model].merge.method for model in OTHER_MERGES],
        code=code("compare_merges"),
    script:
        "../scripts/compare_merges.py"
