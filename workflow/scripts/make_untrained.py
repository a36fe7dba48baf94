"""Make a model of a root's architecture with random weights."""

from pathlib import Path
from typing import Any

from feature_lineage.artifacts import provenance
from feature_lineage.language_model import build_model, save_model
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        tokenizer = Path(smk.input.tokenizer).parent
        model = build_model(smk.params.architecture, tokenizer, smk.params.seed)
        save_model(model, tokenizer, Path(smk.output[0]).parent, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
