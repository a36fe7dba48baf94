"""Write `config/schema.json` and `config/README.md` from the typed configuration: `python -m feature_lineage.study.reference`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from feature_lineage.study.study import Study

INTRO = """# Configuration

One YAML file describes a study. `config.yaml` is the demo and the default; `paper.yaml` is the paper's study:
`snakemake --configfile config/paper.yaml` reads that file alone. Every key has a type, and a value that does not fit is
refused before any job starts. `schema.json` gives editors completion and checks.

This page is written by `python -m feature_lineage.study.reference` from `src/feature_lineage/study/`.
"""


def schema() -> str:
    """The JSON schema of a study, as text."""
    return json.dumps(Study.model_json_schema(), indent=2) + "\n"


def reference() -> str:
    """Every key: meaning and unit, type, default; as Markdown."""
    whole = Study.model_json_schema()
    blocks = {"Study": whole}
    for name in blocks_in_order(whole, whole["$defs"]):
        blocks[name] = whole["$defs"][name]
    return INTRO + "".join(_section(name, block) for name, block in blocks.items())


def blocks_in_order(entry: Any, definitions: dict[str, Any]) -> list[str]:
    """Names of the blocks that a schema entry refers to, each followed by those that it refers to itself."""
    found: list[str] = []
    for key, value in entry.items() if isinstance(entry, dict) else enumerate(entry) if isinstance(entry, list) else ():
        if key == "$ref":
            name = value.rsplit("/", 1)[-1]
            found += [name, *blocks_in_order(definitions[name], definitions)]
        elif key != "$defs":
            found += blocks_in_order(value, definitions)
    return list(dict.fromkeys(found))


def _section(name: str, block: dict[str, Any]) -> str:
    rows = [
        f"| `{key}` | {entry.get('description', '').replace('|', chr(92) + '|')} | {_type(entry)} "
        f"| {_default(key, entry, block)} |"
        for key, entry in block["properties"].items()
    ]
    head = f"\n## {name}\n\n{block.get('description', '')}\n\n| key | meaning | type | default |\n| --- | --- | --- | --- |\n"
    return head + "\n".join(rows) + "\n"


def _type(entry: dict[str, Any]) -> str:
    if "$ref" in entry:
        name = entry["$ref"].rsplit("/", 1)[-1]
        return f"[{name}](#{name.lower()})"
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    for key in ("oneOf", "anyOf"):
        if key in entry:
            return " or ".join(_type(option) for option in entry[key] if option.get("type") != "null")
    if entry.get("type") == "array":
        return f"list of {_type(entry['items'])}"
    if entry.get("type") == "object":
        options = entry.get("additionalProperties") or next(iter(entry.get("patternProperties", {}).values()), {})
        return f"name: {_type(options)}"
    limits = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
    bounds = [f"{sign} {entry[limit]:.10g}" for limit, sign in limits.items() if limit in entry]
    return " ".join([entry.get("type", "any"), ", ".join(bounds)]).strip()


def _default(key: str, entry: dict[str, Any], block: dict[str, Any]) -> str:
    if key in block.get("required", []):
        return "required"
    if "default" not in entry:
        if "$ref" in entry or any("$ref" in option for option in entry.get("anyOf", ())):
            return "see there"
        return "see `study/measures.py`" if "items" not in entry else _factory(key, block)
    return "not set" if entry["default"] is None else f"`{json.dumps(entry['default'])}`"


def _factory(key: str, block: dict[str, Any]) -> str:
    from feature_lineage.study import keys, measures, texts

    return f"`{json.dumps({**vars(texts), **vars(keys), **vars(measures)}[block['title']].model_fields[key].get_default(call_default_factory=True))}`"


def main(folder: str = "config") -> None:
    """Write both files into `folder`."""
    (Path(folder) / "schema.json").write_text(schema(), encoding="utf-8")
    (Path(folder) / "README.md").write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
