"""One study = one YAML file: typed, checked, and read as a lineage graph.

This is the only place where a configuration key gets its type, meaning, unit and default. `config/schema.json`
and `config/README.md` are written from it (`python -m feature_lineage.study.reference`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any
from urllib.parse import urlsplit
from zlib import crc32

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from feature_lineage.study import hook_points as hooks
from feature_lineage.study.keys import (
    CORPORA,
    GENERATIONS,
    MODELS,
    TOKENIZERS,
    FineTunedModel,
    MergedModel,
    PretrainedModel,
    TrainedModel,
    TrainedTokenizer,
    Training,
)
from feature_lineage.study.measures import CASES, Autoencoder, Controls, FeatureCase, Flow, Interpretation, PatternCase
from feature_lineage.study.types import LARGEST, Block, Name, Seed, _by_key, _Hidden


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

    def seen_corpora(self, model: str) -> list[str]:
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
