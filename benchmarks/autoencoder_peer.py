"""Worker of autoencoder.py: SAELens's training step, in the peers' environment."""

import resource
import sys
import time

import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.saes.sae import TrainStepInput
from safetensors.torch import load_file


def main() -> None:
    """Answer `step <variant> [float32 | tf32 | autocast]` and `about` on standard input."""
    torch.set_num_threads(int(sys.argv[2]))
    k = int(sys.argv[3])
    place = sys.argv[4]
    given = load_file(sys.argv[1])
    x, decoder = given["x"].to(place), given["decoder"]
    shape = {"d_in": x.shape[1], "d_sae": len(decoder), "device": place}

    def made(name: str) -> tuple:
        if name == "l1":
            sae = StandardTrainingSAE(StandardTrainingSAEConfig(**shape, l1_coefficient=3e-4))
        elif name == "topk":
            sae = TopKTrainingSAE(TopKTrainingSAEConfig(**shape, k=k))
        elif name == "batchtopk":
            sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shape, k=k))
        else:
            sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**shape, l0_coefficient=3e-4))
        start = {
            "W_enc": decoder.T.contiguous(),
            "b_enc": given["bias"],
            "W_dec": decoder,
            "b_dec": torch.zeros(x.shape[1]),
        }
        sae.load_state_dict(start, strict=False)
        return sae, torch.optim.Adam(sae.parameters(), lr=1e-9, betas=(0.9, 0.9999))

    current, sae, adam = "", None, None
    l0 = 0.0
    for line in sys.stdin:
        question, *arguments = line.split()
        if question == "about":
            print(l0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, flush=True)
            continue
        if arguments[0] != current:
            sae = adam = None
            current = arguments[0]
            sae, adam = made(current)
        precision = arguments[1] if len(arguments) > 1 else "float32"
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        started = time.perf_counter()
        given_step = TrainStepInput(
            sae_in=x, coefficients={"l1": 3e-4, "l0": 3e-4}, dead_neuron_mask=None, n_training_steps=0,
            is_logging_step=False,
        )  # fmt: skip
        with torch.autocast(place, torch.bfloat16, enabled=precision == "autocast"):
            output = sae.training_forward_pass(given_step)
        adam.zero_grad()
        output.loss.backward()
        adam.step()
        if place == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        acts = output.feature_acts
        l0 = float((acts.to_dense() if acts.is_sparse else acts).gt(0).sum() / len(x))
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
