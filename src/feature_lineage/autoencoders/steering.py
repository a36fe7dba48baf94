"""λ of an autoencoder's training, steered to a mean number of active features."""

from __future__ import annotations

import math
from dataclasses import dataclass

# λ times the penalty never rises above this share of what the reconstruction explains. A penalty that shrinks every activation to
# half its size, where an L1 dictionary is of little use, is 2/3 of it: with activations shrunk by a share s, 2s / (1 + s).
MOST = 2 / 3


@dataclass
class Steering:
    """λ in training: constant, or moved until the mean L0 is the target. All of it is in a checkpoint.

    `logl0` is the logarithm of L0, averaged over some ten steps, `slope` its change per step. λ follows the L0 that they predict
    for a twentieth of the run ahead, so that it does not run up while L0 is still falling to the target.

    Adam moves a weight by at most the learning rate a step, so L0 can fall no faster than that, whatever λ is. In a short run
    λ would rise all that time, and by the end of it the penalty would outweigh the error so far that every feature dies. `MOST`
    keeps it from that: a run too short for its target ends above it.
    """

    l1: float
    logl0: float | None = None
    slope: float = 0.0

    def observe(self, l0: float, target: float, steps: int, explained: float, penalty: float) -> None:
        """Take in one step of a run.

        Args:
            l0: mean number of active features per token in that step.
            target: what it should be.
            steps: of the run.
            explained: mean square that the reconstruction explains, the activations' variance less the squared error.
            penalty: what λ multiplies (`Variant.penalty`).
        """
        found = math.log(max(l0, 1e-3))
        before = found if self.logl0 is None else self.logl0
        horizon = max(10.0, steps / 20)
        self.logl0 = before + (found - before) / 10
        self.slope += (self.logl0 - before - self.slope) * 2 / horizon
        ahead = self.logl0 + self.slope * horizon - math.log(target)
        wanted = self.l1 * math.exp(max(-1.0, min(1.0, ahead)) / horizon)
        most = MOST * max(0.0, explained) / max(penalty, 1e-12)
        self.l1 = min(wanted, max(self.l1, most))
