"""Compare the autoencoders of one model with each other, feature by feature."""

from typing import Any

from feature_lineage.flow.bootstrap import number_documents
from feature_lineage.flow.direction import read_directions
from feature_lineage.flow.stability import STABILITY, Dictionary, judged_documents, measure_stability
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, read_tensors, write_json, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        given, params = smk.input, smk.params
        sample = read_tensors(given.sample)
        document, corpus = number_documents(sample["corpus"], sample["document"], sample.get("kept"))
        dictionaries = {}
        for seed, *files in zip(params.seeds, given.activations, given.statistics, given.weights, strict=True):
            activations, statistics, weights = files
            alive = read_table(statistics, ["active"])["active"].to_numpy() >= params.min_active
            dictionaries[seed] = Dictionary(activations, alive, read_directions(weights))
        pairs = map(tuple, params.seed_pairs)
        found = measure_stability(
            dictionaries,
            dict(zip(pairs, map(read_table, given.correlations), strict=True)),
            document,
            judged_documents(document, corpus),
            params.threshold,
        )
        record = provenance(given, params)
        write_table(smk.output.stability, found.features, STABILITY, record)
        write_json(smk.output.cosines, found.cosines, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
