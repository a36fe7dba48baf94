"""What the tests of autoencoders share: activations, weights, and the equations as written, in float64 with autograd."""

import torch

from feature_lineage.autoencoders import active_entries
from feature_lineage.autoencoders import start as start_module
from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
from feature_lineage.study.measures import Autoencoder

N, M, TOKENS, K = 12, 40, 64, 5
VARIANTS = ("l1", "topk", "batchtopk", "jumprelu")


def sample(tokens=TOKENS, n=N, seed=0):
    """Activations with a mean that is not zero, in the data and in each vector."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, n, generator=random) * 3 + torch.randn(n, generator=random) + 0.7


def random_autoencoder(n=24, m=48, seed=0):
    """An autoencoder of the tiny model's width, untrained."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    return SparseAutoencoder(
        draw(n, m), draw(m) * 0.01, torch.nn.functional.normalize(draw(m, n), dim=1), draw(n) * 0.01
    )


def weights_of(x, variant="l1", normalize=False, mean="elements", init="kaiming", features=M):
    """A variant, its weights with biases and thresholds moved from where they start, and the centring."""
    kind = start_module.variant_of(variant, K)
    weights, centring = start_module.start(kind, features, x, Autoencoder(normalize=normalize, mean=mean, init=init), 1)
    random = torch.Generator().manual_seed(2)
    weights.encoder_bias += torch.randn(features, generator=random) * 0.3
    weights.decoder_bias += torch.randn(x.shape[1], generator=random) * 0.3
    if variant == "jumprelu":
        weights.threshold += torch.rand(features, generator=random) * 0.2
    return kind, weights, centring


class _Jump(torch.autograd.Function):
    """JumpReLU and its step, with the straight-through gradients of Rajamanoharan et al. 2024, equations (11) and (12)."""

    @staticmethod
    def forward(ctx, pre, threshold, width, step):
        ctx.save_for_backward(pre, threshold)
        ctx.width, ctx.step = width, step
        on = (pre > threshold).double()
        return on if step else pre * on

    @staticmethod
    def backward(ctx, given):
        pre, threshold = ctx.saved_tensors
        kernel = ((pre - threshold) / ctx.width).abs().lt(0.5).double() / ctx.width
        if ctx.step:
            return None, (-kernel * given).sum(0), None, None
        return given * (pre > threshold), (-threshold * kernel * given).sum(0), None, None


def reference(variant, weights, x, cost, normalize=False, mean="elements", k=K, width=0.05):
    """Equations (1) to (4) as written, float64: features, reconstruction, squared error, L1, penalty; then the gradients."""
    x = x.double()
    mu = x.mean(0) if mean == "data" else torch.zeros(x.shape[1], dtype=torch.float64)
    scale = 1 / (x - mu).square().mean().sqrt() if normalize else 1.0
    y = (x - mu) * scale
    tensors = [tensor.double().clone().requires_grad_() for tensor in vars(weights).values()]
    E, b_e, D, b_d, theta = tensors
    pre = ((y - y.mean(1, keepdim=True) if mean == "elements" else y) - b_d) @ E.T + b_e
    if variant == "jumprelu":
        f, penalty = _Jump.apply(pre, theta, width, False), _Jump.apply(pre, theta, width, True).sum(1).mean()
    elif variant == "topk":
        f = torch.relu(pre) * (pre >= pre.topk(k).values[:, -1:])
        penalty = torch.zeros(())
    elif variant == "batchtopk":
        f = torch.relu(pre) * (pre >= pre.flatten().topk(k * len(x)).values[-1])
        penalty = torch.zeros(())
    else:
        f = torch.relu(pre)
        penalty = f.abs().sum(1).mean()
    x_hat = f @ D + b_d
    mse = (y - x_hat).square().mean()
    trained = tensors if variant == "jumprelu" else tensors[:4]
    gradients = torch.autograd.grad(mse + cost * penalty, trained)
    return f.detach(), x_hat.detach(), mse.item(), f.detach().sum(1).mean().item(), gradients


def screened(monkeypatch, yes):
    """Have the encoder's product screened in bfloat16, or not, whatever the machine."""
    monkeypatch.setattr(active_entries, "has_fast_bfloat16", lambda place: yes)
