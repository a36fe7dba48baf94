"""Worker of autoencoder.py: our training step."""

import resource
import sys
import time

import torch
from safetensors.torch import load_file

from feature_lineage.training_step import BETAS, Centring, Weights, l1, training_step


def main() -> None:
    """Answer `product`, `step` and `about` on standard input."""
    torch.set_num_threads(int(sys.argv[2]))
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    given = {name: tensor.to(place) for name, tensor in load_file(sys.argv[1]).items()}
    x, decoder = given["x"], given["decoder"]
    nothing = torch.zeros(x.shape[1], device=place)
    weights = Weights(decoder.clone(), given["bias"], decoder, nothing, torch.zeros_like(given["bias"]))
    centring = Centring(1.0, nothing.clone(), elements=False)
    adam = torch.optim.Adam(l1().trained(weights), lr=1e-9, betas=BETAS, fused=True)
    out = torch.empty(len(x), len(decoder), device=place)
    l0 = 0.0
    with torch.no_grad():
        for line in sys.stdin:
            started = time.perf_counter()
            if line.strip() == "product":
                torch.mm(x, weights.encoder.T, out=out)
            elif line.strip() == "step":
                l0 = training_step(l1(), weights, centring, adam, x, 3e-4).l0
            if place.type == "cuda":
                torch.cuda.synchronize()
            if line.strip() == "about":
                print(l0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)
            else:
                print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
