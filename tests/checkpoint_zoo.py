"""Published checkpoints as people ship them, built small, with random weights: one or more of each family of architectures.

All weights are drawn, norms and biases too, and wide enough that a scale, a cap, a bias or a window that is left out shows in the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

VOCABULARY = 400  # of the tests' tokenizer
LAYERS = 2


class Animal(NamedTuple):
    """A checkpoint of the zoo: its `model_type`, what differs from `_SIZES`, and how it is saved."""

    kind: str
    changes: Mapping[str, Any] = MappingProxyType({})
    dtype: torch.dtype = torch.float32
    shard: str = "1GB"


# The sizes under every name that a family has for them; `_config` gives each family those that it knows.
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "n_embd": 16,
    "d_model": 16,
    "intermediate_size": 24,
    "n_inner": 24,
    "ffn_dim": 24,
    "num_hidden_layers": LAYERS,
    "n_layer": LAYERS,
    "n_layers": LAYERS,
    "num_layers": LAYERS,
    "num_attention_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_MOE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

_LATENT = {
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 12,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}

ZOO: dict[str, Animal] = {
    "gpt2": Animal("gpt2"),
    "gpt2-scaled": Animal("gpt2", {"scale_attn_by_inverse_layer_idx": True, "tie_word_embeddings": False}),
    "gpt2-short": Animal("gpt2", {"n_positions": 12}),
    "gpt-neo": Animal("gpt_neo", {"attention_types": [[["global", "local"], 1]], "window_size": 4}),
    "gpt-neox": Animal("gpt_neox", {"rotary_pct": 0.5}),
    "gpt-neox-serial": Animal("gpt_neox", {"use_parallel_residual": False}),
    "gptj": Animal("gptj", {"rotary_dim": 2}),
    "gpt-bigcode": Animal("gpt_bigcode"),
    "llama": Animal("llama"),
    "llama-3": Animal("llama", {"rope_parameters": _LLAMA3, "tie_word_embeddings": True, "attention_bias": True}),
    "llama-bf16": Animal("llama", {"head_dim": 6}, torch.bfloat16),
    "llama-sharded": Animal("llama", {"num_key_value_heads": 1}, shard="6KB"),
    "llama-padded": Animal("llama", {"vocab_size": 512}),
    "mistral": Animal("mistral", {"sliding_window": 4}),
    "mixtral": Animal("mixtral", _MOE),
    "qwen2": Animal("qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": Animal("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen2-moe": Animal("qwen2_moe", {**_MOE, "shared_expert_intermediate_size": 20}),
    "qwen3": Animal("qwen3", {"head_dim": 8}),
    "qwen3-moe": Animal("qwen3_moe", {**_MOE, "head_dim": 4}),
    "gemma": Animal("gemma", {"head_dim": 6}),
    "gemma2": Animal(
        "gemma2",
        {
            "head_dim": 6,
            "query_pre_attn_scalar": 3,
            "sliding_window": 4,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": Animal(
        "gemma3_text", {"head_dim": 6, "query_pre_attn_scalar": 3, "sliding_window": 4, "_sliding_window_pattern": 2}
    ),
    "phi": Animal("phi", {"partial_rotary_factor": 0.5}),
    "phi3": Animal("phi3", {"sliding_window": 4}),
    "opt": Animal("opt", {"word_embed_proj_dim": 16}),
    "opt-projected": Animal("opt", {"word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "bloom": Animal("bloom"),
    "falcon": Animal("falcon"),
    "mpt": Animal("mpt", {"max_seq_len": 64}),
    "olmo": Animal("olmo", {"clip_qkv": 0.5}),
    "olmo2": Animal("olmo2"),
    "olmoe": Animal("olmoe", _MOE),
    "stablelm": Animal("stablelm", {"partial_rotary_factor": 0.5}),
    "starcoder2": Animal("starcoder2", {"sliding_window": 4}),
    "granite": Animal(
        "granite",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.7, "logits_scaling": 2.0},
    ),
    "smollm3": Animal("smollm3", {"no_rope_layers": [1, 0]}),
    "cohere": Animal("cohere", {"logit_scale": 0.5, "use_qk_norm": True}),
    "cohere2": Animal("cohere2", {"sliding_window": 4, "logit_scale": 0.5}),
    "glm4": Animal("glm4", {"head_dim": 4}),
    "nemotron": Animal("nemotron"),
    "exaone4": Animal("exaone4", {"sliding_window": 4}),
    "codegen": Animal("codegen", {"rotary_dim": 2}),
    "ernie4_5": Animal("ernie4_5"),
    "gpt-oss": Animal("gpt_oss", {**_MOE, "head_dim": 4, "sliding_window": 4}),
    "deepseek-v3": Animal("deepseek_v3", _LATENT),
    "arcee": Animal("arcee"),
    "xglm": Animal("xglm", {"attention_heads": 4}),
    "granite-moe": Animal("granitemoe", _MOE),
    "seed-oss": Animal("seed_oss", {"head_dim": 4}),
    "apertus": Animal("apertus"),
    "olmo3": Animal("olmo3", {"sliding_window": 4}),
    "glm": Animal("glm", {"head_dim": 4}),
    "ministral3": Animal("ministral3", {"head_dim": 4}),
    "mamba": Animal("mamba"),
    "openai-gpt": Animal("openai-gpt"),
}

# What is refused, and a part of the sentence that says why. TransformerLens is wrong about some, or does not know them.
REFUSED: dict[str, tuple[Animal, str]] = {
    "falcon-alibi": (
        Animal("falcon", {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True}),
        "TransformerLens computes other logits for this FalconForCausalLM than transformers does",
    ),
    "falcon-grouped": (
        Animal("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        "TransformerLens cannot take this FalconForCausalLM",
    ),
    "stablelm-parallel": (
        Animal("stablelm", {"use_parallel_residual": True}),
        "TransformerLens computes other logits for this StableLmForCausalLM than transformers does",
    ),
    "stablelm-normed": (
        Animal("stablelm", {"qk_layernorm": True}),
        "TransformerLens computes other logits for this StableLmForCausalLM than transformers does",
    ),
    "biogpt": (Animal("biogpt"), "is a BioGptForCausalLM, which TransformerLens does not know"),
    "persimmon": (Animal("persimmon"), "is a PersimmonForCausalLM, which TransformerLens does not know"),
    "helium": (Animal("helium", {"head_dim": 4}), "is a HeliumForCausalLM, which TransformerLens does not know"),
    "bert-decoder": (Animal("bert"), "this BertLMHeadModel reads later tokens when it predicts a token"),
    "gemma3-both-ways": (
        Animal("gemma3_text", {"head_dim": 4, "use_bidirectional_attention": True}),
        "this Gemma3ForCausalLM reads later tokens when it predicts a token",
    ),
}
# Not made by `AutoModelForCausalLM`: encoders, and encoders with decoders.
OTHERS = {
    "bert": ("BertForMaskedLM", Animal("bert")),
    "roberta": ("RobertaForMaskedLM", Animal("roberta")),
    "t5": ("T5ForConditionalGeneration", Animal("t5", {"d_kv": 4, "d_ff": 24})),
    "bart": ("BartForConditionalGeneration", Animal("bart", {"encoder_layers": 1, "decoder_layers": 1})),
    "classifier": ("LlamaForSequenceClassification", Animal("llama")),
    "body": ("LlamaModel", Animal("llama")),
}


def _config(animal: Animal) -> transformers.PreTrainedConfig:
    known = AutoConfig.for_model(animal.kind)
    other = type(known).attribute_map  # two names of one size: what differs must win under either
    names = set(known.to_dict()) | set(other)
    sizes = {other.get(key, key): value for key, value in _SIZES.items() if key in names}
    return AutoConfig.for_model(
        animal.kind, **(sizes | {other.get(key, key): value for key, value in animal.changes.items()})
    )


def build(name: str, animal: Animal) -> PreTrainedModel:
    """A checkpoint as a model of transformers, float32."""
    torch.manual_seed(sum(name.encode()))
    config = _config(animal)
    if name in OTHERS:
        model = getattr(transformers, OTHERS[name][0])(config)
    else:
        model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn_like(parameter)
            parameter.copy_(drawn * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else parameter + 0.3 * drawn)
    return model.eval()


def publish(name: str, folder: Path) -> Path:
    """Write a checkpoint as the hub has it, without a tokenizer."""
    animal = ZOO.get(name) or (REFUSED[name][0] if name in REFUSED else OTHERS[name][1])
    build(name, animal).to(animal.dtype).save_pretrained(folder, max_shard_size=animal.shard)
    return folder
