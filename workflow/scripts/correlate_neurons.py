"""Correlate the raw activations of an edge's two models over the sample."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from feature_lineage.controls.neurons import NEURONS, correlate_neurons, neuron_rows
from feature_lineage.jobs.job import job
from feature_lineage.models.hooks import load_hooked, paired_activations
from feature_lineage.store.formats import read_tensors, write_table
from feature_lineage.store.provenance import provenance
from feature_lineage.text.sample import kept_tokens


def main(smk: Any) -> None:
    with job(smk.log[0]):
        torch.set_num_threads(smk.params.threads)
        sample = read_tensors(smk.input.sample)
        folders = [Path(files[0]).parent for files in (smk.input.parent, smk.input.child)]
        bridges = [load_hooked(folder, smk.params.hook, activations_only=True) for folder in folders]

        pairs = paired_activations(bridges, smk.params.hook, sample["tokens"], sample.get("kept"))
        r = correlate_neurons(pairs, int(kept_tokens(sample).sum()))
        rows = [smk.params.edge | row for row in neuron_rows(r, smk.params.threshold)]
        write_table(smk.output.neurons, pa.Table.from_pylist(rows, NEURONS), NEURONS, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
