"""What can be wrong with a merge that the type of no single value tells: keys that its method has not, parents that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from feature_lineage.places import on_disk
from feature_lineage.study.hook_points import checkpoint_config
from feature_lineage.study.keys import ON_A_PATH, OVER_A_BASE, Merge, MergedModel, PretrainedModel, TrainedModel

if TYPE_CHECKING:
    from feature_lineage.study.study import Study

Problem = tuple[str, Any, str]
# Keys that belong to a position on a path, and to changes of a base.
_OF_A_PATH = ("t", "points")
# Keys of config.json that tell the shape of a model's tensors, as most families name them.
_SHAPE = (
    "model_type",
    "hidden_size",
    "n_embd",
    "num_hidden_layers",
    "n_layer",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "tie_word_embeddings",
)
_OF_A_BASE = ("density", "base", "normalize")


def merge_problems(study: Study, name: str) -> Iterator[Problem]:
    """Problems of a merged model: the key, what was found there, and what is allowed."""
    model = study.models[name]
    if not isinstance(model, MergedModel):
        return
    key = f"models.{name}"
    found = list(_of_keys(f"{key}.merge", model))
    yield from found
    if found:
        return
    yield from _of_base(study, key, name)
    if model.on_a_path and model.merge.t == "equilibrium":
        for parent in model.parents:
            if not study.own_corpora(parent):
                yield (
                    f"{key}.merge.t",
                    "equilibrium",
                    f"a number from 0 to 1, as there are no corpora on which models.{parent} could be measured; or name those that stand "
                    f"for what it was trained on, models.{parent}.train",
                )
    yield from _of_shapes(study, key, name)


def _of_keys(key: str, model: MergedModel) -> Iterator[Problem]:
    """Keys that the method does not have, and lists that are not as long as there are parents."""
    merge, count = model.merge, len(model.parents)
    method, each = merge.method, f"one for each of the {count} parents"
    if method == "slerp" and count != 2:
        yield (
            f"{key}.method",
            method,
            f"linear, ties or dare_ties: slerp takes two parents, and there are {count}",
        )
        return
    if method == "slerp" and merge.weights is not None:
        yield f"{key}.weights", merge.weights, "no `weights` with slerp; its position is `t`"
        return
    if merge.weights is not None and len(merge.weights) != count:
        yield f"{key}.weights", merge.weights, each
    elif merge.weights is not None and not any(merge.weights):
        yield f"{key}.weights", merge.weights, "some weight above 0"
    if not model.on_a_path:
        why = {"linear": "`weights`" if merge.weights is not None else f"{count} parents"}.get(method, method)
        rest = "a position is chosen between two parents, by slerp or by linear without `weights`"
        yield from _set(key, merge, _OF_A_PATH, f"no `{{}}` with {why}: {rest}")
    if method in ON_A_PATH:
        yield from _set(key, merge, _OF_A_BASE, f"no `{{}}` with {method}; {' and '.join(OVER_A_BASE)} have it")
    elif isinstance(merge.density, list) and len(merge.density) != count:
        yield f"{key}.density", merge.density, f"a number, or {each}"


def _set(key: str, merge: Merge, names: tuple[str, ...], allowed: str) -> Iterator[Problem]:
    for name in names:
        if name in merge.model_fields_set and (value := getattr(merge, name)) is not None:
            yield f"{key}.{name}", value, allowed.format(name)


def _of_base(study: Study, key: str, name: str) -> Iterator[Problem]:
    model = study.models[name]
    if model.merge.method not in OVER_A_BASE or study.merge_base(name) is not None:
        return
    common = set.intersection(*(set(study.ancestors(parent)) for parent in model.parents))
    several = [other for other in study.order() if other in common]
    why = (
        f"none of their common ancestors {', '.join(several)} comes from all others"
        if several
        else "they have no common ancestor; a checkpoint that was trained from another says so with `parent`"
    )
    yield (
        f"{key}.merge.base",
        None,
        f"the model whose changes {model.merge.method} adds up: {', '.join(model.parents)} have no nearest common ancestor, as {why}",
    )


def _of_shapes(study: Study, key: str, name: str) -> Iterator[Problem]:
    """Parents, and a base, that differ in shape as far as configurations tell: `task_vectors.check_alike` knows the rest."""
    model = study.models[name]
    made_from = [*model.parents, *([base] if (base := study.merge_base(name)) is not None else [])]
    shapes = {
        block.architecture.model_dump_json()
        for block in (study.models[root] for other in made_from for root in study.roots(other))
        if isinstance(block, TrainedModel)
    }
    if len(shapes) > 1:
        yield f"{key}.parents", model.parents, "models of one architecture"
        return
    configs = {other: _config(study, other) for other in made_from}
    told = [other for other in made_from if configs[other]]
    for other in told[1:]:
        first, second = (configs[one] for one in (told[0], other))
        for what in _SHAPE:
            if what in first and what in second and first[what] != second[what]:
                yield (
                    f"{key}.parents",
                    model.parents,
                    f"models of one architecture: {what} is {first[what]} in models.{told[0]}, {second[what]} in models.{other}",
                )
                return


def _config(study: Study, name: str) -> dict[str, Any]:
    """The `config.json` that tells a model's shape, if it is in a local directory: its own, or of the first model that it is made from."""
    while not isinstance(block := study.models[name], PretrainedModel):
        origins = study.origins(name)
        if not origins:
            return {}
        name = origins[0]
    return checkpoint_config(on_disk(block.pretrained))
