"""Language models: built from a config block, loaded, evaluated, saved with provenance."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from feature_lineage.uncollected import uncollected

with uncollected():
    import torch
    from safetensors.torch import save_file
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        PreTrainedConfig,
        PreTrainedModel,
    )
    from transformers.utils import logging as transformers_logging

from feature_lineage.errors import InputError
from feature_lineage.models.evaluation import longest_window
from feature_lineage.models.layers import first_layers
from feature_lineage.models.linked import cached, import_weights, is_import, record_import, verify_model
from feature_lineage.places import is_path, wrong_folder
from feature_lineage.store.checksums import digests, seal
from feature_lineage.store.formats import tensor_metadata, verify_files
from feature_lineage.store.writing import staged
from feature_lineage.study.published_folders import ADAPTER, adapter_given, only_pickled
from feature_lineage.study.vocabularies import disagreement, read_vocabulary
from feature_lineage.text.boundaries import recorded_boundaries
from feature_lineage.text.tokenizer import load_tokenizer, vocabulary_size

transformers_logging.disable_progress_bar()

KNOWN = (
    "known are causal language models such as GPT-2, GPT-NeoX, Llama, Mistral, Qwen, Gemma, Phi, OPT, BLOOM, OLMo, Granite and Cohere; "
    "choose another"
)
_AGAIN = "check it, or if it is one of the results, delete it"


def build_model(architecture: Mapping[str, Any], tokenizer: str | Path, seed: int) -> MistralForCausalLM:
    """A `MistralForCausalLM` with random weights that depend on `seed` alone, float32.

    Args:
        architecture: as `keys.Architecture`.
        tokenizer: directory of the tokenizer, which gives the vocabulary and the special tokens.
        seed: of the weights.
    """
    encoder = load_tokenizer(tokenizer)
    options = dict(architecture)
    rope = {"rope_type": "default", "rope_theta": options.pop("rope_theta")}
    torch.manual_seed(seed)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=vocabulary_size(encoder),
            bos_token_id=encoder.bos_token_id,
            eos_token_id=encoder.eos_token_id,
            rope_parameters=rope,
            **{"tie_word_embeddings": False, **options},
        )
    )
    return _reading_after(model, tokenizer)


def load_model(path: str | Path, dtype: torch.dtype | None = None, layers: int | None = None) -> PreTrainedModel:
    """Load a checkpoint; every file of one that `save_model` or `import_model` wrote is verified.

    Args:
        path: the checkpoint's directory.
        dtype: type to compute with; not set, what an import's config.json says, and float32 for all others.
        layers: how many of its layers to load, from the first.

    What its tokenizer's files say stands before every window is put there whenever it reads (`with_start`).

    Raises:
        InputError: a file of it is missing or damaged, or as for `published_model`.
    """
    verify_model(path)
    if dtype is None:
        asked = published_config(str(path)).dtype if is_import(path) else None
        dtype = asked if asked == torch.bfloat16 else torch.float32
    return _reading_after(published_model(path, dtype=dtype, layers=layers), path)


def _reading_after(model: PreTrainedModel, folder: str | Path) -> PreTrainedModel:
    """A model that knows which token it reads before every window: the choice recorded in the files of a tokenizer."""
    recorded = recorded_boundaries(folder)
    model.window_start = None if recorded is None else recorded.window_start
    return model


def check_architecture(path: str | Path, architecture: str) -> None:
    """Refuse an architecture of which TransformerLens knows no hook points.

    Raises:
        InputError: names it.
    """
    # Takes seconds, and only what is published can be of another architecture.
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    if architecture not in SUPPORTED_ARCHITECTURES:
        raise InputError(f"model {path}: is a {architecture}, which TransformerLens does not know; {KNOWN}")


def published_config(path: str, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of any checkpoint; none of its code is run.

    Raises:
        InputError: it cannot be read, or is not of a causal language model; names the path.
    """
    if problem := wrong_folder(path, revision):
        raise _unloadable(path, problem, revision)
    try:
        adapter = cached(path, ADAPTER, revision)
    except Exception as error:  # of a name that none can have
        raise _unloadable(path, error, revision) from error
    if adapter:
        raise InputError(f"model {path}: {adapter_given(path)}")
    if problem := only_pickled(path):
        raise InputError(f"model {path}: cannot be loaded, {problem}")
    try:
        config = AutoConfig.from_pretrained(path, revision=revision or "main", trust_remote_code=False)
    except Exception as error:  # transformers and the hub raise many kinds
        raise _unloadable(path, error, revision) from error
    if "/" in str(config._attn_implementation):
        raise InputError(
            f"model {path}: its config.json asks for {config._attn_implementation!r}, an attention kernel from the hub, which is "
            "code that is not run here; remove `_attn_implementation` from it"
        )
    made, meant = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None), config.architectures
    if made is None or (meant and (not isinstance(meant, list) or made.__name__ not in meant)):
        name = " or ".join(map(str, meant)) if isinstance(meant, list) else meant or "model"
        raise InputError(
            f"model {path}: is a {name} ({config.model_type}), not a language model that predicts next tokens; {KNOWN}"
        )
    return config


def _unloadable(path: str, error: Exception | str, revision: str | None = None) -> InputError:
    if not is_path(path, revision):
        return InputError(
            f"model {path}{f' at revision {revision}' if revision else ''}: cannot be loaded from the hub ({' '.join(str(error).split())}); "
            "check the name, the revision and the network, or name a folder here; only safetensors are read, and no code of a checkpoint is run"
        )
    return InputError(
        f"model {path}: cannot be loaded ({' '.join(str(error).split())}); only safetensors are read, and no code of a checkpoint is run; "
        f"{_AGAIN}"
    )


def published_model(
    path: str | Path, revision: str | None = None, dtype: torch.dtype = torch.float32, layers: int | None = None
) -> PreTrainedModel:
    """Load any checkpoint from its safetensors; none of its code is run.

    Args:
        path: directory, or name on the hub.
        revision: commit, tag or branch on the hub.
        dtype: type to compute with.
        layers: how many of its layers to load, from the first (`layers.first_layers`); the weights of others are not read.

    Raises:
        InputError: as for `published_config`, or its tensors are missing, misshapen, quantized or not finite.
    """
    config = published_config(str(path), revision)
    above = None if layers is None else first_layers(config, layers)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(path),
            config=config,
            revision=revision or "main",
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that the report names them
        )
    except Exception as error:  # transformers, safetensors and the hub raise many kinds
        raise _unloadable(str(path), error, revision) from error
    wrong = [
        f"{len(names)} {kind} ({', '.join(map(str, sorted(names)[:3]))}{', …' * (len(names) > 3)})"
        for kind in ("missing", "mismatched", "unexpected")
        if (names := [name for name in report.get(f"{kind}_keys") or () if not (above and above(name))])
    ]
    if wrong:
        raise InputError(f"model {path}: its tensors do not fit its config.json: {'; '.join(wrong)}; {_AGAIN}")
    for name, parameter in model.named_parameters():
        if parameter.dtype not in (dtype, torch.float32):
            raise InputError(
                f"model {path}: is quantized, {name} is still {parameter.dtype} once it is loaded; choose a checkpoint in float32, float16 or "
                "bfloat16"
            )
    for name, tensor in model.state_dict().items():
        if not _finite(tensor):
            raise InputError(f"model {path}: tensor {name} holds NaN or infinity; {_AGAIN}")
    return model.eval()


def _finite(tensor: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite; some at a time, as the question takes several copies."""
    return all(bool(torch.isfinite(part).all()) for part in tensor.flatten().split(1 << 24))


def save_model(model: PreTrainedModel, tokenizer: str | Path, path: str | Path, record: dict[str, Any]) -> None:
    """Write a Hugging Face checkpoint with the tokenizer's files beside it.

    Provenance is in the weights' metadata, with digests of the other files.

    Raises:
        InputError: a file of the tokenizer is missing or damaged.
    """
    with staged(path) as folder:
        _copy_tokenizer(tokenizer, folder)
        model.save_pretrained(folder, max_shard_size="1000GB")
        weights = folder / "model.safetensors"
        with safe_open(weights, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights.unlink()
        save_file(tensors, weights, metadata=tensor_metadata(record | {"files": digests(folder)}))
        seal(weights)


def _copy_tokenizer(tokenizer: str | Path, folder: Path) -> None:
    folder.mkdir()
    for file in Path(tokenizer).iterdir():
        if file.is_file() and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)
    verify_files(Path(tokenizer) / "tokenizer_config.json")  # they may have gone while the model was trained


def import_model(
    source: str,
    tokenizer: str | Path,
    path: str | Path,
    record: dict[str, Any],
    revision: str | None = None,
    dtype: str = "float32",
) -> None:
    """Take a published checkpoint into the study, with a config that says the `dtype` to compute with.

    Its weights are a link to its own file where they are one file of the names and in a type that are read as they are. Otherwise they are
    one file, in the type in which they were stored, or `dtype` if that is smaller.

    Raises:
        InputError: as for `published_model`, `check_architecture` and `check_causal`, or its embedding holds fewer tokens than the
            study's tokenizer.
    """
    config = published_config(source, revision)  # what it tells is checked before the weights are read
    check_architecture(source, MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__)
    needed = vocabulary_size(load_tokenizer(tokenizer))
    check_own_tokenizer(source, tokenizer, revision)
    _check_embedding(source, getattr(config.get_text_config(), "vocab_size", needed), needed)
    model = published_model(source, revision, getattr(torch, dtype))
    _check_embedding(source, model.get_input_embeddings().num_embeddings, needed)
    check_causal(model)
    with staged(path) as folder:
        _copy_tokenizer(tokenizer, folder)
        import_weights(model, source, revision, folder)
        record_import(folder, {"pretrained": source, "revision": revision, "dtype": dtype}, record)


def check_own_tokenizer(source: str, tokenizer: str | Path, revision: str | None = None) -> None:
    """Refuse a checkpoint whose own tokenizer has another number for a token than the study's; one without a tokenizer passes.

    Raises:
        InputError: names both.
    """
    file = cached(source, "tokenizer.json", revision)
    study, own = read_vocabulary(Path(tokenizer) / "tokenizer.json"), read_vocabulary(file) if file else None
    around = recorded_boundaries(tokenizer)
    ids = set() if around is None else {*around.document_start, *around.document_end, around.window_start}
    used = tuple(token for token, number in study.added.items() if number in ids) if study is not None else ()
    if study is not None and own is not None and (problem := disagreement(study, own, used)):
        raise InputError(
            f"model {source}: its tokenizer has other numbers than the study's, {tokenizer}: {problem}; name this model's own under `tokenizer`, "
            "and compare models that share it"
        )


def _check_embedding(source: str, size: int, needed: int) -> None:
    if size < needed:
        raise InputError(
            f"model {source}: its embedding has {size} tokens, the study's tokenizer {needed}; name its own tokenizer under `tokenizer`"
        )


@torch.no_grad()
def check_causal(model: PreTrainedModel) -> None:
    """Refuse a model that cannot be run, or whose prediction of a token knows that token.

    Raises:
        InputError: names the model.
    """
    name, architecture = model.name_or_path, type(model).__name__
    bound = longest_window(model)
    length = min(8, bound[1]) if bound else 8
    size = model.get_input_embeddings().num_embeddings
    ids = torch.randint(size, (1, length), generator=torch.Generator().manual_seed(0)).to(model.device)
    other = ids.clone()
    other[:, -1] = (ids[:, -1] + 1) % size
    try:
        first, second = (model(tokens).logits[:, :-1] for tokens in (ids, other))
    except Exception as error:  # of many kinds, from inside transformers
        raise InputError(
            f"model {name}: transformers cannot run this {architecture} ({' '.join(str(error).split())[:300]}); {KNOWN}"
        ) from error
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-3 * float(first.abs().max())):
        raise InputError(
            f"model {name}: this {architecture} reads later tokens when it predicts a token, so it is no causal language model; {KNOWN}"
        )
