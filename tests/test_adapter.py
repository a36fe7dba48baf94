"""LoRA adapters: merged they give the logits of the unmerged ones, and what does not fit is refused by name."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from checkpoint_zoo import publish
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from real_models import real_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from feature_lineage.errors import InputError
from feature_lineage.models.adapter import Adapter, import_adapter, read_adapter
from feature_lineage.models.checkpoint import import_model, load_model
from feature_lineage.store.formats import read_provenance

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.arange(40).reshape(2, 20) * 7 % 390


def make(base, folder, kind=LoraConfig, seed=0, **options):
    """An adapter as `peft` saves it, with no matrix left at zero, and the logits of its base with it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    options = ({"r": 4, "lora_alpha": 8} if kind is LoraConfig else {}) | {"target_modules": "all-linear"} | options
    wrapped = get_peft_model(model, kind(task_type="CAUSAL_LM", **options))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_(std=0.1)
            elif "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
        wrapped.eval()
        logits = wrapped(IDS).logits
    wrapped.save_pretrained(folder)
    return logits


@pytest.fixture
def base(tmp_path):
    return publish("llama", tmp_path / "base")


@pytest.fixture
def parent(base, tokenizer_dir, tmp_path):
    import_model(str(base), tokenizer_dir, tmp_path / "parent", {})
    return tmp_path / "parent"


def merged(parent, adapter, tokenizer_dir, tmp_path, **more):
    import_adapter(
        parent, Adapter(str(adapter), **{"parent": "base"} | more), tokenizer_dir, tmp_path / "merged", {"a": 1}
    )
    model = load_model(tmp_path / "merged")
    with torch.no_grad():
        return model, model(IDS).logits


def test_an_adapter_of_a_real_model_gives_its_logits(tmp_path):
    """All linear layers of five, rank 4."""
    base = real_model("stories260k")
    expected = make(base, tmp_path / "adapter")
    model, found = merged(base, tmp_path / "adapter", base, tmp_path)
    with torch.no_grad():
        plain = load_model(base)(IDS).logits
    assert float((found - expected).abs().max()) < 1e-5 * max(1, float(expected.abs().max()))
    assert float((found - plain).abs().max()) > 0.1
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert read_provenance(tmp_path / "merged" / "model.safetensors")["a"] == 1
    reread = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(found, reread(IDS).logits, rtol=0, atol=1e-5 * float(expected.abs().max()))


OPTIONS = {
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "patterns": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7}, "alpha_pattern": {"v_proj": 32}},
    "some layers": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [1]},
    "excluded": {"exclude_modules": ["o_proj"]},
    "output embedding": {"target_modules": ["lm_head", "v_proj"]},
    "input embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "gaussian": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_what_a_lora_may_be_gives_its_logits(base, parent, tokenizer_dir, tmp_path, options):
    expected = make(base, tmp_path / "adapter", **options)
    _, found = merged(parent, tmp_path / "adapter", tokenizer_dir, tmp_path)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1, float(expected.abs().max())))


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "gemma2", "gpt-neox", "llama-bf16"])
def test_adapters_of_other_families_give_their_logits(tokenizer_dir, tmp_path, name):
    """GPT-2's layers are transposed; a bfloat16 parent is computed in float32."""
    base = publish(name, tmp_path / "base")
    expected = make(base, tmp_path / "adapter")
    import_model(
        str(base), tokenizer_dir, tmp_path / "parent", {}, dtype="bfloat16" if name == "llama-bf16" else "float32"
    )
    _, found = merged(tmp_path / "parent", tmp_path / "adapter", tokenizer_dir, tmp_path)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1, float(expected.abs().max())))
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"


def config(**changes):
    def change(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def tensor(change):
    def edit(folder):
        tensors = load_file(folder / "adapter_model.safetensors")
        change(tensors)
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})

    return edit


Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def pickled(folder):
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


REFUSED = {
    "no config": (lambda folder: (folder / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "pickled": (pickled, "adapter_model.bin, a format that can run code; convert them once with `feature-lineage convert"),
    "torn": (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"torn"), "cannot be read"),
    "torn config": (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
    "other kind": (config(peft_type="LOHA"), "kind LOHA, and only LoRA"),
    "pissa": (config(init_lora_weights="pissa"), "starts from pissa"),
    "biases": (config(bias="all"), "changes biases (bias: all)"),
    "whole modules": (config(modules_to_save=["lm_head"]), "has modules_to_save, which is not merged here"),
    "future key": (config(use_zora=True), "has use_zora, which is not merged here"),
    "NaN": (tensor(lambda tensors: tensors[Q].fill_(float("nan"))), f"tensor {Q} holds NaN"),
    "missing tensor": (tensor(lambda tensors: tensors.pop(Q)), "has no model.layers.0.self_attn.q_proj.lora_A.weight"),
    "shape": (
        tensor(lambda tensors: tensors.update({Q: torch.zeros(4, 64)})),
        "its model.layers.0.self_attn.q_proj.lora_A.weight is [4, 64], and for base it would be [4, 16]",
    ),
    "rank": (config(r=5), "is [4, 24], and for base it would be [5, 24]"),
    "left out": (config(target_modules=["q_proj"]), "changes model.layers.0.mlp.down_proj, which base has not, or which its"),
    "no such module": (config(target_modules=["query"]), "does not fit base (Target modules"),
    "resized": (
        tensor(lambda tensors: tensors.update({"base_model.model.model.embed_tokens.weight": torch.zeros(410, 16)})),
        "holds model.embed_tokens.weight, a tensor of the whole model",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(base, parent, tokenizer_dir, tmp_path, change, said):
    folder = tmp_path / "adapter"
    make(base, folder)
    change(folder)
    with pytest.raises(InputError) as error:
        merged(parent, folder, tokenizer_dir, tmp_path)
    text = str(error.value)
    assert said in text and text.startswith(f"adapter {folder}: ") and "\n" not in text and ";" in text
    assert not (tmp_path / "merged").exists()


def test_a_wrong_base_is_named_with_both_shapes(base, tokenizer_dir, tmp_path):
    make(real_model("stories260k"), tmp_path / "adapter")
    import_model(str(base), tokenizer_dir, tmp_path / "parent", {})
    with pytest.raises(
        InputError, match=r"adapter .*: (its|changes) model\.layers\.\d.*base.*name the model that it was trained on"
    ):
        merged(tmp_path / "parent", tmp_path / "adapter", tokenizer_dir, tmp_path)


def test_an_adapter_of_another_kind_is_refused_as_peft_saves_it(base, tmp_path):
    make(
        base, tmp_path / "adapter", IA3Config, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    with pytest.raises(InputError, match="kind IA3, and only LoRA"):
        read_adapter(str(tmp_path / "adapter"))


def test_an_adapter_of_tied_embeddings_is_refused(tokenizer_dir, tmp_path):
    base = publish("llama-3", tmp_path / "base")
    make(base, tmp_path / "adapter", target_modules=["embed_tokens"])
    import_model(str(base), tokenizer_dir, tmp_path / "parent", {})
    with pytest.raises(
        InputError, match=r"changes model.embed_tokens, whose weights base uses for its input and its output"
    ):
        merged(tmp_path / "parent", tmp_path / "adapter", tokenizer_dir, tmp_path)


def test_another_base_than_the_adapter_says_is_warned_of(base, parent, tokenizer_dir, tmp_path, caplog):
    make(base, tmp_path / "adapter")
    for said, warned in ((str(base), False), ("someone/base", False), ("someone/other", True)):
        config(base_model_name_or_path=said)(tmp_path / "adapter")
        shutil.rmtree(tmp_path / "merged", ignore_errors=True)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            merged(parent, tmp_path / "adapter", tokenizer_dir, tmp_path, trained_on=str(base))
        assert (f"trained on {said}, and the parent base is {base}" in caplog.text) is warned


def test_an_adapter_is_no_checkpoint(base, tokenizer_dir, tmp_path):
    """Alone it would load its base; inside of a checkpoint it would be applied or not, as packages are installed."""
    make(base, tmp_path / "adapter")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(tmp_path / "adapter" / name, base / name)
    for folder in (tmp_path / "adapter", base):
        with pytest.raises(InputError, match=rf"models\.NAME: {{parent: THAT MODEL, adapter: {folder}}}"):
            import_model(str(folder), tokenizer_dir, tmp_path / "model", {})
