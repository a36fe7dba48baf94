"""What a step shows while it works: its log and its progress."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm.auto import tqdm

logger = logging.getLogger("feature_lineage")


def progress(total: float, unit: str, label: str) -> tqdm[Any]:
    """A progress bar with a rate; on a terminal it moves, in a file it adds a line every 15 s."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        desc=label,
        unit_scale=True,
        mininterval=0.5 if terminal else 15.0,
        dynamic_ncols=terminal,
        file=sys.stderr,
        leave=terminal,
    )
