"""How large a study's models and autoencoders are, before anything has run: what requests and costs are counted from."""

from __future__ import annotations

from typing import NamedTuple

from feature_lineage.jobs.published import Published, published_shape
from feature_lineage.study.dictionaries import features_said
from feature_lineage.study.hook_points import width
from feature_lineage.study.keys import (
    Architecture,
    KeptModel,
    PretrainedModel,
    TrainedModel,
    Training,
)
from feature_lineage.study.study import Study
from feature_lineage.study.texts import TrainedTokenizer

FLOAT = 4
# What is unknown before the workflow has run: the shape of a checkpoint on the hub, a published tokenizer's vocabulary, and how many
# features fire where `autoencoder.l0` is not set. Raise the request of a step in the profile, under `set-resources`, where they do not
# fit. Of a checkpoint in a local directory or in the hub's cache, its config.json tells.
PUBLISHED = Architecture(
    hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, num_key_value_heads=16
)
VOCABULARY = 50_000
ACTIVE_SHARE = 1 / 400


class Sizes(NamedTuple):
    """Of the study, for one of its models or the largest."""

    study: Study
    shape: Architecture
    vocabulary: int
    trained: Training | None  # how the model is trained, if it is
    experts: int = 1  # MLPs of a layer
    number: int = FLOAT  # bytes of a weight of the language model
    dictionary: int | None = None  # features of its autoencoder, if another number than `expansion` says

    @property
    def body(self) -> int:
        """Parameters of the layers."""
        width, heads = self.shape.hidden_size, self.shape.num_attention_heads + self.shape.num_key_value_heads
        mlp = 3 * width * self.shape.intermediate_size * self.experts
        return int(self.shape.num_hidden_layers * (2 * width * self.shape.head_width * heads + mlp))

    @property
    def parameters(self) -> int:
        """All of them: those of the layers, and both embeddings."""
        return self.body + 2 * self.vocabulary * self.shape.hidden_size

    @property
    def products(self) -> int:
        """Floating-point operations of a forward pass to the logits, per token, attention's scores left out: two for a parameter that multiplies."""
        return 2 * (self.body + self.vocabulary * self.shape.hidden_size)

    @property
    def checkpoint(self) -> int:
        """Bytes of the language model's weights."""
        return self.number * self.parameters

    @property
    def elements(self) -> int:
        """Of an activation at the hook point, n."""
        return width(self.study.autoencoder.hook, self.shape, self.vocabulary)

    @property
    def features(self) -> int:
        """Of an autoencoder, m."""
        return self.dictionary or self.elements * self.study.autoencoder.expansion

    @property
    def weights(self) -> int:
        """Bytes of an autoencoder's encoder and decoder."""
        return 2 * FLOAT * self.elements * self.features

    @property
    def active(self) -> float:
        """Features that fire on a token."""
        return self.study.autoencoder.l0 or max(40.0, ACTIVE_SHARE * self.features)

    @property
    def entries(self) -> float:
        """Activations that are not zero, of one autoencoder on the sample."""
        return self.study.flow.tokens * self.active

    @property
    def evaluated(self) -> int:
        """Tokens on which something is evaluated, of all corpora."""
        return self.study.evaluation_tokens * len(self.study.corpora)

    def forward(self, tokens: float) -> float:
        """Bytes of a forward pass: the weights, one layer's activations, and three copies of the logits."""
        layer = 8 * self.shape.hidden_size + 4 * self.shape.intermediate_size
        return self.number * self.parameters + FLOAT * tokens * (layer + 3 * self.vocabulary)

    def encoded(self, tokens: float) -> float:
        """Bytes of a language model's forward pass with an autoencoder's features and what becomes of them."""
        return self.forward(tokens) + self.weights + 3 * FLOAT * tokens * self.features


def checkpoint_of(study: Study, model: str) -> str:
    """The model whose configuration tells the shape of `model`: itself, or what its weights are made from, down to a root or an import."""
    model = study.untrained().get(model, model)
    while not isinstance(block := study.models.get(model), TrainedModel | PretrainedModel):
        model = block.kept if isinstance(block, KeptModel) else study.origins(model)[0]
    return model


def published(block: PretrainedModel) -> Published | None:
    """What a checkpoint's `config.json` tells, in its directory or in the hub's cache; None where neither is there."""
    return published_shape(block.pretrained, block.revision)


def sizes_of(study: Study, model: str | None) -> Sizes:
    """The sizes of one of a study's models; of the largest, with the most features, if no model of the study is named."""
    own = isinstance(study.tokenizer, TrainedTokenizer)
    vocabulary = study.tokenizer.vocab_size if own else VOCABULARY
    if model not in {*study.models, *study.untrained(), *study.placebos()}:
        every = {name: sizes_of(study, name) for name in study.models}
        features = max(sizes.features for name, sizes in every.items() if study.dictionary_seeds(name))
        return max(every.values(), key=lambda sizes: sizes.parameters)._replace(dictionary=features)
    block = study.models[checkpoint_of(study, model)]
    schedule = study.placebos()[model].fine_tunes[0] if model in study.placebos() else model
    trained = getattr(study.models.get(schedule), "training", None)
    said = [features_said(one) or 0 for one in study.autoencoders.get(model, ())]
    dictionary = max(said, default=0) or None
    if isinstance(block, TrainedModel):
        return Sizes(study, block.architecture, vocabulary, trained, dictionary=dictionary)
    number = 2 if getattr(study.models.get(model), "dtype", None) == "bfloat16" else FLOAT
    if (found := published(block)) is None:
        return Sizes(study, PUBLISHED, vocabulary, trained, number=number, dictionary=dictionary)
    vocabulary = max(vocabulary if own else 0, found.vocabulary)
    return Sizes(study, found.shape, vocabulary, trained, found.experts, number, dictionary)
