"""Find the feature of a case and follow it down the lineage (the paper's section 4.2)."""

from typing import Any

from feature_lineage.jobs.job import job
from feature_lineage.meaning import cases
from feature_lineage.store.formats import write_json, write_table
from feature_lineage.store.provenance import provenance


def main(smk: Any) -> None:
    with job(smk.log[0]):
        sample = cases.read_sample(smk.input.sample, smk.input.tokenizer, smk.params.corpora)
        files = zip(smk.input.activations, smk.input.contexts, strict=True)
        models = {name: cases.Model(*paths) for name, paths in zip(smk.params.models, files, strict=True)}
        flow = cases.read_fates(smk.input.features, smk.input.lineages)
        edges = [tuple(edge) for edge in smk.params.edges]
        case, tracking = cases.find_case(
            smk.wildcards.case, smk.params.case, sample, models, flow, edges, smk.params.seed
        )
        record = provenance(smk.input, smk.params)
        write_json(smk.output.case, case, record)
        write_table(smk.output.tracking, tracking, cases.TRACKING, record)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
