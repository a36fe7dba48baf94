"""One study = one YAML file: typed, checked, and read as a lineage graph.

This is the only place where a configuration key gets its type, meaning, unit and default. `config/schema.json`
and `config/README.md` are written from it (`python -m feature_lineage.config_docs`).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator
from functools import reduce
from graphlib import CycleError, TopologicalSorter
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zlib import crc32

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from feature_lineage import hooks


class StudyError(ValueError):
    """The configuration is refused; the message names each key, what was found and what is allowed."""


# Names become parts of paths: letters and digits with single . - or _ between them, so that `--` stays a separator, no name is hidden
# or leads up, and all are the same on every file system.
NAME_PATTERN = r"^[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=64)]
Text = Annotated[str, StringConstraints(min_length=1)]
# A path, a name on the hub: what goes into messages, addresses and calls of the system, so on one line and without NUL.
_PLACE_PATTERN = r"^[^\x00-\x1f\x7f]+$"
Place = Annotated[str, StringConstraints(pattern=_PLACE_PATTERN, max_length=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
LARGEST = 10**15  # of any number; more is a slip, and some would not fit into 64 bits
GENERATIONS = 100  # from a root to its last descendant; so many Snakemake was seen to plan


class Block(BaseModel):
    """A block of the configuration; unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_where_it_belongs(cls, value: Any, info: ValidationInfo) -> Any:
        # pydantic takes true for 1 and 1 for true, and YAML reads yes, no, on and off as true and false.
        kind = cls.model_fields[str(info.field_name)].annotation
        truth = kind is bool
        if isinstance(kind, type) and issubclass(kind, Block):
            return value
        if truth and isinstance(value, int | float) and not isinstance(value, bool):
            raise PydanticCustomError("truth", "true or false", {})
        if not truth and any(isinstance(one, bool) for one in (value if isinstance(value, list) else [value])):
            raise PydanticCustomError(
                "truth", "a number or a text, not true or false (as YAML reads yes, no, on and off without quotes)", {}
            )
        return value

    @field_validator("*")
    @classmethod
    def _size(cls, value: Any) -> Any:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, int | float) and abs(one) > LARGEST:
                raise PydanticCustomError("size", "a number of at most {largest}", {"largest": f"{LARGEST:,}"})
        return value


# --- corpora -----------------------------------------------------------------------------------------------


class CorpusBlock(Block):
    """What every corpus has, wherever its documents come from."""

    text: Text = Field("text", description="Column that holds the text, in Parquet, JSON, CSV, TSV and data sets.")
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


# Of files whose documents are in a column; `sources.TABLES`, which is too slow to import here.
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
        if "text" in self.model_fields_set and all(plain):
            raise PydanticCustomError("text", "no `text`: plain-text files have no columns", {})
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


def _by_key(kinds: dict[str, type[Block]]) -> Any:
    """The type of a block whose class is told by the first of these keys that it has."""

    def choose(value: Any) -> str | None:
        if isinstance(value, dict):
            return next((key for key in kinds if key in value), None)
        return next((key for key, kind in kinds.items() if isinstance(value, kind)), None)

    union = reduce(or_, (Annotated[kind, Tag(key)] for key, kind in kinds.items()))
    message = "a block with one of the keys " + ", ".join(kinds)
    return Annotated[union, Discriminator(choose, custom_error_type="kind", custom_error_message=message)]


CORPORA = {"package": PackageCorpus, "huggingface": HuggingFaceCorpus, "files": FilesCorpus}


# --- tokenizer ---------------------------------------------------------------------------------------------


class TrainedTokenizer(Block):
    """A byte-level BPE trained on the study's own corpora."""

    train: list[Name] = Field(min_length=1, description="Corpora whose training documents it is trained on.")
    vocab_size: int = Field(32_000, ge=300, le=1_000_000, description="Number of tokens, special ones included.")


class PretrainedTokenizer(Block):
    """A fast tokenizer of the Hugging Face hub or a local directory: what its `tokenizer.json` says, truncation and padding left out."""

    pretrained: Place = Field(description="Name on the hub, or path of a local directory.")
    revision: Place | None = Field(None, description="Commit, tag or branch.")


TOKENIZERS = {"train": TrainedTokenizer, "pretrained": PretrainedTokenizer}


# --- models ------------------------------------------------------------------------------------------------


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


MergeMethod = Literal["slerp", "linear"]


class Merge(Block):
    """How two models are merged (paper, section 3.3)."""

    method: MergeMethod = Field("slerp", description="Path between the two parents' parameters.")
    t: Literal["equilibrium"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "equilibrium",
        description="Position on the path: 0 is the first parent, 1 the second; `equilibrium` is where the accuracies "
        "on the two parents' own corpora cross.",
    )
    points: int = Field(
        21, ge=2, le=10_001, description="Positions on the path, both ends included, at which both are measured."
    )


def _by_method(value: Any) -> Any:
    return {"method": value} if isinstance(value, str) else value


class MergedModel(Block):
    """Two models merged into one."""

    parents: list[Name] = Field(min_length=2, max_length=2, description="The two models, from t = 0 to t = 1.")
    merge: Annotated[Merge, BeforeValidator(_by_method, json_schema_input_type=Merge | MergeMethod)] = Field(
        default_factory=Merge,
        description="How they are merged; a method alone is the same as a block with that `method`.",
    )


class PretrainedModel(Block):
    """A published checkpoint that uses the study's tokenizer."""

    pretrained: Place = Field(
        description="Name on the hub, or path of a local directory. What a cluster is asked for follows from the directory's "
        "`config.json`; for a name on the hub a model of 24 layers and 1,024 elements is assumed (`resources.py`)."
    )
    revision: Place | None = Field(None, description="Commit, tag or branch.")
    train: list[Name] = Field(min_length=1, description="Corpora of this study that stand for what it was trained on.")


MODELS = {"parents": MergedModel, "pretrained": PretrainedModel, "parent": FineTunedModel, "train": TrainedModel}


# --- autoencoder and flow ----------------------------------------------------------------------------------


class Resampling(Block):
    """Resampling of dead features (Bricken et al. 2023), in shares of the run, so that it happens whatever the run's length."""

    at: list[Annotated[float, Field(gt=0, lt=1)]] = Field(
        default_factory=lambda: [0.2, 0.4, 0.6, 0.8],
        description="Shares of the run after which it happens, from `silent` on; an empty list for never. `topk` and `batchtopk` "
        "have an auxiliary loss in its place.",
    )
    silent: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="A feature that has not fired for this share of the run is dead: it is resampled, gets the auxiliary loss, and "
        "counts in the curve's `dead_share`.",
    )
    pool_tokens: int = Field(
        819_200, gt=0, description="Activations that new features are drawn from, by loss squared."
    )

    @model_validator(mode="after")
    def _reachable(self) -> Resampling:
        if len(set(self.at)) < len(self.at):
            raise PydanticCustomError("at", "at with each share once ({at})", {"at": self.at})
        if self.at and min(self.at) < self.silent:
            raise PydanticCustomError(
                "at",
                "at ({first}) not before silent ({silent}): no feature is dead by then",
                {"first": min(self.at), "silent": self.silent},
            )
        return self


class Autoencoder(Block):
    """The sparse autoencoder of every model; defaults are the paper's (appendix B)."""

    hook: Annotated[str, StringConstraints(pattern=hooks.PATTERN, max_length=200)] = Field(
        hooks.EXAMPLE,
        description="TransformerLens hook point whose activations it reads, the same for every model: any that gives one vector per "
        "token, such as `blocks.0.hook_resid_post`, `blocks.0.attn.hook_z` (the heads side by side) or `ln_final.hook_normalized`.",
    )
    expansion: int = Field(16, gt=0, le=1 << 12, description="Features per activation element, m / n.")
    tokens: int = Field(15_000_000, gt=0, description="Tokens that it is trained on, each seen once.")
    context: int = Field(24, gt=1, description="Length of a block, in tokens: what the language model reads at once.")
    batch: int = Field(128, gt=0, le=1 << 20, description="Blocks in a batch.")
    lr: float = Field(1e-4, gt=0, le=100, description="Learning rate of Adam (.9, .9999), constant.")
    variant: Literal["l1", "topk", "batchtopk", "jumprelu"] = Field(
        "l1",
        description="What keeps features few: an `l1` penalty (the paper's), the `l0` largest of each token (`topk`) or of the "
        "batch (`batchtopk`), or trained thresholds and a penalty on their number (`jumprelu`).",
    )
    l0: float | None = Field(
        None,
        gt=0,
        description="Mean number of active features per token to reach. With `l1` and `jumprelu`, λ is steered until it is "
        "reached, so that models can be compared at equal sparsity; not set, λ stays. `topk` and `batchtopk` need it, whole.",
    )
    l1: float = Field(
        3e-4,
        gt=0,
        description="λ of equation (4), beside a squared error averaged over elements and an L1 summed over features (with "
        "`jumprelu`, the number of active features). With `l0`, where λ begins.",
    )
    l1_warmup_steps: int = Field(
        0, ge=0, description="Steps over which λ rises from 0; fewer than the run has (`tokens` / `context` / `batch`)."
    )
    normalize: bool = Field(
        False,
        description="Scale activations to unit mean square while training; folded into the saved weights. λ then does not "
        "depend on the model's scale.",
    )
    mean: Literal["elements", "data"] = Field(
        "elements",
        description="The mean that equation (1) subtracts: over the `elements` of each activation vector, or over the `data`, "
        "then added back to the reconstruction.",
    )
    init: Literal["kaiming", "transpose", "parent"] = Field(
        "kaiming",
        description="The start: decoder and encoder Kaiming-uniform; the encoder as the `transpose` of the decoder; or all as in "
        "the trained autoencoder of the model's `parent` (of two, the first), and `transpose` where there is none.",
    )
    resampling: Resampling = Field(default_factory=Resampling, description="Resampling of dead features.")
    seeds: list[Seed] = Field(
        default_factory=lambda: [0],
        min_length=1,
        max_length=1000,
        description="One autoencoder of each model is trained per seed.",
    )

    @property
    def steps(self) -> int:
        """Of a training run."""
        return self.tokens // self.context // self.batch


class Flow(Block):
    """What is compared along each edge of the lineage (paper, section 3.4)."""

    corpora: list[Name] | None = Field(
        None,
        min_length=1,
        description="Corpora of the sample, as many tokens from the validation documents of each; all of the study's when not "
        "set. Name them, and a corpus added later recomputes no feature.",
    )
    tokens: int = Field(3_000_000, gt=0, description="Tokens in the sample on which activations are correlated.")
    threshold: float = Field(0.8, gt=0, lt=1, description="Pearson correlation above which two features are the same.")
    floor: float = Field(0.3, ge=0, lt=1, description="Correlations above this are stored, with each feature's best.")
    parts: Literal[1, 2, 4, 8, 16] = Field(
        1,
        description="Jobs that share the work of correlating two autoencoders, each a range of tokens; the result is the same to "
        "the byte. On one machine leave it at 1: the parts go through files.",
    )
    min_active: int = Field(
        10,
        ge=1,
        description="A feature that fires on fewer tokens of the sample than this counts as dead: a correlation over a few tokens "
        "is chance (two features that share their only token correlate at 1). The report says how many it leaves out.",
    )
    bootstrap: int = Field(
        200,
        ge=0,
        le=1_000_000,
        description="Replicates of the bootstrap over documents that gives the shares their 95 % intervals; 0 leaves them out.",
    )

    @model_validator(mode="after")
    def _floor_below_threshold(self) -> Flow:
        if self.floor > self.threshold:
            raise PydanticCustomError(
                "floor",
                "floor ({floor}) must not exceed threshold ({threshold})",
                {"floor": self.floor, "threshold": self.threshold},
            )
        return self


class Controls(Block):
    """What the flow of features is held against; each can be switched off. Beside the seed ceiling, what is about features and edges
    is measured on the autoencoders of the first seed."""

    ceiling: bool = Field(
        True,
        description="Compare the autoencoder seeds of each model with one another: the most that can persist along an edge. Needs "
        "two `autoencoder.seeds`; with one, it is reported as not measured.",
    )
    alignment_null: bool = Field(
        True,
        description="Compare the models of each edge with one side's activations shifted: what matches by chance, and the threshold "
        "that holds false matches at 1 %. Takes three times as long as the edge's own correlations.",
    )
    neurons: bool = Field(
        True,
        description="Compare the raw activations at the hook in place of features.",
    )
    as_published: bool = Field(
        False,
        description="Compare features by the measure of the paper's published code, and by those between it and this one. Time "
        "grows with the features that fire on a token string at all: many times that of the edge's own correlations.",
    )
    transfer: bool = Field(
        True,
        description="Evaluate each parent's autoencoder, as it is, on its child's activations, beside the child's own.",
    )
    linear_merge: bool = Field(
        True,
        description="Beside each merged model, merge its parents by the other method too, at the same `t`, and compare the two.",
    )
    untrained: bool = Field(
        False,
        description="Compare each root that is trained in this study with `<root>-untrained`, a model of its architecture with "
        "random weights. Costs an autoencoder per root and seed. Random weights make small activations: with `autoencoder.normalize` "
        "λ means the same for both.",
    )
    started_from_parent: bool = Field(
        False,
        description="Train a second autoencoder of each child, started from its parent's, and compare that with the parent's. "
        "Costs an autoencoder per edge and seed.",
    )


# --- cases -------------------------------------------------------------------------------------------------


class CaseBlock(Block):
    """What every case has (paper, section 4.2)."""

    model: Name | None = Field(None, description="Model whose features it starts from; the first root when not set.")
    corpora: list[Name] | None = Field(
        None,
        min_length=1,
        description="Corpora of the sample on which ratio, precision and recall are measured; all of them when not set.",
    )


class TokenCase(CaseBlock):
    """The feature that fires on some tokens, followed down the lineage."""

    tokens: list[Text] = Field(
        min_length=1, description="Texts of the tokens as the tokenizer has them, spaces included; some may be missing."
    )


class PatternCase(CaseBlock):
    """The feature that fires on tokens of a pattern, followed down the lineage."""

    pattern: Text = Field(description="Regular expression that matches the whole text of a token, spaces included.")


class CharacterCase(CaseBlock):
    """The feature that fires on tokens of a class of characters, followed down the lineage."""

    characters: Literal["digits", "letters", "lowercase", "uppercase", "punctuation", "whitespace"] = Field(
        description="What the token consists of, spaces around it apart."
    )


class FeatureCase(CaseBlock):
    """The tokens that a feature fires on, and the feature followed down the lineage."""

    feature: int = Field(ge=0, lt=2**31, description="Number of the feature, of the first autoencoder seed.")


CASES = {"tokens": TokenCase, "pattern": PatternCase, "characters": CharacterCase, "feature": FeatureCase}


class Interpretation(Block):
    """Explanations of features by a language model, and how well they predict activations (paper, appendix C)."""

    features: Annotated[int, Field(ge=2)] | Literal["all"] = Field(
        200,
        description="Features per model and autoencoder seed, half of them persisting and half not, as far as there are; or `all` "
        "that live.",
    )
    model: Text | None = Field(
        None,
        description="Language model that explains features and simulates activations. Not set, none is asked and nothing is paid: the "
        "scores are those of the token-statistics baseline.",
    )
    base_url: Annotated[str, StringConstraints(pattern=r"^https?://[^\s@?#]+$")] = Field(
        "https://api.openai.com/v1",
        description="Endpoint that speaks the OpenAI chat-completions protocol, without user, password or query: no secret stands in "
        "an address. A key is sent over https or to this machine alone.",
    )
    key_env: Annotated[str, StringConstraints(pattern=r"^[A-Z_][A-Z0-9_]*$", max_length=64)] = Field(
        "OPENAI_API_KEY",
        description="Name of the environment variable that holds the key. The key itself stands nowhere.",
    )
    budget_usd: float | None = Field(
        None,
        gt=0,
        description="The most that all requests of the study may cost, those already paid counted, also for models that it no longer "
        "has; each model has an equal share. Holds if the endpoint bills no more of a reply than `max_tokens`; one that does is asked "
        "nothing more, and the requests under way may exceed the budget. May be left out where both prices are 0.",
    )
    prompt_price: float | None = Field(
        None, ge=0, description="USD per million tokens of prompts; 0 for an endpoint of your own."
    )
    completion_price: float | None = Field(None, ge=0, description="USD per million tokens of replies.")
    parallel: int = Field(8, ge=1, le=256, description="Requests under way at once.")
    timeout: float = Field(
        120.0, gt=0, le=86_400, description="Seconds after which a request without a reply is given up and sent again."
    )


# --- the study ---------------------------------------------------------------------------------------------


class Study(Block):
    """A lineage of language models, an autoencoder for each, and the flow of features along its edges."""

    study: Name = Field(description="Name of the study; its artefacts are in `results/<study>/`.")
    seed: Seed = Field(0, description="Seed of everything that is drawn, autoencoders apart.")
    threads: int = Field(
        2,
        gt=0,
        le=1024,
        description="CPU threads of a job that computes with torch, whatever `--cores` is: the number changes the last bits "
        "of its result.",
    )
    evaluation_tokens: int = Field(
        100_000,
        gt=0,
        description="Validation tokens per corpus wherever a model or an autoencoder is evaluated; all there are if fewer.",
    )
    corpora: dict[Name, _by_key(CORPORA)] = Field(min_length=1, description="Documents, by name of the corpus.")
    tokenizer: _by_key(TOKENIZERS) = Field(description="The tokenizer that all models share.")
    models: dict[Name, _by_key(MODELS)] = Field(min_length=1, description="The lineage, by name of the model.")
    autoencoder: Autoencoder = Field(default_factory=Autoencoder, description="The autoencoder of every model.")
    flow: Flow = Field(default_factory=Flow, description="How features are compared.")
    controls: Controls = Field(default_factory=Controls, description="What the flow is held against.")
    cases: dict[Name, _by_key(CASES)] = Field(
        {}, description="Features to follow down the lineage, by name of the case."
    )
    interpretation: Interpretation = Field(
        default_factory=Interpretation, description="How features are explained, and by whom."
    )

    @model_validator(mode="after")
    def _hangs_together(self) -> Study:
        if problems := list(self._problems()):
            raise PydanticCustomError("study", "{problems}", {"problems": problems})
        return self

    def _problems(self) -> Iterator[tuple[str, Any, str]]:
        """Yield (key, found, allowed) for all that a single value's type cannot tell."""
        corpora = "a corpus of this study: " + ", ".join(self.corpora)
        lists = {f"models.{name}.train": model.train for name, model in self.models.items() if hasattr(model, "train")}
        if isinstance(self.tokenizer, TrainedTokenizer):
            lists["tokenizer.train"] = self.tokenizer.train
        if self.flow.corpora is not None:
            lists["flow.corpora"] = self.flow.corpora
        for key, names in lists.items():
            yield from ((key, name, corpora) for name in names if name not in self.corpora)
            if len(set(names)) < len(names):
                yield key, names, "each corpus once"
        if len(set(seeds := self.autoencoder.seeds)) < len(seeds):
            yield "autoencoder.seeds", seeds, "each seed once"
        for key, blocks in {"corpora": self.corpora, "models": self.models, "cases": self.cases}.items():
            first: dict[str, str] = {}
            for name in blocks:
                if (other := first.setdefault(name.lower(), name)) != name:
                    yield f"{key}.{name}", name, f"another name: some file systems cannot tell it from {other}"

        if self.controls.untrained and not self.untrained():
            yield "controls.untrained", True, "false in a study where no model is trained from nothing"
        for name in self.untrained():
            if name in self.models:
                yield f"models.{name}", name, "another name: with controls.untrained, a model of this name is made"

        missing = False
        for name, model in self.models.items():
            key = f"models.{name}." + ("parents" if isinstance(model, MergedModel) else "parent")
            for parent in self.parents(name):
                if parent not in self.models:
                    missing = True
                    others = "another model of this study: " + ", ".join(n for n in self.models if n != name)
                    yield key, parent, others
            if isinstance(model, MergedModel) and len(set(model.parents)) < 2:
                yield key, model.parents, "two different models"
        if missing:
            return
        if cycle := self._cycle():
            yield f"models.{cycle[0]}", " -> ".join(cycle), "a lineage without cycles"
            return
        if (longest := max(depths := self._generations(), key=depths.get)) and depths[longest] > GENERATIONS:
            yield f"models.{longest}", f"{depths[longest]} generations", f"at most {GENERATIONS} from a root to here"
            return

        for name, case in self.cases.items():
            if case.model is not None and case.model not in self.models:
                yield f"cases.{name}.model", case.model, "a model of this study: " + ", ".join(self.models)
            for corpus in case.corpora or ():
                if corpus not in self.flow_corpora():
                    yield f"cases.{name}.corpora", corpus, "a corpus of the sample: " + ", ".join(self.flow_corpora())
            if case.corpora is not None and len(set(case.corpora)) < len(case.corpora):
                yield f"cases.{name}.corpora", case.corpora, "each corpus once"
            if isinstance(case, PatternCase):
                try:
                    re.compile(case.pattern)
                except (re.error, OverflowError, RecursionError) as error:  # too large a number, too many parentheses
                    yield f"cases.{name}.pattern", case.pattern, f"a regular expression ({error})"

        for name, model in self.models.items():
            steps = model.training.most_steps(len(model.train)) if hasattr(model, "training") else None
            if steps is not None and model.training.warmup_steps >= steps:
                yield (
                    f"models.{name}.training.warmup_steps",
                    model.training.warmup_steps,
                    f"fewer than the run's {steps:,} steps (tokens / block / batch x epochs), or the learning rate never gets to its peak",
                )
            roots = self.roots(name)
            shapes = {  # those of published checkpoints are known once they are loaded: `merge.angles` compares them
                block.architecture.model_dump_json()
                for block in (self.models[root] for root in roots)
                if isinstance(block, TrainedModel)
            }
            if isinstance(model, MergedModel) and len(shapes) > 1:
                yield f"models.{name}.parents", model.parents, "two models of one architecture"
            for root in (self.models[root] for root in roots):
                if not isinstance(root, TrainedModel):
                    continue
                longest = root.architecture.max_position_embeddings
                if hasattr(model, "training") and model.training.block > longest:
                    yield (
                        f"models.{name}.training.block",
                        model.training.block,
                        f"at most max_position_embeddings ({longest})",
                    )
                if self.autoencoder.context > longest:
                    yield (
                        "autoencoder.context",
                        self.autoencoder.context,
                        f"at most max_position_embeddings ({longest})",
                    )
        yield from self._hook_problems()
        if self.flow.min_active > self.flow.tokens:
            yield "flow.min_active", self.flow.min_active, f"at most flow.tokens ({self.flow.tokens})"
        for name, root in self.models.items():
            if isinstance(root, TrainedModel):
                vocabulary = getattr(self.tokenizer, "vocab_size", LARGEST)
                features = self.autoencoder.expansion * hooks.width(
                    self.autoencoder.hook, root.architecture, vocabulary
                )
                if self.autoencoder.l0 is not None and self.autoencoder.l0 >= features:
                    yield "autoencoder.l0", self.autoencoder.l0, f"fewer than the {features} features (models.{name})"
                for case, block in self.cases.items():
                    start = block.model or self.order()[0]
                    if (
                        isinstance(block, FeatureCase)
                        and start in self.models
                        and name in self.roots(start)
                        and block.feature >= features
                    ):
                        yield f"cases.{case}.feature", block.feature, f"a feature below {features} (models.{name})"
        if self.flow.tokens < 2 * self.autoencoder.context:
            yield "flow.tokens", self.flow.tokens, f"at least two blocks of {self.autoencoder.context} tokens"
        if self.autoencoder.tokens < (batch := self.autoencoder.batch * self.autoencoder.context):
            yield "autoencoder.tokens", self.autoencoder.tokens, f"at least one batch of {batch} tokens"
        variant, l0 = self.autoencoder.variant, self.autoencoder.l0
        if 0 < (steps := self.autoencoder.steps) <= self.autoencoder.l1_warmup_steps:
            yield (
                "autoencoder.l1_warmup_steps",
                self.autoencoder.l1_warmup_steps,
                f"fewer than the run's {steps:,} steps (tokens / context / batch), or λ never gets to its full value",
            )
        if variant in ("topk", "batchtopk") and (l0 is None or l0 != int(l0)):
            yield "autoencoder.l0", l0, f"the whole number of features active per token, which variant {variant} needs"
        if variant == "jumprelu" and not self.autoencoder.normalize:
            yield (
                "autoencoder.normalize",
                False,
                "true with variant jumprelu: the width of its thresholds' band is in those units",
            )

        asked = self.interpretation
        try:
            parts = urlsplit(asked.base_url)
            whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            whole = False
        if not whole:
            yield "interpretation.base_url", _Hidden(), "an address: https://host[:port]/path"
        if asked.model is not None:
            prices = {name: getattr(asked, name) for name in ("prompt_price", "completion_price")}
            for name, price in prices.items():
                if price is None:
                    yield (
                        f"interpretation.{name}",
                        None,
                        "a price where interpretation.model is named; 0 if it costs nothing",
                    )
            if asked.budget_usd is None and any(prices.values()):
                yield (
                    "interpretation.budget_usd",
                    None,
                    "the most that may be spent, where interpretation.model has a price",
                )

    def _hook_problems(self) -> Iterator[tuple[str, Any, str]]:
        """What is wrong with the hook point, or with the checkpoints that are read there, as far as configurations tell."""
        hook = self.autoencoder.hook
        for name, root in self.models.items():
            if isinstance(root, TrainedModel):
                problem = hooks.hook_problem(hook, root.architecture.num_hidden_layers, hooks.TRAINED)
            elif isinstance(root, PretrainedModel):
                config = hooks.checkpoint_config(root.pretrained)
                if allowed := hooks.architecture_problem(config):
                    yield f"models.{name}.pretrained", root.pretrained, allowed
                    continue
                problem = hooks.published_problem(config, hook)
            else:
                continue
            if problem is not None:
                yield "autoencoder.hook", hook, f"a hook point of models.{name}: {problem}"

    def _cycle(self) -> list[str] | None:
        """The first cycle, from child to parent, if there is one."""
        sorter, free = TopologicalSorter({name: self.parents(name) for name in self.models}), set()
        try:
            sorter.prepare()
            return None
        except CycleError:
            while ready := sorter.get_ready():
                free.update(ready)
                sorter.done(*ready)
        path, name = [], next(name for name in self.models if name not in free)
        while name not in path:
            path.append(name)
            name = next(parent for parent in self.parents(name) if parent not in free)
        return [*path[path.index(name) :], name]

    def _generations(self) -> dict[str, int]:
        """How many generations lead to each model, itself counted."""
        found: dict[str, int] = {}
        for name in TopologicalSorter({name: self.parents(name) for name in self.models}).static_order():
            found[name] = 1 + max((found[parent] for parent in self.parents(name)), default=0)
        return found

    # The lineage graph.

    def untrained(self) -> dict[str, str]:
        """The models of `controls.untrained` and the root that each is compared with; they are in no list of models or edges."""
        if not self.controls.untrained:
            return {}
        return {f"{name}-untrained": name for name, block in self.models.items() if isinstance(block, TrainedModel)}

    def _configured(self, model: str) -> Block:
        """What the configuration says of a model; of an untrained one, what it says of its root."""
        return self.models[self.untrained().get(model, model)]

    def parents(self, model: str) -> list[str]:
        """Models that `model` comes from directly: none, one or two."""
        block = self._configured(model)
        if isinstance(block, MergedModel):
            return list(block.parents)
        return [block.parent] if isinstance(block, FineTunedModel) else []

    def ancestors(self, model: str) -> list[str]:
        """`model` and all that it comes from, oldest first."""
        # Each once, however many paths lead to it: in a lineage of merges there are 2 to the number of generations.
        found: dict[str, None] = {}
        entered, path = {model}, [(model, iter(self.parents(model)))]
        while path:
            name, parents = path[-1]
            if (parent := next((other for other in parents if other not in entered), None)) is None:
                found[name] = None
                path.pop()
            else:
                entered.add(parent)
                path.append((parent, iter(self.parents(parent))))
        return list(found)

    def roots(self, model: str) -> list[str]:
        """The ancestors that come from no other model."""
        return [name for name in self.ancestors(model) if not self.parents(name)]

    def order(self) -> list[str]:
        """All models, parents before children."""
        return list(dict.fromkeys(name for model in self.models for name in self.ancestors(model)))

    def edges(self) -> list[tuple[str, str]]:
        """All (parent, child) pairs, in the order of the models."""
        return [(parent, child) for child in self.order() for parent in self.parents(child)]

    def own_corpora(self, model: str) -> list[str]:
        """Corpora that `model` itself was trained on; for a merge, those of its parents; for an untrained one, its root's."""
        found: dict[str, None] = {}
        seen, todo = set(), [model]
        while todo:
            if (name := todo.pop()) in seen:
                continue
            seen.add(name)
            block = self._configured(name)
            if isinstance(block, MergedModel):
                todo += reversed(block.parents)
            else:
                found |= dict.fromkeys(block.train)
        return list(found)

    def trace(self, model: str) -> list[str]:
        """Corpora that `model` and its ancestors were trained on (paper, section 3.2)."""
        return list(dict.fromkeys(c for name in self.ancestors(model) for c in self.own_corpora(name)))

    def autoencoder_seed(self, model: str, seed: int) -> int:
        """Seed of an autoencoder's random numbers: another for each model, whatever `seed` of `autoencoder.seeds` it has.

        With one for all, the autoencoders along an edge would begin alike and the two that the ceiling compares would not.
        """
        return crc32(f"{model}.seed{seed}".encode())

    def block(self, model: str) -> int:
        """Length of the sequences that `model` was trained on, in tokens; for one trained elsewhere, the default."""
        blocks = [
            b.training.block for name in self.ancestors(model) if hasattr(b := self._configured(name), "training")
        ]
        return blocks[-1] if blocks else Training().block

    def case_models(self, case: str) -> list[str]:
        """The model that a case starts from, and its descendants, parents before children."""
        start = self.cases[case].model or self.order()[0]
        return [start, *(name for name in self.order() if name != start and start in self.ancestors(name))]

    def flow_corpora(self) -> list[str]:
        """Corpora of the comparison sample."""
        return list(self.flow.corpora or self.corpora)

    def read_corpora(self) -> list[str]:
        """Corpora that anything is trained on or compared on; the others are not built."""
        used = {*self.flow_corpora(), *getattr(self.tokenizer, "train", [])}
        used |= {corpus for model in self.models for corpus in self.own_corpora(model)}
        return [corpus for corpus in self.corpora if corpus in used]


def each_key_once(paths: Iterable[str | Path], study: str | None = None) -> None:
    """Refuse files that give a key twice: YAML would take the last and say nothing.

    Args:
        paths: YAML files.
        study: in files that hold more than one study's configuration, the name of the study whose block is looked at.

    Raises:
        StudyError: names the keys and their lines.
    """
    for path in paths:
        try:
            root = yaml.compose(Path(path).read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, yaml.YAMLError):  # a pipe that has been read, JSON that is no YAML
            continue
        problems, seen, todo = [], set(), [("", root, study is None)]
        while todo:
            place, node, ours = todo.pop()
            if (id(node), ours) in seen:  # an anchor that is used again
                continue
            seen.add((id(node), ours))
            if isinstance(node, yaml.SequenceNode):
                todo += [(place, part, ours) for part in node.value]
            elif isinstance(node, yaml.MappingNode):
                ours = ours or any((key.value, value.value) == ("study", study) for key, value in node.value)
                first: dict[str, int] = {}
                for key, value in node.value:
                    name, line = place + str(key.value), key.start_mark.line + 1
                    if ours and (before := first.get(str(key.value))):
                        found = (
                            f"found in lines {before} and {line}" if line > before else f"found twice in line {line}"
                        )
                        problems.append((before, f"  {name}: {found}; allowed: each key once"))
                    first.setdefault(str(key.value), line)
                    todo.append((f"{name}.", value, ours))
        if problems:
            raise _refusal([line for _, line in sorted(problems)], str(path))


def load_study(config: dict[str, Any]) -> Study:
    """Type and check a configuration as read from YAML.

    Raises:
        StudyError: one message that names every key refused, what was found and what is allowed.
    """
    name = config.get("study") if isinstance(config, dict) else None
    if keys := list(_keys_within(config, "")):
        lines = [
            f"  {key}: found what looks like a key or a password, not shown; allowed: none in any place; export it in the environment "
            "variable that interpretation.key_env names, or, for the hub, in HF_TOKEN"
            for key in keys
        ]
        raise _refusal(lines, f"study {'?' if 'study' in keys else name!r}")
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        problems: dict[tuple[str, str], list[str]] = {}  # several messages about one value become one
        for entry in error.errors():
            found = entry["ctx"]["problems"] if entry["type"] == "study" else [_problem(entry)]
            for key, value, allowed in found:
                messages = problems.setdefault((key or "the whole file", _shown(value)), [])
                messages += [allowed] * (allowed not in messages)
        lines = [
            f"  {key}: found {value}; allowed: {' or '.join(allowed)}" for (key, value), allowed in problems.items()
        ]
        raise _refusal(lines, f"study {name!r}") from None


def _refusal(lines: list[str], where: str) -> StudyError:
    count = f"{len(lines)} problem" + "s" * (len(lines) > 1)
    return StudyError(f"config refused, {count} in {where}:\n" + "\n".join(lines))


# As the providers of models, the hub and GitHub write their keys; and keys and passwords in addresses.
_A_KEY = re.compile(
    r"\b(sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,})|://[^/\s@]+:[^/\s@]+@|://\S*[?&](api_?key|(access_)?token|key)=",
    re.IGNORECASE,
)


def _keys_within(found: Any, where: str) -> Iterator[str]:
    """Where in a configuration something stands that looks like a key: those texts go into provenance and Snakemake's records."""
    if isinstance(found, dict):
        for name, value in found.items():
            if isinstance(name, str) and _A_KEY.search(name):
                yield f"{where or 'the top'} (as the name of a key)"
            else:
                yield from _keys_within(value, f"{where}.{name}".removeprefix("."))
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from _keys_within(value, f"{where}.{number}")
    elif isinstance(found, str) and _A_KEY.search(found):
        yield where


_NOTHING = object()


class _Hidden:
    """Stands for a text that may be a key, put where the name of its variable belongs."""

    def __repr__(self) -> str:
        return "a text, not shown as it may be a key"


_SECRET = re.compile(
    r"key|token|secret|password|auth", re.IGNORECASE
)  # in the name of a key that the study doesn't know

_KINDS = {
    "corpora": (CORPORA, 2),
    "models": (MODELS, 2),
    "cases": (CASES, 2),
    "tokenizer": (TOKENIZERS, 1),
}  # and where pydantic names the kind
RENAMED = {  # keys of earlier versions
    "autoencoder.resampling.steps": "at, in shares of the run",
    "autoencoder.resampling.silent_steps": "silent, a share of the run",
}
_TYPE = re.compile(r"(literal\[|list\[|constrained-|str$|float$)")  # what pydantic calls a member of a union


def _problem(entry: Any) -> tuple[str, Any, str]:
    """(key, value found, what is allowed) of one of pydantic's errors."""
    loc = [part for part in entry["loc"] if part != "[key]"]
    unknown = entry["type"] == "extra_forbidden"
    secret = loc[:1] == ["interpretation"] or (unknown and _SECRET.search(str(loc[-1])))
    if secret and isinstance(entry["input"], str | list):
        entry = entry | {"input": _Hidden()}
    kinds, at = _KINDS.get(str(loc[0]) if loc else "", ({}, 0))
    if len(loc) > at and loc[at] in kinds:
        del loc[at]
    kind = entry["type"]
    if loc and (kind == "invalid_key" or entry["loc"][-1] == "[key]"):
        loc[-1] = entry["input"]  # pydantic makes a 0 of false
    key = ".".join(_named(part) for i, part in enumerate(loc) if i < 2 or not _TYPE.match(str(part)))
    if unknown:
        allowed = _siblings(entry["loc"])
        near = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
        hint = f" (now {RENAMED[key]})" if key in RENAMED else f" (did you mean {near[0]}?)" if near else ""
        return key, entry["input"], f"no such key{hint}, but {', '.join(allowed)}"
    if kind in ("model_type", "dict_type"):
        return key, entry["input"], "a block of keys"
    if kind == "missing":
        return key, _NOTHING, "this key must be given"
    if kind == "invalid_key" or (kind == "string_type" and entry["loc"][-1] == "[key]"):
        return key, entry["input"], "a name; quotes make one of what YAML reads as a number, true, false or null"
    if key == "autoencoder.hook":
        near = hooks.nearest(entry["input"], hooks.TRAINED) if isinstance(entry["input"], str) else ""
        return key, entry["input"], f"one TransformerLens hook point, such as {hooks.EXAMPLE}{near}"
    if kind == "string_type":
        return key, entry["input"], "a text; quotes make one of a number"
    if kind == "string_pattern_mismatch" and entry["ctx"]["pattern"] == NAME_PATTERN:
        near = "-".join(re.findall(r"[A-Za-z0-9]+(?:[._][A-Za-z0-9]+)*", str(entry["input"])))[:64].rstrip("._-")
        hint = f", such as {near}" if near else ""
        return key, entry["input"], f"a name of letters and digits, with single . - or _ between them{hint}"
    if kind == "string_pattern_mismatch" and entry["ctx"]["pattern"] == _PLACE_PATTERN:
        return key, entry["input"], "a text of one line, without control characters"
    return key, entry["input"], entry["msg"].removeprefix("Input should be ")


def _named(part: Any) -> str:
    """A part of a key as it can stand in a message."""
    text = str(part)
    return text if text.isprintable() else repr(text)


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the block in which the last part of a location stands."""
    kinds, at = _KINDS.get(str(loc[0]), ({}, -1))
    block: Any = kinds[str(loc[at])] if len(loc) > at + 1 and kinds else Study
    for field in loc[at + 1 : -1]:
        block = block.model_fields[str(field)].annotation
    return list(block.model_fields)


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, dict):
        return "a block with " + (", ".join(map(str, value)) or "no keys")
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text):,} characters)"
