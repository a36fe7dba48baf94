"""The autoencoder against independent float64 references, clause by clause of the paper's appendix B."""

import json

import numpy as np
import pytest
import torch

from feature_lineage import autoencoder as ae
from feature_lineage.logs import InputError, Stopped

N, M, TOKENS = 12, 40, 64
SETTINGS = [(normalize, mean) for normalize in (False, True) for mean in ("elements", "data")]


def sample(tokens=TOKENS, n=N, seed=0):
    """Activations with a mean that is not zero, in the data and in each vector."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, n, generator=random) * 3 + torch.randn(n, generator=random) + 0.7


def weights_of(x, normalize=False, mean="elements", init="kaiming", features=M):
    weights, centring = ae.start(x.shape[1], features, x, seed=1, normalize=normalize, mean=mean, init=init)
    random = torch.Generator().manual_seed(2)
    weights.encoder_bias += torch.randn(features, generator=random) * 0.3
    weights.decoder_bias += torch.randn(x.shape[1], generator=random) * 0.3
    return weights, centring


def reference(weights, x, l1, normalize, mean):
    """Equations (1) to (4) as written, in float64 with autograd: loss, its terms, gradients."""
    x = x.double()
    mu = x.mean(0) if mean == "data" else torch.zeros(x.shape[1], dtype=torch.float64)
    scale = 1 / (x - mu).square().mean().sqrt() if normalize else 1.0
    y = (x - mu) * scale
    E, b_e, D, b_d = (tensor.double().clone().requires_grad_() for tensor in weights.tensors())
    centred = (y - y.mean(1, keepdim=True) if mean == "elements" else y) - b_d
    f = torch.relu(centred @ E.T + b_e)
    x_hat = f @ D + b_d
    mse, l1_term = (y - x_hat).square().mean(), f.abs().sum(1).mean()
    loss = mse + l1 * l1_term
    return (f, x_hat, mse, l1_term, *torch.autograd.grad(loss, [E, b_e, D, b_d]))


@pytest.mark.parametrize("sparse_below", [0.0, 1.1], ids=["dense", "sparse"])
@pytest.mark.parametrize(("normalize", "mean"), SETTINGS)
def test_loss_and_gradients_equal_autograd(normalize, mean, sparse_below):
    if sparse_below and not torch.backends.mkl.is_available():
        pytest.skip("this build of torch has no MKL, so the CPU takes the dense path only")
    x = sample()
    weights, centring = weights_of(x, normalize, mean)
    step = ae.loss_and_gradients(weights, centring, x, 0.05, sparse_below)
    f, _, mse, l1, *gradients = (tensor.detach() for tensor in reference(weights, x, 0.05, normalize, mean))
    assert step.mse == pytest.approx(float(mse), rel=1e-6)
    assert step.l1 == pytest.approx(float(l1), rel=1e-6)
    assert step.l0 == float((f > 0).sum(1).double().mean())
    assert torch.equal(step.fired, (f > 0).any(0))
    for ours, theirs in zip(step.gradients, gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.parametrize(("normalize", "mean"), SETTINGS)
def test_export_folds_scale_and_mean_into_a_standard_autoencoder(normalize, mean):
    x = sample()
    weights, centring = weights_of(x, normalize, mean)
    exported = ae.export(weights, centring)
    f, x_hat, *_ = reference(weights, x, 0.05, normalize, mean)
    torch.testing.assert_close(exported.encode(x) * centring.scale, f.float(), rtol=1e-4, atol=1e-5)
    back = x_hat.float() / centring.scale + centring.shift
    torch.testing.assert_close(exported.decode(exported.encode(x)), back, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exported.W_dec.norm(dim=1), torch.ones(M))


def test_the_decoder_bias_starts_at_the_geometric_median():
    x = sample(200, 2)
    x[:20] += 50  # outliers that move the mean, not the median
    found = ae.geometric_median(x).double()
    summed = lambda point: (x.double() - point).norm(dim=1).sum()  # noqa: E731
    around = [found + 0.01 * torch.tensor([np.cos(a), np.sin(a)]) for a in np.linspace(0, 6.28, 16)]
    assert all(summed(found) < summed(point) for point in around)
    weights, _ = ae.start(2, 4, x, seed=0, normalize=False, mean="elements", init="kaiming")
    torch.testing.assert_close(weights.decoder_bias, found.float())


def test_start_is_kaiming_uniform_untied_and_seeded():
    x = sample(n=100)
    weights, _ = ae.start(100, 500, x, seed=3, normalize=False, mean="elements", init="kaiming")
    bound = 1 / 10  # Kaiming-uniform with a = √5: 1 / √n
    assert weights.encoder.abs().max() <= bound
    assert weights.encoder.abs().max() > 0.99 * bound
    assert weights.encoder.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    torch.testing.assert_close(weights.decoder.norm(dim=1), torch.ones(500))
    again, _ = ae.start(100, 500, x, seed=3, normalize=False, mean="elements", init="kaiming")
    other, _ = ae.start(100, 500, x, seed=4, normalize=False, mean="elements", init="kaiming")
    assert torch.equal(weights.encoder, again.encoder)
    assert not torch.equal(weights.encoder, other.encoder)
    assert not torch.allclose(weights.encoder / weights.encoder.norm(dim=1, keepdim=True), weights.decoder)
    tied, _ = ae.start(100, 500, x, seed=3, normalize=False, mean="elements", init="transpose")
    assert torch.equal(tied.encoder, tied.decoder)


def test_the_gradient_parallel_to_each_feature_is_removed():
    decoder = torch.nn.functional.normalize(torch.randn(M, N), dim=1)
    gradient = torch.randn(M, N)
    before = gradient.clone()
    ae.keep_unit_norm(gradient, decoder)
    assert (gradient * decoder).sum(1).abs().max() < 1e-6
    removed = before - gradient
    torch.testing.assert_close(removed, (before * decoder).sum(1, keepdim=True) * decoder)


def test_draws_follow_the_squared_loss():
    x = torch.arange(4.0)[:, None]
    losses = torch.tensor([1.0, 2.0, 3.0, 0.0])
    counts = torch.zeros(4)
    for seed in range(4000):
        random = torch.Generator().manual_seed(seed)
        drawn = ae.draw_by_squared_loss([x[:2], x[2:]], lambda part: losses[part[:, 0].long()], 1, random)
        counts[int(drawn[0, 0])] += 1
    expected = losses**2 / (losses**2).sum() * 4000
    assert counts[3] == 0
    assert ((counts - expected).abs()[:3] < 4 * expected[:3].sqrt()).all()  # p ∝ loss would miss by 10 of these


def test_draws_are_distinct_and_as_many_as_asked():
    x = torch.arange(50.0)[:, None]
    drawn = ae.draw_by_squared_loss(x.split(7), lambda part: part[:, 0] + 1, 20, torch.Generator().manual_seed(0))
    assert len(set(drawn[:, 0].tolist())) == 20


def trained(steps=12, tmp=None, **changes):
    x = sample(TOKENS * steps, seed=5)
    options = {
        "label": "test", "steps": steps, "tokens_per_step": TOKENS, "features": M, "seed": 0, "lr": 1e-2, "l1": 0.01,
        "l1_warmup_steps": 4, "normalize": True, "mean": "elements", "init": "kaiming", "resample_steps": [6],
        "silent_steps": 3, "checkpoint_seconds": 0.0,
    } | changes  # fmt: skip
    batches = options.pop("batches", lambda step: iter(x.split(TOKENS)[step:]))
    pool = options.pop("pool", lambda step: [sample(100, seed=step)])
    return ae.train_autoencoder(batches, pool, x[:TOKENS], tmp / "checkpoint.safetensors", **options)


def test_training_keeps_unit_norm_and_lowers_the_loss(tmp_path):
    found, curve = trained(steps=200, tmp=tmp_path, l1_warmup_steps=0, resample_steps=[])
    frame = curve.to_pandas()
    assert frame["loss"].iloc[-20:].mean() < 0.6 * frame["loss"].iloc[0]
    torch.testing.assert_close(found.W_dec.norm(dim=1), torch.ones(M))
    assert frame["tokens"].iloc[-1] == 200 * TOKENS


def test_the_l1_coefficient_warms_up(tmp_path):
    _, curve = trained(steps=6, tmp=tmp_path, l1_warmup_steps=4, l1=0.4, resample_steps=[])
    assert curve["l1_coefficient"].to_pylist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


class Interrupted(Exception):
    pass


def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path):
    x = sample(TOKENS * 12, seed=5)

    def breaks_at(last):
        def batches(step):
            for number, part in enumerate(x.split(TOKENS)[step:], start=step):
                if number == last:
                    raise Interrupted
                yield part

        return batches

    whole, curve = trained(tmp=tmp_path)
    assert (tmp_path / "checkpoint.safetensors").exists()
    (tmp_path / "checkpoint.safetensors").unlink()
    for last in (5, 9):
        with pytest.raises(Interrupted):
            trained(tmp=tmp_path, batches=breaks_at(last))
    seen = []
    resumed, resumed_curve = trained(
        tmp=tmp_path, batches=lambda step: seen.append(step) or iter(x.split(TOKENS)[step:])
    )
    assert seen == [9]
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name)), name
    assert curve.equals(resumed_curve)


def test_asked_to_stop_it_saves_first(tmp_path):
    whole, _ = trained(tmp=tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    answers = iter([False] * 4 + [True] * 2)
    with pytest.raises(Stopped, match="after step 5 of 12"):
        trained(tmp=tmp_path, checkpoint_seconds=1e9, stop=lambda: next(answers))
    resumed, _ = trained(tmp=tmp_path)
    assert torch.equal(whole.W_enc, resumed.W_enc)


def test_dead_features_are_resampled(tmp_path, monkeypatch):
    """The one dead feature points to the drawn input, its encoder is short, its bias 0, and Adam has forgotten it."""
    x = sample()
    weights, centring = weights_of(x)
    dead = torch.tensor([7])
    adam = torch.optim.Adam(weights.tensors(), lr=1e-3)
    for tensor in weights.tensors():
        tensor.grad = torch.randn_like(tensor)
    adam.step()
    before = [tensor.clone() for tensor in weights.tensors()]
    drawn = x[3:4]
    monkeypatch.setattr(ae, "draw_by_squared_loss", lambda pool, losses, count, random: drawn)
    ae._resample(weights, centring, adam, dead, [x], 0.05, seed=[0, 1])
    centred = drawn - drawn.mean() - weights.decoder_bias
    direction = (centred / centred.norm())[0]
    others = torch.arange(M) != 7
    torch.testing.assert_close(weights.decoder[7], direction)
    torch.testing.assert_close(weights.encoder[7], 0.2 * before[0][others].norm(dim=1).mean() * direction)
    assert weights.encoder_bias[7] == 0
    for tensor, old in zip(weights.tensors()[:3], before[:3], strict=True):
        assert torch.equal(tensor[others], old[others])
        for moment in ("exp_avg", "exp_avg_sq"):
            assert (adam.state[tensor][moment][7] == 0).all()
            assert (adam.state[tensor][moment][others] != 0).any()
    assert torch.equal(weights.decoder_bias, before[3])


def test_resampling_draws_by_the_loss_of_each_input(monkeypatch):
    x = sample()
    weights, centring = weights_of(x)
    f, x_hat, *_ = reference(weights, x, 0.05, False, "elements")
    expected = (x.double() - x_hat).square().mean(1) + 0.05 * f.sum(1)
    seen = []
    monkeypatch.setattr(
        ae, "draw_by_squared_loss", lambda pool, losses, count, random: seen.append(losses(x)) or x[:count]
    )
    adam = torch.optim.Adam(weights.tensors())
    for tensor in weights.tensors():
        tensor.grad = torch.zeros_like(tensor)
    adam.step()
    ae._resample(weights, centring, adam, torch.tensor([1, 2]), [x], 0.05, seed=[0])
    torch.testing.assert_close(seen[0], expected.detach().float(), rtol=1e-5, atol=1e-6)


def test_only_features_silent_for_long_enough_are_resampled(tmp_path, monkeypatch):
    """At step 6, silent for 4: last fired at step 2 or never is dead, last fired at step 3 is not."""
    last = {3: 0, 5: 2, 7: 3}
    real, count, dead = ae.training_step, [0], []

    def step(*arguments):
        found = real(*arguments)
        count[0] += 1
        found.fired[:] = True
        for feature, at in last.items():
            found.fired[feature] = count[0] <= at
        return found

    monkeypatch.setattr(ae, "training_step", step)
    monkeypatch.setattr(
        ae, "_resample", lambda weights, centring, adam, found, *rest, **named: dead.append(found.tolist())
    )
    _, curve = trained(tmp=tmp_path, steps=6, silent_steps=4, resample_steps=[6])
    assert dead == [[3, 5]]
    assert curve["dead_share"].to_pylist()[4] == pytest.approx(1 / M)  # step 5: only the one that never fired


def test_a_loss_that_explodes_stops_with_the_step(tmp_path):
    with pytest.raises(InputError, match="at step 3"):
        trained(tmp=tmp_path, batches=lambda step: iter([sample()] * 3 + [sample() * float("nan")] * 9))


def test_activations_that_end_early_are_an_error(tmp_path):
    with pytest.raises(InputError, match="after 2 of 12 steps"):
        trained(tmp=tmp_path, batches=lambda step: iter([sample()] * 2))


def test_saved_and_loaded_autoencoders_are_equal(tmp_path):
    found, _ = trained(tmp=tmp_path)
    ae.save_autoencoder(found, tmp_path / "sae", "blocks.0.mlp.hook_post", 24, {"seed": 0})
    loaded = ae.load_autoencoder(tmp_path / "sae")
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(found, name), getattr(loaded, name))
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert (config["d_in"], config["d_sae"], config["architecture"]) == (N, M, "standard")
    assert config["metadata"]["hook_name"] == "blocks.0.mlp.hook_post"


@pytest.mark.parametrize("damage", ["truncated", "missing", "misshapen"])
def test_a_damaged_autoencoder_is_named(tmp_path, damage):
    found, _ = trained(tmp=tmp_path)
    ae.save_autoencoder(found, tmp_path / "sae", "blocks.0.mlp.hook_post", 24, {})
    weights = tmp_path / "sae" / "sae_weights.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "missing":
        weights.unlink()
    else:
        config = tmp_path / "sae" / "cfg.json"
        config.write_text(config.read_text().replace(f'"d_sae": {M}', '"d_sae": 39'))
    with pytest.raises(InputError, match=r"sae_weights\.safetensors"):
        ae.load_autoencoder(tmp_path / "sae")


def test_evaluation_equals_a_float64_reference():
    x = sample()
    weights, centring = weights_of(x)
    exported = ae.export(weights, centring)
    f = exported.encode(x)
    x_hat = exported.decode(f)
    evaluation = ae.Evaluation(N, M)
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
