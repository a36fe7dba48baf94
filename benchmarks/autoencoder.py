"""One training step of the autoencoder at the paper's shape: ours, SAELens's, and the bound, in turn, in one run.

`make bench-autoencoder`, or `python benchmarks/autoencoder.py [--rounds 7]`. Needs the peers' environment (`make peers`).
Both start from the same weights and activations, whose biases are set so that as many features fire per token as in a trained
autoencoder, with densities over four orders of magnitude. A step is all of it: forward, loss, gradients, Adam, unit norm.
The bound is the one dense product that a step in float32 cannot do without, activations times encoder; ours makes it in
bfloat16 first where the machine is fast at that, and `float32 alone` is our step where it is not.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

HERE = Path(__file__).resolve().parent
PEER = HERE.parent / ".venv-peers" / "bin" / "python"
N, M, TOKENS, L0 = 1024, 16_384, 3072, 30
DENSITIES = (0.002, 0.01, 0.03, 0.1, 0.5)


def start(folder: Path) -> None:
    """Write activations and weights: a random dictionary, biases that give each feature its density."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(TOKENS, N, generator=random)
    decoder = torch.nn.functional.normalize(torch.randn(M, N, generator=random), dim=1)
    density = torch.exp(torch.empty(M).uniform_(np.log(1e-5), np.log(1e-1), generator=random))
    for _ in range(20):  # scaled to the mean L0, no feature above half
        density = (density * (L0 / density.sum())).clamp(max=0.5)
    pre = x @ decoder.T
    bias = -torch.stack([pre[:, i].quantile(1 - density[i]) for i in range(M)])
    save_file({"x": x.numpy(), "decoder": decoder.numpy(), "bias": bias.numpy()}, folder / "start.safetensors")


def worker(environment: Path, script: str, folder: Path, threads: int, place: str = "") -> subprocess.Popen[str]:
    """A process that does one step for each line that it reads and answers with its seconds; on the GPU if there is one, or on `place`."""
    place = place or ("cuda" if torch.cuda.is_available() else "cpu")
    command = [str(environment), str(HERE / script), str(folder / "start.safetensors"), str(threads), str(L0), place]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str], what: str) -> list[float]:
    """Have `what` done once; the numbers that the worker answers with."""
    assert process.stdin and process.stdout
    process.stdin.write(what + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        sys.exit(f"the worker ended with status {process.wait()}")
    return [float(number) for number in answer.split()]


def machine() -> str:
    """The processor or accelerator that the steps run on."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    found = torch.cpu.get_capabilities()
    kinds = [kind for kind in ("avx2", "avx512_f", "avx512_bf16", "amx_bf16") if found.get(kind)]
    return f"{found.get('cpu_name', platform.machine())} ({', '.join(kinds) or platform.machine()})"


def main() -> None:
    """Measure in turn and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if not PEER.exists():
        sys.exit(f"{PEER}: no such file; `make peers` makes the environment")
    print(
        f"{machine()}, {options.threads} threads, torch {torch.__version__}, {N} -> {M}, {TOKENS} tokens a step, float32"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start(folder)
        ours = worker(Path(sys.executable), "autoencoder_ours.py", folder, options.threads)
        peer = worker(PEER, "autoencoder_peer.py", folder, options.threads)
        questions = {"encoder product": (ours, "product"), "ours": (ours, "step l1")}
        questions |= {"ours, float32 alone": (ours, "float32"), "SAELens": (peer, "step l1")}
        seconds: dict[str, list[float]] = {name: [] for name in questions}
        sweep: list[list[float]] = []
        for round_number in range(options.rounds + 2):
            for name, (process, what) in questions.items():
                found = ask(process, what)
                if round_number >= 2:  # the first two warm up
                    seconds[name].append(found[0])
        (l0, peak), (peer_l0, peer_peak) = ask(ours, "about"), ask(peer, "about")
        sweep = [ask(ours, "adam") for _ in range(options.rounds)]
        dense = {share: [ask(ours, f"density {share}") for _ in range(3)] for share in DENSITIES}
        others = {
            variant: [(ask(ours, f"step {variant}")[0], ask(peer, f"step {variant}")[0]) for _ in range(4)][1:]
            for variant in ("topk", "batchtopk", "jumprelu")
        }
        ours.terminate()
        peer.terminate()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"mean L0: ours {l0:.1f}, SAELens {peer_l0:.1f}; peak memory: ours {peak:.2f} GiB, SAELens {peer_peak:.2f} GiB"
    )
    print(f"\n{'':20} {'median s':>9} {'min':>7} {'max':>7} {'tokens/s':>9} {'of product':>10}")
    for name, values in seconds.items():
        ratio = medians[name] / medians["encoder product"]
        print(
            f"{name:20} {medians[name]:9.3f} {min(values):7.3f} {max(values):7.3f} {TOKENS / medians[name]:9.0f} {ratio:9.2f}x"
        )
    adam, copy = (statistics.median(column) for column in zip(*sweep, strict=True))
    bytes_moved = 28 * (2 * M * N + M + N)  # weight, two moments: read and written; gradient: read; 4 bytes each
    rate = 2 * 4 * TOKENS * M / copy / 1e9
    print(
        f"\nAdam alone {adam:.3f} s: {bytes_moved / 1e9:.2f} GB, {bytes_moved / adam / 1e9:.0f} GB/s; a copy runs at {rate:.0f} GB/s"
    )
    print(f"\nloss and gradients by the share of active entries\n{'share':>8} {'chosen s':>9} {'dense s':>9}")
    for share, values in dense.items():
        chosen, plain = (statistics.median(column) for column in zip(*values, strict=True))
        print(f"{share:8.3f} {chosen:9.3f} {plain:9.3f}")
    print(f"\n{'other variants':20} {'ours s':>9} {'SAELens s':>9}")
    for variant, pairs in others.items():
        mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{variant:20} {mine:9.3f} {theirs:9.3f} {theirs / mine:9.1f}x")
    print(f"\nours is {medians['SAELens'] / medians['ours']:.1f} times the peer")


if __name__ == "__main__":
    main()
