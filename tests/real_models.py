"""Small models that were really trained, beside the checkout on the machines of this project; tests that use them are skipped elsewhere."""

from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "models"


def real_model(name: str) -> Path:
    """Folder of a real model: `stories260k`, a Llama of five layers, or one of its fine-tunes."""
    if not (FOLDER / name / "config.json").exists():
        pytest.skip(f"{FOLDER / name}: no such model here")
    return FOLDER / name
