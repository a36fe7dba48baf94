"""Language models: built from a config block, loaded, evaluated, saved with provenance."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from feature_lineage.artifacts import digests, seal, staged, tensor_metadata, verify_files
from feature_lineage.logs import InputError
from feature_lineage.tokens import Windows, load_tokenizer

transformers_logging.disable_progress_bar()


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_model(architecture: Mapping[str, Any], tokenizer: str | Path, seed: int) -> MistralForCausalLM:
    """A `MistralForCausalLM` with random weights that depend on `seed` alone; untied embeddings, float32."""
    encoder = load_tokenizer(tokenizer)
    options = dict(architecture)
    rope = {"rope_type": "default", "rope_theta": options.pop("rope_theta")}
    torch.manual_seed(seed)
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=len(encoder),
            bos_token_id=encoder.bos_token_id,
            eos_token_id=encoder.eos_token_id,
            rope_parameters=rope,
            tie_word_embeddings=False,
            **options,
        )
    )


def load_model(path: str | Path) -> PreTrainedModel:
    """Load a checkpoint that `save_model` wrote.

    Raises:
        InputError: a file of it is missing or damaged.
    """
    verify_files(Path(path) / "model.safetensors")
    return published_model(path)


def published_model(path: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Load a checkpoint, whoever made it, in float32, from safetensors, running none of its code.

    Raises:
        InputError: it cannot be loaded, or tensors are missing or misshapen; names the path.
    """
    try:
        config = AutoConfig.from_pretrained(str(path), revision=revision or "main", trust_remote_code=False)
        if "/" in str(config._attn_implementation):
            raise InputError(
                f"model {path}: its config.json asks for {config._attn_implementation!r}, an attention kernel from the hub, which is "
                "code that is not run here; remove `_attn_implementation` from it"
            )
        model, report = AutoModelForCausalLM.from_pretrained(
            str(path),
            config=config,
            revision=revision or "main",
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except InputError:
        raise
    except Exception as error:  # transformers, safetensors and the hub raise many kinds
        raise InputError(
            f"model {path}: cannot be loaded ({error}); check the name or path, the revision and the network"
        ) from error
    wrong = {
        kind: names for kind in ("missing_keys", "mismatched_keys", "unexpected_keys") if (names := report.get(kind))
    }
    if wrong:
        raise InputError(f"model {path}: its tensors do not fit its config.json: {wrong}")
    return model.eval()


def save_model(model: PreTrainedModel, tokenizer: str | Path, path: str | Path, record: dict[str, Any]) -> None:
    """Write a Hugging Face checkpoint with the tokenizer's files beside it.

    Provenance is in the weights' metadata, with digests of the other files.
    """
    with staged(path) as folder:
        folder.mkdir()
        for file in Path(tokenizer).iterdir():
            if file.is_file() and not file.name.startswith("."):
                shutil.copyfile(file, folder / file.name)
        model.save_pretrained(folder, max_shard_size="1000GB")
        weights = folder / "model.safetensors"
        with safe_open(weights, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights.unlink()
        save_file(tensors, weights, metadata=tensor_metadata(record | {"files": digests(folder)}))
        seal(weights)


def import_model(
    source: str, tokenizer: str | Path, path: str | Path, record: dict[str, Any], revision: str | None = None
) -> None:
    """Copy a published checkpoint into the study.

    Raises:
        InputError: its embedding holds fewer tokens than the study's tokenizer.
    """
    model = published_model(source, revision)
    size, needed = model.get_input_embeddings().num_embeddings, len(load_tokenizer(tokenizer))
    if size < needed:
        raise InputError(
            f"model {source}: its embedding has {size} tokens, the study's tokenizer {needed}; name its own tokenizer under `tokenizer`"
        )
    save_model(model, tokenizer, path, record)


# --- evaluation --------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate_model(model: PreTrainedModel, windows: Windows, chosen: np.ndarray, batch: int = 32) -> dict[str, float]:
    """Loss (nats per token) and accuracy (share of next tokens predicted right) over chosen windows; sums in float64."""
    loss = accuracy = 0.0
    place = next(model.parameters()).device
    for first in range(0, len(chosen), batch):
        ids = torch.from_numpy(windows[chosen[first : first + batch]]).to(place)
        logits = model(ids).logits[:, :-1].flatten(0, 1)
        targets = ids[:, 1:].flatten()
        loss += torch.nn.functional.cross_entropy(logits, targets, reduction="none").sum(dtype=torch.float64).item()
        accuracy += (logits.argmax(-1) == targets).sum().item()
    predicted = len(chosen) * (windows.length - 1)
    return {"loss": loss / predicted, "accuracy": accuracy / predicted, "tokens": predicted}
