"""What the rules need to know of a study: which steps it has, which controls are measured, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import combinations
from typing import Any

from feature_lineage.study.hook_points import width
from feature_lineage.study.keys import (
    AdaptedModel,
    FineTunedModel,
    KeptModel,
    MergedModel,
    PretrainedModel,
    TrainedModel,
)
from feature_lineage.study.study import Placebo, Study
from feature_lineage.study.types import Block

SWITCHES = ("ceiling", "alignment_null", "neurons", "as_published")  # controls that `controls/summary.json` sums up


class Plan:
    """The decisions that follow from a study; names of models, edges and seeds, never paths."""

    def __init__(self, study: Study) -> None:
        self.study = study

    # --- models ---

    def models(self, *kinds: type[Block]) -> list[str]:
        """Models whose blocks are of one of these kinds; all of them without any."""
        return [name for name, block in self.study.models.items() if isinstance(block, kinds or object)]

    @cached_property
    def trained(self) -> list[str]:
        """Models with a training curve."""
        return self.models(TrainedModel, FineTunedModel)

    @cached_property
    def imported(self) -> list[str]:
        """Models that are checkpoints made elsewhere."""
        return self.models(PretrainedModel)

    @cached_property
    def keeping(self) -> list[str]:
        """Trained models that keep steps of their training."""
        return [name for name in self.trained if self.study.steps(name)]

    @cached_property
    def kept(self) -> dict[str, KeptModel]:
        """Models that are such a step."""
        return {name: block for name, block in self.study.models.items() if isinstance(block, KeptModel)}

    @cached_property
    def adapted(self) -> list[str]:
        """Models that are their parent with an adapter made elsewhere."""
        return self.models(AdaptedModel)

    @cached_property
    def merged(self) -> list[str]:
        """Models merged from others."""
        return self.models(MergedModel)

    @cached_property
    def on_a_path(self) -> list[str]:
        """Merged models whose position between two parents is chosen."""
        blocks = [(name, self.study.models[name]) for name in self.merged]
        return [name for name, block in blocks if isinstance(block, MergedModel) and block.on_a_path]

    def swept_corpora(self, model: str) -> list[str]:
        """Corpora on which both ends of a path and what lies between are measured: the parents' own, if any is named."""
        return self.study.own_corpora(model) or self.study.flow_corpora()

    def recipe(self, model: str) -> dict[str, Any] | None:
        """How models are merged that lie on no path between two, as `task_vectors.Recipe`; None of one that does."""
        block = self.study.models[model]
        if not isinstance(block, MergedModel) or block.on_a_path:
            return None
        merge, count = block.merge, len(block.parents)
        return {
            "method": merge.method,
            "weights": merge.weights or [1.0] * count,
            "density": merge.density if isinstance(merge.density, list) else [merge.density] * count,
            "normalize": merge.normalize,
            "seed": self.study.seed if merge.method == "dare_ties" else 0,  # the others draw nothing
            "model": model,
            "parents": block.parents,
            "base": self.study.merge_base(model),
        }

    def architecture(self, model: str) -> dict[str, Any] | None:
        """What a model is built from, if it starts from nothing."""
        block = self.study.models[model]
        return block.architecture.model_dump() if isinstance(block, TrainedModel) else None

    def source(self, model: str) -> str | None:
        """What a model is published as, if it is a checkpoint made elsewhere."""
        return getattr(self.study.models[model], "pretrained", None)

    def foreign(self, model: str) -> list[str]:
        """Of a model and its ancestors those made elsewhere: what their hook point gives is known once they are here."""
        return [name for name in self.study.ancestors(model) if name in [*self.imported, *self.adapted]]

    @cached_property
    def unread_corpora(self) -> list[str]:
        """Corpora that nothing is trained or compared on."""
        read = self.study.read_corpora()
        return [corpus for corpus in self.study.corpora if corpus not in read]

    def roles(self, corpus: str) -> str | None:
        """Whose tokens of a corpus of conversations are read; None of one of plain text."""
        block = self.study.corpora[corpus]
        return block.roles if block.messages is not None else None

    # --- autoencoders ---

    @cached_property
    def first_seed(self) -> int:
        """Seed of the autoencoders that readers look into, and on which controls that cost much are measured."""
        return self.study.autoencoder.seeds[0]

    def seeds(self, name: str) -> list[int]:
        """Seeds of the autoencoders of a model of the study or beside it, or of those that a control trains along an edge.

        Such a control's are named `<parent>--<child>` (`started`) or `<parent>--<child>--corpora` (`corpora_differ`).
        """
        every = self.study.autoencoder.seeds
        if name in self.untrained:
            return every
        if name in self.placebos:
            return every if self.study.controls.placebo_autoencoders else []
        return self.study.dictionary_seeds(name.split("--")[0])

    def seed_pairs(self, model: str) -> list[tuple[int, int]]:
        """Seeds whose autoencoders of one model are compared: each pair once."""
        return list(combinations(self.seeds(model), 2))

    def each_seed(self, names: Iterable[str]) -> list[tuple[str, int]]:
        """Each of some names with each seed of its autoencoders, seed by seed."""
        names = list(names)
        return [(name, seed) for seed in self.study.autoencoder.seeds for name in names if seed in self.seeds(name)]

    def each_pair(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[tuple[str, str], int]]:
        """Each of some pairs with each seed of which both have an autoencoder: those that are matched with each other."""
        pairs = list(pairs)
        found = [(pair, seed) for seed in self.study.autoencoder.seeds for pair in pairs]
        return [(pair, seed) for pair, seed in found if all(seed in self.seeds(name) for name in pair)]

    def each_reading(self, pairs: Iterable[tuple[str, str]]) -> list[tuple[tuple[str, str], int]]:
        """Each of some pairs with each seed of which an autoencoder of one reads the other."""
        pairs = list(pairs)
        found = [(pair, seed) for seed in self.study.autoencoder.seeds for pair in pairs]
        return [(pair, seed) for pair, seed in found if self.sides(*pair, seed)]

    def sides(self, parent: str, child: str, seed: int) -> list[str]:
        """Which of `parent` and `child` has an autoencoder of that seed that reads the other of them."""
        found = ["parent"] if seed in self.seeds(parent) else []
        back = (parent, child) not in self.passed_down and seed in self.seeds(child)
        return [*found, "child"] if back else found

    @cached_property
    def autoencoders(self) -> list[tuple[str, int]]:
        """(model, seed) of the study's own autoencoders, seed by seed, parents before children."""
        return self.each_seed(self.study.order())

    @cached_property
    def read(self) -> list[str]:
        """Models that have autoencoders, parents before children."""
        return [name for name in self.study.order() if self.seeds(name)]

    @cached_property
    def imported_autoencoders(self) -> list[str]:
        """Models whose autoencoders were made elsewhere."""
        return [name for name in self.read if name in self.study.autoencoders]

    @cached_property
    def trained_autoencoders(self) -> list[tuple[str, int]]:
        """(model, seed) of those that are trained here."""
        return [(name, seed) for name, seed in self.autoencoders if name not in self.imported_autoencoders]

    def elements(self, model: str) -> int | None:
        """Elements of a model's activations, if it comes from models that are trained here alone; else what is known once it is here."""
        shape = self.study.models[self.study.roots(model)[0]]
        if self.foreign(model) or not isinstance(shape, TrainedModel):
            return None
        vocabulary = getattr(self.study.tokenizer, "vocab_size", None)
        found = width(self.study.autoencoder.hook, shape.architecture, vocabulary or 0)
        return found or None

    def starts_from(self, model: str, seed: int) -> str | None:
        """The model whose autoencoder the autoencoder of `model` starts from, if it starts from one."""
        parents = self.study.parents(model)
        start = parents[0] if parents and self.study.autoencoder.init == "parent" else None
        return start if start is not None and seed in self.seeds(start) else None

    def judged(self, model: str) -> bool:
        """Whether a dictionary that falls short is warned of: of an untrained model, that is a finding; one made elsewhere has a gate."""
        return model not in self.untrained and model not in self.imported_autoencoders

    # --- controls ---

    @cached_property
    def measured(self) -> list[str]:
        """The controls of `SWITCHES` that are measured."""
        return [name for name in SWITCHES if name not in self.not_measured]

    @cached_property
    def not_measured(self) -> dict[str, str]:
        """Why the others are not."""
        found = {name: f"controls.{name} is false" for name in SWITCHES if not getattr(self.study.controls, name)}
        if "ceiling" not in found and not any(map(self.seed_pairs, self.study.models)):
            found["ceiling"] = "it needs two autoencoder.seeds, there is one"
        if self.study.edges() and not self.matched_edges:
            reason = "along no edge do both models have an autoencoder"
            found |= {name: reason for name in ("alignment_null", "as_published") if name not in found}
        return found

    @cached_property
    def summed_up(self) -> bool:
        """Whether there is a summary of controls: once one is switched on, even if it cannot be measured."""
        return any(getattr(self.study.controls, name) for name in SWITCHES)

    @cached_property
    def untrained(self) -> dict[str, str]:
        """Root that each untrained model has the architecture of, by the untrained model's name."""
        return self.study.untrained()

    @cached_property
    def placebos(self) -> dict[str, Placebo]:
        """Placebos by name."""
        return self.study.placebos()

    def placebo(self, parent: str, child: str) -> str | None:
        """The placebo that an edge is compared with, if it has one."""
        names = (name for name, one in self.placebos.items() if child in one.fine_tunes)
        return next(names, None) if parent in self.study.origins(child) else None

    def fine_tune(self, placebo: str) -> FineTunedModel:
        """The fine-tune whose schedule a placebo has."""
        block = self.study.models[self.placebos[placebo].fine_tunes[0]]
        assert isinstance(block, FineTunedModel)
        return block

    def placebo_for(self, placebo: str) -> dict[str, Any]:
        """Corpora of the fine-tune, if its schedule takes all tokens that they have (`train`, else empty), and their `balance`."""
        block = self.fine_tune(placebo)
        return {"train": block.train if block.training.tokens is None else [], "balance": block.balance}

    @cached_property
    def no_placebo(self) -> list[tuple[str, str, str]]:
        """(parent, child, reason) of the edges without a placebo."""

        def reason(parent: str, child: str) -> str:
            if parent in self.kept or child in self.kept:
                return "a part of one training has no schedule of its own"
            if child in self.merged:
                return "a merge is no training"
            if child in [*self.imported, *self.adapted]:
                return "it was made elsewhere"
            if not self.study.controls.placebo:
                return "controls.placebo is false"
            return "it comes from several roots"

        return [(*edge, reason(*edge)) for edge in self.study.edges() if self.placebo(*edge) is None]

    @cached_property
    def placebo_pairs(self) -> list[tuple[str, str]]:
        """(root, placebo), compared as the edges are."""
        return [(one.root, name) for name, one in self.placebos.items()]

    @cached_property
    def passed_down(self) -> list[tuple[str, str]]:
        """(root, descendant) beyond the root's children: the root's autoencoders read them too, so that its features can be traced."""
        edges = self.study.edges()
        roots = [name for name in self.study.order() if not self.study.parents(name) and self.seeds(name)]
        pairs = [(root, name) for name in self.study.order() for root in roots if root in self.study.ancestors(name)]
        return [(root, name) for root, name in pairs if root != name and (root, name) not in edges]

    @cached_property
    def matched_edges(self) -> list[tuple[str, str]]:
        """Edges along which autoencoders of both models are matched, those of the first seed among them."""
        return [pair for pair, seed in self.each_pair(self.study.edges()) if seed == self.first_seed]

    @cached_property
    def corpora_differ(self) -> list[str]:
        """`parent--child` of the edges of `controls.same_corpora`: the child's autoencoder has seen corpora that the parent's has not."""
        if not self.study.controls.same_corpora:
            return []
        seen = self.study.seen_corpora
        trained = [edge for edge in self.matched_edges if not set(edge) & set(self.imported_autoencoders)]
        return [f"{a}--{b}" for a, b in trained if set(seen(b)) - set(seen(a))]

    @cached_property
    def started(self) -> list[str]:
        """`parent--child` of the child's autoencoders that start from the parent's, trained beside its own."""
        edges = self.matched_edges if self.study.controls.started_from_parent else []
        return [f"{parent}--{child}" for parent, child in edges if child not in self.imported_autoencoders]

    @cached_property
    def transferred(self) -> list[tuple[str, str]]:
        """Edges along which the parent's autoencoder is tried on the child."""
        edges = self.study.edges() if self.study.controls.transfer else []
        return [(parent, child) for parent, child in edges if self.first_seed in self.seeds(parent)]

    @cached_property
    def other_merges(self) -> dict[str, str]:
        """Method of the merge that is made beside each merged model, to compare the two."""
        other = {"slerp": "linear", "linear": "slerp"}
        blocks = [(name, self.study.models[name]) for name in self.on_a_path if name in self.read]
        return {
            name: other[block.merge.method]
            for name, block in blocks
            if self.study.controls.linear_merge and isinstance(block, MergedModel)
        }

    @cached_property
    def baselines(self) -> list[str]:
        """Controls with a table of their own, `controls/<name>.parquet`, outside the summary."""
        there = {
            "untrained": self.untrained,
            "transfer": self.transferred,
            "started": self.started,
            "same_corpora": self.corpora_differ,
            "linear_merge": self.other_merges,
        }
        return [name for name, found in there.items() if found]

    @cached_property
    def baseline_pairs(self) -> dict[str, list[tuple[str, str, str, str]]]:
        """(parent, child, and the names of both sides' features) of the pairs that a baseline compares."""
        started, differ = ([tuple(name.split("--")) for name in names] for names in (self.started, self.corpora_differ))
        return {
            "untrained": [(root, name, root, name) for name, root in self.untrained.items()],
            "started": [(a, b, a, f"{a}--{b}") for a, b in started],
            "same_corpora": [(a, b, f"{a}--{b}--corpora", b) for a, b in differ],
        }

    @cached_property
    def compared(self) -> list[str]:
        """Everything whose features are correlated."""
        corpora = [f"{pair}--corpora" for pair in self.corpora_differ]
        return [*self.study.models, *self.beside, *self.started, *corpora]

    @cached_property
    def beside(self) -> list[str]:
        """Models beside the lineage that have autoencoders of their own."""
        return [*self.untrained, *filter(self.seeds, self.placebos)]

    # --- the report ---

    @cached_property
    def figures(self) -> list[str]:
        """Figures beside the flow's own, in the report's order."""
        training = ["training"] if self.trained else []
        autoencoders = ["autoencoders"] if self.trained_autoencoders else []
        return ["curves", *(f"sweep-{model}" for model in self.on_a_path), *training, *autoencoders, "scores"]

    def language_model(self) -> dict[str, Any] | None:
        """Where explanations come from, if a language model is named, and the budget with the number of jobs that share it."""
        block = self.study.interpretation.model_dump(exclude={"features", "budget_usd"})
        shared = {"budget": self.study.interpretation.budget_usd, "jobs": len(self.read)}
        return block | shared if block["model"] is not None else None


def places(names: Iterable[str], study: Iterable[str] | Mapping[str, Any]) -> dict[str, int]:
    """The place of each name in the study, from which its colour follows."""
    order = list(study)
    return {name: order.index(name) for name in names}
