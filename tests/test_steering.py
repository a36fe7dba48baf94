"""λ in training: whatever the length of the run, the learning rate and the target, no dictionary collapses."""

import math
from itertools import cycle, islice, product

import pytest
import torch
from trainings import train_on_activations

from feature_lineage.autoencoders.resampling import resampling_steps
from feature_lineage.autoencoders.steering import MOST, Steering

pytestmark = pytest.mark.usefixtures("one_thread")

N, FEATURES, TOKENS, HELD_OUT = 32, 160, 192, 480


@pytest.fixture(scope="module")
def batches():
    """A function of a step: batches from there on, over and over. Sums of a few of 100 directions, beside a mean larger than they are."""
    random = torch.Generator().manual_seed(0)
    directions = torch.randn(100, N, generator=random)
    directions /= directions.norm(dim=1, keepdim=True)
    active = torch.rand(500 * TOKENS, 100, generator=random) < torch.linspace(0.01, 0.15, 100)
    sizes = torch.empty(len(active), 100).exponential_(generator=random) + 0.5
    x = (active * sizes) @ directions + 0.3 + 0.05 * torch.randn(len(active), N, generator=random)
    parts = x.split(TOKENS)
    return lambda step: islice(cycle(parts[:HELD_OUT]), step % HELD_OUT, None) if step >= 0 else parts[HELD_OUT:]


def ended(folder, batches, steps, lr, l0, variant="l1", l1=5.5e-3):
    """(L0, variance explained) of an autoencoder after training, on other activations of the kind."""
    at, silent = resampling_steps(steps, (0.2, 0.4, 0.6, 0.8), 0.1)
    found, _ = train_on_activations(
        batches, lambda step: islice(batches(step), 20), torch.cat([*islice(batches(0), 8)]), folder / "checkpoint",
        steps=steps, tokens_per_step=TOKENS, features=FEATURES, seed=0, lr=lr, variant=variant, l0=l0, l1=l1,
        l1_warmup_steps=steps // 6, normalize=True, mean="elements", init="transpose", resample_steps=at, silent_steps=silent,
    )  # fmt: skip
    x = torch.cat(batches(-1))
    active = found.encode(x)
    error = (x - found.decode(active)).square().sum() / (x - x.mean(0)).square().sum()
    return float((active > 0).sum(1).float().mean()), 1 - float(error)


LENGTHS = [*product((60, 117, 250, 600), (1e-3, 3e-3, 1e-2)), (2000, 3e-3)]
REACHED = (
    2.4  # steps times learning rate, about the way that Adam can move a weight, from which these targets are reached
)


@pytest.mark.parametrize(("steps", "lr"), LENGTHS)
@pytest.mark.parametrize("l0", [2, 15])
def test_no_dictionary_collapses(tmp_path, batches, steps, lr, l0):
    """λ used to rise for as long as L0 was above its target, and every feature died: L0 0.2, variance explained below 0.

    Of the kind, below: other variants, a λ that begins far too high or far too low, and parts of activations that never change.
    """
    found, explained = ended(tmp_path, batches, steps, lr, l0)
    assert found > 0.85 * l0
    assert explained > 0.1
    if steps * lr >= REACHED:
        assert found < 1.25 * l0


@pytest.mark.parametrize(
    ("variant", "l1"), [("jumprelu", 5.5e-3), ("jumprelu", 1.0), ("l1", 1.0), ("l1", 1e-6), ("l1", 0.05)]
)
def test_wherever_lambda_begins(tmp_path, batches, variant, l1):
    found, explained = ended(tmp_path, batches, 400, 1e-2, 5, variant, l1)
    assert 0.75 * 5 < found < 2.5 * 5
    assert explained > 0.3


def test_lambda_rises_only_to_its_share_of_what_is_explained():
    """By the formula: e to the part of the predicted excess, at most 1, over ten steps; at most 2/3 of explained / penalty."""
    free, held, above = Steering(0.01), Steering(0.01), Steering(0.01)
    for _ in range(30):
        free.observe(100, 10, 100, explained=0.9, penalty=1e-6)
        held.observe(100, 10, 100, explained=0.9, penalty=30)
        above.observe(100, 10, 100, explained=-0.1, penalty=30)
    assert free.l1 == pytest.approx(0.01 * math.exp(3))
    assert held.l1 == pytest.approx(MOST * 0.9 / 30)
    assert above.l1 == 0.01  # worse than the mean: it does not rise, and does not fall either
    for _ in range(200):
        held.observe(1, 10, 100, explained=0.9, penalty=30)
    assert held.l1 < 1e-3
