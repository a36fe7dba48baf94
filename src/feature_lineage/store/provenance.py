"""What an artefact records of how it was made."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from feature_lineage.errors import InputError
from feature_lineage.store.checksums import sha256
from feature_lineage.store.writing import disk_faults_named, remove

CLOCKS = 600.0  # seconds that the clocks of a cluster's machines may differ by
_PACKAGES = (
    "feature-lineage",
    "torch",
    "transformers",
    "transformer-lens",
    "tokenizers",
    "numpy",
    "scipy",
    "pyarrow",
)


def provenance(inputs: Mapping[str, Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What an artefact was made from: versions, hashes of its inputs, its parameters (seed among them), and a digest of it all.

    Args:
        inputs: a path, or a list of paths, by name.
        parameters: anything that JSON can hold, by name.

    Raises:
        InputError: an input is missing, or its time stamp lies in the future.
    """
    files = dict(inputs.items())  # a rule's inputs have items() and no more of a mapping
    for found in files.values():
        for path in [found] if isinstance(found, str | Path) else found:
            _refuse_future(Path(path))
    record = {
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "inputs": {
            name: sha256(path) if isinstance(path, str | Path) else [sha256(part) for part in path]
            for name, path in sorted(files.items())
        },
        "parameters": dict(parameters),
    }
    text = json.dumps(record, sort_keys=True)
    return json.loads(text) | {"digest": hashlib.sha256(text.encode()).hexdigest()}


def _refuse_future(path: Path) -> None:
    """Snakemake throws away what a job made from an input that is newer than it: say so before the work rather than after it."""
    if path.exists() and (ahead := path.stat().st_mtime - time.time()) > CLOCKS:
        raise InputError(
            f"{path}: its time stamp lies {ahead:,.0f} s in the future; set this machine's clock right, or say `touch {path}`: "
            "a time stamp alone reruns nothing"
        )


def checkpoint_folder(output: str | Path, record: dict[str, Any]) -> Path:
    """Where a job keeps its checkpoints while it runs: beside its output, named by its inputs and parameters.

    Snakemake does not know of it, so it outlives a job that is killed; folders of other inputs or parameters are removed.
    """
    output = Path(output)
    folder = output.parent / f".{output.name}.checkpoints" / record["digest"][:16]
    for other in folder.parent.glob("*"):
        if other != folder:
            remove(other)
    with disk_faults_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
