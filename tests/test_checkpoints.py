"""Published checkpoints of many architectures: imported, hooked and evaluated they give what plain transformers gives, or are refused."""

from __future__ import annotations

import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from checkpoint_zoo import LAYERS, OTHERS, REFUSED, VOCABULARY, ZOO, build, publish
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from feature_lineage.errors import InputError
from feature_lineage.models.checkpoint import import_model, load_model, published_model, save_model
from feature_lineage.models.evaluation import evaluate_model
from feature_lineage.models.hooks import _vectors, activations, check_hook, load_hooked, next_token_losses
from feature_lineage.models.merge import angles, merge_states
from feature_lineage.study import hook_points as hooks
from feature_lineage.study.keys import Architecture
from feature_lineage.text.windows import Windows

ATTENTION_OUT = r"attn\.(o_proj|c_proj|out_proj|dense)|attention\.(dense|out_proj)"
MLP_OUT = r"mlp\.down_proj|mlp\.c_proj|mlp\.dense_4h_to_h|mlp\.fc_out|fc2|ffn\.down_proj"
MIXTURES = ("mixtral", "qwen2-moe", "qwen3-moe", "olmoe", "gpt-oss", "granite-moe")
EARLY = "blocks.0.hook_resid_pre"
SHAPE = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim")
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (3, 12))  # longer than the zoo's attention windows

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory, tokenizer_dir):
    """A function that publishes a checkpoint and imports it: the two folders."""
    root, known = tmp_path_factory.mktemp("zoo"), {}

    def get(name):
        if name not in known:
            folder, imported = publish(name, root / name), root / f"{name}-imported"
            import_model(str(folder), tokenizer_dir, imported, {})
            known[name] = folder, imported
        return known[name]

    return get


@pytest.fixture(scope="module")
def hooked(zoo):
    """A function that gives an imported checkpoint with hook points."""
    known = {}
    return lambda name: known.get(name) or known.setdefault(name, load_hooked(zoo(name)[1], EARLY, TOKENS.shape[1]))


@pytest.fixture(scope="module")
def windows(tmp_path_factory, write_tokens):
    """The tokens as a corpus."""
    return Windows({"c": write_tokens(tmp_path_factory.mktemp("tokens") / "c", TOKENS.flatten())}, TOKENS.shape[1])


def plain(folder, dtype=torch.float64):
    """The published checkpoint as transformers alone reads it, with the plainest implementation of everything."""
    kinds = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **kinds).eval()


def block(model, number):
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == LAYERS]
    return lists[0][number]


def part(module, pattern):
    """The only module inside another whose name ends like this, or None."""
    found = [inner for name, inner in module.named_modules() if re.search(rf"\.[a-z_]*({pattern})$", f".{name}")]
    return found[0] if len(found) == 1 else None


def first(value):
    return value[0] if isinstance(value, tuple | list) else value


def losses(model):
    ids = torch.from_numpy(TOKENS)
    with torch.no_grad():
        return cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


def seen(model):
    """What plain hooks see in the last block, by the name of TransformerLens's hook point; rows are tokens."""
    last, found, handles = block(model, LAYERS - 1), {}, []

    def keep(name, value):
        value = first(value)
        found[name] = value.detach().clone().reshape(TOKENS.size, -1)

    def before(module, name):
        handles.append(
            module.register_forward_pre_hook(
                lambda module, args, kwargs: keep(name, args or kwargs["hidden_states"]), with_kwargs=True
            )
        )

    def after(module, name):
        handles.append(module.register_forward_hook(lambda module, args, output: keep(name, output)))

    at = f"blocks.{LAYERS - 1}."
    before(last, at + "hook_resid_pre")
    after(last, at + "hook_resid_post")
    if attention := part(last, ATTENTION_OUT):
        before(attention, at + "attn.hook_z")
    if mlp := part(last, MLP_OUT):
        before(mlp, at + "mlp.hook_post")
    if whole := part(
        last, r"mlp|ffn|block_sparse_moe|fc2"
    ):  # with the residual stream in it, where the module adds that
        after(whole, at + "mlp.hook_out")
    before(model.get_output_embeddings(), "unembed.hook_in")
    after(model.get_input_embeddings(), "embed.hook_out")
    with torch.no_grad():
        model(torch.from_numpy(TOKENS))
    for handle in handles:
        handle.remove()
    return found


def close(found, expected, name):
    scale = float(expected.abs().max())
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=0, atol=2e-5 * scale, msg=lambda m: f"{name}: {m}"
    )


DTYPE = {"xglm": torch.float32}  # its mask does not fit into float64


@pytest.mark.parametrize("name", ZOO)
def test_a_checkpoint_gives_what_transformers_gives(zoo, hooked, windows, name):
    """Loss, activations, and losses with something else in their place."""
    folder, imported = zoo(name)
    model = plain(folder, DTYPE.get(name, torch.float64))
    expected = losses(model)
    found = evaluate_model(load_model(imported), windows, np.arange(len(windows)))
    assert found["loss"] == pytest.approx(float(expected.mean()), rel=1e-5)

    bridge = hooked(name)
    close(next_token_losses(bridge, EARLY, TOKENS), expected, "loss")
    compared = seen(model)
    if name.startswith("granite"):
        del compared["embed.hook_out"]  # TransformerLens gives it after its multiplier
    if name == "openai-gpt":
        del compared[f"blocks.{LAYERS - 1}.hook_resid_post"]  # TransformerLens does not get there
    for hook, value in compared.items():
        close(activations(bridge, hook, TOKENS), value, hook)
    assert len(compared) >= (4 if name == "mamba" else 5)

    if attention := part(block(model, 0), ATTENTION_OUT):
        zero = next_token_losses(bridge, "blocks.0.attn.hook_z", TOKENS, torch.zeros_like)
        handle = attention.register_forward_pre_hook(lambda module, args: (torch.zeros_like(args[0]),))
        close(zero, losses(model), "zero ablation")
        handle.remove()
        same = next_token_losses(bridge, "blocks.0.attn.hook_z", TOKENS, torch.clone)
        close(same, expected, "nothing changed")


@pytest.mark.parametrize("name", sorted(ZOO.keys() - {"mamba", "openai-gpt", "opt-projected"}))
def test_what_attention_and_mlp_add_makes_the_residual_stream(hooked, name):
    """After a norm or a factor of their own, where the architecture has one."""
    bridge, last = hooked(name), f"blocks.{LAYERS - 1}.hook_"
    pre, attention, mlp, post = (
        activations(bridge, last + point, TOKENS) for point in ("resid_pre", "attn_out", "mlp_out", "resid_post")
    )
    close(pre + attention + mlp, post, name)
    if last + "resid_mid" in bridge.hook_dict:
        close(pre + attention, activations(bridge, last + "resid_mid", TOKENS), name)


@pytest.mark.parametrize("length", [2, 3, 4])  # as many as heads of keys, and as heads
@pytest.mark.parametrize(
    ("name", "norm"), [("qwen3", "q_norm"), ("qwen3", "k_norm"), ("gemma3", "q_norm"), ("olmo2", "k_norm")]
)
def test_heads_are_told_from_tokens(zoo, hooked, name, norm, length):
    """TransformerLens gives normed queries and keys with the heads before the tokens, and all else with the tokens before the heads."""
    folder, _ = zoo(name)
    model, found, tokens = plain(folder), [], TOKENS[:, :length]
    module = part(block(model, 1), norm)
    module.register_forward_hook(lambda module, args, output: found.append(output))
    with torch.no_grad():
        model(torch.from_numpy(tokens))
    expected = found[0].transpose(1, 2) if name == "gemma3" else found[0]  # which transposes before it norms
    close(activations(hooked(name), f"blocks.1.attn.hook_{norm}ed", tokens), expected.reshape(3 * length, -1), norm)


def test_attention_windows_longer_than_the_probes_are_checked_at_the_studys_length(zoo, monkeypatch):
    """Mistral read without its window computes the same on four tokens, and something else on twelve."""
    _, imported = zoo("mistral")
    from transformer_lens.model_bridge import TransformerBridge

    made = TransformerBridge.boot_transformers

    def windowless(*arguments, hf_model, **options):
        hf_model.config.sliding_window = None
        return made(*arguments, hf_model=hf_model, **options)

    monkeypatch.setattr(TransformerBridge, "boot_transformers", windowless)
    load_hooked(imported, "blocks.0.mlp.hook_post", 4)
    with pytest.raises(InputError, match="computes other logits for this MistralForCausalLM"):
        check_hook(imported, "blocks.0.mlp.hook_post", 12)


@pytest.mark.parametrize("name", MIXTURES)
def test_neurons_of_a_mixture_are_not_what_transformer_lens_gives_under_their_name(zoo, name):
    """It gives the whole block's output. hook_pre, an alias of its input, was tried too."""
    _, imported = zoo(name)
    with pytest.raises(InputError, match=r"mixture of experts.*choose blocks\.1\.hook_mlp_out"):
        load_hooked(imported, "blocks.1.mlp.hook_post")


def test_the_middle_of_a_block_is_refused_where_the_norm_comes_after_the_mlp(zoo):
    """TransformerLens gives there what enters OPT's second norm, the MLP's output in it. It knows better of the first GPT."""
    with pytest.raises(InputError, match=r"hook_resid_mid.*comes after the MLP"):
        load_hooked(zoo("opt-projected")[1], "blocks.1.hook_resid_mid")
    load_hooked(zoo("openai-gpt")[1], "blocks.1.hook_resid_mid")


def test_activations_that_are_not_in_order_of_their_tokens_are_refused(zoo, monkeypatch):
    """As inside of a mixture of experts with one expert per token, whose rows may be sorted by expert."""
    given = _vectors
    monkeypatch.setattr("feature_lineage.models.hooks._vectors", lambda *a: given(*a)[given(*a)[:, 0].argsort()])
    with pytest.raises(InputError, match=r"blocks\.1\.hook_mlp_out gives no vector per token"):
        load_hooked(zoo("llama")[1], "blocks.1.hook_mlp_out")


@pytest.mark.parametrize(
    ("name", "hook"), [("qwen2-moe", "blocks.1.mlp.gate.hook_out"), ("gpt-oss", "blocks.1.mlp.router.hook_out")]
)
def test_hook_points_without_effect_are_refused(zoo, name, hook):
    """With reconstructions in their place the loss would be the model's own. All hook points of ten architectures were tried."""
    with pytest.raises(InputError, match=r"logits of this \w+ do not follow from what is put in at blocks"):
        load_hooked(zoo(name)[1], hook)


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_with_a_reason(tmp_path, tokenizer_dir, name):
    """When it is imported, or right after."""
    folder = publish(name, tmp_path / "published")
    if "does not know" in REFUSED[name][1]:  # its config.json is enough to tell
        (folder / "model.safetensors").unlink()
    with pytest.raises(InputError) as error:
        import_model(str(folder), tokenizer_dir, tmp_path / "model", {})
        check_hook(tmp_path / "model", "blocks.0.hook_resid_post", 12)
    assert REFUSED[name][1] in str(error.value)
    assert str(error.value).startswith(f"model {tmp_path}") and len(str(error.value)) < 600


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_causal_language_model_is_refused_by_its_config(tmp_path, tokenizer_dir, name):
    folder = publish(name, tmp_path / "published")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()  # they are not needed to tell
    with pytest.raises(InputError, match=rf"is a {OTHERS[name][0]} .*, not a language model that predicts next"):
        import_model(str(folder), tokenizer_dir, tmp_path / "model", {})
    assert OTHERS[name][0] in hooks.architecture_problem(hooks.checkpoint_config(folder))


def _quantized(folder, scaled):
    """Matrices of the layers in float8 with the scale of each, as fp8 checkpoints have them; without scales nobody can read them."""
    publish("llama", folder)
    tensors = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        scale = tensor.abs().max() / 448 if tensor.ndim == 2 and "layers" in name else None
        tensors[name] = tensor if scale is None else (tensor / scale).to(torch.float8_e4m3fn)
        if scaled and scale is not None:
            tensors[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_quantized_checkpoint_is_read_as_what_it_means_or_refused(tmp_path):
    """fp8 is; its name without its scales is refused. bitsandbytes, GPTQ, AWQ, HQQ, Quanto, torchao, EETQ and compressed-tensors are refused
    by transformers, as their packages are not installed."""
    read = published_model(_quantized(tmp_path / "scaled", True)).state_dict()
    for name, tensor in load_file(publish("llama", tmp_path / "plain") / "model.safetensors").items():
        assert float((read[name] - tensor).abs().max()) <= 0.04 * float(tensor.abs().max()), name
    with pytest.raises(
        InputError, match=r"is quantized, model\.layers\.0\.\S+ is still torch\.float8_e4m3fn once it is loaded"
    ):
        published_model(_quantized(tmp_path / "bare", False))


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma"])
def test_a_tokenizer_of_more_tokens_is_refused_before_the_weights_are_read(tmp_path, tokenizer_dir, name):
    animal = ZOO[name]._replace(changes=ZOO[name].changes | {"vocab_size": VOCABULARY - 1})
    build(name, animal).save_pretrained(tmp_path / "published")
    (tmp_path / "published" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"its embedding has 399 tokens, the study's tokenizer 400"):
        import_model(str(tmp_path / "published"), tokenizer_dir, tmp_path / "model", {})


# --- names -------------------------------------------------------------------------------------------------


def points(bridge):
    """Names of what gives one vector per token in the last block and outside of blocks, with `*` for its number."""
    last = f"blocks.{LAYERS - 1}."
    switched = r"hook_(attn_in|[qkv]_input|result)$"  # off by default
    names = [
        name
        for name in bridge.hook_dict
        if name.startswith(last) or not (name.startswith("blocks.") or re.search(switched, name))
    ]
    names = [name for name in names if not re.search(switched, name)]
    bridge.set_use_hook_mlp_in(True)
    found = {}
    for length in (11, 12):

        def look(value, hook, name, shape):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                vectors = _vectors(value, shape, hook)
                found.setdefault(name, []).append(None if vectors is None else vectors.shape[1])

        with torch.no_grad():
            ids = torch.from_numpy(TOKENS[:, :length])
            bridge.run_with_hooks(ids, fwd_hooks=[(name, partial(look, name=name, shape=ids.shape)) for name in names])
    return {
        name.replace(last, "blocks.*."): sizes[0]
        for name, sizes in found.items()
        if len(sizes) == 2 and sizes[0] == sizes[1] and (sizes[0] or 0) > 1
    }


@pytest.mark.parametrize("name", [name for name in ZOO if name not in ("mamba", "openai-gpt", "deepseek-v3")])
def test_hook_points_have_the_names_that_a_study_is_checked_by(hooked, name):
    """A name that the list lacks would be refused of a study although its model has it."""
    bridge = hooked(name)
    given = points(bridge)
    assert type(bridge.original_model).__name__ in hooks.ARCHITECTURES
    config = bridge.original_model.config.to_dict()
    refused = {point for point in given if hooks.published_problem(config, point.replace("*", "1"))}
    refused = {point for point in refused if not point.endswith("hook_scale")}
    assert refused <= {
        "rotary_emb.hook_in",
        "blocks.*.mlp.hook_expert_indices",
        "blocks.*.mlp.gate.hook_expert_indices",
    }
    if name == "mistral":
        assert given.keys() - refused == hooks.TRAINED
        shape = Architecture.model_construct(**{key: getattr(bridge.original_model.config, key) for key in SHAPE})
        assert {point: hooks.width(point.replace("*", "1"), shape, VOCABULARY) for point in hooks.TRAINED} == {
            point: given[point] for point in hooks.TRAINED
        }


def test_every_architecture_whose_names_are_checked_is_in_the_zoo():
    assert {type(build(name, animal)).__name__ for name, animal in ZOO.items()} >= hooks.ARCHITECTURES


# --- merges ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama-3", "llama-padded", "gemma2", "qwen2-moe", "bloom", "cohere"])
def test_two_checkpoints_merge_and_the_merge_is_read_back(zoo, tmp_path, tokenizer_dir, name):
    """Tied embeddings stay tied, and half-way between a model and itself is the model."""
    _, imported = zoo(name)
    model, other = load_model(imported), load_model(imported)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    a, b = model.state_dict(), other.state_dict()
    merged = merge_states(a, b, 0.5, angles(a, b, "linear"))
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, (a[key] + b[key]) / 2, rtol=0, atol=1e-6)
    model.load_state_dict(merged)
    expected = losses(model)
    save_model(model, tokenizer_dir, tmp_path / "merged", {})
    close(next_token_losses(load_hooked(tmp_path / "merged", EARLY), EARLY, TOKENS), expected, name)
