"""One training step of the autoencoder at the paper's shape: ours, SAELens's, and the bound, in turn, in one run.

`make bench-autoencoder`, or `python benchmarks/autoencoder.py [--rounds 7]`. Needs the peers' environment (`make peers`).
Both start from the same weights and activations, whose biases are set so that as many features fire per token as in a trained
autoencoder, with densities over four orders of magnitude. A step is all of it: forward, loss, gradients, Adam, unit norm.
The bound is the one dense product that no step can do without, activations times encoder.
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


def worker(environment: Path, script: str, folder: Path, threads: int) -> subprocess.Popen[str]:
    """A process that does one step for each line that it reads and answers with its seconds."""
    command = [str(environment), str(HERE / script), str(folder / "start.safetensors"), str(threads)]
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


def main() -> None:
    """Measure in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    if not PEER.exists():
        sys.exit(f"{PEER}: no such file; `make peers` makes the environment")
    place = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    print(f"{place}, {options.threads} threads, torch {torch.__version__}, {N} -> {M}, {TOKENS} tokens a step, float32")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start(folder)
        ours = worker(Path(sys.executable), "autoencoder_ours.py", folder, options.threads)
        peer = worker(PEER, "autoencoder_peer.py", folder, options.threads)
        questions = {"encoder product": (ours, "product"), "ours": (ours, "step"), "SAELens": (peer, "step")}
        seconds: dict[str, list[float]] = {name: [] for name in questions}
        for round_number in range(options.rounds + 2):
            for name, (process, what) in questions.items():
                found = ask(process, what)
                if round_number >= 2:  # the first two warm up
                    seconds[name].append(found[0])
        l0, peak = ask(ours, "about")
        peer_l0, peer_peak = ask(peer, "about")
        ours.terminate()
        peer.terminate()
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"mean L0: ours {l0:.1f}, SAELens {peer_l0:.1f}; peak memory: ours {peak:.2f} GiB, SAELens {peer_peak:.2f} GiB"
    )
    print(f"\n{'':16} {'median s':>9} {'min':>7} {'max':>7} {'tokens/s':>9} {'of product':>10}")
    for name, values in seconds.items():
        ratio = medians[name] / medians["encoder product"]
        print(
            f"{name:16} {medians[name]:9.3f} {min(values):7.3f} {max(values):7.3f} {TOKENS / medians[name]:9.0f} {ratio:9.2f}x"
        )
    print(f"\nours is {medians['SAELens'] / medians['ours']:.1f} times the peer")


if __name__ == "__main__":
    main()
