"""How training of an autoencoder starts, resamples, steers, stops and goes on; on activations and on a real (tiny) model."""

import math
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoders import TOKENS, VARIANTS, M, reference, sample, weights_of
from trainings import train_autoencoder, train_on_activations

from feature_lineage.autoencoders import resampling, resume, variants
from feature_lineage.autoencoders import start as start_module
from feature_lineage.autoencoders import training as at
from feature_lineage.errors import InputError, Stopped
from feature_lineage.study.measures import Autoencoder

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_decoder_bias_starts_at_the_geometric_median():
    x = sample(200, 2)
    x[:20] += 50  # outliers that move the mean, not the median
    found = start_module.geometric_median(x).double()
    summed = lambda point: (x.double() - point).norm(dim=1).sum()  # noqa: E731
    around = [found + 0.01 * torch.tensor([np.cos(a), np.sin(a)]) for a in np.linspace(0, 6.28, 16)]
    assert all(summed(found) < summed(point) for point in around)
    weights, _ = start_module.start(variants.l1(), 4, x, Autoencoder(), 0)
    torch.testing.assert_close(weights.decoder_bias, found.float())


def test_start_is_kaiming_uniform_untied_and_seeded():
    x = sample(n=100)
    weights, _ = start_module.start(variants.l1(), 500, x, Autoencoder(), 3)
    bound = 1 / 10  # Kaiming-uniform with a = √5: 1 / √n
    assert weights.encoder.abs().max() <= bound
    assert weights.encoder.abs().max() > 0.99 * bound
    assert weights.encoder.std() == pytest.approx(bound / 3**0.5, rel=0.02)
    torch.testing.assert_close(weights.decoder.norm(dim=1), torch.ones(500))
    again, _ = start_module.start(variants.l1(), 500, x, Autoencoder(), 3)
    other, _ = start_module.start(variants.l1(), 500, x, Autoencoder(), 4)
    assert torch.equal(weights.encoder, again.encoder)
    assert not torch.equal(weights.encoder, other.encoder)
    assert not torch.allclose(weights.encoder / weights.encoder.norm(dim=1, keepdim=True), weights.decoder)
    tied, _ = start_module.start(
        variants.l1(), 500, x, Autoencoder(normalize=False, mean="elements", init="transpose"), 3
    )
    assert torch.equal(tied.encoder, tied.decoder)


def test_draws_follow_the_squared_loss():
    x = torch.arange(4.0)[:, None]
    losses = torch.tensor([1.0, 2.0, 3.0, 0.0])
    counts = torch.zeros(4)
    for seed in range(4000):
        random = torch.Generator().manual_seed(seed)
        drawn = resampling.sample_by_squared_loss([x[:2], x[2:]], lambda part: losses[part[:, 0].long()], 1, random)
        counts[int(drawn[0, 0])] += 1
    expected = losses**2 / (losses**2).sum() * 4000
    assert counts[3] == 0
    assert ((counts - expected).abs()[:3] < 4 * expected[:3].sqrt()).all()  # p ∝ loss would miss by 10 of these


def test_draws_are_distinct_and_as_many_as_asked():
    x = torch.arange(50.0)[:, None]
    drawn = resampling.sample_by_squared_loss(
        x.split(7), lambda part: part[:, 0] + 1, 20, torch.Generator().manual_seed(0)
    )
    assert len(set(drawn[:, 0].tolist())) == 20


def trained(steps=12, tmp=None, **changes):
    x = sample(TOKENS * steps, seed=5)
    options = {
        "steps": steps, "tokens_per_step": TOKENS, "features": M, "seed": 0, "lr": 1e-2, "l1": 0.01,
        "l1_warmup_steps": 4, "normalize": True, "mean": "elements", "init": "kaiming", "resample_steps": [6],
        "silent_steps": 3, "checkpoint_seconds": 0.0,
    } | changes  # fmt: skip
    batches = options.pop("batches", lambda step: iter(x.split(TOKENS)[step:]))
    pool = options.pop("pool", lambda step: [sample(100, seed=step)])
    first = options.pop("sample", x[:TOKENS])
    return train_on_activations(batches, pool, first, tmp / "checkpoint.safetensors", **options)


def test_training_keeps_unit_norm_and_lowers_the_loss(tmp_path):
    found, curve = trained(steps=200, tmp=tmp_path, l1_warmup_steps=0, resample_steps=[])
    frame = curve.to_pandas()
    assert frame["loss"].iloc[-20:].mean() < 0.6 * frame["loss"].iloc[0]
    torch.testing.assert_close(found.W_dec.norm(dim=1), torch.ones(M))
    assert frame["tokens"].iloc[-1] == 200 * TOKENS


def test_adam_is_the_papers(tmp_path, monkeypatch):
    seen, real = [], at.training_step
    monkeypatch.setattr(at, "training_step", lambda *given: seen.append(given[3].defaults) or real(*given))
    trained(tmp=tmp_path, lr=3e-4)
    expected = {"lr": 3e-4, "betas": (0.9, 0.9999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False}
    assert expected.items() <= seen[0].items()


def test_the_l1_coefficient_warms_up(tmp_path):
    _, curve = trained(steps=6, tmp=tmp_path, l1_warmup_steps=4, l1=0.4, resample_steps=[])
    assert curve["l1_coefficient"].to_pylist() == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4])


class Interrupted(Exception):
    pass


def forget(folder):
    for checkpoint in folder.glob("checkpoint.*"):
        checkpoint.unlink()


def halved(content, random):
    return content[: len(content) // 2]


def emptied(content, random):
    return b""


def flipped(content, random):
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]


@pytest.mark.parametrize("harm", [halved, emptied, *[flipped] * 8])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_serves(tmp_path, caplog, harm):
    whole, curve = trained(tmp=tmp_path)
    newest, before = tmp_path / "checkpoint.safetensors", tmp_path / "checkpoint.safetensors.before"
    seed = random.randrange(1 << 32)
    newest.write_bytes(harm(newest.read_bytes(), random.Random(seed)))
    with caplog.at_level("INFO", "feature_lineage"):
        resumed, again = trained(tmp=tmp_path)
    assert f"{newest}: this checkpoint is truncated or damaged" in caplog.text, f"seed {seed}"
    assert f"going on from step 10 of 12, {before}" in caplog.text, f"seed {seed}"
    assert torch.equal(whole.W_dec, resumed.W_dec) and again.equals(curve), f"seed {seed}"


def test_with_both_checkpoints_damaged_the_training_starts_anew(tmp_path, caplog):
    whole, curve = trained(tmp=tmp_path)
    for checkpoint in tmp_path.glob("checkpoint.*"):
        checkpoint.write_bytes(b"damaged")
    resumed, again = trained(tmp=tmp_path)
    assert "going on" not in caplog.text and caplog.text.count("truncated or damaged") == 2
    assert torch.equal(whole.W_dec, resumed.W_dec) and again.equals(curve)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_training_ends_in_the_same_bytes(tmp_path, variant):
    options = {"variant": variant, "l0": 6, "measure": lambda autoencoder: float(autoencoder.b_enc.sum())}
    x = sample(TOKENS * 12, seed=5)

    def breaks_at(last):
        def batches(step):
            for number, part in enumerate(x.split(TOKENS)[step:], start=step):
                if number == last:
                    raise Interrupted
                yield part

        return batches

    whole, curve = trained(tmp=tmp_path, **options)
    assert (tmp_path / "checkpoint.safetensors").exists()
    forget(tmp_path)
    for last in (5, 9):
        with pytest.raises(Interrupted):
            trained(tmp=tmp_path, batches=breaks_at(last), **options)
    seen = []
    resumed, resumed_curve = trained(
        tmp=tmp_path, batches=lambda step: seen.append(step) or iter(x.split(TOKENS)[step:]), **options
    )
    assert seen == [9]
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, resumed.tensors()[name]), name
    assert curve["step"].to_pylist() == list(range(1, 13))
    assert curve.equals(resumed_curve)


def test_asked_to_stop_it_saves_first(tmp_path):
    whole, _ = trained(tmp=tmp_path)
    forget(tmp_path)
    answers = iter([False] * 4 + [True] * 2)
    with pytest.raises(Stopped, match="after step 5 of 12"):
        trained(tmp=tmp_path, checkpoint_seconds=1e9, stop=lambda: next(answers))
    resumed, _ = trained(tmp=tmp_path)
    assert torch.equal(whole.W_enc, resumed.W_enc)


@pytest.mark.parametrize("variant", ["l1", "jumprelu"])
def test_dead_features_are_resampled(monkeypatch, variant):
    """The one dead feature points to the drawn input, its encoder is short, its bias 0, and Adam has forgotten it."""
    x = sample()
    kind, weights, centring = weights_of(x, variant, normalize=variant == "jumprelu")
    dead = torch.tensor([7])
    adam = torch.optim.Adam(kind.trained(weights), lr=1e-3)
    for tensor in kind.trained(weights):
        tensor.grad = torch.randn_like(tensor)
    adam.step()
    before = {name: tensor.clone() for name, tensor in vars(weights).items()}
    drawn = x[3:4]
    monkeypatch.setattr(resampling, "sample_by_squared_loss", lambda pool, losses, count, random: drawn)
    run = resume.Progress(weights, adam, torch.zeros(M, dtype=torch.int64), at.Steering(0.05))
    resampling.resample_features(kind, run, centring, dead, [x], 0.05, seed=[0, 1])
    centred = (drawn - drawn.mean()) * centring.scale - weights.decoder_bias
    direction = (centred / centred.norm())[0]
    others = torch.arange(M) != 7
    torch.testing.assert_close(weights.decoder[7], direction)
    norm = before["encoder"][others].norm(dim=1).mean()
    torch.testing.assert_close(weights.encoder[7], 0.2 * norm * direction)
    assert weights.encoder_bias[7] == 0
    assert weights.threshold[7] == kind.start
    for name, tensor in vars(weights).items():
        if name == "decoder_bias":
            assert torch.equal(tensor, before[name])
            continue
        assert torch.equal(tensor[others], before[name][others])
        if name != "threshold" or variant == "jumprelu":
            for moment in ("exp_avg", "exp_avg_sq"):
                assert (adam.state[tensor][moment][7] == 0).all()
                assert (adam.state[tensor][moment][others] != 0).any()


@pytest.mark.parametrize("variant", ["l1", "jumprelu"])
def test_resampling_draws_by_the_loss_of_each_input(monkeypatch, variant):
    x = sample()
    kind, weights, centring = weights_of(x, variant)
    f, x_hat, *_ = reference(variant, weights, x, 0.05)
    penalty = f.sum(1) if variant == "l1" else (f > 0).sum(1)
    expected = (x.double() - x_hat).square().mean(1) + 0.05 * penalty
    seen = []
    monkeypatch.setattr(
        resampling, "sample_by_squared_loss", lambda pool, losses, count, random: seen.append(losses(x)) or x[:count]
    )
    adam = torch.optim.Adam(kind.trained(weights))
    for tensor in kind.trained(weights):
        tensor.grad = torch.zeros_like(tensor)
    adam.step()
    run = resume.Progress(weights, adam, torch.zeros(M, dtype=torch.int64), at.Steering(0.05))
    resampling.resample_features(kind, run, centring, torch.tensor([1, 2]), [x], 0.05, seed=[0])
    torch.testing.assert_close(seen[0], expected.detach().float(), rtol=1e-5, atol=1e-6)


def test_only_features_silent_for_long_enough_are_resampled(tmp_path, monkeypatch):
    """At step 6, silent for 4: last fired at step 2 or never is dead, last fired at step 3 is not."""
    last = {3: 0, 5: 2, 7: 3}
    real, count, dead = at.training_step, [0], []

    def step(*arguments):
        found = real(*arguments)
        count[0] += 1
        found.fired[:] = True
        for feature, until in last.items():
            found.fired[feature] = count[0] <= until
        return found

    monkeypatch.setattr(at, "training_step", step)
    monkeypatch.setattr(
        at, "resample_features", lambda kind, run, centring, found, *rest, **named: dead.append(found.tolist())
    )
    _, curve = trained(tmp=tmp_path, steps=6, silent_steps=4, resample_steps=[6])
    assert dead == [[3, 5]]
    assert curve["dead_share"].to_pylist()[4] == pytest.approx(1 / M)  # step 5: only the one that never fired


def test_not_a_number_stops_with_step_batch_and_last_checkpoint(tmp_path):
    wild = lambda step: iter(([sample()] * 3 + [sample() * float("nan")] + [sample()] * 8)[step:])  # noqa: E731
    options = {"tmp": tmp_path, "batches": wild, "describe": "batch {} of this test".format}
    said = (
        r"the loss is nan .*at step 4 of 12, on batch 3 of this test; the last checkpoint is {}; lower autoencoder\.lr"
    )
    with pytest.raises(InputError, match=said.format("none yet")):
        trained(**options, checkpoint_seconds=1e9)
    path = re.escape(str(tmp_path / "checkpoint.safetensors"))
    with pytest.raises(InputError, match=said.format(f"{path}, written after step 3")):
        trained(**options)


def test_an_exploding_loss_stops_while_it_is_still_a_number(tmp_path):
    """At a rate at which Adam throws the weights about, the squared error is soon millions of times the activations'."""
    with pytest.raises(InputError) as caught:
        trained(tmp=tmp_path, lr=1e5, normalize=False)
    said = re.search(
        r"the loss is (\S+) .*at step (\d+) of 12, on batch (\d+); .*written after step (\d+)", str(caught.value)
    )
    assert math.isfinite(float(said[1]))
    assert int(said[2]) == int(said[3]) + 1 == int(said[4]) + 1


def test_a_checkpoint_of_weights_that_are_not_finite_is_never_written(tmp_path, monkeypatch):
    """The loss of a step is that of the weights before it: a bad gradient is first seen in the weights."""
    real, count = at.training_step, [0]

    def step(kind, weights, *rest):
        found = real(kind, weights, *rest)
        count[0] += 1
        if count[0] == 5:
            weights.encoder[3, 3] = math.inf
        return found

    monkeypatch.setattr(at, "training_step", step)
    with pytest.raises(InputError, match=r"a weight is not finite at step 5.*written after step 4"):
        trained(tmp=tmp_path)


def test_an_l0_above_the_number_of_features_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"autoencoder\.l0 is 41, more than the 40 features"):
        trained(tmp=tmp_path, variant="topk", l0=41)


def test_activations_that_end_early_are_an_error(tmp_path):
    with pytest.raises(InputError, match="after 2 of 12 steps"):
        trained(tmp=tmp_path, batches=lambda step: iter([sample()] * 2))


# --- λ, and the rest of a run -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "first"), [("l1", 1e-3), ("l1", 0.3), ("jumprelu", 1e-3)], ids=["l1, below", "l1, above", "jumprelu"]
)
def test_lambda_is_steered_to_the_l0_asked_for(tmp_path, variant, first):
    """λ begins a hundredth of what it takes, or twice as much."""
    random = torch.Generator().manual_seed(0)
    parts = torch.nn.functional.normalize(torch.randn(60, 24, generator=random), dim=1)
    codes = (torch.rand(1500, 128, 60, generator=random) < 0.1) * torch.rand(1500, 128, 60, generator=random)
    x = codes @ parts
    found, curve = trained(
        steps=1500, tmp=tmp_path, batches=lambda step: iter(x[step:]), features=80, variant=variant, l0=4, l1=first, lr=3e-3,
        resample_steps=[], checkpoint_seconds=1e9, tokens_per_step=128, sample=x[0],
    )  # fmt: skip
    frame = curve.to_pandas()
    assert frame["l0"].iloc[-20:].mean() == pytest.approx(4, rel=0.1)
    assert frame["l1_coefficient"].iloc[-1] > 20 * first or first == 0.3
    assert (found.encode(x[-20:].flatten(0, 1)) > 0).sum(1).float().mean() == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("variant", ["topk", "batchtopk"])
def test_topk_has_its_l0_and_no_lambda(tmp_path, variant):
    found, curve = trained(tmp=tmp_path, variant=variant, l0=3)
    frame = curve.to_pandas()
    assert (frame["l0"] <= 3).all()
    assert (frame["l1_coefficient"] == 0).all()
    assert (frame["loss"] == frame["mse"]).all()
    assert (found.k, found.threshold is None) == ((3, True) if variant == "topk" else (None, False))


@pytest.mark.parametrize("variant", ["topk", "batchtopk"])
def test_features_that_are_never_among_the_largest_move_by_the_auxiliary_loss(tmp_path, monkeypatch, variant):
    """Silent for long enough they are handed to it, and rise; without it nothing would ever move them."""
    given, bias, real = [], {}, at.training_step

    def step(kind, weights, centring, adam, x, cost, dead, *rest):
        if not given:
            weights.encoder_bias[:10] = -4.0
        given.append(dead.tolist())
        bias["revived" if revive else "left"] = weights.encoder_bias[:10].mean()
        return real(kind, weights, centring, adam, x, cost, dead if revive else None, *rest)

    monkeypatch.setattr(at, "training_step", step)
    for revive in (True, False):  # noqa: B007 - `step` reads it
        given.clear()
        trained(steps=200, tmp=tmp_path, variant=variant, l0=4, silent_steps=5, checkpoint_seconds=1e9)
        assert given[0] == given[4] == []
        assert set(given[5]) >= set(range(10))
    assert bias["revived"] > -3.9
    assert bias["left"] == -4


def test_loss_recovered_is_measured_at_twenty_steps(tmp_path):
    asked = []
    _, curve = trained(
        steps=40, tmp=tmp_path, resample_steps=[], measure=lambda autoencoder: asked.append(autoencoder) or len(asked)
    )
    frame = curve.to_pandas()
    measured = frame.dropna(subset=["loss_recovered"])
    assert measured["step"].tolist() == list(range(2, 41, 2))
    assert measured["loss_recovered"].tolist() == list(range(1, 21))
    torch.testing.assert_close(asked[0].W_dec.norm(dim=1), torch.ones(M))


def test_a_child_starts_from_its_parents_autoencoder(tmp_path):
    parent, _ = trained(tmp=tmp_path)
    forget(tmp_path)
    child, _ = trained(tmp=tmp_path, init="parent", parent=parent, steps=1, lr=1e-12, resample_steps=[])
    for name, tensor in parent.tensors().items():
        torch.testing.assert_close(child.tensors()[name], tensor, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"autoencoder\.init is parent.*40 features of 12.*33 of 12"):
        trained(tmp=tmp_path, init="parent", parent=parent, features=33)
    first, _ = trained(tmp=tmp_path, init="parent", steps=1, lr=1e-12, resample_steps=[])
    again = first.W_enc.T + first.W_dec.mean(1, keepdim=True)  # what `export` took away: each row's mean
    torch.testing.assert_close(again, first.W_dec, rtol=1e-4, atol=1e-4)


def test_the_end_is_logged_with_the_share_of_the_activations(tmp_path, caplog):
    caplog.set_level("INFO", "feature_lineage")
    trained(tmp=tmp_path)
    assert re.search(
        r"12 steps, \d+ tokens/s, .* computed in \d+\.\d % of the wall time.* waited for in \d+", caplog.text
    )


# --- on a model -----------------------------------------------------------------------------------------------------

HOOK = "blocks.0.mlp.hook_post"
OPTIONS = {
    "hook": HOOK, "expansion": 2, "tokens": 3200, "context": 8, "batch": 10, "lr": 1e-3, "l1": 1e-3, "l1_warmup_steps": 0,
    "variant": "l1", "l0": None, "normalize": True, "mean": "elements", "init": "kaiming",
    "resampling": {"at": [0.3], "silent": 0.1, "pool_tokens": 400},
}  # fmt: skip


def test_an_autoencoder_of_a_model_resumes_to_the_same_weights(token_directories, bridge, tmp_path, monkeypatch):
    run = lambda name: train_autoencoder(  # noqa: E731
        bridge,
        token_directories,
        token_directories,
        tmp_path / name,
        seed=0,
        checkpoint_seconds=0.0,
        **OPTIONS,
    )
    whole, curve = run("whole")
    assert whole.W_enc.shape == (24, 48)
    assert curve["step"].to_pylist()[-1] == 40
    recovered = curve.to_pandas()["loss_recovered"].dropna()
    assert len(recovered) == 20
    assert recovered.iloc[-1] < 1

    import feature_lineage.models.hooks as module

    real, count = module.activations, [0]

    def breaks(*arguments):
        count[0] += 1
        if count[0] == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(module, "activations", breaks)
    with pytest.raises(KeyboardInterrupt):
        run("broken")
    monkeypatch.undo()
    assert (tmp_path / "broken").exists()
    resumed, resumed_curve = run("broken")
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name)), name
    assert curve.equals(resumed_curve)


def test_more_tokens_than_there_are_is_an_error(token_directories, bridge, tmp_path):
    with pytest.raises(InputError, match=r"smaller than asked.*autoencoder\.tokens"):
        train_autoencoder(
            bridge,
            token_directories,
            token_directories,
            tmp_path / "c",
            seed=0,
            **OPTIONS | {"tokens": 10**7},
        )


def test_a_diverging_batch_is_named_by_its_tokens(token_directories, bridge, tmp_path):
    with pytest.raises(
        InputError, match=r"on batch \d+, 10 blocks of 8 tokens, the first at token [\d,]+ of .*tokens/(ast|wrap)"
    ):
        train_autoencoder(bridge, token_directories, token_directories, tmp_path / "c", seed=0, **OPTIONS | {"lr": 1e6})


PAPER_SHAPE = """
import resource
import sys

import torch

from trainings import train_on_activations

torch.set_num_threads(2)
random = torch.Generator().manual_seed(0)
x = torch.randn(3072, 1024, generator=random)
_, curve = train_on_activations(
    lambda step: iter([x] * 3), lambda step: [x], x, sys.argv[1], steps=3, tokens_per_step=3072,
    features=16_384, seed=0, lr=1e-4, l1=3e-4, l1_warmup_steps=0, normalize=False, mean="elements", init="kaiming",
    resample_steps=[2], silent_steps=1, checkpoint_seconds=0.0,
)
print(curve["l0"].to_pylist()[0], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def test_the_papers_shape_trains_within_three_gib(tmp_path):
    """1,024 to 16,384, 3,072 tokens a step, in the dense phase, with resampling and a checkpoint: where most is held."""
    done = subprocess.run(
        [sys.executable, "-c", PAPER_SHAPE, str(tmp_path / "c")],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    l0, peak = map(float, done.stdout.split())
    assert l0 > 4000
    assert peak < 3
