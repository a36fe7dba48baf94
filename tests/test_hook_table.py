"""The list of hook points beside what `load_hooked` says of each of them, one at a time, and the command that prints it."""

from __future__ import annotations

import pytest
import torch
from checkpoint_zoo import LAYERS, publish

from feature_lineage.cli import main
from feature_lineage.commands.hooks import layers
from feature_lineage.errors import InputError
from feature_lineage.models import hooks
from feature_lineage.models.checkpoint import published_model
from feature_lineage.models.hook_table import _any_tokenizer, hook_table

# Among them a mixture of experts, and a norm after the MLP.
NAMES = ("gpt2", "gemma2", "gemma3", "gpt-neox", "mixtral", "opt-projected", "mistral")

pytestmark = pytest.mark.usefixtures("one_thread")


def full(points):
    """Full names and widths."""
    return {point.name.replace("*", str(layer)): point.width for point in points for layer in (point.layers or (None,))}


def one_at_a_time(folder):
    """Of each name that TransformerLens has, the width of its vectors, if `load_hooked` would take it."""
    model = published_model(folder)
    tokens = hooks._probe(model, 16)
    bridge = hooks._bridge(folder, model, torch.device("cpu"), _any_tokenizer())
    found = {}
    for name in bridge.hook_dict:
        try:
            hooks._check_point(bridge, folder, name, tokens)
        except InputError:
            continue
        found[name] = hooks._read(bridge, name, tokens).shape[1]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_list_is_what_can_be_read_one_at_a_time(tmp_path, name):
    folder = publish(name, tmp_path / name)
    points = hook_table(str(folder))
    expected = one_at_a_time(folder)
    assert full(points) == expected and len(expected) > 20
    assert expected["blocks.1.hook_resid_post"] == 16
    widths = {point.name: (point.width, point.layers) for point in points}
    assert widths["blocks.*.hook_resid_post"] == (16, tuple(range(LAYERS)))
    assert len(widths) == len(points), "a row a hook point, where the layers are alike"


def test_heads_are_flat_and_layers_are_a_range(trained_checkpoints, capsys):
    assert main(["hooks", str(trained_checkpoints / "stories260k")]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.split() == ["hook", "point", "width", "layers"]
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    assert rows["blocks.*.hook_resid_post"] == ["64", "0-4"]
    assert rows["blocks.*.attn.hook_z"] == ["64", "0-4"]  # eight heads of eight
    assert rows["blocks.*.attn.hook_k"] == ["32", "0-4"]
    assert rows["blocks.*.mlp.hook_post"] == ["172", "0-4"]
    assert rows["ln_final.hook_out"] == ["64"]
    assert not [name for name in rows if "pattern" in name or "scale" in name or "rotary" in name]


def test_layers_as_ranges():
    assert [layers(of) for of in ((0, 1, 2), (3,), (0, 2, 3, 5), ())] == ["0-2", "3", "0, 2-3, 5", ""]


def test_a_checkpoint_that_cannot_be_read_is_one_sentence(tmp_path, capsys):
    assert main(["hooks", str(tmp_path / "none")]) == 1
    said = capsys.readouterr()
    assert (
        said.out == ""
        and said.err.startswith(f"feature-lineage: model {tmp_path / 'none'}: ")
        and "no such folder" in said.err
    )
