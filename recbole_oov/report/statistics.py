"""Means, intervals and paired tests of many columns of values at once, over the same users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from recbole.evaluator import smaller_metrics

from recbole_oov.evaluation.significance import holm, paired_test

Key = TypeVar("Key")

ALPHA = 0.05
"""Below it a corrected p-value is marked."""


@dataclass(frozen=True)
class Comparison:
    """One method against the reference, over the same users.

    Attributes:
        difference: Mean over users, the method's minus the reference's, in the metric's own direction.
        better: Whether the method is on the better side of the reference.
        p_value: Two-sided, of Wilcoxon's signed-rank test.
        p_holm: The same after Holm's correction over the whole table; NaN before that.
    """

    difference: float
    better: bool
    p_value: float
    p_holm: float = float("nan")

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below :data:`ALPHA`."""
        return self.p_holm < ALPHA


def smaller_is_better(metric: str) -> bool:
    """Whether RecBole counts a metric such as ``giniindex@10`` as better when it is smaller."""
    return metric.partition("@")[0].lower() in smaller_metrics


def bootstrap_intervals(
    values: np.ndarray, *, level: float = 0.95, n_resamples: int = 10_000, seed: int = 0
) -> np.ndarray:
    """Percentile bootstrap intervals of the means of several columns, from the same resamples of users.

    Every column gets the interval that :func:`recbole_oov.evaluation.intervals.bootstrap_interval` gives it alone; the
    users are drawn once for all of them, which is what takes the time.

    Args:
        values: One row a user. (U, C)
        level: Coverage.
        n_resamples: Bootstrap samples.
        seed: Of the resampling.

    Returns:
        Lower and upper bounds. (C, 2)
    """
    n = len(values)
    random = np.random.default_rng(seed)
    block = max(1, 10_000_000 // n)
    means = []
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        drawn = random.integers(0, n, size=(size, n))
        drawn += np.arange(size)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means.append(times.astype(float) @ values / n)
    tail = 100 * (1 - level) / 2
    bounds: np.ndarray = np.percentile(np.concatenate(means), [tail, 100 - tail], axis=0).T
    return bounds


def compare(ours: np.ndarray, reference: np.ndarray, metric: str) -> Comparison:
    """A two-sided paired test in the metric's own direction, not corrected yet.

    Two-sided means twice the smaller of the two one-sided p-values, since either of the two may be the better one.

    Args:
        ours: Of the seeds that both have; the mean over them counts. (S, U)
        reference: Of the same users in the same order. (S, U)
        metric: Such as ``recall@10``.

    Raises:
        RecBoleOOVError: As :func:`recbole_oov.evaluation.significance.paired_test`.
    """
    bigger = not smaller_is_better(metric)
    right = paired_test(ours, reference, bigger_is_better=bigger)
    left = paired_test(reference, ours, bigger_is_better=bigger)
    return Comparison(
        difference=right.difference,
        better=right.difference > 0 if bigger else right.difference < 0,
        p_value=min(1.0, 2 * min(right.p_value, left.p_value)),
    )


def corrected(tests: Mapping[Key, Comparison]) -> dict[Key, Comparison]:
    """The same tests with Holm's correction over all of them."""
    p_values = holm([test.p_value for test in tests.values()])
    return {key: replace(test, p_holm=float(p)) for (key, test), p in zip(tests.items(), p_values, strict=True)}
