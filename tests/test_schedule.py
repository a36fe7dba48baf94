"""What a run's length decides: when features are resampled, when they count as dead, and which warm-ups are too long."""

import numpy as np
import pytest
from trainings import train_autoencoder

from feature_lineage.autoencoders import training as at
from feature_lineage.autoencoders.resampling import resampling_steps
from feature_lineage.autoencoders.step import training_step
from feature_lineage.errors import InputError
from feature_lineage.study.measures import Autoencoder

DEFAULTS = Autoencoder().resampling.model_dump()
OPTIONS = {
    "hook": "blocks.0.mlp.hook_post", "expansion": 2, "context": 8, "batch": 10, "lr": 1e-3, "l1": 1e-3, "l1_warmup_steps": 0,
    "l0": None, "normalize": True, "mean": "elements", "init": "kaiming", "resampling": DEFAULTS,
}  # fmt: skip


@pytest.mark.parametrize("steps", [*range(1, 60), 117, 781, 1562, 4882, 100_000])
def test_the_default_resampling_happens_in_a_run_of_any_length(steps):
    """Every length from one step on: never before a feature can be dead, never after the last step, no step twice."""
    found, silent = resampling_steps(steps, DEFAULTS["at"], DEFAULTS["silent"])
    assert 1 <= silent <= max(1, steps / 5)
    assert found == sorted(set(found))
    assert all(silent <= step < steps for step in found)
    assert len(found) == min(4, steps - 1)


def test_shares_become_the_nearest_steps():
    assert resampling_steps(4882, DEFAULTS["at"], DEFAULTS["silent"]) == ([976, 1953, 2929, 3906], 488)
    assert resampling_steps(1562, [0.384, 0.704], 0.192) == ([600, 1100], 300), "the demo's, as they were"
    assert resampling_steps(100, [], 0.1) == ([], 10)


def train(token_directories, bridge, path, monkeypatch, tokens, **changes):
    """Train on a model with the first five features dead from the start; the dead features of each step, each time they were
    looked for, those that `training_step` was told of, and the curve."""
    seen, given = {}, []
    dead_features = at._Training._dead

    def dead(training):
        found = dead_features(training)
        seen.setdefault(training.state.step, []).append(set(found.tolist()))
        return found

    def step(kind, weights, centring, adam, x, cost, dead, *rest):
        if not given:
            weights.encoder_bias[:5] = -1e3
        given.append(None if dead is None else set(dead.tolist()))
        return training_step(kind, weights, centring, adam, x, cost, dead, *rest)

    monkeypatch.setattr(at._Training, "_dead", dead)
    monkeypatch.setattr(at, "training_step", step)
    options = OPTIONS | {"variant": "l1", "tokens": tokens, "seed": 0} | changes
    _, curve = train_autoencoder(bridge, token_directories, token_directories, path / "c", **options)
    return seen, given, curve.to_pandas()


@pytest.mark.parametrize("tokens", [1600, 4800])
def test_dead_features_are_resampled_and_counted_by_default(token_directories, bridge, tmp_path, monkeypatch, tokens):
    """The default was made for 250,000 steps: in shorter runs nothing was resampled, and `dead_share` was 0 throughout."""
    dead, _, curve = train(token_directories, bridge, tmp_path, monkeypatch, tokens)
    steps = tokens // 80
    found, silent = resampling_steps(steps, DEFAULTS["at"], DEFAULTS["silent"])
    assert not any(dead[step][0] for step in range(1, silent))
    assert set(range(5)) <= dead[silent][0], "dead once silent for that share of the run"
    before, after = dead[found[0]]
    assert set(range(5)) <= before and not set(range(5)) & after, "resampled"
    shares = curve.set_index("step")["dead_share"]
    assert shares[found[0] - 1] >= 5 / 48
    assert shares[found[0]] == 0


@pytest.mark.parametrize("variant", ["topk", "batchtopk"])
def test_the_auxiliary_loss_revives_features_by_default(token_directories, bridge, tmp_path, monkeypatch, variant):
    dead, given, curve = train(token_directories, bridge, tmp_path, monkeypatch, 3200, variant=variant, l0=4)
    assert given == [dead[step][0] for step in range(40)] and not any(given[:4])
    assert all(set(range(5)) <= told for told in given[4:20]), "handed to the auxiliary loss, which revives slowly"
    assert curve["dead_share"].iloc[-1] > 0


@pytest.mark.parametrize(("warmup", "refused"), [(39, False), (40, True), (10**6, True)])
def test_a_warm_up_longer_than_the_run_is_refused(token_directories, bridge, tmp_path, monkeypatch, warmup, refused):
    """Of the penalty here and of the learning rate in `test_training.py`; both where the study is read, in `test_study.py`."""
    run = lambda: train(token_directories, bridge, tmp_path, monkeypatch, 3200, l1_warmup_steps=warmup)  # noqa: E731
    if refused:
        with pytest.raises(InputError, match=rf"autoencoder\.l1_warmup_steps is {warmup}, and the run has 40 steps"):
            run()
    else:
        *_, curve = run()
        assert np.isclose(curve["l1_coefficient"].iloc[-1], 1e-3)
