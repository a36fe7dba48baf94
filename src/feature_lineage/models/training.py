"""Training and fine-tuning of language models with transformers' Trainer."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_lineage.uncollected import uncollected

with uncollected():
    import torch
    from torch.utils.data import Dataset
    from transformers import (
        EvalPrediction,
        PreTrainedModel,
        Trainer,
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
    from transformers.trainer_callback import PrinterCallback

from feature_lineage.devices import device
from feature_lineage.errors import InputError, Stopped
from feature_lineage.models.checkpoint import load_model
from feature_lineage.models.evaluation import check_windows, with_start
from feature_lineage.progress import logger, progress
from feature_lineage.store.checksums import sha256
from feature_lineage.store.formats import read_tensors, write_tensors
from feature_lineage.store.writing import PARTIAL, disk_faults_named
from feature_lineage.streams import Stream, entropy
from feature_lineage.study.keys import Training
from feature_lineage.text.windows import Windows

CURVE = pa.schema(
    [
        ("step", pa.int64()),
        ("tokens", pa.int64()),
        ("split", pa.string()),
        ("corpus", pa.string()),
        ("loss", pa.float64()),
        ("accuracy", pa.float64()),
        ("learning_rate", pa.float64()),
    ]
)


_NOT_PREDICTED = -100  # the label that transformers leaves out of a loss


class _Sequences(Dataset):
    """Chosen windows as what a causal language model is trained on, after its window start where it has one.

    The first token of a window is not predicted, as in `evaluation.evaluate_model`.
    """

    def __init__(self, windows: Windows, chosen: np.ndarray, model: PreTrainedModel) -> None:
        self.windows, self.chosen, self.model = windows, chosen, model

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(self.windows[int(self.chosen[index])])
        read = with_start(self.model, ids[None])[0]
        if len(read) == len(ids):
            return {"input_ids": ids, "labels": ids}
        labels = read.clone()
        labels[: len(read) - len(ids) + 1] = _NOT_PREDICTED
        return {"input_ids": read, "labels": labels}


class _OneDevice(TrainingArguments):
    """Trainer's arguments for one GPU: of several that are visible it would train on all, with the configured batch on each."""

    @property
    def n_gpu(self) -> int:
        """GPUs that this process uses."""
        return min(1, super().n_gpu)


class _Progress(TrainerCallback):
    """A bar with tokens per second, a mark in each checkpoint once it is whole, and an early end if one is asked for."""

    def __init__(self, key: str, tokens_per_step: int, stop: Callable[[], bool]) -> None:
        self.key, self.tokens, self.stop = key, tokens_per_step, stop

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar = progress(state.max_steps * self.tokens, "tok")
        self.bar.update(state.global_step * self.tokens)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.update(self.tokens)
        if state.global_step % args.logging_steps == 0 and self.stop():
            control.should_save = control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)
        found = {key: value for key, value in (logs or {}).items() if key.endswith(("_loss", "_accuracy"))}
        for key, value in (logs or {}).items():
            if key.endswith("loss") and not math.isfinite(value):
                raise InputError(
                    f"training has diverged, {key} is {value} at step {state.global_step} of {state.max_steps}; "
                    f"lower {self.key}.lr or raise its warmup_steps"
                )
        if found:
            logger.info("step %d: %s", state.global_step, ", ".join(f"{k} {v:.4f}" for k, v in found.items()))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.bar.close()


class _Keep(TrainerCallback):
    """Writes the weights of chosen steps.

    Args:
        steps: which.
        folder: of the run's checkpoints, which outlives a run that is stopped.
    """

    def __init__(self, steps: Collection[int], folder: Path) -> None:
        self.steps, self.folder = steps, folder

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        if state.global_step in self.steps:
            weights = {name: tensor.cpu().numpy() for name, tensor in rest["model"].state_dict().items()}
            write_tensors(kept_file(self.folder, state.global_step), weights, {"step": state.global_step})


def kept_file(folder: str | Path, step: int) -> Path:
    """Where the weights of a step are kept."""
    return Path(folder) / f"step{step}.safetensors"


_WHOLE = "whole"


def mark_whole(checkpoint: Path) -> None:
    """Write the hash of each file of a checkpoint that is complete into its mark."""
    hashes = {file.name: sha256(file) for file in sorted(checkpoint.iterdir()) if file.is_file()}
    partial = checkpoint / f"{_WHOLE}{PARTIAL}"
    partial.write_text(json.dumps(hashes, indent=2), encoding="utf-8")
    partial.replace(checkpoint / _WHOLE)


def last_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint that was written to its end and is still as it was; newer ones that are not are deleted."""
    found = sorted(Path(folder).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for checkpoint in found:
        if (problem := _damage(checkpoint)) is None:
            return checkpoint
        logger.warning("%s; the checkpoint is deleted, the one before it serves", problem)
        shutil.rmtree(checkpoint)
    return None


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint: the mark is missing, or a file is not the one that was hashed."""
    try:
        hashes = json.loads((checkpoint / _WHOLE).read_text(encoding="utf-8"))
        changed = [name for name, digest in hashes.items() if sha256(checkpoint / name) != digest]
    except FileNotFoundError:
        return f"{checkpoint}: was not written to its end"
    except InputError as error:
        return str(error)
    except (ValueError, AttributeError):
        hashes = {}
    if not hashes:
        changed = [_WHOLE]
    return f"{checkpoint / changed[0]}: truncated or damaged" if changed else None


@dataclass(frozen=True)
class Data:
    """What a model is trained and evaluated on.

    Args:
        train: token directory by corpus.
        validation: token directory by corpus; loss and accuracy are measured on each.
        balance: as many tokens from each training corpus, rather than all that each has.
        evaluation_tokens: tokens of each validation corpus that an evaluation reads.
    """

    train: Mapping[str, str | Path]
    validation: Mapping[str, str | Path]
    balance: bool
    evaluation_tokens: int


def placebo_schedule(schedule: Training, like: Data | None, own: Data) -> Training:
    """A fine-tune's schedule for other corpora: as many steps of as many tokens.

    Args:
        schedule: of the fine-tune.
        like: what that is trained on, if it takes all tokens that there are.
        own: what is trained on here; where it has fewer tokens than that, they are passed more often.
    """

    def tokens(data: Data) -> int:
        counts = Windows(data.train, schedule.block).counts()
        return max(1, int(counts.min()) * len(counts) if data.balance else int(counts.sum())) * schedule.block

    asked = schedule.tokens if like is None else tokens(like)
    assert asked is not None
    there = min(asked, tokens(own))
    if there == asked:
        return schedule.model_copy(update={"tokens": asked})
    steps, one = (
        math.ceil(math.ceil(n / schedule.block / schedule.batch) * e) for n, e in ((asked, schedule.epochs), (there, 1))
    )
    return schedule.model_copy(update={"tokens": there, "epochs": (steps - 0.5) / one})  # rounded up to whole steps


def train_model(
    model: PreTrainedModel,
    data: Data,
    checkpoints: str | Path,
    options: Training,
    name: str,
    seed: int,
    stop: Callable[[], bool] = lambda: False,
) -> pa.Table:
    """Train `model` in place on windows of `block` tokens; goes on from the last whole checkpoint in `checkpoints`.

    Args:
        model: any causal language model; bf16 arithmetic where the GPU has it, float32 weights always.
        data: what it is trained and evaluated on.
        checkpoints: folder of this run alone; a run with other inputs or parameters must have another. The steps of `options.keep` are
            there, too (`kept_file`).
        options: of the training.
        name: of the model, for messages that name a key of it.
        seed: of the draw of windows and their order.
        stop: asked when the loss is logged; once it says yes, a checkpoint is written and `Stopped` raised.

    Returns:
        The training curve, schema `CURVE`: loss in nats per token, accuracy as the share of next tokens predicted right.

    Raises:
        InputError: the corpora hold fewer tokens than asked, the model cannot read them, or its warm-up is longer than the run.
        Stopped: asked to.
    """
    windows = Windows(data.train, options.block)
    key = f"models.{name}.training"
    chosen = windows.sample(options.tokens, entropy(seed, Stream.TRAINING), f"{key}.tokens", data.balance)
    check_windows(model, windows[chosen[:1]], f"{key}.block")
    steps = max(1, math.ceil(math.ceil(len(chosen) / options.batch) * options.epochs))
    _check_steps(options, steps, key)
    tokens_per_step = options.batch * options.block
    logger.info(
        "%s tokens a pass, %d steps of %s tokens", f"{len(chosen) * options.block:,}", steps, f"{tokens_per_step:,}"
    )
    checkpoint = last_checkpoint(checkpoints)
    if checkpoint:
        logger.info("going on from %s", checkpoint)
    trainer = Trainer(
        model=model,
        args=_arguments(options, steps, seed, str(checkpoints), begins=checkpoint is None),
        train_dataset=_Sequences(windows, chosen, model),
        eval_dataset=_held_out(data, options.block, model),
        preprocess_logits_for_metrics=_sequence_accuracy,
        compute_metrics=_mean_accuracy,
        callbacks=[_Keep(options.keep, Path(checkpoints)), _Progress(key, tokens_per_step, stop)],
    )
    trainer.remove_callback(PrinterCallback)
    with disk_faults_named(checkpoints):
        _run(trainer, checkpoint, steps)
    if trainer.state.global_step < steps:
        step = trainer.state.global_step
        raise Stopped(f"stopped after step {step} of {steps}; started again it goes on from {checkpoints}")
    return _curve(trainer.state.log_history, tokens_per_step)


def _check_steps(options: Training, steps: int, key: str) -> None:
    """Refuse what a run of so many steps cannot do."""
    if options.warmup_steps >= steps:
        raise InputError(
            f"{key}.warmup_steps is {options.warmup_steps}, and the run has {steps} steps, so that the learning rate never gets to its "
            "peak; lower it or train on more tokens"
        )
    if options.keep and max(options.keep) >= steps:
        raise InputError(
            f"{key}.keep asks for step {max(options.keep)}, and the run ends with step {steps}, whose weights are the model's own; lower it"
        )


def _run(trainer: Trainer, checkpoint: Path | None, steps: int) -> None:
    """Train, from a checkpoint on if there is one, to the end or until the run is stopped."""
    if checkpoint and checkpoint.name == f"checkpoint-{steps}":  # Trainer would take one step more
        trainer._load_from_checkpoint(str(checkpoint))
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _held_out(data: Data, block: int, model: PreTrainedModel) -> dict[str, _Sequences]:
    """Evenly spread windows of each validation corpus."""
    windows = Windows(data.validation, block)
    return {
        corpus: _Sequences(windows, windows.spread(number, data.evaluation_tokens), model)
        for number, corpus in enumerate(windows.corpora)
    }


def _arguments(options: Training, steps: int, seed: int, folder: str, begins: bool) -> TrainingArguments:
    """Trainer's arguments; `begins` is false for a run that goes on from a checkpoint."""
    logged = max(1, steps // 200)
    # A multiple of what is logged: a resumed run knows no loss from before its checkpoint.
    every = math.ceil(steps / (options.evaluations * logged)) * logged
    cuda = device().type == "cuda"
    return _OneDevice(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=options.batch,
        per_device_eval_batch_size=options.batch,
        learning_rate=options.lr,
        weight_decay=options.weight_decay,
        warmup_steps=options.warmup_steps,
        lr_scheduler_type="cosine",
        adam_beta1=0.9,
        adam_beta2=0.999,
        bf16=cuda and torch.cuda.is_bf16_supported(),
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        seed=seed,
        data_seed=seed,
        logging_steps=logged,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # else a loss that is not finite is told as the last one that was
        eval_strategy="steps",
        eval_steps=every,
        eval_on_start=begins,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
    )


def _sequence_accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Share of next tokens predicted right in each sequence: [batch, length, vocabulary], [batch, length] -> [batch]."""
    first = 1 + int(
        labels[0, 1] == _NOT_PREDICTED
    )  # of a window that follows its start, the second token is the first predicted
    return (logits[:, first - 1 : -1].argmax(-1) == labels[:, first:]).float().mean(1)


def _mean_accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(prediction.predictions, dtype=np.float64))}


def _curve(history: list[dict[str, Any]], tokens_per_step: int) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for entry in history:
        base = {"step": entry["step"], "tokens": entry["step"] * tokens_per_step}
        if "loss" in entry:
            rows.append(base | {"split": "train", "loss": entry["loss"], "learning_rate": entry["learning_rate"]})
        for key in entry:
            if key.startswith("eval_") and key.endswith("_accuracy"):
                corpus = key.removeprefix("eval_").removesuffix("_accuracy")
                measured = {"loss": entry[f"eval_{corpus}_loss"], "accuracy": entry[key]}
                rows.append(base | {"split": "validation", "corpus": corpus} | measured)
    rows.sort(key=lambda row: (row["step"], row["split"], row.get("corpus") or ""))
    return pa.Table.from_pylist(rows, CURVE)


def keep_model(path: str | Path, file: str | Path) -> PreTrainedModel:
    """The model that a training was at a step that it has kept.

    Args:
        path: checkpoint of the training's end.
        file: weights of the step (`kept_file`).

    Raises:
        InputError: a file is missing or damaged.
    """
    model = load_model(path)
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in read_tensors(file).items()})
    return model
