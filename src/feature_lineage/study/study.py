"""One study = one YAML file: typed, checked, and read as a lineage graph.

This is the only place where a configuration key gets its type, meaning, unit and default. `config/schema.json`
and `config/README.md` are written from it (`python -m feature_lineage.study.reference`).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple
from zlib import crc32

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from feature_lineage.study.checks import problems
from feature_lineage.study.dictionaries import Imported, ImportedAutoencoder, with_seeds
from feature_lineage.study.hook_points import checkpoint_config, positions
from feature_lineage.study.keys import (
    MODELS,
    OVER_A_BASE,
    FineTunedModel,
    KeptModel,
    MergedModel,
    PretrainedModel,
    TrainedModel,
    Training,
)
from feature_lineage.study.measures import CASES, Autoencoder, Controls, Flow, Interpretation
from feature_lineage.study.sequences import step_name, unrolled
from feature_lineage.study.texts import CORPORA, TOKENIZERS, PretrainedTokenizer
from feature_lineage.study.types import Block, Name, Seed, by_key

PAPERS_CONTEXT, CONTEXT = 24, 128  # tokens of a block: of the paper's one-layer models, and of others


class Placebo(NamedTuple):
    """A root that is trained on with its own corpora, and the fine-tunes whose schedule that training has."""

    root: str
    fine_tunes: tuple[str, ...]


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
    corpora: dict[Name, by_key(CORPORA)] = Field(min_length=1, description="Documents, by name of the corpus.")
    tokenizer: by_key(TOKENIZERS) = Field(description="The tokenizer that all models share.")
    models: dict[Name, by_key(MODELS)] = Field(min_length=1, description="The lineage, by name of the model.")
    autoencoder: Autoencoder = Field(
        default_factory=Autoencoder, description="The autoencoder of every model that `autoencoders` does not name."
    )
    autoencoders: dict[Name, Imported] = Field(
        {},
        description="Models whose autoencoders were made elsewhere: a block, or a list of blocks of which each takes the place of one of "
        "`autoencoder.seeds`; `none` for a model that has none and is read with its parents' or children's alone.",
    )
    flow: Flow = Field(default_factory=Flow, description="How features are compared.")
    controls: Controls = Field(default_factory=Controls, description="What the flow is held against.")
    cases: dict[Name, by_key(CASES)] = Field(
        {}, description="Features to follow down the lineage, by name of the case."
    )
    interpretation: Interpretation = Field(
        default_factory=Interpretation, description="How features are explained, and by whom."
    )

    @model_validator(mode="before")
    @classmethod
    def _sequences(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return with_seeds(value | {"models": unrolled(value["models"])} if "models" in value else value)

    @model_validator(mode="after")
    def _hangs_together(self) -> Study:
        if found := list(problems(self)):
            raise PydanticCustomError("study", "{problems}", {"problems": found})
        return self

    # The lineage graph.

    def untrained(self) -> dict[str, str]:
        """The models of `controls.untrained` and the root that each is compared with; they are in no list of models or edges."""
        if not self.controls.untrained:
            return {}
        roots = [name for name, block in self.models.items() if isinstance(block, TrainedModel)]
        return {f"{name}-untrained": name for name in roots if self.dictionary_seeds(name)}

    def placebos(self) -> dict[str, Placebo]:
        """The models of `controls.placebo`, one for each root and schedule of a fine-tune; they are in no list of models or edges."""
        found: dict[tuple[str, str], Placebo] = {}
        for name in self.order() if self.controls.placebo else ():
            block, roots = self.models[name], self.roots(name)
            if isinstance(block, FineTunedModel) and len(roots) == 1 and self.dictionary_seeds(roots[0]):
                corpora = block.train if block.training.tokens is None else None
                options = block.training.model_dump_json(exclude={"keep"})
                schedule = f"{options} {corpora} {block.balance if corpora else None}"
                before = found.get((roots[0], schedule), Placebo(roots[0], ()))
                found[roots[0], schedule] = before._replace(fine_tunes=(*before.fine_tunes, name))
        return {f"{root}-placebo-{one.fine_tunes[0]}": one for (root, _), one in found.items()}

    def _configured(self, model: str) -> Block:
        """What the configuration says of a model; of a step of a training, what it says of that; of an untrained one or a placebo, of its root."""
        if model in self.models:
            block = self.models[model]
            return self.models.get(block.kept, block) if isinstance(block, KeptModel) else block
        return self.models[self.placebos()[model].root if model in self.placebos() else self.untrained()[model]]

    def parents(self, model: str) -> list[str]:
        """Models that `model` is compared with as its parents; of several the first is the nearest.

        Of a training that keeps steps, each step has the one before, and the end all of them, beside what it starts from.
        """
        if isinstance(block := self.models.get(model), KeptModel):
            before = [one for one in self.steps(block.kept) if self.models[one].step < block.step]
            return before[-1:] or self.origins(model)
        return [*reversed(self.steps(model)), *self.origins(model)]

    def origins(self, model: str) -> list[str]:
        """Models whose weights `model` is made from."""
        if model not in self.models and model in self.placebos():
            return [self.placebos()[model].root]
        block = self._configured(model)
        one = getattr(block, "parent", None)
        return [one] if one is not None else list(getattr(block, "parents", None) or [])

    def steps(self, model: str) -> list[str]:
        """The models that a training keeps of its way, in order."""
        training = getattr(self.models.get(model), "training", None)
        return [step_name(model, step) for step in sorted(training.keep)] if training is not None else []

    def made_from(self, model: str) -> list[str]:
        """Models that must be there before `model` can be made: its parents, and the base that a merge names."""
        named = getattr(getattr(self.models.get(model), "merge", None), "base", None)
        return list(dict.fromkeys([*self.parents(model), *([named] if named is not None else [])]))

    def merge_base(self, model: str) -> str | None:
        """The model whose changes a merge adds up; None if its method has no base, or if none is named and none is the nearest.

        The nearest common ancestor of the parents is the one that comes from all their other common ancestors. A parent counts as its own
        ancestor.
        """
        block = self.models[model]
        if not isinstance(block, MergedModel) or block.merge.method not in OVER_A_BASE:
            return None
        if block.merge.base is not None:
            return block.merge.base
        common = set.intersection(*(set(self.ancestors(parent)) for parent in block.parents))
        return next((name for name in self.order() if name in common and common <= set(self.ancestors(name))), None)

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
        """The ancestors that are made from no other model; of a step of a training, those of the training."""
        ends = {getattr(self.models.get(name), "kept", name): None for name in self.ancestors(model)}
        return [name for name in ends if not self.origins(name)]

    def order(self) -> list[str]:
        """All models, parents before children."""
        return list(dict.fromkeys(name for model in self.models for name in self.ancestors(model)))

    def edges(self) -> list[tuple[str, str]]:
        """All (parent, child) pairs, in the order of the models."""
        return [(parent, child) for child in self.order() for parent in self.parents(child)]

    def own_corpora(self, model: str) -> list[str]:
        """Corpora that `model` itself was trained on; for a merge, those of its parents; for an untrained one, its root's.

        None of a model trained elsewhere, if none is named.
        """
        found: dict[str, None] = {}
        seen, todo = set(), [model]
        while todo:
            if (name := todo.pop()) in seen:
                continue
            seen.add(name)
            if own := getattr(self._configured(name), "train", None):
                found |= dict.fromkeys(own)
            elif len(parents := self.parents(name)) > 1:
                todo += reversed(parents)
        return list(found)

    def seen_corpora(self, model: str) -> list[str]:
        """Corpora that `model` and its ancestors were trained on (paper, section 3.2)."""
        return list(dict.fromkeys(c for name in self.ancestors(model) for c in self.own_corpora(name)))

    def autoencoder_seed(self, model: str, seed: int) -> int:
        """Seed of an autoencoder's random numbers: another for each model, whatever `seed` of `autoencoder.seeds` it has.

        With one for all, the autoencoders along an edge would begin alike and the two that the ceiling compares would not.
        """
        return crc32(f"{model}.seed{seed}".encode())

    def dictionary_seeds(self, model: str) -> list[int]:
        """The seeds of the autoencoders that `model` has; of imported ones, each has the place of one."""
        seeds = self.autoencoder.seeds
        return seeds[: len(self.autoencoders[model])] if model in self.autoencoders else seeds

    def imported_autoencoder(self, model: str, seed: int) -> ImportedAutoencoder | None:
        """What is said of an autoencoder that was made elsewhere; None of one that is trained here."""
        if model not in self.autoencoders:
            return None
        return dict(zip(self.autoencoder.seeds, self.autoencoders[model], strict=False)).get(seed)

    def block(self, model: str) -> int:
        """Length of the sequences that `model` was trained on, in tokens; for one trained elsewhere, the default."""
        blocks = [
            b.training.block for name in self.ancestors(model) if hasattr(b := self._configured(name), "training")
        ]
        return blocks[-1] if blocks else Training().block

    @cached_property
    def context(self) -> int:
        """Length of the blocks that autoencoders read, in tokens: `autoencoder.context`, or what suits the models.

        The paper's where all are as the paper's; else longer, and never more than a model can read, as far as configurations tell.
        """
        if self.autoencoder.context is not None:
            return self.autoencoder.context
        roots = [self.models[root] for root in dict.fromkeys(root for name in self.models for root in self.roots(name))]
        if all(isinstance(root, TrainedModel) and root.architecture.num_hidden_layers == 1 for root in roots):
            wanted = PAPERS_CONTEXT
        else:
            wanted = CONTEXT
        bounds = [root.architecture.max_position_embeddings for root in roots if isinstance(root, TrainedModel)]
        published = [block.pretrained for block in self.models.values() if isinstance(block, PretrainedModel)]
        bounds += [most for path in published if (most := positions(checkpoint_config(path))) is not None]
        # What `auto` comes to is known once the tokenizer is here: one token less serves in any case.
        asked = self.tokenizer.window_start
        start = asked != "none" and (asked != "auto" or isinstance(self.tokenizer, PretrainedTokenizer))
        return max(2, min([wanted, *(most - start for most in bounds)]))

    def autoencoder_options(self) -> dict[str, Any]:
        """The block `autoencoder` as a training needs it: its seeds left out, its context known."""
        return self.autoencoder.model_dump(exclude={"seeds"}) | {"context": self.context}

    def case_models(self, case: str) -> list[str]:
        """The model that a case starts from, and its descendants, parents before children: those that have autoencoders."""
        there = [name for name in self.order() if self.dictionary_seeds(name)]
        start = self.cases[case].model or there[0]
        return [start, *(name for name in there if name != start and start in self.ancestors(name))]

    def flow_corpora(self) -> list[str]:
        """Corpora of the comparison sample."""
        return list(self.flow.corpora or self.corpora)

    def read_corpora(self) -> list[str]:
        """Corpora that anything is trained on or compared on; the others are not built."""
        used = {*self.flow_corpora(), *getattr(self.tokenizer, "train", [])}
        used |= {corpus for model in self.models for corpus in self.own_corpora(model)}
        return [corpus for corpus in self.corpora if corpus in used]
