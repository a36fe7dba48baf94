"""Every stream of random numbers of a study, in one place, so that no two are the same numbers.

numpy's `SeedSequence` pads what it is given with zeros: `[seed, 5]`, `[seed, 5, 0]` and `[seed, 5, 0, 0]` are one stream. So a number
here belongs to streams whose coordinates cannot be padded into one another: `entropy` refuses those that could.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np


class Stream(Enum):
    """A stream: its number, and how many coordinates tell its draws apart."""

    TRAINING = 1, 0  # windows that a language model is trained on
    AUTOENCODER = 2, 0  # windows that an autoencoder is trained on
    POOL = 2, 1  # windows that dead features are resampled from, by step, which is never 0
    SAMPLE = 3, 0  # windows that all models are compared on
    SHIFTS = 4, 0  # shares of a corpus by which the alignment null shifts it
    BOOTSTRAP = 5, 0  # documents of each replicate
    SIDES = 6, 1  # halves of the sample that explanations are made and scored on, by corpus
    EXCERPTS = 7, 2  # excerpts of a feature, by feature and half
    DARE = 8, 3  # elements of a change that a merge keeps, by hashes of the names of merge, parent and tensor


def entropy(seed: int, stream: Stream, *place: int) -> list[int]:
    """What a numpy generator is seeded with: `numpy.random.default_rng(entropy(…))`.

    Args:
        seed: of the study, or of an autoencoder (`study.autoencoder_seed`); below 2**32, as a larger one is two words.
        stream: the stream.
        place: its coordinates.

    Raises:
        ValueError: another number of coordinates than the stream has, or coordinates that would make it another stream.
    """
    number, coordinates = stream.value
    if len(place) != coordinates:
        raise ValueError(f"{stream.name} has {coordinates} coordinates, not {len(place)}")
    if not 0 <= seed < 2**32 or any(not 0 <= one < 2**32 for one in place):
        raise ValueError(f"{stream.name}: {seed} and {place} are not all below 2**32, one word each")
    if stream is Stream.POOL and not any(place):
        raise ValueError(f"{stream.name}: a step of 0 would make it {Stream.AUTOENCODER.name}")
    return [seed, number, *place]


def torch_seed(words: Sequence[int]) -> int:
    """The seed of the torch generator that draws new features, of an autoencoder's seed and the step; the weights' is its seed itself.

    numpy's streams may begin at the same words and share no number with it: torch's generator is another.
    """
    return int(np.random.SeedSequence(words).generate_state(1)[0])
