"""Say what became of each feature along an edge, from both sides."""

from typing import Any

from feature_lineage.features.activations import ActivationFile
from feature_lineage.flow.bootstrap import number_documents
from feature_lineage.flow.direction import read_directions
from feature_lineage.flow.drift import Quality
from feature_lineage.flow.stability import judged_documents, others
from feature_lineage.flow.summary import about_edge
from feature_lineage.flow.verdicts import JUDGED, Activations, Half, Limits, Stable, judge_features
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_json, read_table, read_tensors, write_json, write_table
from feature_lineage.store.provenance import provenance


def quality(path: str) -> Quality:
    found = read_json(path)
    return Quality(found["l0"], found["variance_explained"])


def main(smk: Any) -> None:
    with job(smk.log[0]):
        given, params = smk.input, smk.params
        sample = read_tensors(given.sample)
        document, corpus = number_documents(sample["corpus"], sample["document"], sample.get("kept"))
        cosines = list(map(read_json, given.cosines))
        stable: list[Stable | None] = [None] * len(given.own)
        for place, (path, found) in enumerate(zip(given.stability, cosines, strict=True)):
            table, count = read_table(path), ActivationFile(given.own[place]).features
            r, judged_r = (others(table, params.seed, column, count) for column in ("r", "judged_r"))
            stable[place] = Stable(r, judged_r, found["high"])
        judged = judge_features(
            Activations(given.own, given.other, params.sides),
            next(map(read_table, given.correlations), None),
            list(map(read_directions, given.weights)) if given.correlations else [],
            stable,
            Half(document, ~judged_documents(document, corpus)),
            Limits(threshold=params.threshold, min_active=params.min_active),
        )
        readings = list(zip(map(quality, given.own_quality), map(quality, given.other_quality), strict=True))
        record = provenance(given, params)
        write_table(smk.output.judged, judged.features, JUDGED, record)
        write_json(
            smk.output.about, about_edge(readings, judged.cosines, next(iter(cosines), None), params.sides), record
        )


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
