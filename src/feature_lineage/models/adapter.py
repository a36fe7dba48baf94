"""A published LoRA adapter, merged into the model that it was trained on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from feature_lineage.uncollected import uncollected

with uncollected():
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import PreTrainedModel

from feature_lineage.errors import InputError
from feature_lineage.models.checkpoint import load_model, save_model
from feature_lineage.models.linked import cached
from feature_lineage.places import is_path, on_disk, wrong_folder
from feature_lineage.progress import logger
from feature_lineage.study.published_folders import ADAPTER, ADAPTER_WEIGHTS, APPLIED, adapter_problem, unknown_kind

_PREFIX = "base_model.model."  # of the names of an adapter's tensors


class Adapter(NamedTuple):
    """Where an adapter is from, and the model that it is given to.

    Attributes:
        source: name on the hub, or directory.
        revision: commit, tag or branch on the hub.
        parent: name of the parent.
        trained_on: what the parent is published as, if it is.
    """

    source: str
    revision: str | None = None
    parent: str = "the parent"
    trained_on: str | None = None


def import_adapter(
    parent: str | Path, adapter: Adapter, tokenizer: str | Path, path: str | Path, record: dict[str, Any]
) -> None:
    """Save the parent with an adapter merged into it, in float32.

    Args:
        parent: the parent's directory.
        adapter: the adapter.
        tokenizer: the study's tokenizer.
        path: where the model is saved.
        record: provenance.

    Raises:
        InputError: as for `read_adapter`, `merge_adapter` and `checkpoint.load_model`.
    """
    config, tensors = read_adapter(adapter.source, adapter.revision)
    base = config.get("base_model_name_or_path")
    if base and adapter.trained_on and not _same_place(base, adapter.trained_on):
        logger.warning(
            "adapter %s: says that it was trained on %s, and the parent %s is %s; if the two are not the same model, name the right parent",
            *(adapter.source, base, adapter.parent, adapter.trained_on),
        )
    model = merge_adapter(load_model(parent, torch.float32), config, tensors, adapter)
    save_model(model, tokenizer, path, record)


def read_adapter(source: str, revision: str | None = None) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """An adapter's config, and its tensors by name, read from safetensors alone.

    Raises:
        InputError: a file is missing or cannot be read, it is no LoRA or one with a key that is not merged here, or a tensor holds NaN.
    """
    if is_path(source, revision):
        problem = wrong_folder(source, revision) or adapter_problem(source)
        if problem:
            raise InputError(f"adapter {source}: {problem}")
    files = [cached(on_disk(source), name, revision) for name in (ADAPTER, ADAPTER_WEIGHTS)]
    for name, file in zip((ADAPTER, ADAPTER_WEIGHTS), files, strict=True):
        if file is None:
            raise InputError(
                f"adapter {source}: its {name} was not found; check the name, the revision and the network, or download it and name its folder, "
                "of which `feature-lineage convert` converts an adapter_model.bin"
            )
    try:
        config = json.loads(Path(files[0]).read_text(encoding="utf-8"))
        tensors = load_file(files[1])
    except Exception as error:  # of many kinds, from safetensors
        raise InputError(f"adapter {source}: cannot be read ({' '.join(str(error).split())}); save it again") from error
    if problem := unknown_kind(config):
        raise InputError(f"adapter {source}: {problem}")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"adapter {source}: tensor {name} holds NaN or infinity; check it")
    return config, tensors


def merge_adapter(
    model: PreTrainedModel, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], adapter: Adapter
) -> PreTrainedModel:
    """The model with an adapter merged into its weights, in place.

    Args:
        model: the parent, float32.
        config: as `peft` writes it.
        tensors: the adapter's, by name.
        adapter: for messages.

    Raises:
        InputError: the adapter's tensors do not fit the parent's; names both.
    """
    options = {key: config[key] for key in APPLIED if config.get(key) is not None}
    tensors = _without_copies(tensors, model.state_dict())
    try:
        wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    except Exception as error:  # of many kinds
        raise InputError(
            f"adapter {adapter.source}: does not fit {adapter.parent} ({' '.join(str(error).split())[:300]}); name the model that it was "
            "trained on as its parent"
        ) from error
    _check_tensors(
        {
            name: list(tensor.shape)
            for name, tensor in get_peft_model_state_dict(wrapped, save_embedding_layers=False).items()
        },
        tensors,
        adapter,
    )
    _check_ties(model, tensors, adapter)
    set_peft_model_state_dict(wrapped, dict(tensors))
    merged = wrapped.merge_and_unload(safe_merge=False)
    for name, tensor in merged.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"adapter {adapter.source}: makes {name} of {adapter.parent} NaN or infinite; check it")
    return merged.eval()


def _without_copies(tensors: Mapping[str, torch.Tensor], parent: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An adapter's tensors without those that are the parent's own: `peft` saves the embeddings too where a LoRA is of them."""

    def copied(name: str, tensor: torch.Tensor) -> bool:
        own = parent.get(name.removeprefix(_PREFIX).replace(".base_layer.", "."))
        return own is not None and own.shape == tensor.shape and torch.equal(own, tensor.to(own.dtype))

    return {name: tensor for name, tensor in tensors.items() if not copied(name, tensor)}


def _check_tensors(expected: Mapping[str, list[int]], tensors: Mapping[str, torch.Tensor], adapter: Adapter) -> None:
    """Refuse an adapter whose tensors are not those that its config asks for of this parent."""
    remedy = "name the model that it was trained on as its parent"
    for name in sorted(tensors.keys() - expected.keys()):
        if "lora_" not in name:
            raise InputError(
                f"adapter {adapter.source}: holds {name.removeprefix(_PREFIX)}, a tensor of the whole model and no LoRA of it; merge it with `peft` "
                "and give what that saves as `pretrained`, with the same `parent`"
            )
        raise InputError(
            f"adapter {adapter.source}: changes {_module(name)}, which {adapter.parent} has not, or which its target_modules leave out; {remedy}"
        )
    for name, shape in sorted(expected.items()):
        if name not in tensors:
            raise InputError(
                f"adapter {adapter.source}: has no {name.removeprefix(_PREFIX)}, which {adapter.parent} needs by its target_modules; {remedy}"
            )
        if list(tensors[name].shape) != shape:
            raise InputError(
                f"adapter {adapter.source}: its {name.removeprefix(_PREFIX)} is {list(tensors[name].shape)}, and for {adapter.parent} it would be "
                f"{shape}; {remedy}"
            )


def _check_ties(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor], adapter: Adapter) -> None:
    """Refuse an adapter of the input or output embedding where one tensor is both: merged, it would change the other too."""
    tied = {part.rsplit(".", 1)[0] for pair in getattr(model, "all_tied_weights_keys", {}).items() for part in pair}
    for name in tensors:
        if (module := _module(name)) in tied:
            raise InputError(
                f"adapter {adapter.source}: changes {module}, whose weights {adapter.parent} uses for its input and its output embedding; it cannot "
                "be merged into both, so give a checkpoint with untied embeddings as `pretrained`, with the same `parent`"
            )


def _module(name: str) -> str:
    """The module that a tensor of an adapter changes."""
    return name.removeprefix(_PREFIX).split(".lora_")[0]


def _same_place(a: str, b: str) -> bool:
    """Whether two names are of one checkpoint, or of folders of one name: an adapter says where its base was on another machine."""
    plain = [os.path.basename(os.path.normpath(name)).lower() for name in (a, b)]  # noqa: PTH119 - names on the hub too
    return plain[0] == plain[1] or os.path.realpath(on_disk(a)) == os.path.realpath(on_disk(b))
