# The language models of the lineage: trained, fine-tuned, merged, imported; each ends as a Hugging Face checkpoint.


def parent_files(wildcards):
    """The checkpoint that a model starts from, if it has a parent."""
    return [file for parent in study.parents(wildcards.model) for file in checkpoint_files(parent)]


rule train_model:
    input:
        train=lambda w: tokens(study.own_corpora(w.model), "train"),
        validation=lambda w: tokens(study.trace(w.model), "validation"),
        tokenizer=R + "/tokenizer/tokenizer.json",
        tokenizer_config=R + "/tokenizer/tokenizer_config.json",
        parent=parent_files,
    output:
        expand(R + "/models/{{model}}/{file}", file=CHECKPOINT),
        curve=R + "/models/{model}/training.parquet",
    wildcard_constraints:
        model=names(TrainedModel, FineTunedModel),
    params:
        seed=study.seed,
        threads=study.threads,
        train=lambda w: study.own_corpora(w.model),
        validation=lambda w: study.trace(w.model),
        balance=lambda w: study.models[w.model].balance,
        training=lambda w: study.models[w.model].training.model_dump(),
        architecture=lambda w: (
            study.models[w.model].architecture.model_dump()
            if isinstance(study.models[w.model], TrainedModel)
            else None
        ),
        evaluation_tokens=study.evaluation_tokens,
        code=code("train_model"),
    log:
        R + "/logs/train_model/{model}.log",
    benchmark:
        R + "/benchmarks/train_model/{model}.tsv"
    conda:
        CONDA
    threads: study.threads
    script:
        "../scripts/train_model.py"


rule import_model:
    input:
        tokenizer=R + "/tokenizer/tokenizer.json",
        tokenizer_config=R + "/tokenizer/tokenizer_config.json",
    output:
        expand(R + "/models/{{model}}/{file}", file=CHECKPOINT),
    wildcard_constraints:
        model=names(PretrainedModel),
    params:
        source=lambda w: study.models[w.model].pretrained,
        revision=lambda w: study.models[w.model].revision,
        code=code("import_model"),
    log:
        R + "/logs/import_model/{model}.log",
    benchmark:
        R + "/benchmarks/import_model/{model}.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/import_model.py"


rule sweep_merge:
    input:
        first=lambda w: checkpoint_files(study.parents(w.model)[0]),
        second=lambda w: checkpoint_files(study.parents(w.model)[1]),
        validation=lambda w: tokens(study.own_corpora(w.model), "validation"),
    output:
        sweep=R + "/models/{model}/sweep.parquet",
    wildcard_constraints:
        model=names(MergedModel),
    params:
        threads=study.threads,
        corpora=lambda w: study.own_corpora(w.model),
        method=lambda w: study.models[w.model].merge.method,
        points=lambda w: study.models[w.model].merge.points,
        evaluation_tokens=study.evaluation_tokens,
        block=lambda w: study.block(w.model),
        code=code("sweep_merge"),
    log:
        R + "/logs/sweep_merge/{model}.log",
    benchmark:
        R + "/benchmarks/sweep_merge/{model}.tsv"
    conda:
        CONDA
    threads: study.threads
    script:
        "../scripts/sweep_merge.py"


rule merge_models:
    input:
        first=lambda w: checkpoint_files(study.parents(w.model)[0]),
        second=lambda w: checkpoint_files(study.parents(w.model)[1]),
        sweep=R + "/models/{model}/sweep.parquet",
        tokenizer=R + "/tokenizer/tokenizer.json",
        tokenizer_config=R + "/tokenizer/tokenizer_config.json",
    output:
        expand(R + "/models/{{model}}/{file}", file=CHECKPOINT),
        tensors=R + "/models/{model}/tensors.parquet",
    wildcard_constraints:
        model=names(MergedModel),
    params:
        method=lambda w: study.models[w.model].merge.method,
        t=lambda w: study.models[w.model].merge.t,
        corpora=lambda w: [study.own_corpora(parent) for parent in study.parents(w.model)],
        code=code("merge_models"),
    log:
        R + "/logs/merge_models/{model}.log",
    benchmark:
        R + "/benchmarks/merge_models/{model}.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/merge_models.py"


rule evaluate_model:
    input:
        model=lambda w: checkpoint_files(w.model),
        validation=tokens(study.flow_corpora(), "validation"),
    output:
        evaluation=R + "/models/{model}/evaluation.json",
    params:
        threads=study.threads,
        corpora=study.flow_corpora(),
        block=lambda w: study.block(w.model),
        evaluation_tokens=study.evaluation_tokens,
        code=code("evaluate_model"),
    log:
        R + "/logs/evaluate_model/{model}.log",
    benchmark:
        R + "/benchmarks/evaluate_model/{model}.tsv"
    conda:
        CONDA
    threads: study.threads
    script:
        "../scripts/evaluate_model.py"
