"""Part `exact` of gpu.py: what the GPU computes, beside the CPU and float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from gpu_common import HOOK, SIZE, TINY, Part, language_models, run_parts, token_directory, tokenizer

from feature_lineage.autoencoders import active_entries, variants
from feature_lineage.autoencoders import step as training_step
from feature_lineage.autoencoders import variants as variants_module
from feature_lineage.autoencoders.active_entries import Batch, Capacity
from feature_lineage.autoencoders.autoencoder import load_autoencoder, save_autoencoder
from feature_lineage.autoencoders.evaluation import evaluate_autoencoder
from feature_lineage.autoencoders.start import start, variant_of
from feature_lineage.autoencoders.step import BETAS, loss_and_gradients
from feature_lineage.autoencoders.training import Data, Length, Watch, train_on_activations
from feature_lineage.autoencoders.weights import Centring, Weights
from feature_lineage.controls.neurons import correlate_neurons
from feature_lineage.features.collect import collect_features, paired_activations
from feature_lineage.meaning.logit_effects import weigh_logits
from feature_lineage.models.checkpoint import load_model
from feature_lineage.models.hooks import load_hooked
from feature_lineage.models.merge import sweep_merge
from feature_lineage.study.measures import Autoencoder
from feature_lineage.text.windows import Windows

LOSS, GRADIENTS, REST, SAME = 1e-6, 1e-5, 1e-4, 0.9999
TOKENS = 96 if TINY else 768
MARGIN = (
    2e-5  # of a pre-activation to where an entry would begin or cease to be active, below which two devices may differ
)
VARIANTS = ("l1", "topk", "batchtopk", "jumprelu")


def to(place: torch.device, weights: Weights) -> Weights:
    """A copy of weights on a device."""
    return Weights(**{field.name: getattr(weights, field.name).to(place, copy=True) for field in fields(Weights)})


def clear(kind: variants_module.Variant, weights: Weights, centring: Centring, x: torch.Tensor) -> torch.Tensor:
    """The tokens of which no entry is so close to being active, or not, that rounding decides."""
    y = centring.target(x).double()
    pre = (centring.input(y) - weights.decoder_bias) @ weights.encoder.double().T + weights.encoder_bias
    if kind.among == "token":
        largest = pre.topk(kind.k + 1, dim=1).values
        return x[(largest[:, -2] - largest[:, -1] > MARGIN) & (largest[:, -2].abs() > MARGIN)]
    if kind.among == "batch":  # the edge moves with the batch: what is near it goes
        edge = pre.flatten().topk(kind.k * len(x)).values[-1]
        return x[((pre - edge).abs() > MARGIN).all(1)]
    edges = [weights.threshold + shift for shift in {0.0, -kind.band, kind.band}]
    return x[torch.stack([((pre - edge).abs() > MARGIN).all(1) for edge in edges]).all(0)]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """|ours - theirs| / |theirs|."""
    return float((ours.cpu().double() - theirs.double()).norm() / theirs.double().norm().clamp_min(1e-30))


def steps(part: Part) -> None:
    """Three steps of each variant, sparse and dense: each from the same weights on both devices."""
    for variant in VARIANTS:
        for path in ("sparse", "dense"):
            random = torch.Generator().manual_seed(0)
            x = torch.randn(4 * TOKENS, SIZE.n, generator=random)
            many = max(SIZE.l0, SIZE.m // 20)
            kind = variant_of(variant, SIZE.l0 if path == "sparse" else many)
            weights, centring = start(kind, SIZE.m, x[:TOKENS], Autoencoder(normalize=True, init="transpose"), seed=0)
            if not kind.among:  # the bias decides how many are active
                pre = (centring.input(centring.target(x[:64])) - weights.decoder_bias) @ weights.encoder.T
                share = SIZE.l0 / SIZE.m if path == "sparse" else 0.3
                weights.encoder_bias -= pre.flatten().sort().values[int((1 - share) * pre.numel()) - 1]
            there, there_centring = (
                to(part.place, weights),
                Centring(centring.scale, centring.shift.to(part.place), True),
            )
            adam = torch.optim.Adam(kind.trained(there), lr=1e-4, betas=BETAS, fused=True)
            losses, gradients, kept, capacity = [], [], 0, None
            dense = path == "dense" and not kind.among
            for number in range(3):
                here = to(torch.device("cpu"), there)
                batch = clear(kind, here, centring, x[(number + 1) * TOKENS :][:TOKENS])
                if kind.among == "batch":  # k of each token: the edge of what is left is another
                    batch = clear(kind, here, centring, batch)
                kept += len(batch)
                expected = loss_and_gradients(kind, here, centring, batch, 1e-3, dense=dense)
                given = kind, there, there_centring, batch.to(part.place), 1e-3
                found = loss_and_gradients(*given, dense=dense, capacity=capacity)
                if capacity and not capacity.suffices(found.terms.first, found.terms.second):
                    found = loss_and_gradients(*given, dense=dense)
                if found.terms.first:
                    capacity = Capacity.after(found.terms.first, found.terms.second, capacity)
                losses.append(abs(found.terms.mse / expected.terms.mse - 1))
                gradients += [relative(a, b) for a, b in zip(found.gradients, expected.gradients, strict=True)]
                training_step.training_step(kind, there, there_centring, adam, batch.to(part.place), 1e-3, dense=dense)
            note = f"{kept} of {3 * TOKENS} tokens, L0 {found.terms.l0:.0f}"
            part.record(f"loss, {variant} {path}", max(losses), "relative", max(losses) <= LOSS, note)
            part.record(f"gradients, {variant} {path}", max(gradients), "relative", max(gradients) <= GRADIENTS)


def batches_to_screen() -> Iterator[tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(kind, inputs, encoder, offset): random ones, then those that bfloat16 treats worst."""
    n, m, tokens = SIZE.n, SIZE.m // 4, TOKENS
    for seed in range(25):
        random = torch.Generator().manual_seed(seed)
        draw = lambda *shape, random=random: torch.randn(*shape, generator=random)  # noqa: E731
        inputs, encoder = draw(tokens, n), draw(m, n) / n**0.5
        if seed == 20:  # norms over six orders of magnitude
            inputs, encoder = inputs * 10 ** (1.5 * draw(tokens, 1)), encoder * 10 ** (1.5 * draw(m, 1))
        if seed == 21:  # every element is rounded by as much as can be, in one direction
            inputs, encoder = torch.full_like(inputs, 1 + 2**-8), torch.full_like(encoder, 1 + 2**-8)
        if seed == 22:  # sums of large terms that cancel
            inputs[:, ::2] += 1e3
            inputs[:, 1::2] -= 1e3
        if seed == 23:  # nearly all of a vector in one element
            inputs[:, 0] *= 1e4
            encoder[:, 0] *= 1e4
        if seed == 24:
            inputs, encoder = inputs * 1e-12, encoder * 1e12
        chosen = torch.arange(m) % tokens
        edge = -(inputs.double()[chosen] * encoder.double()).sum(1)  # each feature has one token on the edge
        size = (inputs.double()[chosen].norm(dim=1) * encoder.double().norm(dim=1)).clamp_min(1e-30)
        offset = (edge + 1e-6 * size * draw(m).double() - (2 * size / n**0.5 if seed < 20 else 0)).float()
        yield ("random" if seed < 20 else "adversarial"), inputs, encoder, offset


def screening(part: Part) -> None:
    """No entry that is active in float64 is left out by the product in bfloat16."""
    if part.place.type == "cuda" and not active_entries.has_fast_bfloat16(part.place):
        return part.record("screening", "not used on this GPU")
    missed = {"random": 0, "adversarial": 0}
    shares = []
    for name, inputs, encoder, offset in batches_to_screen():
        inputs, encoder, offset = (tensor.to(part.place) for tensor in (inputs, encoder, offset))
        searches = active_entries.Searches(None)
        token, feature, _ = active_entries.candidates(Batch(inputs, inputs, offset), encoder, offset, searches)
        active = inputs.double() @ encoder.double().T + offset.double() > 0
        active[token, feature] = False
        missed[name] += int(active.sum())
        shares.append(len(token) / active.numel())
    for name, count in missed.items():
        part.record(
            f"active entries missed, {name} batches", count, "", count == 0, f"{20 if name == 'random' else 5} batches"
        )
    part.record("entries that pass the screen, random batches", float(np.median(shares[:20])), "share")


def checkpoints(part: Part, folder: Path) -> None:
    """Stopped and gone on with, on the same device and from one to the other."""
    x = torch.randn(13 * TOKENS, SIZE.n, generator=torch.Generator().manual_seed(1))

    class StopError(Exception):
        pass

    def train(kind: str, name: str, last: int | None = None) -> torch.Tensor | None:
        here = x.to(kind)

        def batches(step: int) -> Iterator[torch.Tensor]:
            for number in range(step, 12):
                if number == last:
                    raise StopError
                yield here[(number + 1) * TOKENS :][:TOKENS]

        try:
            autoencoder, _ = train_on_activations(
                Data(batches, lambda step: [here[:TOKENS]], here[:TOKENS]),
                folder / name,
                Autoencoder(l0=SIZE.l0, l1=1e-3, l1_warmup_steps=2, normalize=True, init="transpose"),
                Length(steps=12, tokens_per_step=TOKENS, features=SIZE.m, silent_steps=6),
                seed=0,
                watch=Watch(checkpoint_seconds=0.0),
            )
        except StopError:
            return None
        return autoencoder.W_dec.cpu()

    place = part.place.type
    whole = train(place, "whole")
    apart = float((train(place, "again") - whole).abs().max())
    part.record("the same training twice", apart, "largest difference", apart == 0)
    for first, second in {place: place, "cpu": place, f"{place} ": "cpu"}.items():
        name = f"{first.strip()} to {second}"
        train(first.strip(), name, last=6)
        found = train(second, name)
        worst = float((found - whole).abs().max())
        same = float(((found - whole).abs() <= REST * whole.abs().clamp_min(1)).double().mean())
        part.record(f"checkpoint, {name}", worst, "largest difference", same >= SAME, f"{same:.6f} of entries the same")


def everything(part: Part, folder: Path) -> None:
    """The steps that read activations and models, on both devices."""
    words = tokenizer(folder)
    paths = language_models(folder, words)
    held_out = {
        "a": token_directory(folder / "a", 400 * SIZE.context, 0),
        "b": token_directory(folder / "b", 400 * SIZE.context, 1),
    }
    tokens = Windows(held_out, SIZE.context)[np.arange(200)].astype(np.int32)
    random = torch.Generator().manual_seed(0)
    n = SIZE.architecture["intermediate_size"]
    sample = torch.randn(256, n, generator=random) * 0.1
    kind = variant_of("l1", None)
    weights, centring = start(kind, SIZE.m, sample, Autoencoder(init="transpose"), seed=0)
    save_autoencoder(variants.export(kind, weights, centring), folder / "autoencoder", HOOK, SIZE.context, {})

    def results(place: str) -> dict[str, np.ndarray]:
        found = {}
        with part.on(place) as here:
            autoencoder = load_autoencoder(folder / "autoencoder", here)
            bridges = [load_hooked(path, HOOK) for path in paths]
            evaluation = evaluate_autoencoder(bridges[0], HOOK, autoencoder, held_out, SIZE.context, 4000)
            names = ("l0", "mse", "variance_explained", "loss_clean", "loss_spliced", "loss_zero")
            found["evaluation"] = np.array([evaluation[name] for name in names])
            table = pa.Table.from_batches(list(collect_features(bridges[0], HOOK, autoencoder, tokens)))
            dense = np.zeros((tokens.size, SIZE.m), np.float32)
            dense[table["token"].to_numpy(), table["feature"].to_numpy()] = table["activation"].to_numpy()
            found["features"] = dense
            found["neurons"] = correlate_neurons(paired_activations(bridges, HOOK, tokens), tokens.size)
            models = [load_model(path).to(here) for path in paths]
            effects, _ = weigh_logits(models[0], HOOK, autoencoder.W_dec, SIZE.vocabulary)
            found["logit effects"] = np.array(
                [[one["effect"] for one in row] for row in effects["promoted"].to_pylist()]
            )
            swept = sweep_merge(*models, "slerp", 3, held_out, block=SIZE.context, evaluation_tokens=2000)
            found["sweep"] = swept["loss"].to_numpy()
        return found

    expected, found = results("cpu"), results(part.place.type)
    for name, value in expected.items():
        apart = np.abs(np.nan_to_num(found[name]) - np.nan_to_num(value))
        scale = float(np.abs(np.nan_to_num(value)).max())
        same = float((apart <= REST * scale).mean())
        part.record(name, float(apart.max() / scale), "of the largest", same >= SAME, f"{same:.6f} of entries the same")


@torch.no_grad()
def exact(part: Part, folder: Path) -> None:
    """All of it."""
    screening(part)
    steps(part)
    checkpoints(part, folder)
    with torch.enable_grad():
        everything(part, folder)


if __name__ == "__main__":
    run_parts({"exact": exact})
