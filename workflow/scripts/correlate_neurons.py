"""Correlate the raw activations of an edge's two models over the sample."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from feature_lineage.activations import activations, load_hooked
from feature_lineage.artifacts import provenance, read_tensors, write_table
from feature_lineage.controls import NEURONS, neuron_correlations, neuron_rows
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        torch.set_num_threads(smk.params.threads)
        tokens = read_tensors(smk.input.sample)["tokens"]
        bridges = [load_hooked(Path(files[0]).parent, smk.params.hook) for files in (smk.input.parent, smk.input.child)]

        def batches(windows: int = 64) -> Iterator[tuple[torch.Tensor, ...]]:
            for first in range(0, len(tokens), windows):
                part = tokens[first : first + windows].astype(np.int64)
                yield tuple(activations(bridge, smk.params.hook, part) for bridge in bridges)

        r = neuron_correlations(batches(), tokens.size, f"neurons {Path(smk.output.neurons).stem}")
        rows = [smk.params.edge | row for row in neuron_rows(r, smk.params.threshold)]
        write_table(smk.output.neurons, pa.Table.from_pylist(rows, NEURONS), NEURONS, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
