"""Confidence intervals over users."""

from __future__ import annotations

import numpy as np


def bootstrap_interval(
    values: np.ndarray, *, level: float = 0.95, n_resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over users.

    Args:
        values: One value a user, or one row a seed: users are drawn, and all of a user's seeds with the user,
            because the same user under another seed is not another observation. (U,) or (S, U)
        level: Coverage.
        n_resamples: Bootstrap samples.
        seed: Of the resampling.

    Returns:
        Lower and upper bound of the mean.
    """
    per_user = np.atleast_2d(values).mean(axis=0)
    random = np.random.default_rng(seed)
    n = len(per_user)
    # In blocks: a resample of a million users must not be held ten thousand times over.
    block = max(1, 10_000_000 // n)
    means = np.concatenate(
        [
            per_user[random.integers(0, n, size=(min(block, n_resamples - start), n))].mean(axis=1)
            for start in range(0, n_resamples, block)
        ]
    )
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)
