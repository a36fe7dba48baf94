"""Names that stand for a folder on disk or for something on the Hugging Face hub: which of the two, and what is wrong with a folder."""

from __future__ import annotations

import os
from pathlib import Path

# No name on the hub ends so.
_FILES = (
    ".json",
    ".jsonl",
    ".csv",
    ".tsv",
    ".parquet",
    ".arrow",
    ".txt",
    ".gz",
    ".zst",
    ".zip",
    ".safetensors",
    ".bin",
)


def is_path(name: str | Path, revision: str | None = None) -> bool:
    """Whether a name is a path: it exists, is written like one, or could lie in a folder that exists.

    Names on the hub are `name` or `owner/name`. Where a folder is called like the owner, a `revision` says that the hub is meant.
    """
    text = str(name)
    return (
        os.path.lexists(on_disk(text))
        or text.startswith(("/", ".", "~"))
        or text.endswith(("/", *_FILES))
        or text.count("/") > 1
        or (revision is None and "/" in text and Path(text).parent.is_dir())
    )


def on_disk(name: str | Path) -> str:
    """The name with the home folder in place of `~`."""
    return os.path.expanduser(name)  # noqa: PTH111 - a Path would drop a leading ./, which marks a path


def wrong_folder(name: str | Path, revision: str | None = None) -> str | None:
    """Why a name that is a path names no folder; None where it does, or where it is a name on the hub."""
    path = Path(on_disk(name))
    if not is_path(name, revision) or path.is_dir():
        return None
    if path.exists():
        return "it is a file; name its folder"
    return "it is a link that leads to no folder" if path.is_symlink() else "no such folder"
