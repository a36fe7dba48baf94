"""Everything that computes on a GPU, on one that is pretended (`pretended_gpu`): it runs there, and gives what the CPU gives.

What is proven here is where tensors are and how often the CPU waits. The numerics of CUDA's kernels are checked by `benchmarks/gpu.py`, on
a real GPU.
"""

import copy
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from autoencoders import VARIANTS, sample, weights_of
from pretended_gpu import OnGpu, held, in_this_thread, pretended_gpu, without_kernel
from trainings import train_autoencoder, train_on_activations

from feature_lineage import devices
from feature_lineage.autoencoders import active_entries, resampling
from feature_lineage.autoencoders import step as training_step
from feature_lineage.autoencoders import training as autoencoder_training
from feature_lineage.autoencoders import weights as weights_module
from feature_lineage.autoencoders.autoencoder import load_autoencoder, save_autoencoder
from feature_lineage.autoencoders.evaluation import evaluate_autoencoder
from feature_lineage.controls.neurons import correlate_neurons
from feature_lineage.devices import device
from feature_lineage.errors import Stopped
from feature_lineage.features.collect import collect_features
from feature_lineage.meaning.logit_effects import weigh_logits
from feature_lineage.models import checkpoint as language_model
from feature_lineage.models import hooks as activations
from feature_lineage.models.merge import sweep_merge
from feature_lineage.models.read_ahead import ReadAhead
from feature_lineage.text.windows import Windows

HOOK = "blocks.0.mlp.hook_post"
CONTEXT, VOCABULARY, STEPS = 12, 400, 60
TRAINING = {
    "seed": 0,
    "hook": HOOK,
    "expansion": 4,
    "tokens": STEPS * 8 * CONTEXT,
    "context": CONTEXT,
    "batch": 8,
    "resampling": {"at": [0.34, 0.67], "silent": 0.01, "pool_tokens": 2000},
    "lr": 1e-2,
    "l0": 4,
    "l1": 0.1,
    "l1_warmup_steps": 5,
    "normalize": True,
    "mean": "elements",
    "init": "transpose",
}


class Study:
    """Two models, their tokens, and a folder, before anything is on a device."""

    def __init__(self, folder, tokenizer, write_tokens, architecture):
        random = np.random.default_rng(0)
        draw = lambda count: random.integers(1, VOCABULARY, count)  # noqa: E731
        self.folder = folder
        self.train = {corpus: write_tokens(folder / corpus, draw(9000)) for corpus in ("a", "b")}
        self.held_out = {corpus: write_tokens(folder / f"{corpus}-held-out", draw(900)) for corpus in ("a", "b")}
        self.windows = Windows(self.train, CONTEXT)
        self.paths = [folder / f"model{seed}" for seed in (0, 1)]
        for seed, path in enumerate(self.paths):
            language_model.save_model(language_model.build_model(architecture, tokenizer, seed), tokenizer, path, {})
        self.loaded = {path: language_model.load_model(path) for path in self.paths}

    def model(self, path, layers=None):
        return copy.deepcopy(self.loaded[path])


def train(study, bridges, variant):
    """Stopped in the middle and gone on with; weights and curve."""
    options = TRAINING | {"variant": variant}
    checkpoint = study.folder / f"{device().type}-{variant}.safetensors"
    answers = iter([False] * 30 + [True] * 2)
    arguments = bridges[0], study.train, study.held_out, checkpoint
    with pytest.raises(Stopped):
        train_autoencoder(*arguments, stop=lambda: next(answers), **options)
    autoencoder, curve = train_autoencoder(*arguments, **options)
    save_autoencoder(autoencoder, study.folder / f"{device().type}-{variant}", HOOK, CONTEXT, {})
    return autoencoder.tensors() | {name: curve[name].to_numpy() for name in ("loss", "l0", "dead_share")}


def evaluated(study, bridge, variant):
    autoencoder = load_autoencoder(study.folder / f"{device().type}-{variant}", device())
    found = evaluate_autoencoder(bridge, HOOK, autoencoder, study.held_out, CONTEXT, 500)
    names = ("l0", "mse", "variance_explained", "loss_recovered", "loss_spliced", "dead_share")
    return {name: found[name] for name in names} | {"densities": np.array(found["densities"])}


def collect(study, bridges):
    autoencoder = load_autoencoder(study.folder / f"{device().type}-l1", device())
    tokens = study.windows[np.arange(600)].astype(np.int32)
    table = pa.Table.from_batches(list(collect_features(bridges[0], HOOK, autoencoder, tokens)))
    return {name: table[name].to_numpy() for name in table.column_names}


def neurons(study, bridges):
    tokens = study.windows[np.arange(600)].astype(np.int32)
    return {"r": correlate_neurons(activations.paired_activations(bridges, HOOK, tokens), tokens.size)}


def logits(study, bridges):
    model = study.model(study.paths[0]).to(device())
    decoder = load_autoencoder(study.folder / f"{device().type}-topk", device()).W_dec
    table, reason = weigh_logits(model, HOOK, decoder, VOCABULARY)
    assert reason is None
    return {"effects": np.array([[one["effect"] for one in row] for row in table["promoted"].to_pylist()])}


def swept(study, bridges):
    first, second = (study.model(path).to(device()) for path in study.paths)
    table = sweep_merge(first, second, "slerp", 3, study.held_out, block=CONTEXT, evaluation_tokens=200)
    return {name: table[name].to_numpy() for name in ("loss", "accuracy")}


def train_model(study, bridges):
    """Three plain steps: Trainer itself does not run on a pretended GPU."""
    model = study.model(study.paths[0]).to(device()).train()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    losses = []
    for step in range(3):
        ids = torch.from_numpy(study.windows[np.arange(8) + 8 * step]).to(device())
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        losses.append(loss.detach())
    return {"loss": torch.stack(losses), "weights": model.lm_head.weight.detach()}


def evaluate_model(study, bridges):
    model = study.model(study.paths[1]).to(device())
    return language_model.evaluate_model(model, study.windows, np.arange(600))


PARTS = {
    **{f"train_autoencoder {kind}": lambda *given, kind=kind: train(*given, kind) for kind in VARIANTS},
    "evaluate_autoencoder": lambda study, bridges: evaluated(study, bridges[0], "jumprelu"),
    "transfer_autoencoder": lambda study, bridges: evaluated(study, bridges[1], "batchtopk"),
    "collect_features": collect,
    "correlate_neurons": neurons,
    "weigh_logits": logits,
    "sweep_merge": swept,
    "train_model": train_model,
    "evaluate_model": evaluate_model,
}


@pytest.fixture(scope="module")
def patch(one_thread):
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def study(tmp_path_factory, tokenizer_dir, write_tokens, architecture, patch):
    study = Study(tmp_path_factory.mktemp("gpu"), tokenizer_dir, write_tokens, architecture)
    patch.setattr(activations, "load_model", study.model)
    # The CPU takes the path of the GPU: which entries are active does not depend on it, their last bits do.
    patch.setattr(active_entries, "has_fast_bfloat16", lambda place: True)
    return study


@contextmanager
def gpu(patch):
    """Pretend a GPU, in the thread that reads ahead too."""
    work = ReadAhead._work

    def pretending(stream):
        with in_this_thread():
            work(stream)

    with patch.context() as inner, pretended_gpu(inner) as ledger:
        inner.setattr(ReadAhead, "_work", pretending)
        yield ledger


def every_part(study):
    """What each part gives, or the error that it ends in, tensors as they are."""
    bridges, found = [activations.load_hooked(path, HOOK) for path in study.paths], {}
    for name, part in PARTS.items():
        try:
            found[name] = part(study, bridges)
        except Exception as error:
            found[name] = error
    return found


@pytest.fixture(scope="module")
def on_cpu(study):
    return every_part(study)


@pytest.fixture(scope="module")
def on_gpu(study, patch):
    taken = set()

    def noted(name, real):
        def call(*given, **named):
            if name != "_resample" or len(given[3]):  # the dead
                taken.add(name)
            return real(*given, **named)

        return call

    with gpu(patch) as ledger, patch.context() as inner:
        for name in ("_dense_step", "_sparse_step", "_revive"):
            inner.setattr(training_step, name, noted(name, getattr(training_step, name)))
        inner.setattr(autoencoder_training, "resample_features", noted("_resample", resampling.resample_features))
        found = every_part(study)
        return SimpleNamespace(found=found, operations=set(ledger.operations), taken=taken | set(ledger.operations))


@pytest.mark.parametrize("name", PARTS)
def test_every_step_computes_on_a_gpu_what_it_computes_on_the_cpu(on_cpu, on_gpu, name):
    expected, found = on_cpu[name], on_gpu.found[name]
    for outcome in (expected, found):
        if isinstance(outcome, Exception):
            raise outcome
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        ours, theirs = (torch.as_tensor(held(one)).double() for one in (found[key], value))
        # On a GPU losses are summed over other batches.
        limit = 1e-5 if name.startswith(("evaluate", "transfer", "sweep")) else 1e-6
        torch.testing.assert_close(ours, theirs, rtol=limit, atol=limit, equal_nan=True, msg=key)


@pytest.mark.parametrize("room", [None, active_entries.Capacity(2000, 2000)], ids=["exact sizes", "places"])
@pytest.mark.parametrize("path", ["sparse", "dense"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_step_on_a_gpu_is_the_cpus(study, monkeypatch, variant, path, room):
    kind, weights, centring = weights_of(sample(), variant)
    options = {"sparse_below": {"sparse": 2.0, "dense": 0.0}[path]}
    expected = training_step.loss_and_gradients(kind, weights, centring, sample(), 0.05, **options)
    with pretended_gpu(monkeypatch):
        there = weights_module.Weights(**{name: tensor.to(device()) for name, tensor in vars(weights).items()})
        middle = weights_module.Centring(centring.scale, centring.shift.to(device()), centring.elements)
        if path == "sparse":
            options["capacity"] = room
        found = training_step.loss_and_gradients(kind, there, middle, sample().to(device()), 0.05, **options)
        assert found.terms == pytest.approx(expected.terms, rel=1e-6)
        assert torch.equal(found.fired.cpu(), expected.fired)
        for ours, theirs in zip(found.gradients, expected.gradients, strict=True):
            torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-6, atol=1e-7)


def test_autoencoders_stay_on_the_gpu_until_they_are_saved(on_gpu):
    for name in PARTS:
        if name.startswith("train_autoencoder"):
            assert isinstance(on_gpu.found[name]["W_enc"], OnGpu), name


def test_every_way_through_a_training_step_was_taken(on_gpu):
    """Dense and sparse, in exact sizes and in given places, with dead features that are resampled or revived."""
    assert on_gpu.taken >= {"_dense_step", "_sparse_step", "_revive", "_resample", "nonzero", "nonzero_static"}


def test_cuda_has_a_kernel_for_every_operation_that_ran(on_gpu):
    assert len(on_gpu.operations) > 80
    by_the_cpu = {f"_scaled_dot_product_flash_attention_for_cpu{end}" for end in ("", "_backward")}  # CUDA has its own
    assert not without_kernel(on_gpu.operations - by_the_cpu)
    assert without_kernel({"mkldnn_linear", "add"}) == ["mkldnn_linear"]


def test_the_pretended_gpu_has_cudas_rules(monkeypatch):
    """Tensors of both devices may meet where CUDA lets them, and only there."""
    with pretended_gpu(monkeypatch) as ledger:
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        for refused in (
            lambda: there + here,
            lambda: torch.stack([there, here]),
            lambda: here[there.long()],
            lambda: torch.addmm(here, there[None], there[:, None]),
            lambda: np.asarray(there),
            there.numpy,
        ):
            with pytest.raises((RuntimeError, TypeError), match="cuda:0"):
                refused()
        for allowed in (there + here[0], there[here.long() - 1], here.to("cuda") + there, torch.zeros_like(there)):
            assert isinstance(allowed, OnGpu)
        assert not isinstance(there.cpu(), OnGpu)
        ledger.clear()
        there * 2
        assert not ledger.waits and ledger.kernels.total() == 1
        for waits in (
            there.sum().item,
            there.nonzero,
            there.tolist,
            there.cpu,
            lambda: there[there > 0],
            lambda: bool(there.any()),
        ):
            ledger.clear()
            waits()
            assert ledger.waits.total() == 1, ledger.waits
        ledger.clear()
        (there > 0).nonzero_static(size=3)
        assert not ledger.waits


# --- how much is read at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["collect_features", "correlate_neurons", "evaluate_model", "evaluate_autoencoder"])
def test_a_gpu_reads_512_windows_at_once(study, monkeypatch, on_gpu, name):
    read = []
    real = language_model.check_windows
    for module in (activations, language_model):
        monkeypatch.setattr(
            module, "check_windows", lambda model, tokens, *key: read.append(len(tokens)) or real(model, tokens, *key)
        )
    with gpu(monkeypatch):
        bridges = [activations.load_hooked(path, HOOK) for path in study.paths]
        read.clear()
        PARTS[name](study, bridges)
    assert max(read) == (512 if name != "evaluate_autoencoder" else 500 // CONTEXT)  # all that are asked of each corpus


@pytest.mark.parametrize(("memory", "expected"), [(80 << 30, 512), (8 << 30, 87), (1 << 20, 1)])
def test_a_pass_fits_into_the_memory_of_the_gpu(monkeypatch, memory, expected):
    """Contexts of 24, a vocabulary of 128,000: 512 windows of logits are 6.3 GB."""
    with pretended_gpu(monkeypatch, memory):
        assert devices.windows_at_once(device(), 24, 128_000) == expected
    assert devices.windows_at_once(device(), 24, 128_000) == 64


# --- waits and kernels ------------------------------------------------------------------------------------------

# Of one step with all that the training loop does around it. They may fall, and never rise. One is for the loss terms; variants that take the
# largest revive dead features, and wait for the number of these.
WAITS = {
    ("sparse", "l1"): 1, ("sparse", "topk"): 2, ("sparse", "batchtopk"): 2, ("sparse", "jumprelu"): 1,
    ("dense", "l1"): 1, ("dense", "jumprelu"): 1,
}  # fmt: skip
KERNELS = {
    ("sparse", "l1"): 112, ("sparse", "topk"): 144, ("sparse", "batchtopk"): 138, ("sparse", "jumprelu"): 119,
    ("dense", "l1"): 63, ("dense", "jumprelu"): 72,
}  # fmt: skip


def run_steps(count, variant, folder):
    """Train on activations that are there already."""
    x = torch.randn(96 * (count + 1), 32, generator=torch.Generator().manual_seed(0)).to(device())
    train_on_activations(
        lambda step: iter(x[96:].split(96)[step:]), lambda step: [], x[:96], folder / f"{variant}{count}.safetensors",
        steps=count, tokens_per_step=96, features=128, seed=0, lr=1e-3, variant=variant, l0=4, l1=1e-2,
        l1_warmup_steps=0, normalize=True, mean="elements", init="transpose", resample_steps=[], silent_steps=4,
    )  # fmt: skip


@pytest.mark.parametrize(("path", "variant"), KERNELS)
def test_a_step_waits_for_the_gpu_twice_and_no_more_often(study, monkeypatch, tmp_path, path, variant):
    """What eleven steps take more than six, a fifth of it: the first is dense, unless the variant never is, and the next counts its entries."""
    monkeypatch.setattr(autoencoder_training, "CURVE_POINTS", 1)
    monkeypatch.setattr(autoencoder_training, "SPARSE_BELOW", {"sparse": 2.0, "dense": -1.0}[path])
    always = partial(training_step.loss_and_gradients, sparse_below={"sparse": 2.0, "dense": 0.0}[path])
    monkeypatch.setattr(training_step, "loss_and_gradients", always)
    taken = []
    for count in (6, 11):
        with gpu(monkeypatch) as ledger:
            run_steps(count, variant, tmp_path)
            taken.append((ledger.waits.copy(), ledger.kernels.copy()))
    (waits, kernels), more = taken
    waits, kernels = more[0] - waits, more[1] - kernels
    assert waits.total() / 5 <= WAITS[path, variant], waits
    assert kernels.total() / 5 <= KERNELS[path, variant], kernels
