"""A contest of samplers on validation: what is known of each, and how many go on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from recbole_oov.sampler.drawing import Drawing

FOLLOW_THE_FIRST = ("gradient", "lot")
"""Searches that train one sampler to the end before others: where no budget is given, theirs follows what that took."""

BUDGET_OF_COMPARISONS = 56
"""That of the others, in epochs of dns, where none is given: nothing is known yet of how long a training is."""


@dataclass
class Contender:
    """One sampler in a comparison on validation.

    Attributes:
        name: What it is called among the candidates.
        drawing: Draws with it.
        state: Weights, optimiser, loader and random numbers, to go on with.
        epochs: Trained so far.
        score: The best validation so far, larger is better.
    """

    name: str
    drawing: Drawing
    state: dict[str, Any]
    epochs: int = 0
    score: float = -math.inf


def halving_sizes(n: int) -> list[int]:
    """How many contenders each round of successive halving has: n, then half, down to two."""
    sizes = [n]
    while sizes[-1] > 2:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes
