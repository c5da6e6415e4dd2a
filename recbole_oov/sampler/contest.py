"""A contest of samplers on validation: what is known of each, and which one wins."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_oov.sampler.drawing import Drawing

Values = NDArray[np.floating[Any]]


@dataclass
class Contender:
    """One sampler in the comparison on validation.

    Attributes:
        name, options: The sampler's.
        drawing: Draws with it.
        state: Weights, optimiser and loader, to go on with.
        by_the_last: Whether it counts where the sampler leads, the mean of the latest half of its evaluations, and not
            how far it came. From shared weights the best is often the first, whatever the sampler.
        epochs: Trained so far.
        scores: At each evaluation, larger is better.
    """

    name: str
    options: dict[str, Any]
    drawing: Drawing
    state: dict[str, Any]
    by_the_last: bool = False
    epochs: int = 0
    scores: list[float] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The best so far, or the mean of the latest half."""
        if not self.scores:
            return -math.inf
        return float(np.mean(self.scores[len(self.scores) // 2 :])) if self.by_the_last else max(self.scores)

    def judged(self, values: Values) -> None:
        """Take in an evaluation: the metric of each validation user."""
        self.scores.append(float(values.mean()))


def halving_sizes(n: int) -> list[int]:
    """How many contenders each round of successive halving has: n, then half, down to two."""
    sizes = [n]
    while sizes[-1] > 2:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes
