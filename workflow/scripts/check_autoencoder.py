"""Let a published autoencoder into the study, or stop it, by what it comes to on the study's text."""

from pathlib import Path
from typing import Any

from feature_lineage.autoencoders.imported import check_autoencoder
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_json, write_json
from feature_lineage.store.provenance import provenance
from feature_lineage.text.boundaries import recorded_boundaries


def main(smk: Any) -> None:
    with job(smk.log[0]):
        given, params = smk.input, smk.params
        around = recorded_boundaries(Path(given.tokenizer_config).parent)
        found = check_autoencoder(
            read_json(given.evaluation),
            read_json(given.record),
            params.hook,
            around is not None and around.window_start is not None,
            params.key,
            accept=params.accept,
        )
        write_json(smk.output.gate, found, provenance(given, params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
