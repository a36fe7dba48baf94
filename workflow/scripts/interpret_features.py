"""Explain some features of an autoencoder and score the explanations, or the token-statistics baseline alone."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from feature_lineage.explanations import excerpts as excerpts_module
from feature_lineage.explanations import scores as interpretation
from feature_lineage.explanations.client import Endpoint
from feature_lineage.explanations.ledger import Ledger
from feature_lineage.explanations.service import Service
from feature_lineage.jobs.job import job
from feature_lineage.store.formats import read_table, read_tensors, write_table
from feature_lineage.store.provenance import provenance
from feature_lineage.text.vocabulary import token_texts


def main(smk: Any) -> None:
    with job(smk.log[0]):
        params, output = smk.params, Path(smk.output.table)
        sample = read_tensors(smk.input.sample)
        chosen = excerpts_module.choose(
            read_table(smk.input.lineages),
            read_table(smk.input.tokens),
            params.model,
            params.autoencoder,
            params.features,
            params.seed,
        )
        evidence = excerpts_module.gather(
            smk.input.activations,
            read_table(smk.input.statistics)["max"].to_numpy(),
            [one.feature for one in chosen],
            sample["tokens"],
            excerpts_module.halves(sample["corpus"], sample["document"], params.seed),
            params.seed,
        )
        texts, _ = token_texts(smk.input.tokenizer)
        endpoint = None
        if params.language_model is not None:
            ledger = Ledger(output.parents[1] / ".replies" / f"{params.model}.seed{params.autoencoder}.jsonl")
            endpoint = Endpoint(Service(**params.language_model), ledger)
        rows = interpretation.interpret_features(chosen, evidence, texts, endpoint)
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: row["feature"]), interpretation.INTERPRETATIONS)
        write_table(output, table, interpretation.INTERPRETATIONS, provenance(smk.input, params))


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
