# The language models of the lineage: trained, fine-tuned, merged, imported; each ends as a Hugging Face checkpoint.


rule train_model:
    input:
        train=lambda w: tokens(study.own_corpora(w.model), "train"),
        validation=lambda w: tokens(study.seen_corpora(w.model), "validation"),
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
        parent=parent_files,
    output:
        expand("<results>/models/{{model}}/{file}", file=CHECKPOINT),
        curve="<results>/models/{model}/training.parquet",
    log:
        "<logs>/train_model/{model}.log",
    benchmark:
        "<benchmarks>/train_model/{model}.tsv"
    wildcard_constraints:
        model=one_of(name for name in plan.trained if name not in plan.keeping),
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("train_model"),
    params:
        seed=study.seed,
        threads=study.threads,
        train=lambda w: study.own_corpora(w.model),
        validation=lambda w: study.seen_corpora(w.model),
        balance=lambda w: study.models[w.model].balance,
        training=lambda w: study.models[w.model].training.model_dump(),
        architecture=lambda w: plan.architecture(w.model),
        evaluation_tokens=study.evaluation_tokens,
        code=code("train_model"),
    script:
        "../scripts/train_model.py"


# What keeps steps has one output more.
use rule train_model as train_keeping with:
    output:
        expand("<results>/models/{{model}}/{file}", file=CHECKPOINT),
        curve="<results>/models/{model}/training.parquet",
        kept=directory("<results>/models/{model}/kept"),
    log:
        "<logs>/train_keeping/{model}.log",
    benchmark:
        "<benchmarks>/train_keeping/{model}.tsv"
    wildcard_constraints:
        model=one_of(plan.keeping),


rule keep_model:
    input:
        model=lambda w: checkpoint_files(plan.kept[w.model].kept),
        kept=lambda w: f"<results>/models/{plan.kept[w.model].kept}/kept",
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        expand("<results>/models/{{model}}/{file}", file=CHECKPOINT),
    log:
        "<logs>/keep_model/{model}.log",
    benchmark:
        "<benchmarks>/keep_model/{model}.tsv"
    wildcard_constraints:
        model=one_of(plan.kept),
    conda:
        CONDA
    threads: 1
    resources:
        **needs("keep_model"),
    params:
        step=lambda w: plan.kept[w.model].step,
        code=code("keep_model"),
    script:
        "../scripts/keep_model.py"


rule import_model:
    input:
        planned(model_identity),
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        expand("<results>/models/{{model}}/{file}", file=CHECKPOINT),
        record="<results>/models/{model}/import.json",
    log:
        "<logs>/import_model/{model}.log",
    benchmark:
        "<benchmarks>/import_model/{model}.tsv"
    wildcard_constraints:
        model=one_of(plan.imported),
    priority: 1  # what cannot be used is refused before corpora are built
    conda:
        CONDA
    threads: 1
    resources:
        **needs("import_model"),
    params:
        # What takes `input` triggers no rerun: the identity does, whatever the path.
        source=lambda w, input: on_disk(study.models[w.model].pretrained),
        identity=model_identity,
        revision=lambda w: study.models[w.model].revision,
        dtype=lambda w: study.models[w.model].dtype,
        code=code("import_model"),
    script:
        "../scripts/import_model.py"


rule import_adapter:
    input:
        planned(model_identity),
        parent=parent_files,
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        expand("<results>/models/{{model}}/{file}", file=CHECKPOINT),
    log:
        "<logs>/import_adapter/{model}.log",
    benchmark:
        "<benchmarks>/import_adapter/{model}.tsv"
    wildcard_constraints:
        model=one_of(plan.adapted),
    priority: 1
    conda:
        CONDA
    threads: 1
    resources:
        **needs("import_adapter"),
    params:
        # As with imports, the identity triggers a rerun, and the path does not.
        source=lambda w, input: on_disk(study.models[w.model].adapter),
        identity=model_identity,
        revision=lambda w: study.models[w.model].revision,
        parent=lambda w, input: study.parents(w.model)[0],
        trained_on=lambda w, input: plan.source(study.parents(w.model)[0]),
        code=code("import_adapter"),
    script:
        "../scripts/import_adapter.py"


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
        model=one_of([*plan.imported, *plan.adapted]),
    priority: 1
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("check_hook"),
    params:
        threads=study.threads,
        hook=study.autoencoder.hook,
        context=study.context,
        code=code("check_hook"),
    script:
        "../scripts/check_hook.py"


rule sweep_merge:
    input:
        first=lambda w: checkpoint_files(study.origins(w.model)[0]),
        second=lambda w: checkpoint_files(study.origins(w.model)[1]),
        validation=lambda w: tokens(plan.swept_corpora(w.model), "validation"),
    output:
        sweep="<results>/models/{model}/sweep.parquet",
    log:
        "<logs>/sweep_merge/{model}.log",
    benchmark:
        "<benchmarks>/sweep_merge/{model}.tsv"
    wildcard_constraints:
        model=one_of(plan.on_a_path),
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("sweep_merge"),
    params:
        threads=study.threads,
        corpora=lambda w: plan.swept_corpora(w.model),
        method=lambda w: study.models[w.model].merge.method,
        points=lambda w: study.models[w.model].merge.points,
        evaluation_tokens=study.evaluation_tokens,
        block=lambda w: study.block(w.model),
        code=code("sweep_merge"),
    script:
        "../scripts/sweep_merge.py"


rule merge_models:
    input:
        parents=parent_files,
        base=base_files,
        sweep=sweep_file,
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        expand("<results>/models/{{model}}/{file}", file=CHECKPOINT),
        tensors="<results>/models/{model}/tensors.parquet",
    log:
        "<logs>/merge_models/{model}.log",
    benchmark:
        "<benchmarks>/merge_models/{model}.tsv"
    wildcard_constraints:
        model=one_of(plan.merged),
    conda:
        CONDA
    threads: 1
    resources:
        **needs("merge_models"),
    params:
        method=lambda w: study.models[w.model].merge.method,
        t=lambda w: study.models[w.model].merge.t,
        recipe=lambda w: plan.recipe(w.model),
        corpora=lambda w: [
            study.own_corpora(parent) for parent in study.origins(w.model)
        ],
        code=code("merge_models"),
    script:
        "../scripts/merge_models.py"


rule evaluate_model:
    input:
        model=lambda w: checkpoint_files(w.model),
        validation=tokens(study.flow_corpora(), "validation"),
    output:
        evaluation="<results>/models/{model}/evaluation.json",
    log:
        "<logs>/evaluate_model/{model}.log",
    benchmark:
        "<benchmarks>/evaluate_model/{model}.tsv"
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("evaluate_model"),
    params:
        threads=study.threads,
        corpora=study.flow_corpora(),
        block=lambda w: study.block(w.model),
        evaluation_tokens=study.evaluation_tokens,
        code=code("evaluate_model"),
    script:
        "../scripts/evaluate_model.py"
