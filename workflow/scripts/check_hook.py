"""Check a published model at the hook point that autoencoders read."""

from pathlib import Path
from typing import Any

import torch

from feature_lineage.jobs.job import job
from feature_lineage.models.hooks import check_hook
from feature_lineage.store.formats import write_json
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        torch.set_num_threads(smk.params.threads)
        found = check_hook(Path(smk.input.model[0]).parent, smk.params.hook, smk.params.context)
        write_json(smk.output.hook, found, provenance(smk.input, smk.params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
