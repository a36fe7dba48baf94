"""Correlate the features of an edge's two models as the published code does."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_lineage.controls.as_published import AS_PUBLISHED, correlate_published, string_numbers
from feature_lineage.controls.sides import without_dead
from feature_lineage.features.activations import read_activations
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, read_tensors, write_table
from feature_lineage.store.provenance import provenance
from feature_lineage.text.sample import kept_tokens
from feature_lineage.text.tokenizer import load_tokenizer


def main(smk: Any) -> None:
    with job(smk.log[0]):
        sample = read_tensors(smk.input.sample)
        tokenizer = load_tokenizer(Path(smk.input.tokenizer).parent)
        rows = correlate_published(
            without_dead(read_activations(smk.input.parent), smk.params.min_active),
            without_dead(read_activations(smk.input.child), smk.params.min_active),
            read_table(smk.input.correlations),
            string_numbers(sample["tokens"][kept_tokens(sample)], tokenizer),
            smk.params.threshold,
        )
        table = pa.Table.from_pylist([smk.params.edge | row for row in rows], AS_PUBLISHED)
        write_table(smk.output.as_published, table, AS_PUBLISHED, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
