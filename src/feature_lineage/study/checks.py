"""What can be wrong with a study that the type of no single value tells.

Each check yields its problems: the key, what was found there, and what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from feature_lineage.study import hook_points as hooks
from feature_lineage.study.dictionaries import dictionary_problems
from feature_lineage.study.keys import GENERATIONS, KeptModel, MergedModel, PretrainedModel, TrainedModel
from feature_lineage.study.measures import FeatureCase, PatternCase
from feature_lineage.study.merges import merge_problems
from feature_lineage.study.sequences import model_name, step_name
from feature_lineage.study.texts import TrainedTokenizer
from feature_lineage.study.types import LARGEST, Hidden

if TYPE_CHECKING:
    from feature_lineage.study.study import Study

Problem = tuple[str, Any, str]
Check = Callable[["Study"], Iterator[Problem]]


def problems(study: Study) -> Iterator[Problem]:
    """All problems of a study; of one whose lineage cannot be walked, those of its names and its lineage alone."""
    for check in OF_NAMES:
        yield from check(study)
    if any(other not in study.models for name in study.models for other in study.made_from(name)):
        return
    tangled = list(_lineage_can_be_walked(study))
    yield from tangled
    if tangled:
        return
    for check in OF_VALUES:
        yield from check(study)


# --- names and the lineage ---------------------------------------------------------------------------------


def _corpora_are_known(study: Study) -> Iterator[Problem]:
    corpora = "a corpus of this study: " + ", ".join(study.corpora)
    lists = {f"models.{name}.train": model.train for name, model in study.models.items() if hasattr(model, "train")}
    if isinstance(study.tokenizer, TrainedTokenizer):
        lists["tokenizer.train"] = study.tokenizer.train
    if study.flow.corpora is not None:
        lists["flow.corpora"] = study.flow.corpora
    for key, names in lists.items():
        yield from ((key, name, corpora) for name in names if name not in study.corpora)
        if len(set(names)) < len(names):
            yield key, names, "each corpus once"


def _conversations_can_be_rendered(study: Study) -> Iterator[Problem]:
    for name in study.read_corpora():
        if study.corpora[name].messages is None:
            continue
        if isinstance(study.tokenizer, TrainedTokenizer):
            allowed = "a corpus of plain `text`: the tokenizer that this study trains has no chat template; name a published one"
            yield f"corpora.{name}.messages", study.corpora[name].messages, allowed


def _seeds_differ(study: Study) -> Iterator[Problem]:
    if len(set(seeds := study.autoencoder.seeds)) < len(seeds):
        yield "autoencoder.seeds", seeds, "each seed once"


def _names_differ_in_more_than_case(study: Study) -> Iterator[Problem]:
    for key, blocks in {"corpora": study.corpora, "models": study.models, "cases": study.cases}.items():
        first: dict[str, str] = {}
        for name in blocks:
            if (other := first.setdefault(name.lower(), name)) != name:
                yield f"{key}.{name}", name, f"another name: some file systems cannot tell it from {other}"


def _untrained_models_can_be_made(study: Study) -> Iterator[Problem]:
    if study.controls.untrained and not study.untrained():
        yield "controls.untrained", True, "false in a study where no model is trained from nothing"
    for name in study.untrained():
        if name in study.models:
            yield f"models.{name}", name, "another name: with controls.untrained, a model of this name is made"


def _placebos_can_be_made(study: Study) -> Iterator[Problem]:
    for name in study.placebos():
        if name in study.models:
            yield f"models.{name}", name, "another name: with controls.placebo, a model of this name is made"
    if study.controls.placebo_autoencoders and not study.placebos():
        yield "controls.placebo_autoencoders", True, "false without controls.placebo, or where no model is fine-tuned"


def _sequences_have_names(study: Study) -> Iterator[Problem]:
    for name, model in study.models.items():
        if (
            isinstance(model, PretrainedModel) and model.revisions is not None
        ):  # of which `unrolled` could make no models
            yield (
                f"models.{name}.revisions",
                model.revisions,
                f"different revisions, of which each gives a name that no other model has, such as {model_name(name, model.revisions[0])}",
            )


def _steps_are_kept(study: Study) -> Iterator[Problem]:
    for name, model in study.models.items():
        if isinstance(model, KeptModel) and name not in study.steps(model.kept):
            allowed = (
                f"models.{model.kept}.training.keep with this step, which makes {step_name(model.kept, model.step)}"
            )
            yield f"models.{name}", name, allowed
        for step in study.steps(name):
            if not isinstance(study.models.get(step), KeptModel):
                yield f"models.{step}", step, f"another name: models.{name}.training.keep makes a model of this name"
        keep = model.training.keep if hasattr(model, "training") else []
        if len(set(keep)) < len(keep):
            yield f"models.{name}.training.keep", keep, "each step once"


def _parents_are_known(study: Study) -> Iterator[Problem]:
    for name, model in study.models.items():
        parents = study.parents(name)
        key = f"models.{name}." + ("parents" if getattr(model, "parents", None) else "parent")
        for parent in parents:
            if parent not in study.models:
                yield key, parent, "another model of this study: " + ", ".join(n for n in study.models if n != name)
        if len(set(parents)) < len(parents):
            yield key, parents, "each model once"
        if isinstance(model, MergedModel) and (base := model.merge.base) is not None and base not in study.models:
            yield f"models.{name}.merge.base", base, "a model of this study: " + ", ".join(study.models)


def _lineage_can_be_walked(study: Study) -> Iterator[Problem]:
    if cycle := _cycle(study):
        yield f"models.{cycle[0]}", " -> ".join(cycle), "a lineage without cycles"
        return
    depths = _generations(study)
    if depths[longest := max(depths, key=depths.get)] > GENERATIONS:
        yield f"models.{longest}", f"{depths[longest]} generations", f"at most {GENERATIONS} from a root to here"


def _cycle(study: Study) -> list[str] | None:
    """The first cycle, from child to parent, if there is one."""
    sorter, free = TopologicalSorter({name: study.made_from(name) for name in study.models}), set()
    try:
        sorter.prepare()
        return None
    except CycleError:
        while ready := sorter.get_ready():
            free.update(ready)
            sorter.done(*ready)
    path, name = [], next(name for name in study.models if name not in free)
    while name not in path:
        path.append(name)
        name = next(other for other in study.made_from(name) if other not in free)
    return [*path[path.index(name) :], name]


def _generations(study: Study) -> dict[str, int]:
    """How many generations lead to each model, itself counted."""
    found: dict[str, int] = {}
    for name in TopologicalSorter({name: study.made_from(name) for name in study.models}).static_order():
        found[name] = 1 + max((found[other] for other in study.made_from(name)), default=0)
    return found


# --- values that must fit one another ----------------------------------------------------------------------


def _cases_name_what_there_is(study: Study) -> Iterator[Problem]:
    for name, case in study.cases.items():
        if case.model is not None and case.model not in study.models:
            yield f"cases.{name}.model", case.model, "a model of this study: " + ", ".join(study.models)
        elif case.model is not None and not study.dictionary_seeds(case.model):
            yield f"cases.{name}.model", case.model, "a model that has an autoencoder (autoencoders)"
        for corpus in case.corpora or ():
            if corpus not in study.flow_corpora():
                yield f"cases.{name}.corpora", corpus, "a corpus of the sample: " + ", ".join(study.flow_corpora())
        if case.corpora is not None and len(set(case.corpora)) < len(case.corpora):
            yield f"cases.{name}.corpora", case.corpora, "each corpus once"
        if isinstance(case, PatternCase):
            try:
                re.compile(case.pattern)
            except (re.error, OverflowError, RecursionError) as error:  # too large a number, too many parentheses
                yield f"cases.{name}.pattern", case.pattern, f"a regular expression ({error})"


def _models_fit_their_roots(study: Study) -> Iterator[Problem]:
    for name in study.models:
        for check in (_warmup_ends, merge_problems, _sequences_fit):
            yield from check(study, name)


def _warmup_ends(study: Study, name: str) -> Iterator[Problem]:
    model = study.models[name]
    steps = model.training.most_steps(len(model.train)) if hasattr(model, "training") else None
    if steps is not None and model.training.warmup_steps >= steps:
        yield (
            f"models.{name}.training.warmup_steps",
            model.training.warmup_steps,
            f"fewer than the run's {steps:,} steps (tokens / block / batch x epochs), or the learning rate never gets to its peak",
        )
    if steps is not None and model.training.keep and (last := max(model.training.keep)) >= steps:
        yield (
            f"models.{name}.training.keep",
            last,
            f"steps before the run's last, {steps:,} (tokens / block / batch x epochs), whose weights are the model's own",
        )


def _sequences_fit(study: Study, name: str) -> Iterator[Problem]:
    model = study.models[name]
    for root in (study.models[root] for root in study.roots(name)):
        if not isinstance(root, TrainedModel):
            continue
        longest = root.architecture.max_position_embeddings
        allowed = f"at most max_position_embeddings ({longest})"
        if hasattr(model, "training") and model.training.block > longest:
            yield f"models.{name}.training.block", model.training.block, allowed
        if study.context > longest:
            yield "autoencoder.context", study.context, allowed


def _hook_points_exist(study: Study) -> Iterator[Problem]:
    """What is wrong with the hook point, or with the checkpoints that are read there, as far as configurations tell."""
    hook = study.autoencoder.hook
    for name, root in study.models.items():
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


def _some_feature_can_live(study: Study) -> Iterator[Problem]:
    if study.flow.min_active > study.flow.tokens:
        yield "flow.min_active", study.flow.min_active, f"at most flow.tokens ({study.flow.tokens})"


def _features_are_as_many(study: Study) -> Iterator[Problem]:
    """What counts or names more features than the autoencoder of a root has."""
    for name, root in study.models.items():
        if not isinstance(root, TrainedModel) or name in study.autoencoders:
            continue
        vocabulary = getattr(study.tokenizer, "vocab_size", LARGEST)
        features = study.autoencoder.expansion * hooks.width(study.autoencoder.hook, root.architecture, vocabulary)
        if study.autoencoder.l0 is not None and study.autoencoder.l0 >= features:
            yield "autoencoder.l0", study.autoencoder.l0, f"fewer than the {features} features (models.{name})"
        for case, block in study.cases.items():
            start = block.model or study.order()[0]
            asked = isinstance(block, FeatureCase) and start in study.models and name in study.roots(start)
            asked &= start not in study.autoencoders
            if asked and block.feature >= features:
                yield f"cases.{case}.feature", block.feature, f"a feature below {features} (models.{name})"


def _tokens_suffice(study: Study) -> Iterator[Problem]:
    if study.flow.tokens < 2 * study.context:
        yield "flow.tokens", study.flow.tokens, f"at least two blocks of {study.context} tokens"
    if study.autoencoder.tokens < (batch := study.autoencoder.batch * study.context):
        yield "autoencoder.tokens", study.autoencoder.tokens, f"at least one batch of {batch} tokens"


def _autoencoders_can_be_trained(study: Study) -> Iterator[Problem]:
    options = study.autoencoder
    steps = options.tokens // study.context // options.batch
    if 0 < steps <= options.l1_warmup_steps:
        yield (
            "autoencoder.l1_warmup_steps",
            options.l1_warmup_steps,
            f"fewer than the run's {steps:,} steps (tokens / context / batch), or λ never gets to its full value",
        )
    if 1 < steps <= max(1, round(options.resampling.silent * steps)):  # as `resampling.resampling_steps` rounds
        yield (
            "autoencoder.resampling.silent",
            options.resampling.silent,
            f"a share that ends before the last of the run's {steps:,} steps, or no feature is ever dead",
        )
    variant, l0 = options.variant, options.l0
    if variant in ("topk", "batchtopk") and (l0 is None or l0 != int(l0)):
        yield "autoencoder.l0", l0, f"the whole number of features active per token, which variant {variant} needs"
    if variant == "jumprelu" and not options.normalize:
        yield (
            "autoencoder.normalize",
            False,
            "true with variant jumprelu: the width of its thresholds' band is in those units",
        )


def _endpoint_has_an_address(study: Study) -> Iterator[Problem]:
    try:
        parts = urlsplit(study.interpretation.base_url)
        whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if not whole:
        yield "interpretation.base_url", Hidden(), "an address: https://host[:port]/path"


def _costs_are_bounded(study: Study) -> Iterator[Problem]:
    asked = study.interpretation
    if asked.model is None:
        return
    prices = {name: getattr(asked, name) for name in ("prompt_price", "completion_price")}
    for name, price in prices.items():
        if price is None:
            yield f"interpretation.{name}", None, "a price where interpretation.model is named; 0 if it costs nothing"
    if asked.budget_usd is None and any(prices.values()):
        yield "interpretation.budget_usd", None, "the most that may be spent, where interpretation.model has a price"


# In the order in which a user reads their problems.
OF_NAMES: tuple[Check, ...] = (
    _corpora_are_known,
    _seeds_differ,
    _names_differ_in_more_than_case,
    _untrained_models_can_be_made,
    _sequences_have_names,
    _steps_are_kept,
    _parents_are_known,
)
OF_VALUES: tuple[Check, ...] = (
    dictionary_problems,
    _placebos_can_be_made,
    _conversations_can_be_rendered,
    _cases_name_what_there_is,
    _models_fit_their_roots,
    _hook_points_exist,
    _some_feature_can_live,
    _features_are_as_many,
    _tokens_suffice,
    _autoencoders_can_be_trained,
    _endpoint_has_an_address,
    _costs_are_bounded,
)
