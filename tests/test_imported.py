"""A published autoencoder is taken over with its hashes, and let in by what it comes to on the study's text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from autoencoders import random_autoencoder, sample
from dictionaries import exact, release_saelens, release_sparsify

from feature_lineage.autoencoders.autoencoder import load_autoencoder
from feature_lineage.autoencoders.imported import (
    Place,
    Source,
    check_autoencoder,
    fetched,
    import_autoencoder,
    same_place,
)
from feature_lineage.autoencoders.start import start, variant_of
from feature_lineage.autoencoders.variants import export
from feature_lineage.errors import InputError
from feature_lineage.store.checksums import sha256
from feature_lineage.store.formats import read_json
from feature_lineage.study.measures import Autoencoder

HOOK = "blocks.1.hook_resid_post"


def test_what_is_written_computes_the_same_and_says_where_it_is_from(tmp_path):
    one = exact(6, 20)
    release_saelens(tmp_path / "released" / "layer_1", one, HOOK)
    source = Source(str(tmp_path / "released"), "layer_1", key="autoencoders.base")
    import_autoencoder(source, tmp_path / "out", Place(HOOK, 6, 24), {"seed": 0})
    found, x = load_autoencoder(tmp_path / "out"), torch.randn(9, 6)
    assert torch.equal(found.encode(x), one.encode(x))
    torch.testing.assert_close(found.decode(found.encode(x)), x, rtol=1e-5, atol=1e-5)
    record = read_json(tmp_path / "out" / "import.json")
    weights = tmp_path / "released" / "layer_1" / "sae_weights.safetensors"
    assert record["files"]["sae_weights.safetensors"] == sha256(weights) and set(record["files"]) == {
        "cfg.json",
        weights.name,
    }
    assert (record["format"], record["hook"], record["model"]) == ("saelens", HOOK, "its model")
    assert (record["folder"], record["context"], record["window_start"]) == ("layer_1", 64, False)
    assert read_json(tmp_path / "out" / "cfg.json")["metadata"]["hook_name"] == HOOK


def test_another_hook_point_is_refused_unless_accepted(tmp_path):
    release_sparsify(tmp_path / "layers.2", exact(6, 20), 6)
    source = Source(str(tmp_path / "layers.2"), key="autoencoders.base")
    with pytest.raises(
        InputError, match=r"it reads blocks\.2\.hook_resid_post, and autoencoder\.hook is blocks\.1.*accept to true"
    ):
        import_autoencoder(source, tmp_path / "out", Place(HOOK, None, 24), {})
    import_autoencoder(source, tmp_path / "out", Place(HOOK, None, 24), {}, accept=True)
    assert read_json(tmp_path / "out" / "import.json")["hook"] == "blocks.2.hook_resid_post"
    assert same_place("blocks.3.hook_resid_pre", "blocks.2.hook_resid_post")
    assert not same_place("blocks.2.hook_resid_pre", "blocks.2.hook_resid_post")
    assert not same_place("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post")


def test_another_width_is_refused(tmp_path):
    release_saelens(tmp_path / "released", exact(6, 20), HOOK)
    source = Source(str(tmp_path / "released"), key="autoencoders.base")
    with pytest.raises(
        InputError,
        match=r"sae_weights\.safetensors: its encoder reads 6 elements, and blocks\.1\.\S+ gives 8.*at autoencoders\.base",
    ):
        import_autoencoder(source, tmp_path / "out", Place(HOOK, 8, 24), {}, accept=True)
    assert not (tmp_path / "out").exists()


def test_a_name_on_the_hub_is_downloaded_file_by_file(tmp_path, monkeypatch):
    """Of a repository with thousands of autoencoders, only the files of the one folder are asked for."""
    release_saelens(tmp_path / "cache" / "layer_1", exact(6, 20), HOOK)
    asked = {}

    def download(name, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(tmp_path / "cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    assert fetched(Source("owner/many", "layer_1", "v2", "saelens")) == tmp_path / "cache" / "layer_1"
    assert asked["name"] == "owner/many" and asked["revision"] == "v2"
    assert {"layer_1/cfg.json", "layer_1/sae_weights.safetensors"} <= set(asked["patterns"])
    assert not any("*" in pattern for pattern in asked["patterns"])
    with pytest.raises(InputError, match=r"has no 'layer_9' with a file of an autoencoder"):
        fetched(Source("owner/many", "layer_9", "v2", "saelens"))


def test_a_hub_that_is_away_is_named(tmp_path):
    code = (
        "from feature_lineage.autoencoders.imported import Source, fetched\n"
        "from feature_lineage.errors import InputError\n"
        "try:\n    fetched(Source('owner/none', 'layer_1', key='autoencoders.base'))\n"
        "except InputError as error:\n    print(error)"
    )
    place = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=place, capture_output=True, text=True)
    assert "autoencoders.base.pretrained: 'owner/none'" in said.stdout and "cannot be downloaded" in said.stdout, said


# --- the gate ----------------------------------------------------------------------------------------------

RELEASE = {
    "pretrained": "owner/name", "folder": None, "format": "saelens", "hook": HOOK, "model": "its model", "window_start": False,
    "claims": {"l0": 64.0, "variance_explained": 0.83},
}  # fmt: skip
SOUND = {
    "l0": 60.0, "variance_explained": 0.8, "loss_recovered": 0.95, "dead_share": 0.02, "loss_clean": 2.0, "loss_zero": 9.0,
    "densities": [0.1] * 600,
}  # fmt: skip


def gate(evaluation=(), release=(), hook=HOOK, start=False, accept=False):
    return check_autoencoder(
        SOUND | dict(evaluation), RELEASE | dict(release), hook, start, "autoencoders.base", accept=accept
    )


def test_a_sound_one_passes_and_its_numbers_stand_beside_what_the_release_says():
    found = gate()
    assert found["problems"] == found["remarks"] == found["causes"] == [] and not found["accepted"]
    assert (
        found["measured"] == {name: SOUND[name] for name in found["measured"]} and found["claimed"] == RELEASE["claims"]
    )
    assert (found["source"], found["format"]) == ("owner/name", "saelens")
    json.dumps(found, allow_nan=False)


def test_a_missed_l0_and_dead_features_are_remarked_and_stop_nothing():
    found = gate({"l0": 20.0, "dead_share": 0.6})
    assert found["problems"] == [] and found["remarks"] == [
        "L0 is 20, and 64 by the release.", "60.0% of the features fire on none of the tokens.",
    ]  # fmt: skip


IMPLAUSIBLE = [
    ({"variance_explained": -1008.0}, "Variance explained is -1.01e+03, below 0.3."),
    ({"variance_explained": 0.2}, "Variance explained is 0.2, below 0.3."),
    ({"variance_explained": None}, "Variance explained cannot be measured."),
    ({"variance_explained": float("nan")}, "Variance explained is nan"),
    ({"loss_recovered": -2.4}, "Loss recovered is -2.4, below 0.2."),
    ({"l0": 400.0}, "L0 is 400 of 600 features."),
    ({"l0": 0.0}, "L0 is 0 of 600 features."),
]


@pytest.mark.parametrize(("evaluation", "said"), IMPLAUSIBLE)
def test_implausible_numbers_stop_the_study_with_numbers_and_causes(evaluation, said):
    with pytest.raises(InputError) as error:
        gate(evaluation)
    text = str(error.value)
    assert text.startswith("autoencoders.base: owner/name") and said in text
    assert "the release says: L0 64, variance explained 0.83" in text and "(1) " in text
    assert "set autoencoders.base.accept to true" in text
    found = gate(evaluation, accept=True)
    assert (
        found["accepted"]
        and found["problems"] == [said if said.endswith(".") else found["problems"][0]]
        and found["causes"]
    )


def test_a_loss_that_zeros_hardly_change_is_no_reason():
    assert gate({"loss_recovered": -3.0, "loss_zero": 2.01})["problems"] == []


@pytest.mark.parametrize(
    ("release", "evaluation", "start", "first"),
    [
        ({"hook": "blocks.2.hook_resid_post"}, {}, False, "Hook: it reads blocks.2"),
        (
            {"window_start": True},
            {},
            False,
            "BOS: in its training each window had a BOS token at its head, and this study has none",
        ),
        (
            {"window_start": False},
            {},
            True,
            "BOS: in its training each window had none at its head, and this study has one",
        ),
        ({}, {"l0": 512.0}, False, "Scaling: L0 is 8 times what the release says"),
        ({"claims": {}}, {}, False, "Scaling: it may have been trained on activations of another scale"),
        ({}, {}, False, "Model: it may have been trained on another one, which is its model as it says"),
    ],
)
def test_the_likeliest_cause_comes_first(release, evaluation, start, first):
    with pytest.raises(InputError) as error:
        gate({"variance_explained": -5.0} | evaluation, release, start=start)
    assert f"(1) {first}" in str(error.value), error.value


# --- a training that starts from one -----------------------------------------------------------------------


def rescaled(one, factors):
    """The same autoencoder with decoder vectors of other norms, as some are released."""
    return replace(one, W_enc=one.W_enc / factors, b_enc=one.b_enc / factors, W_dec=one.W_dec * factors[:, None])


@pytest.mark.parametrize(("variant", "normalize"), [("l1", False), ("l1", True), ("jumprelu", True)])
def test_a_training_starts_with_the_features_of_an_imported_one(variant, normalize):
    """Decoder vectors get norm 1 and features are multiplied by it: what they reconstruct is the same."""
    x, one = sample(64), random_autoencoder(12, 40)
    released = rescaled(one, torch.linspace(0.2, 5, 40))
    if variant == "jumprelu":
        released = replace(released, threshold=torch.linspace(0.1, 1, 40))
    kind = variant_of(variant, None)
    weights, centring = start(kind, 40, x, Autoencoder(init="parent", mean="data", normalize=normalize), 0, released)
    found, norm = export(kind, weights, centring), released.W_dec.norm(dim=1)
    torch.testing.assert_close(found.W_dec.norm(dim=1), torch.ones(40))
    torch.testing.assert_close(found.encode(x), released.encode(x) * norm, rtol=1e-4, atol=1e-4)
    reconstructed = found.decode(found.encode(x))
    torch.testing.assert_close(reconstructed, released.decode(released.encode(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("variant", "changes", "said"),
    [
        ("l1", {"threshold": torch.ones(40)}, "has a threshold; set autoencoder.variant to jumprelu or batchtopk"),
        ("jumprelu", {}, "has none; set autoencoder.variant to l1 or topk"),
        ("l1", {"scaling": "layer_norm"}, "scales each token's activations (layer_norm)"),
    ],
)
def test_a_kind_that_a_training_cannot_start_from_is_refused(variant, changes, said):
    released = replace(random_autoencoder(12, 40), **changes)
    options = Autoencoder(init="parent", mean="data", normalize=True)
    with pytest.raises(InputError) as error:
        start(variant_of(variant, None), 40, sample(64), options, 0, released)
    assert said in str(error.value), error.value
