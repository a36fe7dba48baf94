"""The training step against independent float64 references, clause by clause of the paper's appendix B, and its shortcuts."""

from functools import partial

import pytest
import torch
from autoencoders import TOKENS, VARIANTS, K, M, N, reference, sample, screened, weights_of

from feature_lineage.autoencoders import active_entries as ae
from feature_lineage.autoencoders import step as ts
from feature_lineage.autoencoders import variants
from feature_lineage.autoencoders import weights as weights_module

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = [(normalize, mean) for normalize in (False, True) for mean in ("elements", "data")]
ROOM = ae.Capacity(M * TOKENS, M * TOKENS)
PATHS = {
    "dense": (0.0, False, None),
    "sparse": (1.1, False, None),
    "sparse, screened": (1.1, True, None),
    "sparse, screened, in places": (1.1, True, ROOM),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("normalize", "mean"), SETTINGS)
def test_loss_and_gradients_equal_autograd(monkeypatch, variant, normalize, mean, path):
    sparse_below, screen, capacity = PATHS[path]
    screened(monkeypatch, screen)
    x = sample()
    kind, weights, centring = weights_of(x, variant, normalize, mean)
    step = ts.loss_and_gradients(kind, weights, centring, x, 0.05, capacity=capacity, sparse_below=sparse_below)
    terms = step.terms
    f, _, mse, l1, gradients = reference(variant, weights, x, 0.05, normalize, mean)
    assert terms.mse == pytest.approx(mse, rel=1e-6)
    assert terms.l1 == pytest.approx(l1, rel=1e-6)
    assert terms.l0 == float((f > 0).sum(1).double().mean())
    assert torch.equal(step.fired, (f > 0).any(0))
    assert len(step.gradients) == len(gradients) == (5 if variant == "jumprelu" else 4)
    for ours, theirs in zip(step.gradients, gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm()
        assert theirs.norm() > 0
    torch.testing.assert_close(
        step.parallel, (step.gradients[2] * weights.decoder).sum(1), rtol=1e-4, atol=1e-6 * float(gradients[2].norm())
    )
    assert terms.input == pytest.approx(float(centring.target(x).double().square().mean()), rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("normalize", "mean"), SETTINGS)
def test_export_folds_scale_and_mean_into_a_saved_autoencoder(variant, normalize, mean):
    x = sample()
    kind, weights, centring = weights_of(x, variant, normalize, mean)
    if variant == "batchtopk":  # its threshold takes the place of the batch
        weights.threshold.fill_(0.4)
    exported = variants.export(kind, weights, centring)
    y = centring.target(x).double()
    pre = (centring.input(y) - weights.decoder_bias) @ weights.encoder.double().T + weights.encoder_bias
    f = torch.relu(pre)
    if variant == "topk":
        f = f * (pre >= pre.topk(K).values[:, -1:])
    elif variant != "l1":
        f = f * (pre > weights.threshold)
    x_hat = f @ weights.decoder.double() + weights.decoder_bias
    torch.testing.assert_close(exported.encode(x) * centring.scale, f.float(), rtol=1e-4, atol=1e-5)
    back = (x_hat / centring.scale + centring.shift).float()
    torch.testing.assert_close(exported.decode(exported.encode(x)), back, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(exported.W_dec.norm(dim=1), torch.ones(M))


@pytest.mark.parametrize("variant", ["l1", "jumprelu"])
@pytest.mark.parametrize(("normalize", "mean"), SETTINGS)
def test_unfolding_a_saved_autoencoder_behind_another_centring_keeps_its_features(variant, normalize, mean):
    """A child starts from its parent's autoencoder, on activations of another mean and scale."""
    x, other = sample(), sample(seed=9) * 2.5 - 1
    kind, weights, centring = weights_of(x, variant, normalize, mean)
    saved = variants.export(kind, weights, centring)
    _, _, centring = weights_of(other, variant, normalize, mean)
    unfolded = weights_module.unfold(saved, centring, torch.zeros(M))
    again = variants.export(kind, unfolded, centring)
    torch.testing.assert_close(again.encode(other), saved.encode(other), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        again.decode(again.encode(other)), saved.decode(saved.encode(other)), rtol=1e-4, atol=1e-4
    )


# --- shortcuts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_the_screen_misses_no_active_entry(monkeypatch, seed):
    """Norms over six orders of magnitude, biases large and small, and pre-activations brought to within float32 of the floor."""
    random = torch.Generator().manual_seed(seed)
    n, m, tokens = 70, 300, 90
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    inputs = draw(tokens, n) * 10 ** (draw(tokens, 1) * 1.5)
    encoder = draw(m, n) * 10 ** (draw(m, 1) * 1.5)
    floor = draw(m).abs() * (seed % 2)
    product = inputs.double() @ encoder.double().T
    chosen = torch.arange(m) % tokens
    bias = -product[chosen, torch.arange(m)] + floor  # each feature has one token on the edge ...
    bias = (bias * (1 + 1e-6 * torch.randn(m, generator=random, dtype=torch.float64))).float()
    batch = ae.Batch(inputs, inputs, bias)
    exact = lambda: ae.Searches(None)  # noqa: E731
    token, feature, _ = ae.candidates(batch, encoder, bias - floor, exact())
    found = torch.zeros(tokens, m, dtype=torch.bool)
    found[token, feature] = True
    true = product + bias > floor
    assert not (true & ~found).any()
    assert found.sum() < true.sum() + 0.1 * found.numel()  # ... and the screen lets little else pass
    screened(monkeypatch, True)
    entries = ae.above(batch, encoder, floor, exact())
    screened(monkeypatch, False)
    plain = ae.above(batch, encoder, floor, exact())
    both = [set(zip(token.tolist(), feature.tolist(), strict=True)) for token, feature, _ in (entries, plain)]
    edge = {(int(t), f) for f, t in enumerate(chosen)}
    assert both[0] - edge == both[1] - edge


def test_the_screen_is_a_rounding_away_from_missing_entries():
    """Without its bound the product in bfloat16 does miss entries: the test above can fail."""
    random = torch.Generator().manual_seed(0)
    inputs, encoder = torch.randn(50, 64, generator=random), torch.randn(80, 64, generator=random)
    bias = -(inputs[torch.arange(80) % 50] * encoder).sum(1) + 1e-3
    bare = (inputs.bfloat16() @ encoder.bfloat16().T).float() + bias > 0
    assert (~bare[torch.arange(80) % 50, torch.arange(80)]).any()


@pytest.mark.parametrize(
    ("flags", "screens"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, True),
        ({"avx512_f": True, "avx512_bf16": False}, False),
        ({"architecture": "aarch64"}, False),
    ],
    ids=["AMX", "AVX512_BF16", "AVX512", "ARM"],
)
def test_the_screen_is_used_where_the_processor_multiplies_bfloat16(monkeypatch, flags, screens):
    """By its flags, never by a timing, which would have one machine write different bytes on different days."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    assert ae.has_fast_bfloat16(torch.device("cpu")) is screens


def test_dots_are_the_same_without_mkl(monkeypatch):
    a, b = sample(20), sample(30, seed=1)
    token, feature = torch.rand(20, 30).gt(0.7).nonzero(as_tuple=True)
    expected = (a.double() @ b.double().T)[token, feature].float()
    torch.testing.assert_close(ae.dots(a, b, token, feature), expected, rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    torch.testing.assert_close(ae.dots(a, b, token, feature), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("among", ["token", "batch"])
@pytest.mark.parametrize("shift", [0.0, 3.0, -40.0], ids=["plain", "many active", "hardly any active"])
@pytest.mark.parametrize("loud", [1.0, 100.0], ids=["", "floor far too high"])
def test_the_largest_are_found_wherever_the_floor_was_set(among, shift, loud):
    """Tokens of very different size; the floor is taken from every fourth, which may be larger than all others."""
    inputs = (
        sample(300)
        * torch.logspace(-2, 1, 300)[torch.randperm(300, generator=torch.Generator().manual_seed(0))][:, None]
    )
    inputs[::4] *= loud
    _, weights, _ = weights_of(sample())
    batch = ae.Batch(inputs, inputs, weights.encoder_bias + shift)
    largest = ae.largest_of_tokens if among == "token" else ae.largest_of_batch
    token, feature, pre = largest(batch, weights.encoder, K, ae.Searches(None))
    token, feature, pre = token[pre > 0], feature[pre > 0], pre[pre > 0]
    dense = torch.addmm(batch.bias, inputs, weights.encoder.T).relu()
    kth = dense.topk(K).values[:, -1:] if among == "token" else dense.flatten().topk(K * 300).values[-1]
    expected = ((dense >= kth) & (dense > 0)).nonzero()
    assert torch.equal(torch.stack([token, feature], 1), expected)
    torch.testing.assert_close(pre, dense[token, feature], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shift", [0.0, -8.0], ids=["", "few active"])
def test_a_step_in_given_places_is_the_step_in_exact_sizes(monkeypatch, variant, shift):
    """However many places are left over: they add zeros, at the end."""
    screened(monkeypatch, True)
    x = sample()
    kind, weights, centring = weights_of(x, variant)
    weights.encoder_bias += shift
    exact = ts.loss_and_gradients(kind, weights, centring, x, 0.05, sparse_below=1.1)
    first, second = int(exact.terms.first), int(exact.terms.second)
    for capacity in (ae.Capacity(first + 1, second + 1), ae.Capacity(first + 100, second + 100), ROOM):
        step = ts.loss_and_gradients(kind, weights, centring, x, 0.05, capacity=capacity)
        assert capacity.suffices(step.terms.first, step.terms.second)
        assert step.terms == pytest.approx(exact.terms, rel=1e-6)
        assert torch.equal(step.fired, exact.fired)
        for ours, theirs in zip(step.gradients, exact.gradients, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("short", [0, 1], ids=["candidates", "entries"])
def test_a_step_whose_places_do_not_suffice_says_so_and_is_made_again(monkeypatch, variant, short):
    screened(monkeypatch, True)
    x = sample(300) * torch.logspace(-1, 1, 300)[:, None]  # so that topk has tokens to compute whole
    kind, weights, centring = weights_of(x, variant)
    exact = ts.loss_and_gradients(kind, weights, centring, x, 0.05, sparse_below=1.1)
    enough = [int(exact.terms.first) + 1, int(exact.terms.second) + 1]
    assert min(enough) > 1

    def suffices(capacity):
        terms = ts.loss_and_gradients(kind, weights, centring, x, 0.05, capacity=capacity).terms
        return capacity.suffices(terms.first, terms.second)

    assert suffices(ae.Capacity(*enough))
    enough[short] -= 1
    assert not suffices(ae.Capacity(*enough))
    adam = torch.optim.Adam(kind.trained(weights), lr=1e-3)
    found = ts.training_step(kind, weights, centring, adam, x, 0.05, capacity=ae.Capacity(*enough))
    again = ts.loss_and_gradients(*weights_of(x, variant), x, 0.05)
    assert found.terms == again.terms


def test_batchtopk_says_so_when_its_floor_was_too_high(monkeypatch):
    """Every fourth token, by which the floor is set, is far larger than the others."""
    screened(monkeypatch, True)
    x = sample(300)
    x[::4] *= 100
    kind, weights, centring = weights_of(x, "batchtopk")
    room = ae.Capacity(300 * M, 300 * M)
    terms = ts.loss_and_gradients(kind, weights, centring, x, 0.0, capacity=room).terms
    assert not room.suffices(terms.first, terms.second)


def test_a_capacity_leaves_room_and_forgets_slowly():
    first = ae.Capacity.after(10_000, 1000, None)
    assert first == (15_000, 1250)
    assert ae.Capacity.after(2000, 900, first) == (14_250, 1187)
    assert ae.Capacity.after(0, 0, None) == (256, 256)
    assert first.suffices(14_999, 1249) and not first.suffices(15_000, 0) and not first.suffices(0, 1250)


def test_a_step_is_dense_while_many_features_are_active(monkeypatch):
    taken = []
    for name in ("_dense_step", "_sparse_step"):
        real = getattr(ts, name)
        monkeypatch.setattr(ts, name, lambda *a, name=name, real=real, **k: taken.append(name) or real(*a, **k))
    x = sample()
    kind, weights, centring = weights_of(x)
    ts.loss_and_gradients(kind, weights, centring, x, 0.05)
    weights.encoder_bias -= 8
    ts.loss_and_gradients(kind, weights, centring, x, 0.05)
    ts.loss_and_gradients(kind, weights, centring, x, 0.05, dense=True)
    assert taken == ["_dense_step", "_sparse_step", "_dense_step"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_on_which_nothing_fires_has_gradients(variant):
    x = sample()
    kind, weights, centring = weights_of(x, variant)
    weights.encoder_bias -= 1e4
    step = ts.loss_and_gradients(kind, weights, centring, x, 0.05)
    terms = step.terms
    assert terms.l0 == terms.l1 == 0
    assert not step.fired.any()
    assert all(gradient.isfinite().all() for gradient in step.gradients)
    assert (step.gradients[0] == 0).all()
    expected = 2 / (TOKENS * N) * (weights.decoder_bias - centring.target(x)).sum(0)
    torch.testing.assert_close(step.gradients[3], expected, rtol=1e-4, atol=1e-5)


# --- the rest of a step -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, 11], ids=["few dead", "more than n / 2 dead"])
def test_the_auxiliary_loss_has_dead_features_reconstruct_the_error(count):
    x = sample()
    kind, weights, centring = weights_of(x, "topk")
    dead = torch.arange(0, 3 * count, 3)
    weights.encoder_bias[dead] -= 0.1
    plain = ts.loss_and_gradients(kind, weights, centring, x, 0.0)
    step = ts.loss_and_gradients(kind, weights, centring, x, 0.0, dead)
    E, b_e, D, b_d = (tensor.double().clone().requires_grad_() for tensor in list(vars(weights).values())[:4])
    y = centring.target(x).double()
    pre = (centring.input(y) - b_d) @ E.T + b_e
    f = torch.relu(pre) * (pre >= pre.topk(K).values[:, -1:])
    error = (y - f @ D - b_d).detach()
    dead_pre = pre[:, dead]
    z = dead_pre * (dead_pre >= dead_pre.topk(min(count, N // 2)).values[:, -1:])
    auxiliary = (error - z @ D[dead]).square().mean() / 32
    expected = torch.autograd.grad(auxiliary, [E, b_e, D, b_d])
    for with_it, without, theirs in zip(step.gradients, plain.gradients, expected, strict=True):
        assert theirs.norm() > 0
        assert (with_it - without - theirs).norm() <= 1e-5 * max(theirs.norm(), without.norm())
    torch.testing.assert_close(step.parallel, (step.gradients[2] * weights.decoder).sum(1), rtol=1e-4, atol=1e-5)


def test_the_gradient_parallel_to_each_feature_is_removed():
    decoder = torch.nn.functional.normalize(torch.randn(M, N), dim=1)
    gradient = torch.randn(M, N)
    before = gradient.clone()
    ts.keep_unit_norm(gradient, decoder, (gradient * decoder).sum(1))
    assert (gradient * decoder).sum(1).abs().max() < 1e-6
    removed = before - gradient
    torch.testing.assert_close(removed, (before * decoder).sum(1, keepdim=True) * decoder)


def stepped(variant, steps=1, lr=1e-2):
    x = sample()
    kind, weights, centring = weights_of(x, variant)
    adam = torch.optim.Adam(kind.trained(weights), lr=lr, betas=ts.BETAS, fused=True)  # as in training
    with torch.no_grad():
        found = [ts.training_step(kind, weights, centring, adam, x, 0.05).terms for _ in range(steps)]
    return weights, found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_is_adams_on_the_gradient_without_its_parallel_part(monkeypatch, variant, path):
    """Fused Adam reads a gradient as it lies in memory: one whose elements are not side by side is taken for another."""
    sparse_below, screen, capacity = PATHS[path]
    screened(monkeypatch, screen)
    always = partial(ts.loss_and_gradients, sparse_below=sparse_below, capacity=capacity)
    monkeypatch.setattr(ts, "loss_and_gradients", lambda *given: always(*given[:6]))
    x = sample()
    kind, weights, _ = weights_of(x, variant)
    *_, gradients = reference(variant, weights, x, 0.05)
    expected = [tensor.double().clone() for tensor in kind.trained(weights)]
    gradients = [gradient.clone() for gradient in gradients]
    gradients[2] -= (gradients[2] * expected[2]).sum(1, keepdim=True) * expected[2]
    adam = torch.optim.Adam(expected, lr=1e-2, betas=(0.9, 0.9999))
    for tensor, gradient in zip(expected, gradients, strict=True):
        tensor.grad = gradient
    adam.step()
    expected[2] /= expected[2].norm(dim=1, keepdim=True)
    if variant == "jumprelu":
        expected[4].clamp_(min=0)
    after, _ = stepped(variant)
    for name, ours, theirs in zip(vars(after), kind.trained(after), expected, strict=False):
        # Adam's first step is lr times the sign of the gradient: where that is zero but for rounding, there is none.
        sure = gradients[list(vars(after)).index(name)].abs() > 1e-7
        torch.testing.assert_close(ours[sure], theirs.float()[sure], rtol=1e-4, atol=1e-5, msg=name)
    torch.testing.assert_close(after.decoder.norm(dim=1), torch.ones(M))


def test_thresholds_of_jumprelu_stay_above_zero():
    weights, _ = stepped("jumprelu", lr=0.5)
    assert (weights.threshold >= 0).all()
    assert (weights.threshold == 0).any()


def test_the_threshold_of_batchtopk_follows_the_least_activation():
    weights, found = stepped("batchtopk", steps=5)
    expected = found[0].least
    for step in found[1:]:
        expected += 0.01 * (step.least - expected)
    assert found[0].least > 0
    torch.testing.assert_close(weights.threshold, torch.full((M,), expected))
