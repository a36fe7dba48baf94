"""A study is read from YAML; what does not fit is refused by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from feature_lineage.study import hook_points as hooks
from feature_lineage.study.dictionaries import ImportedAutoencoder
from feature_lineage.study.keys import MODELS
from feature_lineage.study.measures import CASES
from feature_lineage.study.study import Study
from feature_lineage.study.texts import CORPORA, TOKENIZERS
from feature_lineage.study.types import NAME_PATTERN, PLACE_PATTERN, Hidden, StudyError


def each_key_once(paths: Iterable[str | Path], study: str | None = None) -> None:
    """Refuse files that give a key twice: YAML would take the last and say nothing.

    Args:
        paths: YAML files.
        study: in files that hold more than one study's configuration, the name of the study whose block is looked at.

    Raises:
        StudyError: names the keys and their lines.
    """
    for path in paths:
        try:
            root = yaml.compose(Path(path).read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (OSError, yaml.YAMLError):  # a pipe that has been read, JSON that is no YAML
            continue
        problems, seen, todo = [], set(), [("", root, study is None)]
        while todo:
            place, node, ours = todo.pop()
            if (id(node), ours) in seen:  # an anchor that is used again
                continue
            seen.add((id(node), ours))
            if isinstance(node, yaml.SequenceNode):
                todo += [(place, part, ours) for part in node.value]
            elif isinstance(node, yaml.MappingNode):
                ours = ours or any((key.value, value.value) == ("study", study) for key, value in node.value)
                first: dict[str, int] = {}
                for key, value in node.value:
                    name, line = place + str(key.value), key.start_mark.line + 1
                    if ours and (before := first.get(str(key.value))):
                        found = (
                            f"found in lines {before} and {line}" if line > before else f"found twice in line {line}"
                        )
                        problems.append((before, f"  {name}: {found}; allowed: each key once"))
                    first.setdefault(str(key.value), line)
                    todo.append((f"{name}.", value, ours))
        if problems:
            raise _refusal([line for _, line in sorted(problems)], str(path))


def load_study(config: dict[str, Any]) -> Study:
    """Type and check a configuration as read from YAML.

    Raises:
        StudyError: one message that names every key refused, what was found and what is allowed.
    """
    name = config.get("study") if isinstance(config, dict) else None
    if keys := list(_keys_within(config, "")):
        lines = [
            f"  {key}: found what looks like a key or a password, not shown; allowed: none in any place; export it in the environment "
            "variable that interpretation.key_env names, or, for the hub, in HF_TOKEN"
            for key in keys
        ]
        raise _refusal(lines, f"study {'?' if 'study' in keys else name!r}")
    try:
        return Study.model_validate(config)
    except ValidationError as error:
        problems: dict[tuple[str, str], list[str]] = {}  # several messages about one value become one
        for entry in error.errors():
            found = entry["ctx"]["problems"] if entry["type"] == "study" else [_problem(entry)]
            for key, value, allowed in found:
                messages = problems.setdefault((key or "the whole file", _shown(value)), [])
                messages += [allowed] * (allowed not in messages)
        lines = [
            f"  {key}: found {value}; allowed: {' or '.join(allowed)}" for (key, value), allowed in problems.items()
        ]
        raise _refusal(lines, f"study {name!r}") from None


def _refusal(lines: list[str], where: str) -> StudyError:
    count = f"{len(lines)} problem" + "s" * (len(lines) > 1)
    return StudyError(f"config refused, {count} in {where}:\n" + "\n".join(lines))


# As the providers of models, the hub and GitHub write their keys; and keys and passwords in addresses.
_A_KEY = re.compile(
    r"\b(sk-[\w-]{16,}|hf_\w{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,})|://[^/\s@]+:[^/\s@]+@|://\S*[?&](api_?key|(access_)?token|key)=",
    re.IGNORECASE,
)


def _keys_within(found: Any, where: str) -> Iterator[str]:
    """Where in a configuration something stands that looks like a key: those texts go into provenance and Snakemake's records."""
    if isinstance(found, dict):
        for name, value in found.items():
            if isinstance(name, str) and _A_KEY.search(name):
                yield f"{where or 'the top'} (as the name of a key)"
            else:
                yield from _keys_within(value, f"{where}.{name}".removeprefix("."))
    elif isinstance(found, list):
        for number, value in enumerate(found):
            yield from _keys_within(value, f"{where}.{number}")
    elif isinstance(found, str) and _A_KEY.search(found):
        yield where


_NOTHING = object()


_SECRET = re.compile(
    r"key|token|secret|password|auth", re.IGNORECASE
)  # in the name of a key that the study doesn't know

_KINDS = {
    "corpora": (CORPORA, 2),
    "models": (MODELS, 2),
    "cases": (CASES, 2),
    "tokenizer": (TOKENIZERS, 1),
}  # and where pydantic names the kind
RENAMED = {  # keys of earlier versions
    "autoencoder.resampling.steps": "at, in shares of the run",
    "autoencoder.resampling.silent_steps": "silent, a share of the run",
}
_TYPE = re.compile(r"(literal\[|list\[|constrained-|str$|float$)")  # what pydantic calls a member of a union


def _problem(entry: Any) -> tuple[str, Any, str]:
    """(key, value found, what is allowed) of one of pydantic's errors."""
    loc = [part for part in entry["loc"] if part != "[key]"]
    unknown = entry["type"] == "extra_forbidden"
    secret = loc[:1] == ["interpretation"] or (unknown and _SECRET.search(str(loc[-1])))
    if secret and isinstance(entry["input"], str | list):
        entry = entry | {"input": Hidden()}
    kinds, at = _KINDS.get(str(loc[0]) if loc else "", ({}, 0))
    if len(loc) > at and loc[at] in kinds:
        del loc[at]
    kind = entry["type"]
    if loc and (kind == "invalid_key" or entry["loc"][-1] == "[key]"):
        loc[-1] = entry["input"]  # pydantic makes a 0 of false
    key = ".".join(_named(part) for i, part in enumerate(loc) if i < 2 or not _TYPE.match(str(part)))
    if unknown:
        allowed = _siblings(entry["loc"])
        near = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
        hint = f" (now {RENAMED[key]})" if key in RENAMED else f" (did you mean {near[0]}?)" if near else ""
        return key, entry["input"], f"no such key{hint}, but {', '.join(allowed)}"
    if kind in ("model_type", "dict_type"):
        return key, entry["input"], "a block of keys"
    if kind == "missing":
        return key, _NOTHING, "this key must be given"
    if kind == "invalid_key" or (kind == "string_type" and entry["loc"][-1] == "[key]"):
        return key, entry["input"], "a name; quotes make one of what YAML reads as a number, true, false or null"
    if key == "autoencoder.hook":
        near = hooks.nearest(entry["input"], hooks.TRAINED) if isinstance(entry["input"], str) else ""
        return key, entry["input"], f"one TransformerLens hook point, such as {hooks.EXAMPLE}{near}"
    if kind == "string_type":
        return key, entry["input"], "a text; quotes make one of a number"
    if kind == "string_pattern_mismatch" and entry["ctx"]["pattern"] == NAME_PATTERN:
        near = "-".join(re.findall(r"[A-Za-z0-9]+(?:[._][A-Za-z0-9]+)*", str(entry["input"])))[:64].rstrip("._-")
        hint = f", such as {near}" if near else ""
        return key, entry["input"], f"a name of letters and digits, with single . - or _ between them{hint}"
    if kind == "string_pattern_mismatch" and entry["ctx"]["pattern"] == PLACE_PATTERN:
        return key, entry["input"], "a text of one line, without control characters"
    return key, entry["input"], entry["msg"].removeprefix("Input should be ")


def _named(part: Any) -> str:
    """A part of a key as it can stand in a message."""
    text = str(part)
    return text if text.isprintable() else repr(text)


def _siblings(loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the block in which the last part of a location stands."""
    if loc[0] == "autoencoders" and len(loc) > 2:
        return list(ImportedAutoencoder.model_fields)
    kinds, at = _KINDS.get(str(loc[0]), ({}, -1))
    block: Any = kinds[str(loc[at])] if len(loc) > at + 1 and kinds else Study
    for field in loc[at + 1 : -1]:
        block = block.model_fields[str(field)].annotation
    return list(block.model_fields)


def _shown(value: Any) -> str:
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, dict):
        return "a block with " + (", ".join(map(str, value)) or "no keys")
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text):,} characters)"
