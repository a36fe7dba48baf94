"""What each number of the report means, in a line; the documentation's page “What the numbers mean” has more on each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Number(NamedTuple):
    """A number's name on the page, and what it means."""

    name: str
    meaning: str


PAGE = "docs/numbers.md"

NUMBERS: Mapping[str, Number] = {
    "kept": Number(
        "kept",
        "The parent's own dictionary reads both models, and the feature fires the same way: r between its activations on the same "
        "tokens is above the threshold. For a child's feature, read on the parent: already there.",
    ),
    "found": Number(
        "found again",
        "Not kept, but the child's own dictionary has a feature that matches it above the threshold: in the same direction where the "
        "cosine is as high as between dictionaries of one model, else rotated.",
    ),
    "drifted": Number("drifted", "Neither, and r is between .5 and the threshold: it fires partly on other tokens."),
    "lost": Number("lost", "Neither, and r is .5 or less, or it is silent on the child."),
    "new": Number("new", "A child's feature that its own dictionary does not read on any parent above the threshold."),
    "placebo": Number(
        "same-data placebo",
        "The parent trained on with its own data, by the fine-tune's schedule. It learns nothing that is new in kind, so what it "
        "loses, training alone loses; the fine-tune's effect is the difference.",
    ),
    "persisting": Number(
        "persists, by the paper's measure",
        "The best match among the features of the child's own dictionary is above the threshold. The child's dictionary is another "
        "one, so most misses are the dictionaries' doing.",
    ),
    "ceiling": Number(
        "ceiling",
        "The same measure between two dictionaries of one model, between which nothing was trained: about the most that can persist, "
        "or be found again.",
    ),
    "reproducible": Number(
        "reproducible",
        "A feature that at least half of its model's other dictionaries have, too. Judged on one half of the documents; its verdict "
        "is read on the other.",
    ),
    "interval": Number(
        "95 % interval",
        "From a bootstrap over documents. With several autoencoder seeds, from the lowest end to the highest; seeds may differ by more.",
    ),
    "weights": Number(
        "weights moved",
        "Distance of the child's weights from the parent's over the norm of the parent's: of all, and of the block whose activations "
        "are read. It shows that the placebo moved, too.",
    ),
    "reading": Number(
        "reading",
        "L0 and variance explained of the parent's dictionary on its own model → on the child. Where L0 is off by more than half, or "
        "less than 80 % of the variance explained is left, it is poor: a feature that is kept is kept, one that is not may only be "
        "misread.",
    ),
    "margin": Number(
        "margin",
        "Median over features of r(best in the child) − r(best in another dictionary of the parent). It needs no threshold; at 0 the "
        "child holds the features as well as another dictionary of the parent does.",
    ),
    "pw_mcc": Number(
        "PW-MCC, mean max cosine",
        "How alike two dictionaries point: mean cosine of the best one-to-one assignment of decoder vectors, and mean of each one's "
        "best cosine; beside those of two dictionaries of the parent. Above 16,384 features PW-MCC is not computed.",
    ),
}
