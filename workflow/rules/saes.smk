# One sparse autoencoder per model and seed, trained on the activations of all that the model was trained on.


# Of a published model, what it gives at the hook point is known once it is there. Then it is checked, before corpora are built and
# encoded for it.
rule check_hook:
    input:
        model=lambda w: checkpoint_files(w.model),
    output:
        hook="<results>/models/{model}/hook.json",
    log:
        "<logs>/check_hook/{model}.log",
    benchmark:
        "<benchmarks>/check_hook/{model}.tsv"
    wildcard_constraints:
        model=names(PretrainedModel),
    priority: 1
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("check_hook"),
    params:
        threads=study.threads,
        hook=study.autoencoder.hook,
        context=study.autoencoder.context,
        code=code("check_hook"),
    script:
        "../scripts/check_hook.py"


rule train_autoencoder:
    input:
        model=lambda w: checkpoint_files(w.model),
        hook=lambda w: expand(
            "<results>/models/{root}/hook.json",
            root=[
                root
                for root in study.roots(w.model)
                if isinstance(study.models.get(root), PretrainedModel)
            ],
        ),
        train=lambda w: tokens(study.trace(w.model), "train"),
        validation=lambda w: tokens(study.trace(w.model), "validation"),
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
        corpora=lambda w: study.trace(w.model),
        autoencoder=study.autoencoder.model_dump(exclude={"seeds"}),
        code=code("train_autoencoder"),
    script:
        "../scripts/train_autoencoder.py"


rule evaluate_autoencoder:
    input:
        model=lambda w: checkpoint_files(w.model),
        weights="<results>/saes/{model}/seed{seed}/sae_weights.safetensors",
        config="<results>/saes/{model}/seed{seed}/cfg.json",
        validation=lambda w: tokens(study.trace(w.model), "validation"),
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
        corpora=lambda w: study.trace(w.model),
        hook=study.autoencoder.hook,
        context=study.autoencoder.context,
        evaluation_tokens=study.evaluation_tokens,
        l0=study.autoencoder.l0,
        # What the dictionary of an untrained model shows is a finding, as with one that reads another model.
        judged=lambda w: w.model not in UNTRAINED,
        code=code("evaluate_autoencoder"),
    script:
        "../scripts/evaluate_autoencoder.py"
