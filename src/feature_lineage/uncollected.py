"""Imports of large packages, without a search for garbage at every few hundred objects of theirs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep Python's garbage collector off in this block, and leave it as it was.

    What is imported stays. transformers and TransformerLens make so many objects that to look through them, a thousand times while they
    load, takes a sixth of the time.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
