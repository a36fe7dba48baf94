"""Take over a published autoencoder."""

from pathlib import Path
from typing import Any

from feature_lineage.autoencoders.imported import Place, Source, import_autoencoder
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_json
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        params = smk.params
        source = Source(params.source, params.folder, params.revision, params.format, params.key)
        known = [read_json(path)["elements"] for path in smk.input.hook]
        import_autoencoder(
            source,
            Path(smk.output.record).parent,
            Place(params.hook, next(iter(known), params.elements), params.context),
            provenance(smk.input, params),
            accept=params.accept,
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
