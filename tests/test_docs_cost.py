"""The tables of docs/cost.md are what its commands print."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from feature_lineage import cli

CHECKOUT = Path(__file__).parents[1]
PAGE = CHECKOUT / "docs" / "cost.md"
PRINTED = re.compile(r"^```\n\$ feature-lineage (.+)\n((?:.*\n)*?)```$", re.MULTILINE)
# As both checkpoints' config.json on the hub have it.
TINYLLAMA = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
}


def lay_out(folder):
    """The page's study, the repository's configs, and a cache of the hub with both checkpoints' config.json."""
    (folder / "config").symlink_to(CHECKOUT / "config")
    (folder / "one-billion.yaml").write_text(re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.M | re.S)[0])
    for name in ("TinyLlama_v1.1", "TinyLlama-1.1B-Chat-v1.0"):
        kept = folder / "hub" / f"models--TinyLlama--{name}"
        (kept / "snapshots" / "abc").mkdir(parents=True)
        (kept / "refs").mkdir()
        (kept / "refs" / "main").write_text("abc")
        (kept / "snapshots" / "abc" / "config.json").write_text(json.dumps(TINYLLAMA))


@pytest.mark.parametrize("number", range(3))
def test_a_table_is_printed_by_the_command_above_it(number, tmp_path, monkeypatch, capsys):
    """After a change: `UPDATE_DOCS=1 pytest tests/test_docs_cost.py` writes the tables into the page."""
    from huggingface_hub import constants

    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    command, shown = PRINTED.findall(PAGE.read_text())[number]
    assert cli.main(command.split()) == 0
    printed = capsys.readouterr().out
    if os.getenv("UPDATE_DOCS"):
        block = f"```\n$ feature-lineage {command}\n"
        PAGE.write_text(PAGE.read_text().replace(f"{block}{shown}```", f"{block}{printed}```", 1))
    else:
        assert shown == printed
