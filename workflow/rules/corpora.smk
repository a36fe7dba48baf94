# Documents, the tokenizer, and documents as tokens.
import glob
import platform
from importlib import metadata


def corpus_source(corpus):
    """(kind, arguments) of the function that reads a corpus's documents."""
    block = study.corpora[corpus].model_dump()
    shared = ("license", "fraction", "validation", "strip_license_headers")
    kind = next(kind for kind in ("package", "files", "huggingface") if kind in block)
    return kind, {key: value for key, value in block.items() if key not in shared}


def corpus_files(wildcards):
    """Files on disk that a corpus is read from; one that is named and missing is reported by Snakemake."""
    kind, options = corpus_source(wildcards.corpus)
    if kind != "files":
        return []
    patterns = [options["files"]] if isinstance(options["files"], str) else options["files"]
    found = [glob.glob(p, recursive=True) if glob.has_magic(p) else [p] for p in patterns]
    return sorted({path for paths in found for path in paths if not os.path.isdir(path)})


def package_version(wildcards):
    """Version of the package that a corpus is read from, so that another one is read anew."""
    kind, options = corpus_source(wildcards.corpus)
    if kind != "package":
        return None
    if options["package"] == "python":
        return platform.python_version()
    try:
        return metadata.version(options["package"])
    except metadata.PackageNotFoundError:
        return None


rule build_corpus:
    input:
        files=corpus_files,
    output:
        train=R + "/corpora/{corpus}/train.parquet",
        validation=R + "/corpora/{corpus}/validation.parquet",
    params:
        name=lambda w: w.corpus,
        source=lambda w: corpus_source(w.corpus),
        version=package_version,
        license=lambda w: study.corpora[w.corpus].license,
        fraction=lambda w: study.corpora[w.corpus].fraction,
        validation_share=lambda w: study.corpora[w.corpus].validation,
        strip_license_headers=lambda w: study.corpora[w.corpus].strip_license_headers,
        code=code("build_corpus"),
    log:
        R + "/logs/build_corpus/{corpus}.log",
    benchmark:
        R + "/benchmarks/build_corpus/{corpus}.tsv"
    conda:
        CONDA
    threads: 1
    script:
        "../scripts/build_corpus.py"


if isinstance(study.tokenizer, TrainedTokenizer):

    rule train_tokenizer:
        input:
            corpora=expand(R + "/corpora/{corpus}/train.parquet", corpus=study.tokenizer.train),
        output:
            R + "/tokenizer/tokenizer.json",
            R + "/tokenizer/tokenizer_config.json",
        params:
            vocab_size=study.tokenizer.vocab_size,
            code=code("train_tokenizer"),
        log:
            R + "/logs/train_tokenizer.log",
        benchmark:
            R + "/benchmarks/train_tokenizer.tsv"
        conda:
            CONDA
        threads: study.threads
        script:
            "../scripts/train_tokenizer.py"

else:

    rule import_tokenizer:
        output:
            R + "/tokenizer/tokenizer.json",
            R + "/tokenizer/tokenizer_config.json",
        params:
            source=study.tokenizer.pretrained,
            revision=study.tokenizer.revision,
            code=code("import_tokenizer"),
        log:
            R + "/logs/import_tokenizer.log",
        benchmark:
            R + "/benchmarks/import_tokenizer.tsv"
        conda:
            CONDA
        threads: 1
        script:
            "../scripts/import_tokenizer.py"


rule encode_corpus:
    input:
        train=R + "/corpora/{corpus}/train.parquet",
        validation=R + "/corpora/{corpus}/validation.parquet",
        tokenizer=R + "/tokenizer/tokenizer.json",
        tokenizer_config=R + "/tokenizer/tokenizer_config.json",
    output:
        train=directory(R + "/tokens/{corpus}/train"),
        validation=directory(R + "/tokens/{corpus}/validation"),
    params:
        code=code("encode_corpus"),
    log:
        R + "/logs/encode_corpus/{corpus}.log",
    benchmark:
        R + "/benchmarks/encode_corpus/{corpus}.tsv"
    conda:
        CONDA
    threads: study.threads
    script:
        "../scripts/encode_corpus.py"
