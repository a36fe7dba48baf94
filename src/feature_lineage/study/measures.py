"""A study's autoencoders, flow, controls, cases and explanations, key by key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from feature_lineage.study import hook_points as hooks
from feature_lineage.study.types import Block, Name, Seed, Text


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
    context: int | None = Field(
        None,
        gt=1,
        description="Length of a block, in tokens: what the language model reads at once. Not set, what suits the models: the paper's 24 where "
        "all are trained here and have one layer, else 128, or what the shortest of them can read. A deeper model finds few of its features "
        "in short blocks: of those of a five-layer one, 53 % at 24 tokens and 73 % at 128, beside blocks of 384.",
    )
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
        "the autoencoder of the model's `parent` (of two, the first), with as many features, and `transpose` where there is none.",
    )
    resampling: Resampling = Field(default_factory=Resampling, description="Resampling of dead features.")
    seeds: list[Seed] = Field(
        default_factory=lambda: [0],
        min_length=1,
        max_length=1000,
        description="One autoencoder of each model is trained per seed.",
    )


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
    placebo: bool = Field(
        True,
        description="Train each root on with its own corpora, by each fine-tune's schedule (`<root>-placebo-<fine-tune>`, one for each "
        "schedule), and read it with the root's autoencoders: what of an edge's numbers a training without new data brings about, too. "
        "Costs a training as long as the fine-tune's.",
    )
    placebo_autoencoders: bool = Field(
        False,
        description="Train autoencoders of the placebos too, so that their features are matched as along an edge. Needs `placebo`; "
        "costs an autoencoder per placebo and seed.",
    )
    same_corpora: bool = Field(
        False,
        description="Where a child's autoencoder has seen more corpora than its parent's, train another one of the parent on all that the "
        "child's has seen, and match that with the child's. Costs an autoencoder per such edge and seed.",
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
