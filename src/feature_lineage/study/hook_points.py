"""Names of TransformerLens hook points: which exist, which give one vector per token, and what to say of the others.

Knows neither torch nor TransformerLens, so that a study can be checked before anything is loaded.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feature_lineage.study.keys import Architecture

PATTERN = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$"
EXAMPLE = "blocks.0.mlp.hook_post"

# What TransformerLens gives that is no vector per token, by the last part of its name or all of it, and what it is.
_OTHERS = {
    "embed.hook_in": "token ids",
    "pos_embed.hook_in": "positions",
    "rotary_emb.hook_in": "what the position embedding takes its type from",
    "hook_pattern": "attention weights between pairs of tokens",
    "hook_attn_scores": "attention scores of pairs of tokens",
    "hook_result": "a copy of the residual stream's width for each head",
    "hook_attn_in": "a copy of the residual stream for each head",
    "hook_q_input": "a copy of the residual stream for each head",
    "hook_k_input": "a copy of the residual stream for each head",
    "hook_v_input": "a copy of the residual stream for each head",
    "hook_scale": "a single number per token",
    "hook_cos": "the rotary position embedding",
    "hook_sin": "the rotary position embedding",
    "hook_expert_indices": "numbers of experts",
}
_INSTEAD = {
    "hook_pattern": "attn.hook_z",
    "hook_attn_scores": "attn.hook_z",
    "hook_result": "attn.hook_z",
    "hook_scale": "hook_resid_post",
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What gives one vector per token in a `MistralForCausalLM`, the only architecture that a study trains from nothing.
TRAINED = _names(
    """
    hook_embed embed.hook_out
    blocks.*.hook_resid_pre blocks.*.hook_in blocks.*.ln1.hook_in blocks.*.ln1.hook_normalized blocks.*.ln1.hook_out
    blocks.*.attn.hook_in blocks.*.attn.q.hook_in blocks.*.attn.q.hook_out blocks.*.attn.hook_q blocks.*.attn.hook_rot_q
    blocks.*.attn.k.hook_in blocks.*.attn.k.hook_out blocks.*.attn.hook_k blocks.*.attn.hook_rot_k
    blocks.*.attn.v.hook_in blocks.*.attn.v.hook_out blocks.*.attn.hook_v
    blocks.*.attn.hook_z blocks.*.attn.o.hook_in blocks.*.attn.o.hook_out blocks.*.attn.hook_out blocks.*.hook_attn_out
    blocks.*.hook_resid_mid blocks.*.hook_mlp_in blocks.*.ln2.hook_in blocks.*.ln2.hook_normalized blocks.*.ln2.hook_out
    blocks.*.mlp.hook_in blocks.*.mlp.gate.hook_in blocks.*.mlp.gate.hook_out blocks.*.mlp.hook_pre
    blocks.*.mlp.in.hook_in blocks.*.mlp.in.hook_out blocks.*.mlp.hook_pre_linear
    blocks.*.mlp.hook_post blocks.*.mlp.out.hook_in blocks.*.mlp.out.hook_out blocks.*.mlp.hook_out blocks.*.hook_mlp_out
    blocks.*.hook_resid_post blocks.*.hook_out ln_final.hook_in ln_final.hook_normalized ln_final.hook_out
    unembed.hook_in unembed.hook_out hook_unembed
    """
)
# What other architectures have beside it.
_PUBLISHED = TRAINED | _names(
    """
    hook_pos_embed pos_embed.hook_out embed_ln.hook_in embed_ln.hook_normalized embed_ln.hook_out
    project_in.hook_in project_in.hook_out project_out.hook_in project_out.hook_out
    blocks.*.attn.q_norm.hook_in blocks.*.attn.q_norm.hook_normalized blocks.*.attn.q_norm.hook_out blocks.*.attn.hook_q_normed
    blocks.*.attn.k_norm.hook_in blocks.*.attn.k_norm.hook_normalized blocks.*.attn.k_norm.hook_out blocks.*.attn.hook_k_normed
    blocks.*.attn.hook_hidden_states blocks.*.pre_ln.hook_in blocks.*.pre_ln.hook_normalized blocks.*.pre_ln.hook_out
    blocks.*.ln1_post.hook_in blocks.*.ln1_post.hook_normalized blocks.*.ln1_post.hook_out
    blocks.*.ln2_post.hook_in blocks.*.ln2_post.hook_normalized blocks.*.ln2_post.hook_out
    blocks.*.mlp.experts.hook_in blocks.*.mlp.experts.hook_pre blocks.*.mlp.experts.hook_post blocks.*.mlp.experts.hook_out
    blocks.*.mlp.hook_expert_weights blocks.*.mlp.gate.hook_expert_weights blocks.*.mlp.router.hook_expert_weights
    blocks.*.mlp.hook_router_scores blocks.*.mlp.router.hook_in blocks.*.mlp.router.hook_out
    blocks.*.mlp.shared_expert.hook_in blocks.*.mlp.shared_expert.hook_pre blocks.*.mlp.shared_expert.hook_pre_linear
    blocks.*.mlp.shared_expert.hook_post blocks.*.mlp.shared_expert.hook_out blocks.*.mlp.shared_expert.gate.hook_in
    blocks.*.mlp.shared_expert.gate.hook_out blocks.*.mlp.shared_expert.in.hook_in blocks.*.mlp.shared_expert.in.hook_out
    blocks.*.mlp.shared_expert.out.hook_in blocks.*.mlp.shared_expert.out.hook_out blocks.*.mlp.shared_expert_gate.hook_in
    """
)
# Architectures that have no others; what one of them lacks is known once it is loaded.
ARCHITECTURES = _names(
    """
    ApertusForCausalLM ArceeForCausalLM BloomForCausalLM CodeGenForCausalLM Cohere2ForCausalLM CohereForCausalLM
    Ernie4_5ForCausalLM Exaone4ForCausalLM FalconForCausalLM GPT2LMHeadModel GPTBigCodeForCausalLM GPTJForCausalLM
    GPTNeoForCausalLM GPTNeoXForCausalLM Gemma2ForCausalLM Gemma3ForCausalLM GemmaForCausalLM Glm4ForCausalLM GlmForCausalLM
    GptOssForCausalLM GraniteForCausalLM GraniteMoeForCausalLM LlamaForCausalLM Ministral3ForCausalLM MistralForCausalLM
    MixtralForCausalLM MptForCausalLM NemotronForCausalLM OPTForCausalLM Olmo2ForCausalLM Olmo3ForCausalLM OlmoForCausalLM
    OlmoeForCausalLM Phi3ForCausalLM PhiForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM Qwen3ForCausalLM Qwen3MoeForCausalLM
    SeedOssForCausalLM SmolLM3ForCausalLM StableLmForCausalLM Starcoder2ForCausalLM XGLMForCausalLM
    """
)
LAYERS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
)  # keys of config.json, as families of models name them


# Keys that bound what a model reads at once, in tokens.
POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")


def checkpoint_config(path: str | Path) -> dict[str, Any]:
    """The `config.json` of a checkpoint in a local directory; empty for a name on the hub, or where it cannot be read."""
    try:
        config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def architecture_problem(config: dict[str, Any]) -> str | None:
    """Why a checkpoint is no causal language model, None if it may be one as far as its `config.json` tells."""
    meant = config.get("architectures")
    name = (meant[0] if isinstance(meant, list) else meant) if meant else config.get("model_type")
    known = re.search(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration)$", str(name))
    if config.get("is_encoder_decoder") or (meant and not known):
        return f"a language model that predicts next tokens, which {name} is not"
    return None


def _language(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a `config.json` that is about the language model."""
    inner = next((config[key] for key in ("text_config", "llm_config", "language_config") if key in config), config)
    return inner if isinstance(inner, dict) else config


def positions(config: dict[str, Any]) -> int | None:
    """Tokens that a checkpoint reads at once, as far as its `config.json` tells."""
    inner = _language(config)
    return min((inner[key] for key in POSITIONS if isinstance(inner.get(key), int) and inner[key] > 0), default=None)


def published_problem(config: dict[str, Any], hook: str) -> str | None:
    """As `hook_problem`, of what a checkpoint's `config.json` tells."""
    inner = _language(config)
    told = [inner[key] for key in LAYERS if isinstance(inner.get(key), int) and inner[key] > 0]
    meant = config.get("architectures")
    named = isinstance(meant, list) and len(meant) == 1 and meant[0] in ARCHITECTURES
    layer, point = _parts(hook)
    points = _PUBLISHED if named else _PUBLISHED | {point}
    return hook_problem(hook, told[0] if told else (layer or 0) + 1, points)


def width(hook: str, shape: Architecture, vocabulary: int) -> int:
    """Elements of an activation at a hook point."""
    point = _parts(hook)[1].removeprefix("blocks.*.")
    heads = {"q": shape.num_attention_heads, "kv": shape.num_key_value_heads}
    if re.fullmatch(r"mlp\.(hook_(pre|post|pre_linear)|(gate|in)\.hook_out|out\.hook_in)", point):
        return shape.intermediate_size
    if re.fullmatch(r"attn\.(hook_(q|z|rot_q)|q\.hook_out|o\.hook_in)", point):
        return heads["q"] * shape.head_width
    if re.fullmatch(r"attn\.(hook_(k|v|rot_k)|[kv]\.hook_out)", point):
        return heads["kv"] * shape.head_width
    return vocabulary if point in ("hook_unembed", "unembed.hook_out") else shape.hidden_size


def hook_problem(hook: str, layers: int, points: Collection[str]) -> str | None:
    """Why an autoencoder cannot read a hook point of a model, None if it can as far as names tell.

    Args:
        hook: name of the hook point.
        layers: layers of the model.
        points: its hook points, with `*` for the number of the layer.
    """
    layer, point = _parts(hook)
    if layer is not None and layer >= layers:
        return f"{hook} does not exist: {_layers(layers)}"
    last = point.rsplit(".", 1)[-1]
    if what := _OTHERS.get(point) or _OTHERS.get(last):
        instead = f"blocks.{layer or 0}.{_INSTEAD.get(last, 'hook_resid_pre')}"
        return f"{hook} gives {what}, no vector per token; choose another, such as {instead}"
    if point not in points:
        return f"{hook} does not exist{nearest(hook, points)}"
    return None


def nearest(hook: str, points: Collection[str]) -> str:
    """A suggestion, if a hook point has a name like this."""
    layer, point = _parts(hook)
    spelled: dict[str, str] = {}
    for name in sorted(points, key=lambda name: (not name.endswith(("hook_post", "hook_out")), name)):
        short = name.removeprefix("blocks.*.")
        for spelling in (name, short, short.replace("hook_", ""), name.rpartition(".")[0], short.rpartition(".")[0]):
            spelled.setdefault(spelling.replace("*", "0"), name)
    near = difflib.get_close_matches(point.lower().strip(".").replace("*", "0"), spelled, n=1, cutoff=0.7)
    return f"; did you mean {spelled[near[0]].replace('*', str(layer or 0))}?" if near else ""


def _layers(layers: int) -> str:
    if layers == 1:
        return "the model has 1 layer, blocks.0"
    return f"the model has {layers} layers, blocks.0 to blocks.{layers - 1}"


def _parts(hook: str) -> tuple[int | None, str]:
    """The layer of a hook point, if it is in one, and its name with `*` for the layer."""
    found = re.fullmatch(r"blocks\.(0|[1-9][0-9]{0,3})\.(.+)", hook)
    return (int(found[1]), f"blocks.*.{found[2]}") if found else (None, hook)
