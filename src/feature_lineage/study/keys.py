"""A study's models, key by key."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from feature_lineage.study.types import Block, Name, Place

GENERATIONS = 100  # from a root to its last descendant; so many Snakemake was seen to plan


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
