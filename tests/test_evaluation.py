"""The numbers of `evaluation.json` against independent references."""

import numpy as np
import pytest
import torch
from autoencoders import TOKENS, M, N, random_autoencoder, sample, weights_of

from feature_lineage.autoencoders.evaluation import Evaluation, evaluate_autoencoder
from feature_lineage.autoencoders.variants import export
from feature_lineage.models.evaluation import evaluate_model
from feature_lineage.models.hooks import activations, next_token_losses
from feature_lineage.text.windows import Windows

HOOK = "blocks.0.mlp.hook_post"


def test_evaluation_equals_a_float64_reference():
    x = sample()
    exported = export(*weights_of(x))
    f = exported.encode(x)
    x_hat = exported.decode(f)
    evaluation = Evaluation(N, M)
    for rows in (slice(0, 20), slice(20, TOKENS)):
        evaluation.add(x[rows], f[rows], x_hat[rows])
    found = evaluation.result()
    error = (x.double() - x_hat.double()).square()
    assert found["tokens"] == TOKENS
    assert found["l0"] == pytest.approx(float((f > 0).double().sum(1).mean()))
    assert found["mse"] == pytest.approx(float(error.mean()), rel=1e-6)
    variance = (x.double() - x.double().mean(0)).square().sum()
    assert found["variance_explained"] == pytest.approx(float(1 - error.sum() / variance), rel=1e-6)
    assert found["dead_share"] == float((~(f > 0).any(0)).double().mean())
    assert found["densities"] == pytest.approx((f > 0).double().mean(0).tolist())


def test_evaluation_counts_every_token_once_and_recovers_loss(token_directories, bridge):
    autoencoder = random_autoencoder()
    found = evaluate_autoencoder(bridge, HOOK, autoencoder, token_directories, 8, 160)
    windows = Windows(token_directories, 8)
    tokens = np.concatenate([windows[windows.spread(i, 160)] for i in range(2)])
    x = activations(bridge, HOOK, tokens)
    assert found["tokens"] == tokens.size == 320
    assert found["l0"] == pytest.approx(float((autoencoder.encode(x) > 0).double().sum(1).mean()))
    assert found["mse"] == pytest.approx(
        float((x - autoencoder.decode(autoencoder.encode(x))).double().square().mean()), rel=1e-5
    )
    loss = {
        kind: float(next_token_losses(bridge, HOOK, tokens, replace).double().mean())
        for kind, replace in (
            ("clean", None),
            ("zero", torch.zeros_like),
            ("spliced", lambda x: autoencoder.decode(autoencoder.encode(x))),
        )
    }
    assert found["loss_clean"] == pytest.approx(loss["clean"], rel=1e-6)
    recovered = (loss["zero"] - loss["spliced"]) / (loss["zero"] - loss["clean"])
    assert found["loss_recovered"] == pytest.approx(recovered, rel=1e-4)
    assert set(found["corpora"]) == {"ast", "wrap"}


def test_every_evaluation_takes_its_tokens_from_each_corpus(token_directories, bridge):
    """One number for autoencoders, models and merges' paths; a corpus that holds fewer gives all that it holds."""
    windows = Windows(token_directories, 8)
    first, second = (token_directories[name] for name in windows.corpora)
    for directories in ({"one": first}, {"one": first, "two": second}, {"one": first, "two": second, "three": second}):
        found = evaluate_autoencoder(bridge, HOOK, random_autoencoder(), directories, 8, 160)
        assert found["tokens"] == 160 * len(directories)
    held = int(windows.counts().sum()) * 8
    assert evaluate_autoencoder(bridge, HOOK, random_autoencoder(), token_directories, 8, 10**9)["tokens"] == held
    for number in range(2):
        assert evaluate_model(bridge.original_model, windows, windows.spread(number, 160))["tokens"] == 160 / 8 * 7
