# Documents, the tokenizer, documents as tokens, and the one sample of tokens that all models read.


rule build_corpus:
    input:
        planned(corpus_identity),
        files=corpus_files,
    output:
        train="<results>/corpora/{corpus}/train.parquet",
        validation="<results>/corpora/{corpus}/validation.parquet",
    log:
        "<logs>/build_corpus/{corpus}.log",
    benchmark:
        "<benchmarks>/build_corpus/{corpus}.tsv"
    conda:
        CONDA
    threads: 1
    resources:
        **needs("build_corpus"),
    params:
        name=lambda w: w.corpus,
        # What takes `input` triggers no rerun: the identity does, whatever the path.
        source=lambda w, input: inputs.source(w.corpus),
        identity=corpus_identity,
        version=package_version,
        license=lambda w: study.corpora[w.corpus].license,
        fraction=lambda w: study.corpora[w.corpus].fraction,
        validation_share=lambda w: study.corpora[w.corpus].validation,
        strip_license_headers=lambda w: study.corpora[w.corpus].strip_license_headers,
        code=code("build_corpus"),
    script:
        "../scripts/build_corpus.py"


if isinstance(study.tokenizer, TrainedTokenizer):

    rule train_tokenizer:
        input:
            corpora=expand(
                "<results>/corpora/{corpus}/train.parquet",
                corpus=study.tokenizer.train,
            ),
        output:
            "<results>/tokenizer/tokenizer.json",
            "<results>/tokenizer/tokenizer_config.json",
        log:
            "<logs>/train_tokenizer.log",
        benchmark:
            "<benchmarks>/train_tokenizer.tsv"
        conda:
            CONDA
        threads: study.threads
        resources:
            **needs("train_tokenizer"),
        params:
            vocab_size=study.tokenizer.vocab_size,
            boundaries=study.tokenizer.boundaries,
            code=code("train_tokenizer"),
        script:
            "../scripts/train_tokenizer.py"

else:

    rule import_tokenizer:
        input:
            planned(tokenizer_identity),
        output:
            "<results>/tokenizer/tokenizer.json",
            "<results>/tokenizer/tokenizer_config.json",
        log:
            "<logs>/import_tokenizer.log",
        benchmark:
            "<benchmarks>/import_tokenizer.tsv"
        priority: 1  # published models wait for it
        conda:
            CONDA
        threads: 1
        params:
            # What takes `input` triggers no rerun: the identity does, whatever the path.
            source=lambda w, input: on_disk(study.tokenizer.pretrained),
            identity=tokenizer_identity,
            revision=study.tokenizer.revision,
            boundaries=study.tokenizer.boundaries,
            code=code("import_tokenizer"),
        script:
            "../scripts/import_tokenizer.py"


rule encode_corpus:
    input:
        train="<results>/corpora/{corpus}/train.parquet",
        validation="<results>/corpora/{corpus}/validation.parquet",
        tokenizer="<results>/tokenizer/tokenizer.json",
        tokenizer_config="<results>/tokenizer/tokenizer_config.json",
    output:
        train="<results>/tokens/{corpus}/train/index.json",
        validation="<results>/tokens/{corpus}/validation/index.json",
    log:
        "<logs>/encode_corpus/{corpus}.log",
    benchmark:
        "<benchmarks>/encode_corpus/{corpus}.tsv"
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("encode_corpus"),
    params:
        roles=lambda w: plan.roles(w.corpus),
        code=code("encode_corpus"),
    script:
        "../scripts/encode_corpus.py"


rule sample_windows:
    input:
        validation=tokens(study.flow_corpora(), "validation"),
    output:
        sample="<results>/samples/{sample}.safetensors",
    log:
        "<logs>/sample_windows/{sample}.log",
    benchmark:
        "<benchmarks>/sample_windows/{sample}.tsv"
    conda:
        CONDA
    threads: 1
    params:
        seed=study.seed,
        corpora=study.flow_corpora(),
        tokens=study.flow.tokens,
        context=study.context,
        code=code("sample_windows"),
    script:
        "../scripts/sample_windows.py"
