"""Weights in torch's own format, which can run code as it is read, made into safetensors: plain tensors alone are taken over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from feature_lineage.uncollected import uncollected

with uncollected():
    import torch
    from safetensors.torch import save_file

from feature_lineage.errors import InputError
from feature_lineage.store.checksums import sha256
from feature_lineage.store.writing import staged
from feature_lineage.study.published_folders import ADAPTER_WEIGHTS

_ADAPTER = "adapter_model.bin"
_WHOLE = "pytorch_model.bin"
_INDEX = "pytorch_model.bin.index.json"
_BESIDE = (".json", ".jinja", ".txt", ".model")  # settings and tokenizers; no code and no weights
_HASH = "converted_from_sha256"


def convert(source: str | Path, out: str | Path) -> list[Path]:
    """Convert a checkpoint or an adapter in a folder; the folder stays as it is.

    The files are read by torch's loader of weights alone, which runs no code. Tensors that share memory are written once if one is the
    same as the other, as tied embeddings are, and as two otherwise.

    Args:
        source: folder with `pytorch_model.bin`, an index and its shards, or `adapter_model.bin`.
        out: folder that is made, with the settings and the tokenizer beside the weights.

    Returns:
        The safetensors files; the metadata of each has the SHA-256 of the file that it was made from.

    Raises:
        InputError: the folder has no such file, one of them holds something else than tensors or cannot be read, or `out` is there.
    """
    source, out = Path(source), Path(out)
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; name the folder that a checkpoint or an adapter is in")
    if out.exists():
        raise InputError(f"{out}: is there already; name a folder that is not, or remove it")
    files = _weights(source)
    with staged(out) as folder:
        folder.mkdir()
        for file in sorted(source.iterdir()):
            if file.is_file() and file.suffix in _BESIDE and file.name != _INDEX and not file.name.startswith("."):
                shutil.copyfile(file, folder / file.name)
        placed: dict[str, str] = {}
        size = 0
        for bin_file, name in files.items():
            tensors = _tensors(bin_file)
            save_file(tensors, folder / name, metadata={"format": "pt", _HASH: sha256(bin_file)})
            placed |= dict.fromkeys(tensors, name)
            size += sum(tensor.nbytes for tensor in tensors.values())
        if len(files) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": placed}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [out / name for name in files.values()]


def _weights(source: Path) -> dict[Path, str]:
    """The files to convert, and the name that each gets."""
    if (source / _WHOLE).is_file():
        return {source / _WHOLE: "model.safetensors"}
    if (source / _INDEX).is_file():
        try:
            names = sorted(set(json.loads((source / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
            inside = all(isinstance(name, str) and Path(name).name == name for name in names)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{source / _INDEX}: cannot be read ({error!r}); download it again") from error
        if not inside or not names:
            raise InputError(f"{source / _INDEX}: names files outside of its folder, or none; download it again")
        count = len(names)
        if count == 1:
            return {source / names[0]: "model.safetensors"}
        return {source / name: f"model-{i:05}-of-{count:05}.safetensors" for i, name in enumerate(names, 1)}
    if (source / _ADAPTER).is_file():
        return {source / _ADAPTER: ADAPTER_WEIGHTS}
    raise InputError(f"{source}: has no {_WHOLE}, {_INDEX} or {_ADAPTER}; there is nothing to convert")


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, each in memory of its own; of those that are one and the same, the first."""
    try:
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except FileNotFoundError:
        raise InputError(f"{file}: this file is missing, which the index names; download it again") from None
    except Exception as error:  # of many kinds: torn, or holds an object that could run code
        text = " ".join(str(error).split())[:300]
        raise InputError(
            f"{file}: is not converted, it is damaged or holds more than tensors ({text}); ask its authors for safetensors"
        ) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict) and len(found) == 1:
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        raise InputError(f"{file}: is not converted, it holds a {type(found).__name__} and no tensors by name; {_ASK}")
    for name, tensor in found.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
        if not isinstance(name, str) or not plain or tensor.is_meta:
            raise InputError(
                f"{file}: is not converted, its {name!r} is a {type(tensor).__name__} and no plain tensor; {_ASK}"
            )
    first: dict[tuple[Any, ...], str] = {}
    kept: dict[str, torch.Tensor] = {}
    for name, tensor in found.items():
        place = (
            tensor.untyped_storage().data_ptr(),
            tensor.storage_offset(),
            tuple(tensor.shape),
            tensor.stride(),
            tensor.dtype,
        )
        if tensor.numel() and first.setdefault(place, name) != name:
            continue  # tied
        kept[name] = tensor
    shared: set[int] = set()
    for name, tensor in kept.items():
        memory = tensor.untyped_storage().data_ptr()
        own = memory not in shared and tensor.is_contiguous() and tensor.nbytes == tensor.untyped_storage().nbytes()
        shared.add(memory)
        kept[name] = tensor.detach() if own else tensor.detach().clone(memory_format=torch.contiguous_format)
    return kept


_ASK = "ask its authors for safetensors"


def _is_zip(file: Path) -> bool:
    """Whether torch has written a file in the form of today, which can be read without taking all of it into memory."""
    with file.open("rb") as opened:
        return opened.read(4) == b"PK\x03\x04"


# --- the command -------------------------------------------------------------------------------------------
