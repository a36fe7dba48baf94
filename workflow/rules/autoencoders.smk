# One sparse autoencoder per model and seed, trained on the activations of all that the model was trained on.


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
