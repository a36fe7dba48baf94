"""What we write, read by the field's own tools: SAELens loads our autoencoders, mergekit merges to the same weights.

They live in an environment of their own (`make peers`, envs/peers.txt); without it these tests skip.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from autoencoders import VARIANTS, sample, weights_of
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from feature_lineage.autoencoders import variants
from feature_lineage.autoencoders.autoencoder import load_autoencoder, save_autoencoder
from feature_lineage.models.checkpoint import build_model, load_model, save_model
from feature_lineage.models.merge import angles, merge_states
from feature_lineage.models.task_vectors import Recipe, dropped, merge_any_number
from feature_lineage.study.loading import load_study
from feature_lineage.study.mergekit import models_from_mergekit
from feature_lineage.study.plan import Plan

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers" / "bin"

pytestmark = pytest.mark.skipif(
    not (PEERS / "python").exists(),
    reason="no .venv-peers: `make peers` installs SAELens and mergekit from envs/peers.txt",
)


def run(*command):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


SAELENS = """
import sys
import numpy as np
import torch
from sae_lens import SAE

folder, x, out = sys.argv[1:]
sae = SAE.load_from_disk(folder)
with torch.no_grad():
    features = sae.encode(torch.from_numpy(np.load(x)))
    np.savez(out, features=features.numpy(), reconstruction=sae.decode(features).numpy())
print(sae.cfg.architecture(), sae.cfg.metadata.hook_name, sae.cfg.metadata.context_size)
"""


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("normalize", "mean"), [(False, "elements"), (True, "data")])
def test_saelens_loads_an_autoencoder_and_agrees(tmp_path, variant, normalize, mean):
    x = sample(256)
    kind, weights, centring = weights_of(x, variant, normalize, mean)
    if variant == "batchtopk":
        weights.threshold.fill_(0.4)
    ours = variants.export(kind, weights, centring)
    save_autoencoder(ours, tmp_path / "sae", "blocks.0.mlp.hook_post", 24, {"seed": 0})
    np.save(tmp_path / "x.npy", x.numpy())
    said = run(PEERS / "python", "-c", SAELENS, tmp_path / "sae", tmp_path / "x.npy", tmp_path / "out.npz")
    known = {"l1": "standard", "topk": "topk", "batchtopk": "jumprelu", "jumprelu": "jumprelu"}
    assert said.split() == [known[variant], "blocks.0.mlp.hook_post", "24"]
    theirs = np.load(tmp_path / "out.npz")
    features = ours.encode(x)
    assert 0 < (features > 0).double().mean() < 0.6
    np.testing.assert_allclose(theirs["features"], features.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(theirs["reconstruction"], ours.decode(features).numpy(), rtol=0, atol=1e-5)


def test_saelens_reads_heads_as_transformer_lens_gives_them(tmp_path):
    """An autoencoder of a hook_z: [tokens, heads, width of a head] goes in and comes out, the features are those of the flat vectors."""
    x = sample(256)
    kind, weights, centring = weights_of(x, "l1", False, "elements")
    ours = variants.export(kind, weights, centring)
    save_autoencoder(ours, tmp_path / "sae", "blocks.0.attn.hook_z", 24, {"seed": 0})
    heads = x.reshape(len(x), 2, -1)
    np.save(tmp_path / "x.npy", heads.numpy())
    run(PEERS / "python", "-c", SAELENS, tmp_path / "sae", tmp_path / "x.npy", tmp_path / "out.npz")
    theirs = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(theirs["features"], ours.encode(x).numpy(), rtol=0, atol=1e-5)
    expected = ours.decode(ours.encode(x)).reshape(heads.shape)
    np.testing.assert_allclose(theirs["reconstruction"], expected.numpy(), rtol=0, atol=1e-5)
    assert torch.equal(load_autoencoder(tmp_path / "sae").encode(x), ours.encode(x))


SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "max_position_embeddings": 64, "sliding_window": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
}  # fmt: skip


@pytest.mark.parametrize("t", [0.0, 0.37, 1.0])
def test_mergekit_merges_to_the_same_weights(tmp_path, tokenizer_dir, t):
    first, second = (build_model(SHAPE, tokenizer_dir, seed) for seed in (0, 1))
    with torch.no_grad():  # tensors at any angle, nearly parallel ones, and one of zeros
        second.lm_head.weight.copy_(first.lm_head.weight + 1e-3 * second.lm_head.weight)
        second.model.layers[0].mlp.up_proj.weight.zero_()
        for model in (first, second):
            model.model.norm.weight.add_(torch.randn_like(model.model.norm.weight))
    for seed, model in enumerate((first, second)):
        save_model(model, tokenizer_dir, tmp_path / f"m{seed}", {})
    config = {
        "merge_method": "slerp",
        "base_model": str(tmp_path / "m0"),
        "models": [{"model": str(tmp_path / "m0")}, {"model": str(tmp_path / "m1")}],
        "parameters": {"t": t},
        "dtype": "float32",
    }
    (tmp_path / "merge.yaml").write_text(json.dumps(config))
    run(PEERS / "mergekit-yaml", tmp_path / "merge.yaml", tmp_path / "theirs")
    a, b = (load_model(tmp_path / f"m{seed}").state_dict() for seed in (0, 1))
    between = angles(a, b, "slerp")
    assert {found.branch for found in between.values()} == {"slerp", "linear"}
    ours = merge_states(a, b, t, between)
    theirs = {k: v for file in (tmp_path / "theirs").glob("*.safetensors") for k, v in load_file(file).items()}
    assert set(theirs) == set(ours)
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor.numpy(), theirs[name], rtol=0, atol=1e-6, err_msg=name)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")


OF_THREE = [
    ("linear", {"weights": [1, 2, 0.5]}),
    ("ties", {}),
    ("ties", {"weights": [1, 2, 0.5], "density": [0.2, 0.5, 1]}),
    ("ties", {"weights": [0.5, 0.7, 0.1], "density": [0.3, 0.3, 0.3], "normalize": False}),
    ("dare_ties", {"weights": [1, 2, 0.5], "density": [1, 1, 1]}),
    ("dare_ties", {"weights": [0.5, 0.7, 0.1], "density": [1, 1, 1], "normalize": False}),
]


@pytest.mark.parametrize(("method", "options"), OF_THREE)
def test_mergekit_merges_three_to_the_same_weights(tmp_path, tokenizer_dir, method, options):
    for seed in range(4):
        save_model(build_model(SHAPE, tokenizer_dir, seed), tokenizer_dir, tmp_path / f"m{seed}", {})
    given = {"weights": [1.0] * 3, "density": [0.2] * 3, "normalize": True} | options
    each = zip(range(3), given["weights"], given["density"], strict=True)
    of_base = method != "linear"
    config = {
        "merge_method": method,
        "models": [
            {"model": str(tmp_path / f"m{n}"), "parameters": {"weight": w} | ({"density": d} if of_base else {})} for n, w, d in each
        ],
        "parameters": {"normalize": given["normalize"]},
        "dtype": "float32",
    } | ({"base_model": str(tmp_path / "m3")} if of_base else {})  # fmt: skip
    (tmp_path / "merge.yaml").write_text(json.dumps(config))
    run(PEERS / "mergekit-yaml", tmp_path / "merge.yaml", tmp_path / "theirs")
    *parents, base = (load_model(tmp_path / f"m{seed}") for seed in range(4))
    # What mergekit has written down of its merge, read as a study.
    written = yaml.safe_load(models_from_mergekit(tmp_path / "theirs", "text"))
    study = load_study(
        {"study": "s", "corpora": {"text": {"files": "a.txt"}}, "tokenizer": {"pretrained": "a/b"}} | written
    )
    found = Plan(study).recipe("theirs")
    names = {"model": "theirs", "parents": ["m0", "m1", "m2"], "base": "m3" if of_base else None}
    asked = {"method": method, "seed": 0} | given | names
    assert found == asked | ({} if of_base else {"density": found["density"], "normalize": True})
    merge_any_number(parents, Recipe(**found), base if of_base else None)
    theirs = {k: v for file in (tmp_path / "theirs").glob("*.safetensors") for k, v in load_file(file).items()}
    ours = parents[0].state_dict()
    assert set(theirs) == set(ours)
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor.numpy(), theirs[name], rtol=0, atol=1e-5, err_msg=name)


DARE = """
import sys
import numpy as np
import torch
from mergekit.sparsify import RescaleNorm, SparsificationMethod, sparsify

change, density, draws, out = torch.from_numpy(np.load(sys.argv[1])), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.manual_seed(0)
found = [sparsify(change, density, SparsificationMethod.random, rescale_norm=RescaleNorm.l1) for _ in range(draws)]
np.save(out, torch.stack(found).numpy())
"""


@pytest.mark.parametrize("density", [0.2, 0.7])
def test_mergekits_dare_has_the_same_distribution(tmp_path, density):
    """Over 2,000 draws; mergekit divides by the share of the norm that is left rather than by the density, which is that on average."""
    change, draws = np.random.default_rng(0).normal(size=4000).astype(np.float32), 2000
    np.save(tmp_path / "change.npy", change)
    run(PEERS / "python", "-c", DARE, tmp_path / "change.npy", density, draws, tmp_path / "theirs.npy")
    theirs = np.load(tmp_path / "theirs.npy").astype(np.float64)
    ours = np.stack(
        [dropped(torch.from_numpy(change), density, np.random.default_rng(n)).numpy() for n in range(draws)]
    )
    expected = np.abs(change) * np.sqrt((1 - density) / density)
    for found in (theirs, ours.astype(np.float64)):
        # In standard errors the means' mean square is 1, and the standard deviations are the published ones.
        errors = (found.mean(0) - change) / (expected / np.sqrt(draws))
        assert abs(np.mean(errors**2) - 1) < 0.15
        assert abs(np.mean(found.std(0) / expected) - 1) < 0.02
