"""All hook points of a checkpoint that give a vector per token, found in a few forward passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedTokenizerFast

from feature_lineage.models.checkpoint import check_architecture, published_config, published_model
from feature_lineage.models.hooks import _bridge, _hooks, _mixture, _probe, _vectors
from feature_lineage.study.hook_points import _parts, hook_problem


class Point(NamedTuple):
    """A hook point with `*` for the layer, the elements of a token's vector there, and the layers that have it; none outside of layers.

    Where layers differ in width, each width is a point of its own.
    """

    name: str
    width: int
    layers: tuple[int, ...]


def hook_table(path: str, revision: str | None = None) -> list[Point]:
    """Hook points of a checkpoint that an autoencoder can read, in the order in which TransformerLens names them.

    By the same rules as `hooks.load_hooked`, which also checks that the logits follow from what is put in at the one that is chosen.

    Raises:
        InputError: the checkpoint cannot be loaded, or TransformerLens does not know its architecture.
    """
    config = published_config(path, revision)
    check_architecture(path, MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__)
    model = published_model(path, revision)
    bridge = _bridge(path, model, torch.device("cpu"), _any_tokenizer())
    return _table(bridge, _widths(bridge, _probe(model, 16)))


def _any_tokenizer() -> PreTrainedTokenizerFast:
    """One that encodes nothing: hook points do not depend on it, and a checkpoint may have none."""
    tokenizer = Tokenizer(WordLevel({"<s>": 0}, unk_token="<s>"))
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", pad_token="<s>")
    # TransformerLens asks transformers to build a tokenizer without this again, by its class.
    made.init_kwargs |= {"name_or_path": "", "add_bos_token": True}
    return made


def _widths(bridge: TransformerBridge, tokens: torch.Tensor) -> dict[str, int]:
    """Width of each hook point that gives a vector per token, by its full name."""
    bridge.set_use_hook_mlp_in(True)
    layers = len(getattr(bridge, "blocks", ()))
    points = {_parts(name)[1] for name in bridge.hook_dict}
    named = {name: point for name, point in bridge.hook_dict.items() if hook_problem(name, layers, points) is None}
    shorter = tokens[:, : max(1, tokens.shape[1] - 1)]  # of one length, heads or layers may be as many as tokens
    plain, other, turned = (_pass(bridge, named, part) for part in (tokens, shorter, tokens.flip(0)))
    order, found = list(plain), {}
    for name, point in named.items():
        first, second, third = (taken.get(id(point)) for taken in (plain, other, turned))
        if first is None or second is None or third is None or first.shape[1] != second.shape[1] or first.shape[1] == 1:
            continue
        expected = first.unflatten(0, tokens.shape).flip(0).flatten(0, 1)
        if not torch.allclose(third, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())):
            continue
        if _mixture(bridge, name):
            continue
        after = bridge.hook_dict.get(name.replace("hook_resid_mid", "mlp.out.hook_out"))
        if name.endswith(".hook_resid_mid") and id(after) in order and order.index(id(after)) < order.index(id(point)):
            continue
        found[name] = first.shape[1]
    return found


def _pass(
    bridge: TransformerBridge, named: dict[str, HookPoint], tokens: torch.Tensor
) -> dict[int, torch.Tensor | None]:
    """Vectors at hook points by its identity, as several names are of one; None where it gives something else, or more than once."""
    found: dict[int, torch.Tensor | None] = {}

    def keep(key: int) -> Callable[[torch.Tensor, HookPoint], None]:
        def look(value: torch.Tensor, hook: HookPoint) -> None:
            floating = isinstance(value, torch.Tensor) and value.is_floating_point()
            vectors = _vectors(value, tokens.shape, hook) if floating and key not in found else None
            found[key] = None if vectors is None else vectors.clone()

        return look

    once = {id(point): name for name, point in named.items()}
    with torch.no_grad(), _hooks:
        bridge.run_with_hooks(tokens, fwd_hooks=[(name, keep(key)) for key, name in once.items()])
    return found


def _table(bridge: TransformerBridge, widths: dict[str, int]) -> list[Point]:
    layers: dict[tuple[str, int], list[int]] = {}
    for name, width in widths.items():
        layer, point = _parts(name)
        layers.setdefault((point, width), []).extend([] if layer is None else [layer])
    return [Point(name, width, tuple(sorted(found))) for (name, width), found in layers.items()]
