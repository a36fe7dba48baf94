"""Autoencoders made elsewhere: what the configuration says of them, and what can be wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from feature_lineage.places import on_disk
from feature_lineage.study.types import Block, Place

if TYPE_CHECKING:
    from feature_lineage.study.study import Study

# The files of each format, by which it is told: `autoencoders/formats/` has a module for each, which says what is in them.
FILES: dict[str, tuple[str, ...]] = {
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "gemma_scope": ("params.npz",),
    "gemma_scope_2": ("config.json", "params.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
}
# What may lie beside them and changes what is read: a scale that is not in the weights yet, and what the release says of itself.
BESIDE = ("activation_scaler.json", "eval_results.json")
AUTO = "auto"  # in place of a format: by the files
NONE = "none"  # in place of a block: the model has no autoencoder


class ImportedAutoencoder(Block):
    """A published autoencoder."""

    pretrained: Place = Field(description="Name on the hub, `owner/name`, or path of a local directory.")
    folder: Place | None = Field(
        None,
        description="Folder in there that holds the one autoencoder, such as `layer_12/width_16k/average_l0_71`; not set, the whole is one.",
    )
    revision: Place | None = Field(None, description="Commit, tag or branch.")
    format: Literal[AUTO, *FILES] = Field(AUTO, description="How it is stored; `auto` tells it from the files.")
    accept: bool = Field(
        False,
        description="Use it although its numbers on this study's text are implausible, or although it says that it reads another hook point; "
        "the report says so.",
    )


def _listed(value: Any) -> Any:
    if value == NONE:
        return []
    if not isinstance(value, dict | list) or value == []:
        raise PydanticCustomError("dictionaries", "none, a block with a key `pretrained`, or a list of such blocks", {})
    return [value] if isinstance(value, dict) else value


Imported = Annotated[
    list[ImportedAutoencoder],
    BeforeValidator(
        _listed,
        json_schema_input_type=Literal["none"] | ImportedAutoencoder | list[ImportedAutoencoder],
    ),
]


def formats_of(folder: Path, format: str = AUTO) -> list[str]:
    """The format that is named; else those whose files a folder has."""
    if format != AUTO:
        return [format]
    return [name for name, files in FILES.items() if all((folder / file).is_file() for file in files)] or [AUTO]


def folder_problem(folder: Path, format: str = AUTO) -> str | None:
    """Why a folder is no autoencoder of a format, as far as the names of its files tell: a clause, and what is allowed."""
    found = formats_of(folder, format)
    if len(found) > 1:
        return f"has the files of several formats; allowed: `format: {found[0]}`, or {', '.join(found[1:])}"
    if found == [AUTO]:
        there = ", ".join(sorted(file.name for file in folder.iterdir())[:6]) or "nothing"
        known = "; ".join(f"{name}: {', '.join(files)}" for name, files in FILES.items())
        return f"holds no autoencoder that is known, but {there}; allowed: the folder with the files of one ({known})"
    missing = [name for name in FILES[found[0]] if not (folder / name).is_file()]
    return (
        f"has no {missing[0]}, which the format {found[0]} needs; allowed: the folder that holds it"
        if missing
        else None
    )


def features_said(block: ImportedAutoencoder) -> int | None:
    """How many features an autoencoder has, as its configuration on disk or the name of its folder says; None where neither does."""
    folder = Path(on_disk(block.pretrained), block.folder or "")
    for name in ("cfg.json", "config.json"):
        try:
            config = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        trainer = config.get("trainer") if isinstance(config, dict) else None
        for said in (config if isinstance(config, dict) else {}, trainer if isinstance(trainer, dict) else {}):
            found = next((said[key] for key in ("d_sae", "num_latents", "dict_size", "width") if said.get(key)), None)
            if isinstance(found, int):
                return found
    width = re.search(r"width_(\d+)([km])", str(folder))
    return int(width[1]) * {"k": 1 << 10, "m": 1 << 20}[width[2]] if width else None


def with_seeds(config: dict[str, Any]) -> dict[str, Any]:
    """A study's configuration with as many `autoencoder.seeds` as the model with most imported autoencoders has, where none are named."""
    named, block = config.get("autoencoders"), config.get("autoencoder", {})
    if not isinstance(named, dict) or not isinstance(block, dict) or "seeds" in block:
        return config
    most = max((len(value) for value in named.values() if isinstance(value, list)), default=0)
    return config | {"autoencoder": block | {"seeds": list(range(most))}} if most > 1 else config


def dictionary_problems(study: Study) -> Iterator[tuple[str, Any, str]]:
    """What is wrong with the block `autoencoders`: key, what was found, what is allowed."""
    for name, imported in study.autoencoders.items():
        key = f"autoencoders.{name}"
        if name not in study.models:
            yield key, name, "a model of this study: " + ", ".join(study.models)
        if len(imported) > len(study.autoencoder.seeds):
            allowed = f"at least {len(imported)} seeds: each of the autoencoders of {name} takes the place of one"
            yield "autoencoder.seeds", study.autoencoder.seeds, allowed
        places = [(block.pretrained, block.folder, block.revision) for block in imported]
        if len(set(places)) < len(places):
            yield key, [block.pretrained for block in imported], "each autoencoder once"
    if not any(map(study.dictionary_seeds, study.models)):
        yield "autoencoders", NONE, "an autoencoder of at least one model: no feature can be read without"
    if study.autoencoder.init == "parent" and study.autoencoder.mean == "elements":
        for name in study.models:
            parents = study.parents(name)
            if parents and study.autoencoders.get(parents[0]) and name not in study.autoencoders:
                yield (
                    "autoencoder.mean",
                    "elements",
                    f"data, where the autoencoder of {name} starts from the imported one of {parents[0]}, which subtracts no mean over elements",
                )
                return
