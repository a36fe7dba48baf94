"""Check a published model at the hook point that autoencoders read."""

from pathlib import Path
from typing import Any

import torch

from feature_lineage.activations import check_hook
from feature_lineage.artifacts import provenance, write_json
from feature_lineage.logs import job


def main(smk: Any) -> None:
    with job(smk.log[0]):
        torch.set_num_threads(smk.params.threads)
        found = check_hook(Path(smk.input.model[0]).parent, smk.params.hook, smk.params.context)
        write_json(smk.output.hook, found, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
