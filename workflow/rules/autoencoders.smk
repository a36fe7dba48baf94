# One sparse autoencoder per model and seed, trained on the activations of all that the model was trained on, or made elsewhere.


rule train_autoencoder:
    input:
        model=lambda w: checkpoint_files(w.model),
        hook=lambda w: expand(
            "<results>/models/{root}/hook.json",
            root=plan.foreign(w.model),
        ),
        train=lambda w: tokens(study.seen_corpora(w.model), "train"),
        validation=lambda w: tokens(study.seen_corpora(w.model), "validation"),
        parent=lambda w: parent_autoencoder(w.model, w.seed),
    output:
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
        curve="<results>/saes/{model}/seed{seed}/training.parquet",
    log:
        "<logs>/train_autoencoder/{model}.seed{seed}.log",
    benchmark:
        "<benchmarks>/train_autoencoder/{model}.seed{seed}.tsv"
    wildcard_constraints:
        model=one_of(
            {*study.models, *plan.beside}.difference(plan.imported_autoencoders)
        ),
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("train_autoencoder"),
    params:
        seed=lambda w: study.autoencoder_seed(w.model, int(w.seed)),
        threads=study.threads,
        corpora=lambda w: study.seen_corpora(w.model),
        autoencoder=study.autoencoder_options(),
        code=code("train_autoencoder"),
    script:
        "../scripts/train_autoencoder.py"


rule import_autoencoder:
    input:
        planned(autoencoder_identity),
        # How wide a model's activations are is known of what is trained here; of others once they are here.
        hook=lambda w: expand(
            "<results>/models/{root}/hook.json",
            root=plan.foreign(w.model)[-1:],
        ),
    output:
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
        record="<results>/saes/{model}/seed{seed}/import.json",
    log:
        "<logs>/import_autoencoder/{model}.seed{seed}.log",
    benchmark:
        "<benchmarks>/import_autoencoder/{model}.seed{seed}.tsv"
    wildcard_constraints:
        model=one_of(plan.imported_autoencoders),
    priority: 1  # what cannot be used is refused before corpora are built
    conda:
        CONDA
    threads: 1
    resources:
        **needs("import_autoencoder"),
    params:
        # What takes `input` triggers no rerun: the identity does, whatever the path.
        source=lambda w, input: on_disk(imported_autoencoder(w).pretrained),
        identity=autoencoder_identity,
        key=lambda w: f"autoencoders.{w.model}",
        folder=lambda w: imported_autoencoder(w).folder,
        revision=lambda w: imported_autoencoder(w).revision,
        format=lambda w: imported_autoencoder(w).format,
        accept=lambda w: imported_autoencoder(w).accept,
        hook=study.autoencoder.hook,
        elements=lambda w: plan.elements(w.model),
        context=study.context,
        code=code("import_autoencoder"),
    script:
        "../scripts/import_autoencoder.py"


rule check_autoencoder:
    input:
        evaluation="<results>/saes/{model}/seed{seed}/evaluation.json",
        record="<results>/saes/{model}/seed{seed}/import.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        gate="<results>/saes/{model}/seed{seed}/gate.json",
    log:
        "<logs>/check_autoencoder/{model}.seed{seed}.log",
    benchmark:
        "<benchmarks>/check_autoencoder/{model}.seed{seed}.tsv"
    wildcard_constraints:
        model=one_of(plan.imported_autoencoders),
    priority: 1
    localrule: True
    conda:
        CONDA
    threads: 1
    params:
        key=lambda w: f"autoencoders.{w.model}",
        accept=lambda w: imported_autoencoder(w).accept,
        hook=study.autoencoder.hook,
        code=code("check_autoencoder"),
    script:
        "../scripts/check_autoencoder.py"


rule evaluate_autoencoder:
    input:
        model=lambda w: checkpoint_files(w.model),
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
        validation=lambda w: tokens(study.seen_corpora(w.model), "validation"),
    output:
        evaluation="<results>/saes/{model}/seed{seed}/evaluation.json",
    log:
        "<logs>/evaluate_autoencoder/{model}.seed{seed}.log",
    benchmark:
        "<benchmarks>/evaluate_autoencoder/{model}.seed{seed}.tsv"
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("evaluate_autoencoder"),
    params:
        threads=study.threads,
        corpora=lambda w: study.seen_corpora(w.model),
        hook=study.autoencoder.hook,
        context=study.context,
        evaluation_tokens=study.evaluation_tokens,
        l0=study.autoencoder.l0,
        # What the dictionary of an untrained model shows is a finding, as with one that reads another model.
        judged=lambda w: plan.judged(w.model),
        code=code("evaluate_autoencoder"),
    script:
        "../scripts/evaluate_autoencoder.py"
