"""A study's corpora and tokenizer, key by key."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from feature_lineage.study.types import Block, Name, Place, Text


class CorpusBlock(Block):
    """What every corpus has, wherever its documents come from."""

    text: Text = Field("text", description="Column that holds the text, in Parquet, JSON, CSV, TSV and data sets.")
    messages: Text | None = Field(
        None,
        description="Column that holds conversations, in place of `text`: lists of blocks with `role` and `content`. They are rendered with "
        "the tokenizer's chat template.",
    )
    roles: Literal["all", "assistant", "user"] = Field(
        "all",
        description="Whose tokens of a conversation are read by autoencoders and compared; models read all of it.",
    )
    license: Text | None = Field(
        None, description="Licence recorded for documents that carry no `license` column of their own."
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the documents to keep, chosen by a hash of their text."
    )
    validation: float = Field(
        0.05, gt=0, lt=1, description="Share of the documents held out, chosen by a hash of their text."
    )
    strip_license_headers: bool = Field(
        False,
        description="Cut the comment block at the head of a document where it speaks of a licence or a copyright. "
        "Off, text is kept byte for byte.",
    )

    @model_validator(mode="after")
    def _conversations(self) -> CorpusBlock:
        given = self.model_fields_set
        if self.messages is None and "roles" in given:
            raise PydanticCustomError("roles", "`roles` with `messages` alone: plain text has no roles", {})
        if self.messages is not None:
            for key in ("text", "split_on", "strip_license_headers"):
                if key in given and getattr(self, key):
                    raise PydanticCustomError(
                        "messages", "`messages` without `{key}`: a row is a conversation", {"key": key}
                    )
        return self


# Of files whose documents are in a column; `files.TABLES`, which is too slow to import here.
TABLES = (".parquet", ".jsonl", ".jsonlines", ".ndjson", ".json", ".csv", ".tsv")


class FileCorpus(CorpusBlock):
    """What a corpus has whose documents come from files."""

    split_on: Text | None = Field(
        None,
        description="String that stands between the documents of a plain-text file, such as `<|endoftext|>`. Not set, a file is one document.",
    )

    def _patterns(self) -> list[str]:
        raise NotImplementedError

    @model_validator(mode="after")
    def _keys_apply(self) -> FileCorpus:
        names = [re.sub(r"\.(gz|zst)$", "", pattern.lower()) for pattern in self._patterns()]
        tables = [name.endswith(TABLES) for name in names]
        plain = [
            not table and re.search(r"\.\w+$", name) is not None for name, table in zip(names, tables, strict=True)
        ]
        for column in ("text", "messages"):
            if column in self.model_fields_set and all(plain):
                raise PydanticCustomError(column, "no `{column}`: plain-text files have no columns", {"column": column})
        if self.split_on is not None and all(tables):
            raise PydanticCustomError("split_on", "no `split_on`: each row of these files is a document", {})
        return self


class PackageCorpus(FileCorpus):
    """Files of an installed Python distribution; needs no network."""

    package: Place = Field(
        description="Name of an installed distribution, or `python` for the interpreter's standard library."
    )
    include: list[Place] = Field(min_length=1, description="Glob patterns of the files to read; `**` spans folders.")
    exclude: list[Place] = Field(default_factory=list, description="Glob patterns of files to leave out.")
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None,
        description="Hash that the selected files must have (paths and contents, see `corpora.files_digest`).",
    )

    def _patterns(self) -> list[str]:
        return self.include


class FilesCorpus(FileCorpus):
    """Files on disk: text or code (one document a file), Parquet, JSON (lines or an array), CSV, TSV; plain, `.gz` or `.zst`."""

    files: Place | Annotated[list[Place], Field(min_length=1)] = Field(
        description="Path or glob patterns, relative to the working directory."
    )

    def _patterns(self) -> list[str]:
        return [self.files] if isinstance(self.files, str) else self.files


class HuggingFaceCorpus(CorpusBlock):
    """A data set of the Hugging Face hub, or a local directory of the same form, read as a stream."""

    huggingface: Place = Field(description="Name of the data set, or path of a local copy.")
    subset: Place | None = Field(None, description="Name of the data set's configuration.")
    split: Place = Field("train", description="Split to read; this study's own split is made from it.")
    revision: Place | None = Field(None, description="Commit, tag or branch; name a commit to be reproducible.")


CORPORA = {"package": PackageCorpus, "huggingface": HuggingFaceCorpus, "files": FilesCorpus}


class TokenizerBlock(Block):
    """What stands around documents and windows, whatever the tokenizer: for each `auto`, `none` or the text of a token, such as `<s>`."""

    document_start: Text = Field(
        "auto",
        description="Token before each document: `auto` for what the tokenizer itself puts before a text, `none`, or a token such as `<s>`. "
        "Where a special token stands there in a window, nothing is read of it: no feature, no comparison.",
    )
    document_end: Text = Field(
        "auto",
        description="Token after each document: `auto` for what the tokenizer itself puts after a text, and its end-of-sequence token where it "
        "puts nothing on either side; `none`, or a token such as `</s>`.",
    )
    window_start: Text = Field(
        "auto",
        description="Token that a model reads before every window: `auto` for the BOS of Gemma and Llama 3, whose models need it, and none of "
        "others; `none`, or a token. Nothing is read of it.",
    )

    @property
    def boundaries(self) -> dict[str, str]:
        """The three choices, by key."""
        return self.model_dump(include={"document_start", "document_end", "window_start"})

    @model_validator(mode="after")
    def _documents_are_parted(self) -> TokenizerBlock:
        if self.document_start == self.document_end == "none":
            raise PydanticCustomError(
                "boundaries", "a token in `document_start` or `document_end`: something must part documents", {}
            )
        return self


class TrainedTokenizer(TokenizerBlock):
    """A byte-level BPE trained on the study's own corpora."""

    train: list[Name] = Field(min_length=1, description="Corpora whose training documents it is trained on.")
    vocab_size: int = Field(32_000, ge=300, le=1_000_000, description="Number of tokens, special ones included.")


class PretrainedTokenizer(TokenizerBlock):
    """A fast tokenizer of the Hugging Face hub or a local directory: what its `tokenizer.json` says, truncation and padding left out."""

    pretrained: Place = Field(description="Name on the hub, or path of a local directory.")
    revision: Place | None = Field(None, description="Commit, tag or branch.")


TOKENIZERS = {"train": TrainedTokenizer, "pretrained": PretrainedTokenizer}
