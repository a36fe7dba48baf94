"""Dictionaries that the peers' own libraries saved, read by us: the same features and reconstructions as theirs.

SAELens, EleutherAI's sparsify and dictionary_learning live in an environment of their own (`make peers`); without it these tests skip.
`peers_autoencoders.py` runs there once for each library.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from real_models import FOLDER as REAL
from transformers import AutoModelForCausalLM

from feature_lineage.autoencoders.autoencoder import load_autoencoder, save_autoencoder
from feature_lineage.autoencoders.formats.reading import FORMATS, read_release
from feature_lineage.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers"
PACKAGES = {"saelens": "sae_lens", "sparsify": "sparsify", "dictionary_learning": "dictionary_learning"}
CASES = {
    "saelens": [
        *("standard", "topk", "topk-rescaled", "jumprelu"),
        *("standard-unsubtracted", "topk-unsubtracted", "topk-rescaled-unsubtracted", "jumprelu-unsubtracted"),
        *("standard-constant_norm_rescale", "standard-layer_norm", "standard-expected_average_only_in", "jumprelu-bfloat16"),
        *("checkpoint-batchtopk", "checkpoint-matryoshka", "checkpoint-topk", "checkpoint-jumprelu"),
        *("checkpoint-batchtopk-scaled", "checkpoint-matryoshka-scaled", "checkpoint-topk-scaled", "checkpoint-jumprelu-scaled"),
        *("end-checkpoint-batchtopk", "end-checkpoint-matryoshka", "end-checkpoint-topk-scaled", "end-checkpoint-batchtopk-scaled"),
        *("old-standard", "old-topk", "old-topk-layer-norm", "old-jumprelu"),
    ],
    "sparsify": ["layers.9", "layers.9.mlp", "h.3.attn"],
    "dictionary_learning": [
        *("AutoEncoder", "AutoEncoder-unit", "AutoEncoderNew", "AutoEncoderTopK"),
        *("BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"),
    ],
}  # fmt: skip
EVERY = [(library, case) for library, cases in CASES.items() for case in cases]
REFUSED = {
    ("saelens", "gated"): ("cfg.json", "architecture is 'gated'"),
    ("saelens", "transcoder"): ("cfg.json", "architecture is 'transcoder'"),
    ("saelens", "head"): ("cfg.json", "hook_head_index is 3"),
    ("saelens", "whitened"): ("cfg.json", "normalize_activations is 'covariance_whitening'"),
    ("sparsify", "groupmax"): ("cfg.json", "activation is 'groupmax'"),
    ("sparsify", "transcode"): ("cfg.json", "transcode is True"),
    ("sparsify", "skip"): ("cfg.json", "skip_connection is True"),
    ("dictionary_learning", "GatedAutoEncoder"): ("config.json", "trainer.dict_class is 'GatedAutoEncoder'"),
    ("dictionary_learning", "threshold-never-set"): ("ae.pt", "tensor 'threshold' is -1"),
}


def activations(library):
    """[256, 512] with a mean that is not 0; for two of the libraries those of a real model [256, 64], where it is here."""
    if library != "saelens" and (REAL / "stories260k" / "config.json").exists():
        model = AutoModelForCausalLM.from_pretrained(REAL / "stories260k")
        tokens = torch.randint(3, 512, (2, 128), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return model(tokens, output_hidden_states=True).hidden_states[3].reshape(256, -1)
    random = torch.Generator().manual_seed(0)
    return 2 * torch.randn(256, 512, generator=random) + torch.randn(512, generator=random) / 2


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of what a library saved, and the activations; made at the first call."""
    made = {}

    def of(library):
        if not any(PEERS.glob(f"lib/python*/site-packages/{PACKAGES[library]}")):
            pytest.skip(
                f"no {PACKAGES[library]} in .venv-peers: `make peers` installs it from envs/peers.txt and envs/peers.alone.txt"
            )
        if library not in made:
            folder = tmp_path_factory.mktemp(library)
            x = activations(library)
            np.save(folder / "x.npy", x.numpy())
            environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
            environment.pop("PYTHONPATH", None)
            script = Path(__file__).with_name("peers_autoencoders.py")
            command = [PEERS / "bin" / "python", script, library, folder / "x.npy", folder]
            done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=400)
            assert done.returncode == 0, done.stderr[-3000:]
            made[library] = folder, x
        return made[library]

    return of


def assert_as_theirs(autoencoder, x, folder):
    """To 1e-5. A feature at its threshold, or at the last place of k, may fall on either side by rounding: few of 262,144 can."""
    theirs = {name: torch.from_numpy(array) for name, array in np.load(folder / "peer.npz").items()}
    features = autoencoder.encode(x)
    assert 0.005 < (features > 0).double().mean() < 0.9, "realistic sparsity"
    off = (features - theirs["features"]).abs() > 1e-5
    assert off.sum() <= 4, (
        f"{int(off.sum())} features differ, by {float((features - theirs['features']).abs().max()):.2g}"
    )
    same = ~off.any(1)
    found = autoencoder.decode(features, x)[same]
    np.testing.assert_allclose(found.numpy(), theirs["reconstruction"][same].numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("library", "case"), EVERY)
def test_features_and_reconstructions_are_the_librarys_own(saved, library, case):
    folder, x = saved(library)
    release = read_release(folder / case)
    assert release.format == library
    assert_as_theirs(release.autoencoder, x, folder / case)


@pytest.mark.parametrize(
    ("library", "case"),
    [("saelens", "standard-layer_norm"), ("saelens", "standard-constant_norm_rescale"), *EVERY[-3:]],
)
def test_they_are_still_when_saved_in_this_projects_form(saved, tmp_path, library, case):
    folder, x = saved(library)
    save_autoencoder(read_release(folder / case).autoencoder, tmp_path, "blocks.3.hook_resid_post", 128, {})
    assert_as_theirs(load_autoencoder(tmp_path), x, folder / case)


@pytest.mark.parametrize(("library", "case"), REFUSED)
def test_other_kinds_are_refused_by_name(saved, library, case):
    folder, _ = saved(library)
    file, words = REFUSED[library, case]
    with pytest.raises(InputError) as refused:
        read_release(folder / "refused" / case)
    assert str(folder / "refused" / case / file) in str(refused.value) and words in str(refused.value)


def test_what_the_files_of_each_library_say(saved):
    """Hook point, model, context, BOS and L0, as the library writes them."""
    folder, _ = saved("saelens")
    say = lambda release: (release.hook, release.model, release.context, release.window_start, dict(release.claims))  # noqa: E731
    resid = "blocks.8.hook_resid_pre"
    assert say(read_release(folder / "topk")) == (resid, "gpt2", 128, True, {"l0": 32})
    assert say(read_release(folder / "old-jumprelu")) == (resid, "gpt2-small", 128, False, {})
    folder, _ = saved("sparsify")
    assert say(read_release(folder / "layers.9")) == ("blocks.9.hook_resid_post", None, None, None, {"l0": 32})
    assert read_release(folder / "layers.9.mlp").hook == "blocks.9.hook_mlp_out", "not the residual stream"
    assert read_release(folder / "h.3.attn").hook == "blocks.3.hook_attn_out"
    folder, _ = saved("dictionary_learning")
    model = "EleutherAI/pythia-70m-deduped"
    assert say(read_release(folder / "BatchTopKSAE")) == ("blocks.3.hook_resid_post", model, 128, None, {"l0": 32})


def test_a_threshold_that_was_dropped_is_refused(saved, tmp_path):
    """SAELens lost thresholds in 2025 (#608): a jumprelu without them would be a ReLU."""
    from safetensors.torch import load_file, save_file

    folder, _ = saved("saelens")
    tensors = load_file(folder / "jumprelu" / "sae_weights.safetensors")
    del tensors["threshold"]
    save_file(tensors, tmp_path / "sae_weights.safetensors")
    (tmp_path / "cfg.json").write_text((folder / "jumprelu" / "cfg.json").read_text())
    with pytest.raises(InputError, match=r"sae_weights\.safetensors: has no tensor 'threshold'"):
        read_release(tmp_path)


def test_a_file_of_saelens_is_never_to_be_deleted(saved):
    """Read as one of a study's own it was called damaged, and its owner told to delete it."""
    folder, _ = saved("saelens")
    with pytest.raises(InputError) as refused:
        load_autoencoder(folder / "standard")
    assert "made elsewhere" in str(refused.value) and "delete" not in str(refused.value)
    assert json.loads((folder / "standard" / "cfg.json").read_text())["architecture"] == "standard"


def test_every_format_that_has_a_library_is_compared_with_it():
    assert set(FORMATS) - {"gemma_scope", "gemma_scope_2"} == set(CASES)
