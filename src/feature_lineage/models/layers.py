"""The first layers of a model: all that activations at a hook point in them need."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from feature_lineage.study.hook_points import LAYERS

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Families whose layers depend on their own number alone, never on how many there are, so that the first compute the same without the
# rest. `tests/test_first_layers.py` compares each, bit for bit.
_FAMILIES = frozenset(
    (
        "gpt2",
        "gpt_neox",
        "llama",
        "mistral",
        "mixtral",
        "qwen2",
        "qwen3",
        "gemma",
        "gemma2",
        "gemma3_text",
        "phi3",
        "olmo2",
        "granite",
    )
)


def layers_below(config: PreTrainedConfig, hook: str) -> int | None:
    """Layers that a hook point needs; None if that is all of them, or is not known of the family."""
    found = re.match(r"blocks\.(\d+)\.", hook)
    if found is None or config.model_type not in _FAMILIES:
        return None
    needed = int(found[1]) + 1
    return needed if needed < config.num_hidden_layers else None


def first_layers(config: PreTrainedConfig, layers: int) -> Callable[[str], bool]:
    """Make a config that of a model with fewer layers, in place; what it lists layer by layer is cut alike.

    Returns:
        Whether a tensor, by its name, is of a layer that is left out.
    """
    whole = config.num_hidden_layers
    for key, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == whole and key in _BY_LAYER:
            setattr(config, key, value[:layers])
    key = next(key for key in LAYERS if key in vars(config))
    setattr(config, key, layers)

    def above(tensor: str) -> bool:
        number = next((int(part) for part in tensor.split(".") if part.isdigit()), None)
        return number is not None and number >= layers

    return above


# Keys of a config that say something of each layer.
_BY_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types", "attention_layers")
