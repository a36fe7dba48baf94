"""A sparse autoencoder as it is saved and used: f = activation((x - b_dec) W_enc + b_enc), x̂ = f W_dec + b_dec.

The form is SAELens's, so that it loads there too. All that precedes the encoder's matrix in training (paper, equation (1)) is
linear and folded into these weights (`variants.export`): a reader of the weights needs to know nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from feature_lineage.errors import InputError
from feature_lineage.store.checksums import is_foreign
from feature_lineage.store.formats import read_json, read_tensors, write_json, write_tensors

# What is done to each token's activations before the encoder, and undone after the decoder: nothing; a norm of √n; mean 0 and standard
# deviation 1. No weight can hold it, as it differs from token to token.
Scaling = Literal["none", "constant_norm_rescale", "layer_norm"]
SCALINGS: tuple[str, ...] = get_args(Scaling)
_EPSILON = 1e-5  # added to the standard deviation, as SAELens does
SAELENS_FORMAT = "6.0.0"  # the version whose form of cfg.json this is; without it SAELens takes an older one


def activate(pre: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """Activations of pre-activations: themselves where they exceed their threshold, which is not negative, else 0."""
    return pre * (pre > threshold)


@dataclass(frozen=True)
class SparseAutoencoder:
    """An autoencoder: `W_enc` [n, m], `b_enc` [m], `W_dec` [m, n], `b_dec` [n]; float32. Rows of `W_dec` have unit norm if it was trained here.

    With `k` the k largest pre-activations of a token are active, if positive; with `threshold` [m] those above it; else those
    above 0. `scaling` is what precedes all that, token by token.
    """

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor
    threshold: torch.Tensor | None = None
    k: int | None = None
    source: str = "autoencoder"  # where it was loaded from, for messages
    scaling: str = "none"

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Feature activations [tokens, m] of activations [tokens, n]; equation (2).

        Raises:
            InputError: the activations are of another width.
        """
        if x.shape[1] != (width := self.W_enc.shape[0]):
            raise InputError(
                f"{self.source}: reads activations of {width} elements, the model's hook point gives {x.shape[1]}: it was trained on another "
                "model or hook point; set autoencoder.hook to that one or name another autoencoder, and delete it if it was trained here"
            )
        shift, scale = self._scaled(x)
        x = (x - shift) * scale if self.scaling != "none" else x
        pre = torch.addmm(self.b_enc, x - self.b_dec, self.W_enc)
        if self.threshold is not None:
            return activate(pre, self.threshold)
        if self.k is not None:
            largest = pre.topk(self.k, dim=1)
            return torch.zeros_like(pre).scatter_(1, largest.indices, largest.values.relu())
        return pre.relu_()

    def decode(self, features: torch.Tensor, x: torch.Tensor | None = None) -> torch.Tensor:
        """Reconstructions [tokens, n] of feature activations [tokens, m]; equation (3).

        Args:
            features: of `x`.
            x: the activations [tokens, n], of which each token's scaling is taken; not needed without one.
        """
        found = torch.addmm(self.b_dec, features, self.W_dec)
        if self.scaling == "none":
            return found
        if x is None:
            raise ValueError(f"a reconstruction with {self.scaling} needs the activations")
        shift, scale = self._scaled(x, out=True)
        return found / scale + shift

    def _scaled(self, x: torch.Tensor, out: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """What is subtracted from each token's activations, and what they are then multiplied by; both [tokens, 1]."""
        if self.scaling == "constant_norm_rescale":
            norm = x.norm(dim=1, keepdim=True)
            return x.new_zeros(()), x.shape[1] ** 0.5 / norm.clamp_min(1e-12)  # zeros stay zeros
        if self.scaling == "layer_norm":
            mean = x.mean(dim=1, keepdim=True)
            return mean, 1 / ((x - mean).std(dim=1, keepdim=True) + (0 if out else _EPSILON))
        return x.new_zeros(()), x.new_ones(())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its tensors by name."""
        found = {"W_enc": self.W_enc, "b_enc": self.b_enc, "W_dec": self.W_dec, "b_dec": self.b_dec}
        return found if self.threshold is None else found | {"threshold": self.threshold}


def save_autoencoder(
    autoencoder: SparseAutoencoder, folder: str | Path, hook: str, context: int, record: dict[str, Any]
) -> None:
    """Write `sae_weights.safetensors` and `cfg.json`, in the form that SAELens loads."""
    folder = Path(folder)
    config: dict[str, Any] = {"architecture": "standard"}
    if autoencoder.threshold is not None:
        config = {"architecture": "jumprelu"}
    elif autoencoder.k is not None:
        config = {"architecture": "topk", "k": autoencoder.k, "rescale_acts_by_decoder_norm": False}
    config |= {
        "d_in": autoencoder.W_enc.shape[0],
        "d_sae": autoencoder.W_enc.shape[1],
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": autoencoder.scaling,
        "reshape_activations": "hook_z"
        if hook.endswith(".attn.hook_z")
        else "none",  # SAELens reads heads, and flattens them
        "metadata": {
            "sae_lens_version": SAELENS_FORMAT,
            "hook_name": hook,
            "context_size": context,
            "prepend_bos": False,
        },
    }
    write_json(folder / "cfg.json", config, record)
    tensors = {name: tensor.cpu().numpy() for name, tensor in autoencoder.tensors().items()}
    write_tensors(folder / "sae_weights.safetensors", tensors, record)


def load_autoencoder(folder: str | Path, place: torch.device | str = "cpu") -> SparseAutoencoder:
    """Load what `save_autoencoder` wrote.

    Raises:
        InputError: a file is missing, damaged, made elsewhere or of another kind of autoencoder; tensors do not fit together or are not finite.
    """
    weights, file = Path(folder) / "sae_weights.safetensors", Path(folder) / "cfg.json"
    for path in (weights, file):
        if is_foreign(path):
            raise InputError(
                f"{path}: was made elsewhere, not by a study of this project; name its folder under `autoencoders`, or read it with "
                "`autoencoders.formats.reading.read_release`"
            )
    tensors = read_tensors(weights)
    config = read_json(file)
    kinds = {"architecture": ("standard", "topk", "jumprelu"), "apply_b_dec_to_input": (True,), "dtype": ("float32",)}
    kinds |= {"normalize_activations": SCALINGS, "reshape_activations": ("none", "hook_z")}
    for key, known in kinds.items():
        if (found := config.get(key, "nothing")) not in known:
            raise InputError(
                f"{file}: {key} is {found}, and this study's own autoencoders have {' or '.join(map(str, known))}; if it was made elsewhere, name "
                "its folder under `autoencoders`, which reads other kinds, else delete both files"
            )
    n, m, k = (config.get(key) for key in ("d_in", "d_sae", "k"))
    if (config["architecture"] == "topk") != (isinstance(k, int) and isinstance(m, int) and 0 < k <= m):
        raise InputError(f"{file}: k is {k} of {m} features; delete both files")
    expected: dict[str, tuple[int, ...]] = {"W_enc": (n, m), "b_enc": (m,), "W_dec": (m, n), "b_dec": (n,)}
    if config["architecture"] == "jumprelu":
        expected["threshold"] = (m,)
    if (found := {name: tensor.shape for name, tensor in tensors.items()}) != expected:
        raise InputError(f"{weights}: tensors of shapes {found} where cfg.json means {expected}; delete both")
    for name, tensor in tensors.items():
        if tensor.dtype != np.float32 or not np.isfinite(tensor).all():
            raise InputError(
                f"{weights}: tensor {name} ({tensor.dtype}) holds NaN or infinity, or is not float32; delete both files"
            )
    found = {name: torch.from_numpy(tensor).to(place) for name, tensor in tensors.items()}
    return SparseAutoencoder(**found, k=k, source=str(weights), scaling=config["normalize_activations"])
