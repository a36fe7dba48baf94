# What a sceptical reader compares the flow with: other seeds, shifted samples, raw neurons, the published measure; untrained models, the
# parent's autoencoder on the child, one started from the parent's, the other merge. `study/plan.py` says which are measured.


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
        parent=one_of(study.models),
        child=one_of(study.models),
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
        parent=one_of(study.models),
        child=one_of(study.models),
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
        parent=one_of(study.models),
        child=one_of(study.models),
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
            for model in plan.read
            for a, b in plan.seed_pairs(model)
        ],
        statistics=all_features("statistics.parquet"),
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
        autoencoders=plan.autoencoders,
        seed_pairs={model: plan.seed_pairs(model) for model in plan.read},
        threshold=study.flow.threshold,
        floor=study.flow.floor,
        min_active=study.flow.min_active,
        code=code("measure_ceiling"),
    script:
        "../scripts/measure_ceiling.py"


rule summarise_controls:
    input:
        correlations=seed_correlations(study.edges()),
        statistics=all_features("statistics.parquet"),
        tables=expand("<results>/controls/{control}.parquet", control=plan.measured),
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
        autoencoders=plan.autoencoders,
        edges=plan.each_pair(study.edges()),
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        measured=plan.measured,
        not_measured=plan.not_measured,
        code=code("summarise_controls"),
    script:
        "../scripts/summarise_controls.py"


# --- untrained models: their autoencoders, features and correlations come from the same rules as all others ---


rule build_model:
    input:
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        expand("<results>/models/{{model}}/{file}", file=CHECKPOINT),
    log:
        "<logs>/build_model/{model}.log",
    benchmark:
        "<benchmarks>/build_model/{model}.tsv"
    wildcard_constraints:
        model=one_of(plan.untrained),
    conda:
        CONDA
    threads: 1
    resources:
        **needs("build_model"),
    params:
        # Not the root's own start, which its training does not wholly leave behind.
        seed=study.seed + 1,
        architecture=lambda w: plan.architecture(plan.untrained[w.model]),
        code=code("build_model"),
    script:
        "../scripts/build_model.py"


# --- placebos: roots that are trained on with their own corpora ---


use rule train_model as train_placebo with:
    input:
        train=lambda w: tokens(study.own_corpora(w.model), "train"),
        validation=lambda w: tokens(study.own_corpora(w.model), "validation"),
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
        parent=parent_files,
        like=lambda w: tokens(plan.placebo_for(w.model)["train"], "train"),
    log:
        "<logs>/train_placebo/{model}.log",
    benchmark:
        "<benchmarks>/train_placebo/{model}.tsv"
    wildcard_constraints:
        model=one_of(plan.placebos),
    params:
        balance=lambda w: getattr(
            study.models[plan.placebos[w.model].root], "balance", "none"
        ),
        training=lambda w: plan.fine_tune(w.model).training.model_dump(exclude={"keep"}),
        placebo_for=lambda w: plan.placebo_for(w.model),
        architecture=None,


rule measure_placebo:
    input:
        verdicts=verdicts(plan.placebo_pairs, "judged.parquet"),
        replicates=verdicts(plan.placebo_pairs, "replicates.parquet"),
        about=verdicts(plan.placebo_pairs, "about.json"),
        weights="<results>/flows/weights.parquet",
    output:
        table="<results>/controls/placebo.parquet",
    log:
        "<logs>/measure_placebo.log",
    benchmark:
        "<benchmarks>/measure_placebo.tsv"
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        compared=plan.each_reading(plan.placebo_pairs),
        fine_tunes={name: one.fine_tunes for name, one in plan.placebos.items()},
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("measure_placebo"),
    script:
        "../scripts/measure_placebo.py"


# --- the parent's autoencoder on the child, as it is ---


use rule evaluate_autoencoder as transfer_autoencoder with:
    input:
        model=lambda w: checkpoint_files(w.child),
        weights="<results>/saes/{parent}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{parent}/seed{seed}/cfg.json",
        validation=lambda w: tokens(study.seen_corpora(w.child), "validation"),
    output:
        evaluation="<results>/controls/transfer/{parent}.seed{seed}--{child}.json",
    log:
        "<logs>/transfer_autoencoder/{parent}.seed{seed}--{child}.log",
    benchmark:
        "<benchmarks>/transfer_autoencoder/{parent}.seed{seed}--{child}.tsv"
    params:
        judged=False,
        corpora=lambda w: study.seen_corpora(w.child),


rule compare_transfers:
    input:
        transfers=[
            f"<results>/controls/transfer/{parent}.seed{plan.first_seed}--{child}.json"
            for parent, child in plan.transferred
        ],
        own=[
            f"<results>/saes/{child}/seed{plan.first_seed}/evaluation.json"
            for _, child in plan.transferred
            if child in plan.read
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
        compared=[(*edge, plan.first_seed) for edge in plan.transferred],
        own=[child in plan.read for _, child in plan.transferred],
        code=code("compare_transfers"),
    script:
        "../scripts/compare_transfers.py"


# --- the child's autoencoder started from the parent's ---


use rule train_autoencoder as train_started with:
    input:
        model=lambda w: checkpoint_files(w.child),
        train=lambda w: tokens(study.seen_corpora(w.child), "train"),
        validation=lambda w: tokens(study.seen_corpora(w.child), "validation"),
        parent=lambda w: autoencoder_files(w.parent, w.seed),
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
        corpora=lambda w: study.seen_corpora(w.child),
        autoencoder=study.autoencoder_options() | {"init": "parent"},


use rule evaluate_autoencoder as evaluate_started with:
    input:
        model=lambda w: checkpoint_files(w.child),
        weights="<results>/controls/started/{parent}--{child}/seed{seed}/sae_weights.safetensors",
        config="<results>/controls/started/{parent}--{child}/seed{seed}/cfg.json",
        validation=lambda w: tokens(study.seen_corpora(w.child), "validation"),
    output:
        evaluation="<results>/controls/started/{parent}--{child}/seed{seed}/evaluation.json",
    log:
        "<logs>/evaluate_started/{parent}--{child}.seed{seed}.log",
    benchmark:
        "<benchmarks>/evaluate_started/{parent}--{child}.seed{seed}.tsv"
    params:
        corpora=lambda w: study.seen_corpora(w.child),
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
        quality="<results>/features/{parent}--{child}/seed{seed}/{sample}/quality.json",
    log:
        "<logs>/collect_started/{parent}--{child}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/collect_started/{parent}--{child}.seed{seed}.{sample}.tsv"


# --- the parent's autoencoder on all corpora that the child's has seen ---


use rule train_autoencoder as train_same_corpora with:
    input:
        model=lambda w: checkpoint_files(w.parent),
        train=lambda w: tokens(study.seen_corpora(w.child), "train"),
        validation=lambda w: tokens(study.seen_corpora(w.child), "validation"),
        parent=lambda w: parent_autoencoder(w.parent, w.seed),
    output:
        weights="<results>/controls/same_corpora/{parent}--{child}/seed{seed}/sae_weights.safetensors",
        config="<results>/controls/same_corpora/{parent}--{child}/seed{seed}/cfg.json",
        curve="<results>/controls/same_corpora/{parent}--{child}/seed{seed}/training.parquet",
    log:
        "<logs>/train_same_corpora/{parent}--{child}.seed{seed}.log",
    benchmark:
        "<benchmarks>/train_same_corpora/{parent}--{child}.seed{seed}.tsv"
    params:
        seed=lambda w: study.autoencoder_seed(
            f"{w.parent}--{w.child}--corpora", int(w.seed)
        ),
        corpora=lambda w: study.seen_corpora(w.child),


use rule collect_features as collect_same_corpora with:
    input:
        model=lambda w: checkpoint_files(w.parent),
        weights="<results>/controls/same_corpora/{parent}--{child}/seed{seed}/sae_weights.safetensors",
        config="<results>/controls/same_corpora/{parent}--{child}/seed{seed}/cfg.json",
        sample="<results>/samples/{sample}.safetensors",
    output:
        activations="<results>/features/{parent}--{child}--corpora/seed{seed}/{sample}/activations.parquet",
        statistics="<results>/features/{parent}--{child}--corpora/seed{seed}/{sample}/statistics.parquet",
        quality="<results>/features/{parent}--{child}--corpora/seed{seed}/{sample}/quality.json",
    log:
        "<logs>/collect_same_corpora/{parent}--{child}.seed{seed}.{sample}.log",
    benchmark:
        "<benchmarks>/collect_same_corpora/{parent}--{child}.seed{seed}.{sample}.tsv"


# --- what persists between these pairs ---


rule compare_baseline:
    input:
        correlations=lambda w: seed_correlations(
            [(first, other) for _, _, first, other in plan.baseline_pairs[w.baseline]]
        ),
        parent_statistics=lambda w: pair_statistics(w.baseline, 0),
        child_statistics=lambda w: pair_statistics(w.baseline, 1),
    output:
        table="<results>/controls/{baseline}.parquet",
    log:
        "<logs>/compare_baseline/{baseline}.log",
    benchmark:
        "<benchmarks>/compare_baseline/{baseline}.tsv"
    wildcard_constraints:
        baseline=one_of(plan.baseline_pairs),
    conda:
        CONDA
    threads: 1
    params:
        compared=lambda w: [
            (parent, child, seed)
            for seed in study.autoencoder.seeds
            for parent, child, *names in plan.baseline_pairs[w.baseline]
            if all(seed in plan.seeds(name) for name in names)
        ],
        threshold=study.flow.threshold,
        min_active=study.flow.min_active,
        code=code("compare_baseline"),
    script:
        "../scripts/compare_baseline.py"


# --- the other merge: linear beside SLERP, or SLERP beside a linear one ---


use rule merge_models as merge_otherwise with:
    output:
        expand("<results>/controls/{{method}}/{{model}}/{file}", file=CHECKPOINT),
        tensors="<results>/controls/{method}/{model}/tensors.parquet",
    log:
        "<logs>/merge_otherwise/{method}.{model}.log",
    benchmark:
        "<benchmarks>/merge_otherwise/{method}.{model}.tsv"
    wildcard_constraints:
        method="linear|slerp",
        model=one_of(plan.on_a_path),
    params:
        method=lambda w: w.method,


use rule evaluate_model as evaluate_other_merge with:
    input:
        model=expand("<results>/controls/{{method}}/{{model}}/{file}", file=CHECKPOINT),
        validation=tokens(study.flow_corpora(), "validation"),
    output:
        evaluation="<results>/controls/{method}/{model}/evaluation.json",
    log:
        "<logs>/evaluate_other_merge/{method}.{model}.log",
    benchmark:
        "<benchmarks>/evaluate_other_merge/{method}.{model}.tsv"
    wildcard_constraints:
        method="linear|slerp",


use rule evaluate_autoencoder as transfer_to_other_merge with:
    input:
        model=expand("<results>/controls/{{method}}/{{model}}/{file}", file=CHECKPOINT),
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
        validation=lambda w: tokens(study.seen_corpora(w.model), "validation"),
    output:
        evaluation="<results>/controls/{method}/{model}/seed{seed}.json",
    log:
        "<logs>/transfer_to_other_merge/{method}.{model}.seed{seed}.log",
    benchmark:
        "<benchmarks>/transfer_to_other_merge/{method}.{model}.seed{seed}.tsv"
    wildcard_constraints:
        method="linear|slerp",
    params:
        judged=False,


rule compare_merges:
    input:
        weights=expand(
            "<results>/models/{model}/model.safetensors", model=plan.other_merges
        ),
        tensors=expand(
            "<results>/models/{model}/tensors.parquet", model=plan.other_merges
        ),
        evaluation=expand(
            "<results>/models/{model}/evaluation.json", model=plan.other_merges
        ),
        autoencoder=expand(
            "<results>/saes/{model}/seed{seed}/evaluation.json",
            model=plan.other_merges,
            seed=plan.first_seed,
        ),
        other_weights=other_merges("model.safetensors"),
        other_tensors=other_merges("tensors.parquet"),
        other_evaluation=other_merges("evaluation.json"),
        other_autoencoder=other_merges(f"seed{plan.first_seed}.json"),
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
        models=list(plan.other_merges),
        methods=[study.models[model].merge.method for model in plan.other_merges],
        code=code("compare_merges"),
    script:
        "../scripts/compare_merges.py"
