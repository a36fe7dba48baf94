"""Documents of a data set of the Hugging Face hub, or of a folder in its form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from feature_lineage.errors import InputError
from feature_lineage.places import is_path, wrong_folder
from feature_lineage.progress import logger
from feature_lineage.text.files import TABLES, Document, kind_of
from feature_lineage.text.tables import document_of, rows_of


def huggingface_documents(
    huggingface: str,
    text: str = "text",
    split: str = "train",
    subset: str | None = None,
    revision: str | None = None,
    messages: str | None = None,
) -> Iterator[Document]:
    """Documents of a data set, read as a stream: a name on the hub, or a local directory of the same form.

    Raises:
        InputError: the data set cannot be reached or read, or lacks the split or the column.
    """
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if huggingface in _PACKAGED_DATASETS_MODULES:  # readers of whatever lies in the working directory, pickles too
        raise InputError(
            f"data set {huggingface}: the name of a format, not of a data set; give the folder's path or use `files`"
        )
    local = is_path(huggingface, revision)
    named = f"data set {huggingface} (split {split}, revision {revision})"
    if problem := wrong_folder(huggingface, revision):
        raise InputError(f"{named}: cannot be read ({problem}); check the path, and name a single file under `files`")
    try:
        builder = datasets.load_dataset_builder(huggingface, subset, revision=revision)
        if local:
            _warn_of_others(builder, Path(huggingface))
        files = _table_files(builder, split) if local else []
        if files:
            label = "{} of data set " + huggingface
            documents = (row[1:] for path in files for row in rows_of(path, messages or text, label.format(path)))
        else:
            documents = _streamed(builder, huggingface, split, messages or text)
        row = -1
        for row, (value, license) in enumerate(documents):
            yield document_of(value, f"{huggingface}:{split}:{row}", license, text, messages)
        if row < 0:
            raise InputError(f"{named}: cannot be read (it has no rows); check the folder, `subset` and `split`")
    except InputError:
        raise
    except Exception as error:  # the builders raise many kinds, down to a bare RuntimeError
        hint = "check the folder, `subset` and `split`" if local else "check the name, the revision and the network"
        raise InputError(f"{named}: cannot be read ({' '.join(str(error).split())}); {hint}") from error


# Options of a local data set's card that do not change what the rows of its tables are.
_HARMLESS = ("name", "version", "data_dir", "data_files", "description", "features", "sep", "delimiter")


def _table_files(builder: Any, split: str) -> list[Path]:
    """The files of a split of a local data set, if all are tables and its card says nothing of how they are read.

    They are read here, so that shards whose other columns differ do not matter.
    """
    config = builder.config
    files = [Path(file) for file in (config.data_files or {}).get(split, [])]
    options = [field.name for field in fields(config) if field.name not in _HARMLESS]
    usual = all(getattr(config, name) == getattr(type(config)(), name) for name in options)
    # What `datasets` gives .tsv files, unless their card says another.
    separator = getattr(config, "sep", ",")
    usual &= separator == "," or (separator == "\t" and all(kind_of(file) == ".tsv" for file in files))
    return files if usual and all(file.is_file() and kind_of(file) in TABLES for file in files) else []


def _warn_of_others(builder: Any, folder: Path) -> None:
    """Tell of tables in a folder that are not read: of several formats, the data sets' own rules take the one with most files."""
    read = {kind_of(Path(file)) for files in (builder.config.data_files or {}).values() for file in files}
    others = [
        path
        for path in sorted(folder.rglob("*"))
        if kind_of(path) in {*TABLES} - read and not path.name.startswith(("dataset_", "state.", "."))
    ]
    if read and others:
        logger.warning(
            "data set %s: of its files those in %s are read; %d others are not, %s the first; name all of them under `files` if they are "
            "meant", folder, ", ".join(sorted(read)), len(others), others[0],
        )  # fmt: skip


def _streamed(builder: Any, name: str, split: str, text: str) -> Iterator[tuple[Any, Any]]:
    for entry in builder.as_streaming_dataset(split=split):
        if text not in entry:
            raise InputError(
                f"data set {name}: has no column {text!r}, only {', '.join(entry)}; set the corpus's `text`"
            )
        yield entry[text], entry.get("license")
