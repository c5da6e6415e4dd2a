"""A contest of samplers on validation: what is known of each, and which one wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_oov.evaluation.significance import paired_test
from recbole_oov.sampler.drawing import Drawing

Values = NDArray[np.floating[Any]]

_SIGNIFICANT = 0.05
"""The p below which a contender is behind the best."""


@dataclass
class Contender:
    """One sampler in the comparison on validation.

    Attributes:
        name, options: The sampler's.
        drawing: Draws with it.
        state: Weights, optimiser, loader and random numbers, to go on with.
        by_the_last: Whether it counts where the sampler leads, the mean of the latest half of its evaluations, and not
            how far it came. From shared weights the best is often the first, whatever the sampler.
        p: Its probability; 0 where none were learned.
        epochs: Trained so far.
        values: At each evaluation the metric of each validation user, larger is better.
    """

    name: str
    options: dict[str, Any]
    drawing: Drawing
    state: dict[str, Any]
    by_the_last: bool = False
    p: float = 0.0
    epochs: int = 0
    values: list[Values] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The best so far, or the mean of the latest half."""
        if not self.values:
            return -math.inf
        return float(self.lately.mean()) if self.by_the_last else max(float(own.mean()) for own in self.values)

    @property
    def lately(self) -> Values:
        """Each user's mean over the latest half of the evaluations."""
        means: Values = np.mean(self.values[len(self.values) // 2 :], axis=0)
        return means

    def judged(self, values: Values) -> None:
        """Take in an evaluation: the metric of each validation user."""
        self.values.append(values)


def most_probable_of_the_best(contenders: Sequence[Contender], of_the_trunk: Contender | None = None) -> Contender:
    """The most probable of those that are not significantly behind the one with the best score.

    Paired over users (Student's t, one-sided at 5 %): some hundred users tell samplers that are close no better apart
    than chance. Of a single user the best is taken.

    Args:
        of_the_trunk: The contender whose sampler trained the weights that all start from. None with a lower score than
            its wins: a level that came with the weights says nothing of what a sampler reaches from the beginning. It
            wins itself where no other one is left: what it reaches is known, and can be had where the other fails.
    """
    best = max(contenders, key=lambda contender: contender.score)
    if len(best.lately) < 2:
        return best
    least = of_the_trunk.score if of_the_trunk is not None else -math.inf
    close = [
        contender
        for contender in contenders
        if contender.score >= least and paired_test(best.lately, contender.lately, test="t").p_value >= _SIGNIFICANT
    ]
    others = [contender for contender in close if contender is not of_the_trunk]
    return max(others or close, key=lambda contender: contender.p)


def halving_sizes(n: int) -> list[int]:
    """How many contenders each round of successive halving has: n, then half, down to two."""
    sizes = [n]
    while sizes[-1] > 2:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes
