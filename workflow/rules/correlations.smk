# Correlations of all features of two autoencoders, in one job or, by ranges of tokens, in several.


rule correlate_part:
    input:
        a="<results>/features/{a}/seed{i}/{sample}/activations.parquet",
        b="<results>/features/{b}/seed{j}/{sample}/activations.parquet",
    output:
        sums=temp(
            "<results>/correlations/{sample}/{a}.seed{i}--{b}.seed{j}.part{part}.parquet"
        ),
    log:
        "<logs>/correlate_part/{sample}.{a}.seed{i}--{b}.seed{j}.part{part}.log",
    benchmark:
        "<benchmarks>/correlate_part/{sample}.{a}.seed{i}--{b}.seed{j}.part{part}.tsv"
    wildcard_constraints:
        a=COMPARED,
        b=COMPARED,
        i="[0-9]+",
        j="[0-9]+",
        part="[0-9]+",
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("correlate_part"),
    params:
        part=lambda w: int(w.part),
        parts=study.flow.parts,
        code=code("correlate_part"),
    script:
        "../scripts/correlate_part.py"


# Provenance names the activations, not the parts: however many jobs share the work, the file is the same.
rule correlate:
    input:
        a="<results>/features/{a}/seed{i}/{sample}/activations.parquet",
        b="<results>/features/{b}/seed{j}/{sample}/activations.parquet",
        parts=correlation_parts,
    output:
        correlations="<results>/correlations/{sample}/{a}.seed{i}--{b}.seed{j}.parquet",
    log:
        "<logs>/correlate/{sample}.{a}.seed{i}--{b}.seed{j}.log",
    benchmark:
        "<benchmarks>/correlate/{sample}.{a}.seed{i}--{b}.seed{j}.tsv"
    wildcard_constraints:
        a=COMPARED,
        b=COMPARED,
        i="[0-9]+",
        j="[0-9]+",
    conda:
        CONDA
    threads: study.threads
    resources:
        **needs("correlate"),
    params:
        floor=study.flow.floor,
        min_active=study.flow.min_active,
        code=code("correlate"),
    script:
        "../scripts/correlate.py"
