"""Correlate all features of two models over the sample."""

from pathlib import Path
from typing import Any

from feature_lineage.artifacts import provenance, write_table
from feature_lineage.correlation import CORRELATIONS, correlate, read_activations
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        a, b = read_activations(smk.input.a), read_activations(smk.input.b)
        table = correlate(a, b, smk.params.floor, Path(smk.output.correlations).stem)
        write_table(smk.output.correlations, table, CORRELATIONS, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
