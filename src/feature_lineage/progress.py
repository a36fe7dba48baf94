"""What a step shows while it works: its log and its progress."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm.auto import tqdm

logger = logging.getLogger("feature_lineage")
_work: ContextVar[str] = ContextVar("work", default="")


@contextmanager
def named(work: str) -> Iterator[None]:
    """Name the work of this block: progress shows the name, for jobs that share a terminal."""
    token = _work.set(work)
    try:
        yield
    finally:
        _work.reset(token)


def progress(total: float | None, unit: str, phase: str = "") -> tqdm[Any]:
    """A progress bar with a rate; on a terminal it moves, in a file it adds a line every 15 s.

    Args:
        total: units in all; None if not known.
        unit: what is counted.
        phase: what is done to them, where the work has several phases.
    """
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        desc=": ".join(filter(None, (_work.get(), phase))) or None,
        unit_scale=True,
        mininterval=0.5 if terminal else 15.0,
        dynamic_ncols=terminal,
        file=sys.stderr,
        leave=terminal,
    )
