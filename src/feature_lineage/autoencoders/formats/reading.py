"""Published autoencoders of every format that is known: which one a folder holds, and what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from feature_lineage.autoencoders.formats import dictionary_learning, gemma_scope, gemma_scope_2, saelens, sparsify
from feature_lineage.autoencoders.formats.release import Reader, Release
from feature_lineage.errors import InputError
from feature_lineage.study.dictionaries import AUTO, FILES, folder_problem, formats_of

# `study.dictionaries.FILES` has the files of each.
READERS: dict[str, Reader] = {
    "saelens": saelens.read,
    "gemma_scope": gemma_scope.read,
    "gemma_scope_2": gemma_scope_2.read,
    "sparsify": sparsify.read,
    "dictionary_learning": dictionary_learning.read,
}


def read_release(folder: str | Path, format: str = AUTO) -> Release:
    """A published autoencoder in this project's form, and what it says of itself.

    Args:
        folder: that holds its files.
        format: one of `READERS`; `auto` tells it from the names of the files.

    Raises:
        InputError: the folder holds no autoencoder of a known format, or one that cannot be used; names file, tensor or key, and remedy.
    """
    folder = Path(folder)
    name = _format(folder, format)
    return replace(READERS[name](folder), format=name)


def release_files(folder: str | Path, format: str = AUTO) -> list[Path]:
    """The files that make up a published autoencoder; raises as `read_release`, of what the names of its files tell."""
    folder = Path(folder)
    return [folder / name for name in FILES[_format(folder, format)]]


def wanted_files(format: str = AUTO) -> list[str]:
    """Names of the files that an autoencoder may have, to be downloaded."""
    known = FILES.values() if format == AUTO else [FILES[format]]
    return sorted({name for names in known for name in (*names, "eval_results.json")})


def _format(folder: Path, format: str) -> str:
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; name the one that holds the autoencoder's files")
    if problem := folder_problem(folder, format):
        raise InputError(f"{folder}: {problem}")
    return formats_of(folder, format)[0]
