"""Worker of autoencoder.py: our training step, its parts, and the step at other densities."""

import resource
import sys
import time
from collections.abc import Callable

import torch
from safetensors.torch import load_file

from feature_lineage.autoencoders import active_entries
from feature_lineage.autoencoders import step as training_step
from feature_lineage.autoencoders.active_entries import Capacity
from feature_lineage.autoencoders.start import variant_of
from feature_lineage.autoencoders.step import BETAS, loss_and_gradients
from feature_lineage.autoencoders.weights import Centring, Weights

FAST = active_entries.has_fast_bfloat16


def main() -> None:
    """Answer each line of standard input, a question and its arguments, with numbers."""
    torch.set_num_threads(int(sys.argv[2]))
    k = int(sys.argv[3])
    place = torch.device(sys.argv[4])
    given = {name: tensor.to(place) for name, tensor in load_file(sys.argv[1]).items()}
    x, decoder = given["x"], given["decoder"]
    nothing = torch.zeros(x.shape[1], device=place)
    weights = Weights(decoder.clone(), given["bias"], decoder, nothing, torch.zeros_like(given["bias"]))
    centring = Centring(1.0, nothing.clone(), elements=False)
    variants = {name: variant_of(name, k) for name in ("l1", "topk", "batchtopk", "jumprelu")}
    adams = {
        name: torch.optim.Adam(kind.trained(weights), lr=1e-9, betas=BETAS, fused=True)
        for name, kind in variants.items()
    }
    out, other = torch.zeros(2, len(x), len(decoder), device=place)
    l0, capacities = 0.0, {}

    def timed(work: Callable[[], object]) -> float:
        started = time.perf_counter()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def step(name: str) -> None:
        nonlocal l0
        found = training_step.training_step(
            variants[name], weights, centring, adams[name], x, 3e-4, capacity=capacities.get(name)
        )
        l0 = found.terms.l0
        if place.type == "cuda":
            capacities[name] = Capacity.after(found.terms.first, found.terms.second, capacities.get(name))

    def at_density(share: float) -> list[float]:
        """Seconds of loss and gradients on the path that the density chooses, and on the dense one."""
        pre = (x[:256] @ decoder.T + weights.encoder_bias).flatten()
        bias = weights.encoder_bias - pre.kthvalue(int((1 - share) * len(pre))).values
        shifted = Weights(weights.encoder, bias, decoder, nothing, weights.threshold)
        # In training, the step before tells which path a step begins with.
        chosen, dense = (
            lambda dense=dense: loss_and_gradients(variants["l1"], shifted, centring, x, 3e-4, dense=dense)
            for dense in (share > training_step.SPARSE_BELOW, True)
        )
        chosen()
        return [timed(chosen), timed(dense)]

    def kernels(work: Callable[[], object]) -> list[float]:
        """Seconds that a GPU's kernels take of some work, and how many there are."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            timed(work)
        found = [event for event in profile.key_averages() if event.self_device_time_total]
        return [sum(event.self_device_time_total for event in found) / 1e6, sum(event.count for event in found)]

    with torch.no_grad():
        for line in sys.stdin:
            question, *arguments = line.split()
            if question == "product":
                answer = [timed(lambda: torch.mm(x, weights.encoder.T, out=out))]
            elif question == "step":
                answer = [timed(lambda name=arguments[0]: step(name))]
            elif question == "float32":
                active_entries.has_fast_bfloat16 = lambda place: False
                answer = [timed(lambda: step("l1"))]
                active_entries.has_fast_bfloat16 = FAST
            elif question == "adam":
                answer = [timed(adams["l1"].step), timed(lambda: other.copy_(out))]
            elif question == "dense":
                dense = lambda: loss_and_gradients(variants["l1"], weights, centring, x, 3e-4, dense=True).terms  # noqa: E731
                answer = [timed(dense)]
            elif question == "kernels":
                answer = kernels(lambda: step("l1"))
            elif question == "density":
                answer = at_density(float(arguments[0]))
            else:
                answer = [l0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]
            print(*answer, flush=True)


if __name__ == "__main__":
    main()
