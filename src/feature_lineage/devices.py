"""Where tensors live: on the GPU if there is one. A process uses one device, however many are visible."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from feature_lineage.progress import logger

if TYPE_CHECKING:
    import torch

DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, of AMD, and of either under Windows
WINDOWS_ON_GPU = 512
SHARE_OF_GPU = 1 / 8  # of its memory, for the largest matrix of a pass; it is held up to three times


def has_gpu() -> bool:
    """Whether this machine shows a GPU to this process, whatever torch can do with it.

    By the drivers' device files: Snakemake asks too, and would wait seconds for torch.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(Path(driver).exists() for driver in DRIVERS)


def device() -> torch.device:
    """The first visible GPU if torch can use one, else the CPU; the log says which, once."""
    import torch  # not by Snakemake, which reads this module for `has_gpu`

    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _log(place)
    return place


@cache
def _log(place: torch.device) -> None:
    import torch

    build = f"torch {torch.__version__}, CUDA {torch.version.cuda or 'none'}"
    if place.type == "cuda":
        logger.info("computing on %s (%s)", torch.cuda.get_device_name(place), build)
    elif has_gpu():
        remedy = (
            "this job may not use it, or its driver is older than that CUDA: see what `nvidia-smi` says"
            if torch.version.cuda or torch.version.hip
            else f"install a build of torch {torch.__version__.partition('+')[0]} with CUDA, which PyPI has for Linux"
        )
        logger.warning("this machine has a GPU that torch cannot use (%s), computing on the CPU; %s", build, remedy)
    else:
        logger.info("computing on the CPU (%s)", build)


def windows_at_once(place: torch.device, length: int, width: int, on_cpu: int = 64) -> int:
    """How many windows to read in one pass.

    Args:
        place: device of the model.
        length: tokens of a window.
        width: numbers that are held of each token, in float32: of the logits, say.
        on_cpu: windows on a CPU. There larger passes are no faster.
    """
    if place.type != "cuda":
        return on_cpu
    import torch

    most = SHARE_OF_GPU * torch.cuda.get_device_properties(place).total_memory / 4
    return max(1, min(WINDOWS_ON_GPU, int(most // (length * width))))
