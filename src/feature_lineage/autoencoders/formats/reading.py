"""Published autoencoders of every format that is known: which one a folder holds, and what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from feature_lineage.autoencoders.formats import dictionary_learning, gemma_scope, gemma_scope_2, saelens, sparsify
from feature_lineage.autoencoders.formats.release import Format, Release
from feature_lineage.errors import InputError
from feature_lineage.study.dictionaries import AUTO, FILES, folder_problem, formats_of

# `study.dictionaries.FILES` has the files that each needs, by which it is told.
_FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT for module in (saelens, gemma_scope, gemma_scope_2, sparsify, dictionary_learning)
}
FORMATS = tuple(_FORMATS)
_MODELS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def read_release(folder: str | Path, format: str = AUTO) -> Release:
    """A published autoencoder in this project's form, and what it says of itself.

    Args:
        folder: that holds its files.
        format: one of `FORMATS`; `auto` tells it from the names of the files.

    Raises:
        InputError: the folder holds no autoencoder of a known format, or one that cannot be used; names file, tensor or key, and remedy.
    """
    folder = Path(folder)
    name = _format(folder, format)
    return replace(_FORMATS[name].read(folder), format=name)


def release_files(folder: str | Path, format: str = AUTO) -> list[Path]:
    """The files that make up a published autoencoder; raises as `read_release`, of what the names of its files tell."""
    folder = Path(folder)
    name = _format(folder, format)
    optional = [folder / file for file in _FORMATS[name].optional]
    return [*(folder / file for file in FILES[name]), *(file for file in optional if file.is_file())]


def wanted_files(format: str = AUTO) -> list[str]:
    """Names of the files that an autoencoder may have, to be downloaded; raises `InputError` for a format that is not known."""
    names = FORMATS if format == AUTO else (_known(format),)
    return sorted({file for name in names for file in (*FILES[name], *_FORMATS[name].optional)})


def _known(format: str) -> str:
    if format not in FORMATS:
        raise InputError(f"format: {format!r} is not known; allowed: {AUTO}, {', '.join(FORMATS)}")
    return format


def _format(folder: Path, format: str) -> str:
    if format != AUTO:
        _known(format)
    if not folder.is_dir():
        why = "is a file" if folder.exists() else "there is no such folder"
        raise InputError(f"{folder}: {why}; name the folder that holds the autoencoder's files")
    if problem := folder_problem(folder, format):
        model = next((file for file in _MODELS if (folder / file).is_file()), None)
        if model is not None:
            raise InputError(
                f"{folder}: holds a language model ({model}) and no autoencoder; name it under `models`, and an autoencoder here"
            )
        raise InputError(f"{folder}: {problem}")
    return formats_of(folder, format)[0]
