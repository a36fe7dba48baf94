"""mergekit's configuration of a merge, as the `models:` block of a study: `feature-lineage new --from-mergekit`.

What a study could not merge in the same way is refused by name, so that no block says something else than the file it is from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from feature_lineage.errors import InputError
from feature_lineage.study.hook_points import LAYERS, checkpoint_config
from feature_lineage.study.keys import OVER_A_BASE

FILE = "mergekit_config.yml"
METHODS = {  # the parameters of each method that are read, by the scope that mergekit gives them
    "linear": ({"weight"}, {"normalize"}),
    "slerp": (set(), {"t"}),
    "ties": ({"weight", "density"}, {"normalize", "lambda", "rescale"}),
    "dare_ties": ({"weight", "density"}, {"normalize", "lambda", "rescale"}),
}
NO_EFFECT = {"int8_mask"}  # the type of mergekit's own masks
NOTED = ("dtype", "out_dtype", "tokenizer_source", "tokenizer", "chat_template")


class _Place(NamedTuple):
    """Where a checkpoint is: a name on the hub or a path, and a revision."""

    path: str
    revision: str | None


class _Source(NamedTuple):
    place: _Place
    parameters: Mapping[str, Any]


def models_from_mergekit(folder: str | Path, corpus: str) -> str:
    """The `models:` block, as YAML with comments, of a study that merges as mergekit did.

    Args:
        folder: of a model that mergekit has made, with its `mergekit_config.yml`; or such a file.
        corpus: name of the study's corpus that stands for what models without a parent were trained on.

    Raises:
        InputError: the file cannot be read, or says what a study cannot do; names the file and the key.
    """
    path = Path(folder)
    path = path if path.is_file() else path / FILE
    config = _read(path)
    try:
        blocks, merged = _blocks(config, corpus, path)
    except _Refused as error:
        raise InputError(f"{path}: {error}") from None
    noted = [f"{key}: {json.dumps(config[key])}" for key in NOTED if config.get(key) is not None]
    lines = [f"# From {path}" + (f"; it also says {', '.join(noted)}." if noted else ".")]
    lines += ["# A study merges in float32, and all its models share its tokenizer, which `tokenizer` names."]
    roots = [name for name, block in blocks.items() if "train" in block]
    lines += [f"# {corpus}: a corpus of the study that stands for what {', '.join(roots)} was trained on."]
    instead = {"pretrained": str(path.parent), "parents": blocks[merged]["parents"]}
    lines += [f"# To take the merge that mergekit wrote: {merged}: {_flow(instead)}"]
    return "\n".join([*lines, "models:", *(f"  {_flow({name: block})[1:-1]}" for name, block in blocks.items())]) + "\n"


class _Refused(Exception):
    """What a study cannot do; the file's name is added where it is known."""


def _read(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; name the folder of a model that mergekit has made, with its {FILE}"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())}); replace the file") from error
    if not isinstance(config, dict) or "merge_method" not in config:
        raise InputError(f"{path}: is no mergekit configuration, it has no merge_method; name one that has")
    return config


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True).strip()


def _blocks(config: Mapping[str, Any], corpus: str, path: Path) -> tuple[dict[str, Any], str]:
    """The blocks by name, and the name of the merged model."""
    method = config["merge_method"]
    if method not in METHODS:
        raise _Refused(f"merge_method {method!r} is not known to a study; {', '.join(METHODS)} are")
    sources, shared, base = _sources(config)
    _check_parameters(method, sources, shared)
    places = [source.place for source in sources]
    if method == "slerp":
        if base not in places or len(places) != 2:
            raise _Refused("slerp merges two `models`, of which base_model is one")
        sources.sort(key=lambda source: source.place != base)  # t = 0 is the base
    if method in OVER_A_BASE:
        if base is None:
            raise _Refused(f"{method} needs a base_model")
        sources = [source for source in sources if source.place != base]
    parents = [source.place for source in sources]
    if len(set(parents)) < len(parents) or len(parents) < 2:
        raise _Refused(f"{len(parents)} models are merged by {method}; a study merges two or more different ones")
    names: dict[_Place, str] = {}
    root = {"train": [corpus]}
    blocks: dict[str, Any] = {}
    if method in OVER_A_BASE and base is not None:
        blocks[_name(base, names)] = _checkpoint(base) | root
        root = {"parent": names[base]}
    for place in parents:
        blocks[_name(place, names)] = _checkpoint(place) | root
    merged = _name(_Place(str(path.parent.resolve()), None), names)
    blocks[merged] = {"parents": [names[place] for place in parents], "merge": _merge(method, sources, shared)}
    return blocks, merged


def _checkpoint(place: _Place) -> dict[str, str]:
    return {"pretrained": place.path} | ({"revision": place.revision} if place.revision else {})


def _name(place: _Place, names: dict[_Place, str]) -> str:
    """A name of the study for a checkpoint: the last part of its path, and a number where that is taken."""
    last = "-".join(re.findall(r"[A-Za-z0-9]+(?:[._][A-Za-z0-9]+)*", place.path.rstrip("/").rpartition("/")[2]))[:56]
    last, taken = last.rstrip("-._") or "model", {name.lower() for name in names.values()}
    free = (name for name in [last, *(f"{last}-{number}" for number in range(2, 10**6))] if name.lower() not in taken)
    return names.setdefault(place, next(free))


def _merge(method: str, sources: Sequence[_Source], shared: Mapping[str, Any]) -> dict[str, Any]:
    """The block `merge`."""
    if method == "slerp":
        return {"method": method, "t": _number(shared.get("t"), "parameters.t", 0, 1)}
    weights = [_number(s.parameters.get("weight"), f"weight of {s.place.path}", 0) for s in sources]
    if not any(weights):
        raise _Refused("weight of every model is 0; some must be above")
    normalize = _truth(shared.get("normalize", method != "dare_ties"), "normalize")
    if method == "linear":
        if not normalize and abs(sum(weights) - 1) > 1e-6:
            raise _Refused(
                "normalize: false with weights whose sum is not 1; a study's mean is of weights with that sum"
            )
        return {"method": method, "weights": weights}
    factor = _number(shared.get("lambda", 1.0), "parameters.lambda", 0)
    if factor != 1 and normalize:
        raise _Refused(f"parameters.lambda {factor:g} with normalize: true; a study knows 1 alone there")
    if _truth(shared.get("rescale", method == "dare_ties"), "rescale") != (method == "dare_ties"):
        raise _Refused(f"parameters.rescale {shared['rescale']!r} is not known to a study's {method}")
    if factor == 0:
        raise _Refused("parameters.lambda 0 leaves the base as it is; merge nothing")
    # mergekit keeps all where nothing is said.
    kept = [min(1.0, _number(s.parameters.get("density", 1.0), f"density of {s.place.path}", 0)) for s in sources]
    if not all(kept):
        raise _Refused("density 0 keeps nothing of a model; leave the model out")
    block: dict[str, Any] = {"method": method, "weights": [weight * factor for weight in weights]}
    block["density"] = kept if len(set(kept)) > 1 else kept[0]
    return block | ({} if normalize else {"normalize": False})


# --- what stands where in the file -------------------------------------------------------------------------


def _sources(config: Mapping[str, Any]) -> tuple[list[_Source], Mapping[str, Any], _Place | None]:
    """The models with their parameters, the parameters of all, and the base."""
    shared = _mapping(config.get("parameters"), "parameters")
    base = config.get("base_model")
    if config.get("modules"):
        raise _Refused(
            "`modules` merge each part of a model in its own way, which a study cannot; `models` and `slices` are read"
        )
    if config.get("models"):
        sources = [
            _source(one, f"models.{number}", shared) for number, one in enumerate(_sequence(config["models"], "models"))
        ]
    elif config.get("slices"):
        sources, shared, base = _of_slices(_sequence(config["slices"], "slices"), shared, base)
    else:
        raise _Refused("neither `models` nor `slices` are given")
    return sources, shared, None if base is None else _place(base, "base_model")


def _of_slices(
    slices: Sequence[Any], shared: Mapping[str, Any], base: Any
) -> tuple[list[_Source], Mapping[str, Any], Any]:
    """The same of slices, if together they are all layers of the same models, merged in one way."""
    found: list[tuple[list[_Source], Mapping[str, Any], Any]] = []
    layers = 0
    for number, one in enumerate(slices):
        key = f"slices.{number}"
        piece = _mapping(one, key)
        if piece.get("residual_weight") is not None:
            raise _Refused(f"{key}.residual_weight is not known to a study")
        of_slice = {**shared, **_mapping(piece.get("parameters"), f"{key}.parameters")}
        sources = []
        ranges = []
        for place, source in enumerate(_sequence(piece.get("sources"), f"{key}.sources")):
            sources.append(_source(source, f"{key}.sources.{place}", of_slice))
            ranges.append(source.get("layer_range"))
        if any(one != [layers, ranges[0][-1]] for one in ranges if isinstance(ranges[0], list)) or None in ranges:
            raise _Refused(
                f"{key} takes layers {ranges}; a study merges all layers in their order, [{layers}, …] of each model here"
            )
        layers = ranges[0][1]
        found.append((sources, of_slice, piece.get("base_model") or base))
        if found[0] != found[-1]:
            raise _Refused(
                f"{key} merges other models or in another way than slices.0; a study merges all layers alike"
            )
    for source in found[0][0]:
        config = checkpoint_config(source.place.path)
        told = [config[key] for key in LAYERS if isinstance(config.get(key), int)]
        if told and told[0] != layers:
            raise _Refused(
                f"slices take {layers} of the {told[0]} layers of {source.place.path}; a study merges all of them"
            )
    return found[0]


def _source(value: Any, key: str, shared: Mapping[str, Any]) -> _Source:
    block = _mapping(value, key)
    own = _mapping(block.get("parameters"), f"{key}.parameters")
    return _Source(_place(block.get("model"), f"{key}.model"), {**shared, **own})


def _place(value: Any, key: str) -> _Place:
    """Where a model is; mergekit writes `path@revision`, or the same as a block."""
    if isinstance(value, dict) and value.get("override_architecture"):
        raise _Refused(f"{key}.override_architecture is not known to a study")
    if isinstance(value, dict) and "model" in value:
        if value.get("lora"):
            value = f"{value['model']}+{value['lora']}"
        else:
            return _place(value["model"], key)
    if isinstance(value, dict) and isinstance(value.get("path"), str):
        return _Place(value["path"], value.get("revision"))
    if not isinstance(value, str) or not value:
        raise _Refused(f"{key}: found {value!r}, no model")
    if "+" in value:
        raise _Refused(
            f"{key} {value} is a model with a LoRA; declare it in the study with `adapter` and its base as `parent`, and merge that"
        )
    path, _, revision = value.partition("@")
    return _Place(path, revision or None)


def _check_parameters(method: str, sources: Sequence[_Source], shared: Mapping[str, Any]) -> None:
    of_models, of_all = METHODS[method]
    known = {*of_models, *of_all, *NO_EFFECT}
    for name in [*shared, *(name for source in sources for name in source.parameters)]:
        if name not in known:
            raise _Refused(
                f"parameters.{name} is not known to a study's {method}; {', '.join(sorted(known - NO_EFFECT))} are"
            )


def _number(setting: Any, key: str, least: float, most: float = float("inf")) -> float:
    value = _constant(setting, key)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _Refused(f"{key}: found {value!r}, no number") from None
    if isinstance(value, bool) or not least <= number <= most or number == float("inf"):
        bound = f"from {least:g}" + (f" to {most:g}" if most < float("inf") else "")
        raise _Refused(f"{key}: found {value!r}; a study knows numbers {bound}")
    return number


def _truth(setting: Any, key: str) -> bool:
    if not isinstance(value := _constant(setting, f"parameters.{key}"), bool):
        raise _Refused(f"parameters.{key}: found {value!r}, neither true nor false")
    return value


def _constant(setting: Any, key: str) -> Any:
    """A parameter's one value, whatever the layer and the tensor."""
    if isinstance(setting, dict) and setting.get("filter") in (None, "*"):
        return _constant(setting.get("value"), key)
    if isinstance(setting, list) and len(setting) == 1:
        return _constant(setting[0], key)
    if isinstance(setting, list) and setting and all(one == setting[0] for one in setting):
        return _constant(setting[0], key)
    if isinstance(setting, list | dict):
        kind = "a value for some tensors" if "filter" in json.dumps(setting) else "a gradient over the layers"
        raise _Refused(f"{key} is {kind}, {json.dumps(setting)}; a study knows one value for all")
    if setting is None:
        raise _Refused(f"{key} is not given")
    return setting


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise _Refused(f"{key}: found {value!r}, no block of keys")
    return value or {}


def _sequence(value: Any, key: str) -> Sequence[Any]:
    if not isinstance(value, list) or not value:
        raise _Refused(f"{key}: found {value!r}, no list")
    return value
