"""Shares of an autoencoder's training run as steps."""

from __future__ import annotations

from collections.abc import Sequence


def resampling_steps(steps: int, at: Sequence[float], silent: float) -> tuple[list[int], int]:
    """When dead features are resampled, and after how many steps without activity a feature is dead.

    In a run too short to tell two shares apart they are one step. No resampling comes before a feature can be dead, and none after
    the last step, which would leave new features untrained.

    Args:
        steps: of the run.
        at, silent: shares of the run, as in `measures.Resampling`.

    Returns:
        Steps, ascending, and the number of steps.
    """
    quiet = max(1, round(silent * steps))
    found = {min(max(quiet, round(share * steps)), steps - 1) for share in at}
    return sorted(step for step in found if step >= quiet), quiet
