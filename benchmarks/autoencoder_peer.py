"""Worker of autoencoder.py: SAELens's training step, in the peers' environment."""

import resource
import sys
import time

import torch
from sae_lens import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file


def main() -> None:
    """Answer `step` and `about` on standard input."""
    torch.set_num_threads(int(sys.argv[2]))
    place = "cuda" if torch.cuda.is_available() else "cpu"
    given = load_file(sys.argv[1])
    x, decoder = given["x"].to(place), given["decoder"]
    config = StandardTrainingSAEConfig(d_in=x.shape[1], d_sae=len(decoder), device=place, l1_coefficient=3e-4)
    sae = StandardTrainingSAE(config)
    sae.load_state_dict(
        {"W_enc": decoder.T.contiguous(), "b_enc": given["bias"], "W_dec": decoder, "b_dec": torch.zeros(x.shape[1])}
    )
    adam = torch.optim.Adam(sae.parameters(), lr=1e-9, betas=(0.9, 0.9999))
    l0 = 0.0
    for line in sys.stdin:
        started = time.perf_counter()
        if line.strip() == "step":
            given_step = TrainStepInput(
                sae_in=x, coefficients={"l1": 3e-4}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False
            )
            output = sae.training_forward_pass(given_step)
            adam.zero_grad()
            output.loss.backward()
            adam.step()
            l0 = float((output.feature_acts > 0).sum() / len(x))
        if place == "cuda":
            torch.cuda.synchronize()
        if line.strip() == "about":
            print(l0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)
        else:
            print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
