"""Train a base model, or fine-tune a copy of its parent."""

import shutil
from pathlib import Path
from typing import Any

import torch

from feature_lineage.jobs.job import job, stop_signal
from feature_lineage.models.checkpoint import build_model, load_model, save_model
from feature_lineage.models.training import CURVE, Data, kept_file, placebo_schedule, train_model
from feature_lineage.store.formats import write_table
from feature_lineage.store.provenance import checkpoint_folder, provenance
from feature_lineage.store.writing import staged
from feature_lineage.study.keys import Training
from feature_lineage.text.shards import token_directories


def main(smk: Any) -> None:
    with job(smk.log[0]), stop_signal() as stop:
        torch.set_num_threads(smk.params.threads)
        tokenizer, output = Path(smk.input.tokenizer).parent, Path(smk.output.curve).parent
        record = provenance(smk.input, smk.params)
        if smk.params.architecture:
            model = build_model(smk.params.architecture, tokenizer, smk.params.seed)
        else:
            model = load_model(Path(smk.input.parent[0]).parent, torch.float32)
        checkpoints = checkpoint_folder(output, record)
        data = Data(
            token_directories(smk.params.train, smk.input.train),
            token_directories(smk.params.validation, smk.input.validation),
            balance=smk.params.balance == "tokens",
            evaluation_tokens=smk.params.evaluation_tokens,
        )
        training = Training(**smk.params.training)
        if fine_tune := smk.params.get("placebo_for"):
            corpora = token_directories(fine_tune["train"], smk.input.like)
            like = Data(corpora, {}, fine_tune["balance"] == "tokens", 0) if corpora else None
            training = placebo_schedule(training, like, data)
        curve = train_model(model, data, checkpoints, training, output.name, smk.params.seed, stop)
        save_model(model, tokenizer, output, record)
        if smk.output.get("kept"):
            with staged(smk.output.kept) as folder:
                folder.mkdir()
                for step in training.keep:
                    shutil.copyfile(kept_file(checkpoints, step), kept_file(folder, step))
        write_table(smk.output.curve, curve, CURVE, record)
        shutil.rmtree(checkpoints.parent, ignore_errors=True)


if __name__ == "__main__":
    main(snakemake)  # noqa: F821
