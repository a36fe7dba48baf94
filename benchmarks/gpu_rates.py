"""Parts `probe`, `lm`, `sae` and `chain` of gpu.py: rates, and what bounds them."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import autoencoder
import numpy as np
import torch
from gpu_common import HOOK, SIZE, TINY, Part, language_models, run_parts, token_directory, tokenizer

from feature_lineage.autoencoders import resume
from feature_lineage.autoencoders import resume as resume_module
from feature_lineage.autoencoders import start as start_module

PEER_TARGET = 5.0  # how many times as fast as SAELens in float32


def peak(part: Part) -> float:
    """GB that were taken at most, on the GPU or by the process; then counting starts again."""
    if part.place.type != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 * 1.073741824
    found = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return found


# --- probe ------------------------------------------------------------------------------------------------------


def probe(part: Part, folder: Path) -> None:
    """What the hardware gives: products and a copy."""
    name = torch.cuda.get_device_name() if part.place.type == "cuda" else autoencoder.machine()
    part.record("device", name)
    part.record("torch", torch.__version__, note=f"CUDA {torch.version.cuda}")
    size = 256 if TINY else 8192
    for dtype in (torch.bfloat16, torch.float32):
        a, b = torch.randn(2, size, size, device=part.place).to(dtype)
        seconds = part.seconds(lambda a=a, b=b: a @ b)
        part.record(
            f"product, {str(dtype).removeprefix('torch.')}", 2 * size**3 / seconds / 1e12, "TFLOP/s", key=str(dtype)
        )
    source = torch.empty(1 << (20 if TINY else 30), dtype=torch.uint8, device=part.place)
    target = torch.empty_like(source)
    part.record("copy", 2 * len(source) / part.seconds(lambda: target.copy_(source)) / 1e9, "GB/s")


# --- language models --------------------------------------------------------------------------------------------


def train_steps(part: Part, folder: Path, words: Path, steps: int) -> tuple[float, float]:
    """Train through the library; median seconds of a step, and the last loss."""
    from feature_lineage.models import training
    from feature_lineage.models.checkpoint import build_model
    from feature_lineage.study.keys import Training

    count = steps * SIZE.batch * SIZE.block
    train, held_out = (
        token_directory(folder / name, tokens, 0) for name, tokens in (("train", count), ("held-out", 40 * SIZE.block))
    )
    ends: list[float] = []
    step_end = training._Progress.on_step_end

    def timed(self: object, args: object, state: object, control: object, **rest: object) -> None:
        part.wait()
        ends.append(time.perf_counter())
        step_end(self, args, state, control, **rest)

    with mock.patch.object(training._Progress, "on_step_end", timed):
        curve = training.train_model(
            build_model(SIZE.architecture, words, 0),
            training.Data({"a": train}, {"a": held_out}, balance=False, evaluation_tokens=20 * SIZE.block),
            folder / "checkpoints",
            Training(epochs=1, block=SIZE.block, batch=SIZE.batch, lr=6e-4, evaluations=1),
            name="benchmark",
            seed=0,
        )
    seconds = np.diff(ends)[len(ends) // 4 : -1]  # the last ends with an evaluation and a checkpoint
    return float(np.median(seconds)), curve.filter(curve["split"].to_numpy() == "train")["loss"].to_pylist()[-1]


def lm(part: Part, folder: Path) -> None:
    """The paper's language model through the library's training, in float32 and in bfloat16."""
    words = tokenizer(folder)
    shape = SIZE.architecture
    heads = shape["num_key_value_heads"] / shape["num_attention_heads"]
    body = 2 * shape["hidden_size"] ** 2 * (1 + heads) + 3 * shape["hidden_size"] * shape["intermediate_size"]
    operations = 6 * (body + SIZE.vocabulary * shape["hidden_size"])
    part.record(
        "operations of a token", operations / 1e6, "MFLOP", note="forward and backward, attention's products left out"
    )
    kinds = {"bfloat16": True, "float32": False} if part.place.type == "cuda" else {"float32": False}
    for name, bfloat16 in kinds.items():
        with (
            part.on(part.place.type),
            mock.patch.object(torch.cuda, "is_bf16_supported", lambda *_, bfloat16=bfloat16, **__: bfloat16),
        ):
            peak(part)
            seconds, loss = train_steps(part, folder / name, words, 12 if TINY else 150)
        tokens = SIZE.batch * SIZE.block
        part.record(
            f"step of {tokens:,} tokens, Trainer {name}",
            1e3 * seconds,
            "ms",
            loss < 1.5 * np.log(SIZE.vocabulary),
            f"loss {loss:.3f}",
        )
        part.record(f"tokens, Trainer {name}", tokens / seconds, "/s", key=f"lm {name}")
        part.record(f"arithmetic, Trainer {name}", tokens * operations / seconds / 1e12, "TFLOP/s")
        part.record(f"memory, Trainer {name}", peak(part), "GB")


# --- autoencoders -----------------------------------------------------------------------------------------------


def sae(part: Part, folder: Path) -> None:
    """A training step, ours and SAELens's in turn, from the same weights and activations."""
    autoencoder.N, autoencoder.M, autoencoder.TOKENS, autoencoder.L0 = SIZE.n, SIZE.m, SIZE.tokens, SIZE.l0
    autoencoder.start(folder)
    threads = torch.get_num_threads()
    ours = autoencoder.worker(Path(sys.executable), "autoencoder_ours.py", folder, threads, part.place.type)
    peer = (
        autoencoder.worker(Path(part.peer), "autoencoder_peer.py", folder, threads, part.place.type)
        if part.peer
        else None
    )
    medians: dict[str, float] = {}

    def measure(name: str, process: subprocess.Popen[str], question: str, unit: float = 1e3, **more: object) -> None:
        found = [autoencoder.ask(process, question)[0] for _ in range(SIZE.rounds + 2)][2:]
        medians[name] = statistics.median(found)
        part.record(
            name, medians[name] * unit, "ms", note=f"{min(found) * unit:.2f} to {max(found) * unit:.2f}", **more
        )

    try:
        measure("encoder product, float32", ours, "product")
        for variant in ("l1", "topk", "batchtopk", "jumprelu"):
            measure(f"step, ours, {variant}", ours, f"step {variant}", key=f"sae {variant}")
        measure("loss and gradients, ours, dense", ours, "dense")
        if part.place.type == "cuda":
            kernels, count = autoencoder.ask(ours, "kernels")
            part.record(
                "kernels of a step, ours, l1",
                1e3 * kernels,
                "ms",
                note=f"{count:.0f} kernels; the rest of the step is waiting",
            )
        if peer is None:
            return part.record("step, SAELens", "not measured", note="no Python with SAELens; --peer names one")
        for precision in ("float32", "tf32", "autocast") if part.place.type == "cuda" else ("float32",):
            measure(f"step, SAELens standard, {precision}", peer, f"step l1 {precision}")
        ratio = medians["step, SAELens standard, float32"] / medians["step, ours, l1"]
        passes = ratio >= PEER_TARGET if part.place.type == "cuda" else None
        part.record("ours against SAELens in float32", ratio, "times as fast", passes, f"at least {PEER_TARGET:g}")
    finally:
        for process in filter(None, (ours, peer)):
            process.terminate()


# --- the chain of steps -----------------------------------------------------------------------------------------

TRAIN = """
import sys; from pathlib import Path; import torch
from gpu_rates import train_autoencoder
train_autoencoder(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), torch.device(sys.argv[4]))
"""


def train_autoencoder(model: Path, folder: Path, steps: int, place: torch.device) -> None:
    """Train an autoencoder on a model's activations for some steps, as the workflow does."""
    from feature_lineage.autoencoders.autoencoder import save_autoencoder
    from feature_lineage.autoencoders.training import train_autoencoder
    from feature_lineage.models.hooks import load_hooked
    from feature_lineage.study.measures import Autoencoder, Resampling

    batch = SIZE.tokens // SIZE.context
    train = token_directory(folder / "train", 2 * steps * SIZE.tokens, 0)
    held_out = token_directory(folder / "held-out", 400 * SIZE.context, 1)
    n = SIZE.architecture["intermediate_size"]
    found, _ = train_autoencoder(
        load_hooked(model, HOOK),
        {"a": train},
        {"a": held_out},
        folder / "checkpoint.safetensors",
        Autoencoder(
            hook=HOOK, expansion=SIZE.m // n, tokens=steps * SIZE.tokens, context=SIZE.context, batch=batch, lr=1e-3, l0=SIZE.l0,
            l1=1e-3, l1_warmup_steps=steps // 10, normalize=True, init="transpose", resampling=Resampling(at=[], silent=0.5),
        ),
        seed=0,
    )  # fmt: skip
    save_autoencoder(found, folder / "autoencoder", HOOK, SIZE.context, {})


def timed(work: Callable[[], object]) -> float:
    """Seconds of something that ends with its result on the CPU."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def chain(part: Part, folder: Path) -> None:
    """The steps that follow one another in a study, as the workflow runs them; two jobs at once; a large model."""
    steps = 12 if TINY else 500
    starts = "import sys, torch, feature_lineage.autoencoders.training; torch.zeros(1, device=sys.argv[1])"
    command = [sys.executable, "-c", starts, part.place.type]
    part.record("start of a process", timed(lambda: subprocess.run(command, check=True)), "s", key="process")
    words = tokenizer(folder)
    models = language_models(folder, words)
    with part.on(part.place.type) as place:
        one_study(part, folder, models, steps, place)
        part.record("memory", peak(part), "GB")
    for count in (1, 2):
        at_once(part, folder, models[0], count, steps // 2)
    large(part, folder, words)


def one_study(part: Part, folder: Path, models: list[Path], steps: int, place: torch.device) -> None:
    """Train an autoencoder, collect its features, evaluate it, sweep between two models."""
    from feature_lineage.autoencoders.autoencoder import load_autoencoder
    from feature_lineage.autoencoders.evaluation import evaluate_autoencoder
    from feature_lineage.features.collect import ACTIVATIONS, collect_features
    from feature_lineage.models.checkpoint import load_model
    from feature_lineage.models.hooks import load_hooked
    from feature_lineage.models.merge import sweep_merge
    from feature_lineage.store.formats import write_table
    from feature_lineage.text.windows import Windows

    count, amount = (4800, 2000) if TINY else (300_000, 100_000)
    held_out = {"a": token_directory(folder / "a", 2 * amount, 2)}
    windows = Windows({"a": token_directory(folder / "b", 2 * count, 3)}, SIZE.context)
    sample = windows[np.arange(count // SIZE.context)].astype(np.int32)

    def rate(what: str, tokens: int, key: str, work: Callable[[], object]) -> None:
        seconds = timed(work)
        part.record(what, tokens / seconds, "tokens/s", note=f"{seconds:.2f} s", key=key)

    rate(
        f"{steps} training steps with the reader",
        steps * SIZE.tokens,
        "sae tokens",
        lambda: train_autoencoder(models[0], folder, steps, place),
    )
    bridge, autoencoder = load_hooked(models[0], HOOK), load_autoencoder(folder / "autoencoder", place)

    def collect() -> None:
        batches = collect_features(bridge, HOOK, autoencoder, sample)
        write_table(folder / "features.parquet", batches, ACTIVATIONS, {})

    rate(f"features of {count:,} tokens, with Parquet", sample.size, "features", collect)
    arguments = bridge, HOOK, autoencoder, held_out, SIZE.context, amount
    rate(f"evaluation on {amount:,} tokens", amount, "evaluation", lambda: evaluate_autoencoder(*arguments))
    both = [load_model(path).to(place) for path in models]
    options = {"block": SIZE.context, "evaluation_tokens": amount}
    rate("sweep of 5 points", 5 * amount, "sweep", lambda: sweep_merge(*both, "slerp", 5, held_out, **options))
    part.record(
        "writing a checkpoint",
        timed(lambda: write_checkpoint(folder, place)),
        "s",
        note=f"{24 * SIZE.n * SIZE.m / 1e9:.2f} GB",
    )


def write_checkpoint(folder: Path, place: torch.device) -> None:
    """Write a checkpoint of an autoencoder in training: weights and both of Adam's moments."""
    from feature_lineage.autoencoders import training
    from feature_lineage.study.measures import Autoencoder

    kind, x = start_module.variant_of("l1", None), torch.randn(256, SIZE.n, device=place)
    weights, _ = start_module.start(kind, SIZE.m, x, Autoencoder(init="transpose"), seed=0)
    adam = torch.optim.Adam(kind.trained(weights), fused=True)
    for tensor in kind.trained(weights):
        tensor.grad = torch.zeros_like(tensor)
    adam.step()
    run = resume_module.Progress(
        weights, adam, torch.zeros(SIZE.m, dtype=torch.int64, device=place), training.Steering(1e-3)
    )
    resume.write_checkpoint(folder / "written.safetensors", run)


def at_once(part: Part, folder: Path, model: Path, count: int, steps: int) -> None:
    """Some jobs that share the device."""
    folders = [folder / f"job{count}{number}" for number in range(count)]
    arguments = [[str(model), str(one), str(steps), part.place.type] for one in folders]

    def together() -> None:
        jobs = [subprocess.Popen([sys.executable, "-c", TRAIN, *one], cwd=Path(__file__).parent) for one in arguments]
        if any([job.wait() for job in jobs]):
            raise RuntimeError("a job has failed")

    what = "1 job" if count == 1 else f"{count} jobs at once"
    part.record(f"{what}, {steps} steps each, start included", timed(together), "s")


def large(part: Part, folder: Path, words: Path) -> None:
    """Import of a random Llama of 1.1 billion parameters, and features of some of its tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from feature_lineage.autoencoders.autoencoder import SparseAutoencoder
    from feature_lineage.features.collect import collect_features
    from feature_lineage.models.checkpoint import import_model
    from feature_lineage.models.hooks import load_hooked

    shape = dict(
        hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4
    )
    if TINY:
        shape = dict(
            hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
        )
    config = LlamaConfig(vocab_size=SIZE.vocabulary, max_position_embeddings=2048, tie_word_embeddings=False, **shape)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    model.save_pretrained(folder / "published")
    del model
    part.record("parameters of the large model", parameters / 1e9, "billion")
    imported = folder / "imported"
    seconds = timed(lambda: import_model(str(folder / "published"), words, imported, {}))
    part.record("its import", seconds, "s")
    hook = f"blocks.{shape['num_hidden_layers'] // 2}.hook_resid_post"
    with part.on(part.place.type) as place:
        width, m = shape["hidden_size"], 8 * shape["hidden_size"]
        decoder = torch.nn.functional.normalize(torch.randn(m, width, device=place), dim=1)
        nothing = torch.zeros(m, device=place)
        autoencoder = SparseAutoencoder(
            decoder.T.contiguous(), nothing, decoder, torch.zeros(width, device=place), k=SIZE.l0
        )
        seconds = timed(lambda: load_hooked(imported, hook))
        bridge = load_hooked(imported, hook)
        part.record("its loading", seconds, "s")
        count = 200 if TINY else 2000
        sample = np.random.default_rng(0).integers(0, SIZE.vocabulary, (count, SIZE.context)).astype(np.int32)
        seconds = timed(lambda: list(collect_features(bridge, hook, autoencoder, sample)))
        part.record(
            f"features of {sample.size:,} of its tokens", seconds, "s", note=f"{sample.size / seconds:,.0f} tokens/s"
        )
        part.record("memory", peak(part), "GB")


if __name__ == "__main__":
    run_parts({"probe": probe, "lm": lm, "sae": sae, "chain": chain})
