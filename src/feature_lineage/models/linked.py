"""An imported checkpoint: a link to the published weights where they can be used as they are, and a record of what they were."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from feature_lineage.uncollected import uncollected

with uncollected():
    import torch
    from transformers import PreTrainedModel
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.utils import cached_file

from feature_lineage.errors import InputError
from feature_lineage.store.checksums import damaged, sha256, verified
from feature_lineage.store.formats import read_json, verify_files, write_json

WEIGHTS = "model.safetensors"
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
RECORD = "import.json"  # beside the weights: a linked file holds no provenance of this study


def cached(source: str, name: str, revision: str | None) -> str | None:
    """Path of a file of a checkpoint, on disk or from the hub; None where it has none, or nothing is known of it."""
    return cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def import_weights(model: PreTrainedModel, source: str, revision: str | None, folder: Path) -> None:
    """Write the weights of an import, or a link to them, and the config that says what it is computed with.

    Args:
        model: the checkpoint, in the type to compute with; changed.
        source: its name or folder.
        revision: commit, tag or branch on the hub.
        folder: where they are written.
    """
    computed, config = model.dtype, model.config
    one = cached(source, WEIGHTS, revision)
    # What its config names or dequantizes is not read the same under another name.
    plain = not any(getattr(config, key, None) for key in ("transformers_weights", "quantization_config"))
    types = tensor_types(one or cached(source, f"{WEIGHTS}.index.json", revision)) if plain else {}
    if one and types.keys() == saved_names(model) and _TYPES.keys() >= set(types.values()):
        model.save_pretrained(folder, state_dict={})
        (folder / WEIGHTS).unlink(missing_ok=True)
        (folder / WEIGHTS).symlink_to(os.path.realpath(one))  # of the hub's cache, the blob
    else:
        kept = {_TYPES.get(kind, torch.float32) for kind in types.values()}
        stored = kept.pop() if len(kept) == 1 else torch.float32
        smaller = min(stored, computed, key=lambda dtype: dtype.itemsize)
        model.to(smaller).save_pretrained(folder, max_shard_size="1000GB")
    config.dtype = computed
    for key in ("transformers_weights", "quantization_config"):
        if hasattr(config, key):
            delattr(config, key)
    config.save_pretrained(folder)


def record_import(folder: str | Path, content: dict[str, Any], record: dict[str, Any]) -> None:
    """Write what an import is: size and SHA-256 of each file, and of one that is a link where it leads.

    Args:
        folder: the imported checkpoint.
        content: what else is told, such as the name on the hub.
        record: provenance.
    """
    files: dict[str, dict[str, Any]] = {}
    for file in sorted(Path(folder).iterdir()):
        if file.is_file() and not file.name.startswith(".") and file.name != RECORD:
            source = {"source": str(file.readlink())} if file.is_symlink() else {}
            files[file.name] = source | {"bytes": file.stat().st_size, "sha256": sha256(file)}
    write_json(Path(folder) / RECORD, content | {"files": files}, record)


def is_import(folder: str | Path) -> bool:
    """Whether a checkpoint was imported into a study."""
    return (Path(folder) / RECORD).exists()


def verify_model(folder: str | Path) -> None:
    """Verify every file of a checkpoint of this project; what others made has no digests, and passes.

    Raises:
        InputError: names the file that is missing or not what was written, and where its weights lie elsewhere that place.
    """
    folder = Path(folder)
    if not is_import(folder):
        verify_files(folder / WEIGHTS)
        return
    for name, known in read_json(folder / RECORD)["files"].items():
        file = folder / name
        source = str(file.readlink()) if file.is_symlink() else None
        if not file.exists():
            raise InputError(_gone(file, source))
        if file.stat().st_size != known["bytes"] or sha256(file) != known["sha256"]:
            if source is None:
                raise damaged(file, "it is not what was written", f"it and {folder / RECORD}")
            raise InputError(
                f"{source}: is no longer what was imported as {file}, its SHA-256 was {known['sha256'][:16]}…; put that file back, or delete "
                f"{folder / RECORD} so that the new one is imported"
            )


def _gone(file: Path, source: str | None) -> str:
    if source is None:
        return f"{file}: this input file is missing; delete {file.with_name(RECORD)}"
    return f"{source}: these weights of {file} are gone; put them back, or name another checkpoint and delete {file}"


def read_weights(file: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint's weights by name, float32; raises as `verify_model` if the checkpoint is an import."""
    file = Path(file)
    if is_import(file.parent):
        verify_model(file.parent)
        return _tensors(file)
    with verified(file):
        return _tensors(file)


def _tensors(file: Path) -> dict[str, np.ndarray]:
    with safe_open(file, "pt") as tensors:
        return {name: tensors.get_tensor(name).float().numpy() for name in tensors.keys()}  # noqa: SIM118


def tensor_types(file: str | Path | None) -> dict[str, str]:
    """Type of each tensor by name, such as `BF16`; no tensor is read.

    Args:
        file: safetensors, or the index of a checkpoint in shards; none if there is none.
    """
    if file is None:
        return {}
    file = Path(file)
    if file.suffix == ".json":
        shards = sorted(set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()))
        return {name: kind for shard in shards for name, kind in tensor_types(file.parent / shard).items()}
    with safe_open(file, "pt") as tensors:
        return {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118


def saved_names(model: PreTrainedModel) -> set[str]:
    """Names of a model's tensors in a file that transformers would write, tied ones once."""
    tied = getattr(model, "all_tied_weights_keys", {})
    state = {name: tensor.to("meta") for name, tensor in model.state_dict().items() if name not in tied}
    return set(revert_weight_conversion(model, state))
