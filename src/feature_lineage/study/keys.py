"""A study's corpora, tokenizer and models, key by key."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from feature_lineage.study.types import Block, Name, Place, Text

GENERATIONS = 100  # from a root to its last descendant; so many Snakemake was seen to plan


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
        "Where it stands in a window, nothing is read of it: no feature, no comparison.",
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


class Architecture(Block):
    """A `MistralForCausalLM`, keys as in its Hugging Face config; defaults are the paper's model."""

    hidden_size: int = Field(512, gt=0, le=1 << 16, description="Width of the residual stream.")
    intermediate_size: int = Field(1024, gt=0, le=1 << 18, description="Width of the MLP, n in the paper.")
    num_hidden_layers: int = Field(1, gt=0, le=1024, description="Number of layers.")
    num_attention_heads: int = Field(16, gt=0, le=1 << 16, description="Number of attention heads.")
    num_key_value_heads: int = Field(8, gt=0, le=1 << 16, description="Number of key and value heads.")
    max_position_embeddings: int = Field(2048, gt=0, le=1 << 24, description="Longest sequence, in tokens.")
    sliding_window: int | None = Field(4096, gt=0, description="Attention window, in tokens; null for all there are.")
    rms_norm_eps: float = Field(1e-6, gt=0, description="Epsilon of the RMS norms.")
    rope_theta: float = Field(10_000.0, gt=0, description="Base of the rotary position embedding.")
    head_dim: int | None = Field(
        None,
        gt=0,
        le=1 << 16,
        description="Width of an attention head; hidden_size / num_attention_heads when not set.",
    )
    tie_word_embeddings: bool = Field(False, description="Whether the output embedding is the input's.")

    @property
    def head_width(self) -> int:
        """Width of an attention head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @model_validator(mode="after")
    def _heads_fit(self) -> Architecture:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise PydanticCustomError(
                "heads", "num_attention_heads must divide hidden_size ({size})", {"size": self.hidden_size}
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise PydanticCustomError(
                "heads",
                "num_key_value_heads must divide num_attention_heads ({heads})",
                {"heads": self.num_attention_heads},
            )
        if self.head_width % 2:
            what = "hidden_size / num_attention_heads" if self.head_dim is None else "head_dim"
            raise PydanticCustomError("heads", "{what} must be even (rotary halves)", {"what": what})
        return self


class Training(Block):
    """How a model is trained from nothing; defaults are the paper's base model."""

    tokens: int | None = Field(
        None,
        gt=0,
        description="Tokens of an epoch, drawn at random without replacement; all there are when not set.",
    )
    epochs: float = Field(3.0, gt=0, description="Passes over those tokens.")
    block: int = Field(256, gt=1, description="Length of a training sequence, in tokens.")
    batch: int = Field(64, gt=0, le=1 << 20, description="Sequences in a batch.")
    lr: float = Field(6e-4, gt=0, le=100, description="Peak learning rate of AdamW (.9, .999), cosine schedule.")
    weight_decay: float = Field(0.1, ge=0, description="Weight decay of AdamW.")
    warmup_steps: int = Field(0, ge=0, description="Steps over which the learning rate rises from 0.")
    evaluations: int = Field(
        10,
        gt=0,
        le=10_000,
        description="How often validation loss and accuracy are measured; a checkpoint is kept each time.",
    )

    keep: list[Annotated[int, Field(gt=0)]] = Field(
        default_factory=list,
        description="Steps whose weights are kept as models of their own, `<name>-step<N>`: each is a parent of the next and of the last.",
    )

    def most_steps(self, corpora: int) -> int | None:
        """Steps of a run on so many corpora, at most; None where it reads all tokens that there are."""
        if self.tokens is None:
            return None
        sequences = math.ceil(self.tokens / self.block / corpora) * corpora
        return max(1, math.ceil(math.ceil(sequences / self.batch) * self.epochs))


class FineTuning(Training):
    """How a model is fine-tuned; defaults are the paper's."""

    epochs: float = Field(1.0, gt=0, description="Passes over those tokens.")
    lr: float = Field(2e-5, gt=0, le=100, description="Peak learning rate of AdamW (.9, .999), cosine schedule.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    warmup_steps: int = Field(500, ge=0, description="Steps over which the learning rate rises from 0.")


class TrainedModel(Block):
    """A language model trained from nothing."""

    train: list[Name] = Field(min_length=1, description="Corpora that it is trained on.")
    balance: Literal["tokens", "none"] = Field(
        "none", description="`tokens`: as many tokens from each corpus; `none`: all that each has."
    )
    architecture: Architecture = Field(default_factory=Architecture, description="Shape of the model.")
    training: Training = Field(default_factory=Training, description="How it is trained.")


class FineTunedModel(Block):
    """A copy of its parent, trained further."""

    parent: Name = Field(description="Model that it starts from.")
    train: list[Name] = Field(min_length=1, description="Corpora that it is trained on.")
    balance: Literal["tokens", "none"] = Field(
        "none", description="`tokens`: as many tokens from each corpus; `none`: all that each has."
    )
    training: FineTuning = Field(default_factory=FineTuning, description="How it is trained.")


MergeMethod = Literal["slerp", "linear", "ties", "dare_ties"]
ON_A_PATH = (
    "slerp",
    "linear",
)  # between two parents, so that a position is chosen; `linear` takes weights instead, too
OVER_A_BASE = ("ties", "dare_ties")  # merge what training changed in a base


class Merge(Block):
    """How models are merged (paper, section 3.3), and published methods beyond it."""

    method: MergeMethod = Field(
        "slerp",
        description="`slerp` and `linear`: a position on the path between two parents; `linear` also a weighted mean of any number. "
        "`ties` and `dare_ties` add up what the parents changed in a base.",
    )
    t: Literal["equilibrium"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "equilibrium",
        description="Position on the path: 0 is the first parent, 1 the second; `equilibrium` is where the accuracies "
        "on the two parents' own corpora cross.",
    )
    points: int = Field(
        21, ge=2, le=10_001, description="Positions on the path, both ends included, at which both are measured."
    )
    weights: list[Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="Weight of each parent, of `linear`, `ties` and `dare_ties`; with `normalize` only their ratios matter. Not set, all 1.",
    )
    normalize: bool = Field(
        True,
        description="Whether `ties` and `dare_ties` divide the sum of the changes that agree in sign by the sum of their weights, as TIES "
        "is published. mergekit's `dare_ties` does not unless it is told to.",
    )
    density: Annotated[float, Field(gt=0, le=1)] | list[Annotated[float, Field(gt=0, le=1)]] = Field(
        0.2,
        description="Share of what a parent changed that is kept, of `ties` (the largest, as published) and `dare_ties` (at random); one for "
        "all parents or one each.",
    )
    base: Name | None = Field(
        None,
        description="Model whose changes are merged by `ties` and `dare_ties`; the parents' nearest common ancestor when not set.",
    )


def _by_method(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


class MergedModel(Block):
    """Models merged into one."""

    parents: list[Name] = Field(min_length=2, description="The models; of a path the two, from t = 0 to t = 1.")
    merge: Annotated[Merge, BeforeValidator(_by_method, json_schema_input_type=Merge | MergeMethod)] = Field(
        default_factory=Merge,
        description="How they are merged; a method alone is the same as a block with that `method`.",
    )

    @property
    def on_a_path(self) -> bool:
        """Whether it is a position on the path between two parents."""
        merge = self.merge
        return len(self.parents) == 2 and merge.method in ON_A_PATH and merge.weights is None


class PretrainedModel(Block):
    """A published checkpoint that uses the study's tokenizer; with `parent` or `parents`, a fine-tune or a merge made elsewhere."""

    pretrained: Place = Field(
        description="Name on the hub, or path of a local directory. What a cluster is asked for follows from the directory's "
        "`config.json`; for a name on the hub, from the one in its cache, else a model of 24 layers and 1,024 elements is assumed (`resources.py`)."
    )
    revision: Place | None = Field(None, description="Commit, tag or branch.")
    revisions: Annotated[list[Place], Field(min_length=2)] | None = Field(
        None,
        description="Checkpoints of one training, oldest first: commits, tags, branches, or folders in a local directory. Each becomes a model "
        "`<name>-<revision>`, a parent of the next and of the last.",
    )
    parent: Name | None = Field(None, description="Model that it was trained from.")
    parents: Annotated[list[Name], Field(min_length=2)] | None = Field(
        None, description="Models that it was merged from."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Type that its weights are computed with; `bfloat16` takes half the memory."
    )
    train: list[Name] = Field(
        default_factory=list,
        description="Corpora of this study that stand for what it was trained on; may be left out where it has a parent.",
    )

    @model_validator(mode="after")
    def _keys_apply(self) -> PretrainedModel:
        if self.parent is not None and self.parents is not None:
            raise PydanticCustomError("parents", "`parent` or `parents`, not both", {})
        if self.revision is not None and self.revisions is not None:
            raise PydanticCustomError("revisions", "`revision` or `revisions`, not both", {})
        if not self.train and self.parent is None and self.parents is None:
            raise PydanticCustomError(
                "train", "a list `train` of the corpora that stand for what it was trained on, or a `parent`", {}
            )
        return self


class AdaptedModel(Block):
    """Its parent with a published LoRA adapter merged into it."""

    parent: Name = Field(description="Model that the adapter was trained on.")
    adapter: Place = Field(
        description="Name on the hub, or path of a local directory, of a LoRA adapter as `peft` saves it."
    )
    revision: Place | None = Field(None, description="Commit, tag or branch.")
    train: list[Name] = Field(
        default_factory=list, description="Corpora of this study that stand for what it was trained on."
    )


class KeptModel(Block):
    """An earlier step of another model's training; `training.keep` writes these blocks."""

    kept: Name = Field(description="Model that is trained on to its end.")
    step: int = Field(gt=0, description="Step of that training, one of its `training.keep`.")


# The first of these keys that a block has tells its kind.
MODELS = {
    "kept": KeptModel,
    "pretrained": PretrainedModel,
    "adapter": AdaptedModel,
    "parents": MergedModel,
    "parent": FineTunedModel,
    "train": TrainedModel,
}
