"""Paired tests of one method against others over the same users, and Holm's correction for asking several times."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from recbole.evaluator import smaller_metrics
from scipy import stats

from recbole_oov.errors import RecBoleOOVError

TESTS = ("wilcoxon", "t")
_DECIMALS = 12
"""Of a user's gain; means over seeds that are equal differ in the 17th by the order in which they were summed."""


@dataclass(frozen=True)
class PairedTest:
    """One comparison: is ours better than a baseline, over the same users?

    Attributes:
        test: ``wilcoxon`` (signed ranks) or ``t`` (paired).
        baseline, group, metric: What was compared; empty where only numbers were given.
        n_users: Users with a value of both.
        n_equal: Users whose two values are equal, but for rounding; the signed-rank test leaves them out.
        difference: Mean over users of ours minus the baseline's, in the metric's own direction.
        statistic: W+ (the sum of the ranks of the users that ours serves better) or t; the right tail is ours.
        p_value: One-sided: of a statistic as large as this, if ours were no better.
        p_holm: The same, corrected for the whole family by Holm's method; NaN before that.
    """

    test: str
    n_users: int
    n_equal: int
    difference: float
    statistic: float
    p_value: float
    baseline: str = ""
    group: str = ""
    metric: str = ""
    p_holm: float = float("nan")


def paired_test(
    ours: np.ndarray, baseline: np.ndarray, *, test: str = "wilcoxon", bigger_is_better: bool = True
) -> PairedTest:
    """Test whether ours is better than a baseline, one-sided.

    Args:
        ours: One value a user, or one row a seed, whose mean then counts: the same user under another seed is not
            another observation. (U,) or (S, U)
        baseline: Of the same users in the same order. (U,) or (S', U)
        test: ``wilcoxon``, Wilcoxon's signed-rank test (1945) without the users whose values are equal, or ``t``,
            Student's paired t-test.
        bigger_is_better: False for metrics that are better when smaller.

    Returns:
        The result. Where no user's value differs, the p-value is 1.

    Raises:
        RecBoleOOVError: Fewer than two users, other users on one side than on the other, or values that are no numbers.
    """
    if test not in TESTS:
        raise RecBoleOOVError(f"paired_test: test={test!r} is not one of {', '.join(TESTS)}")
    first, second = _per_user("ours", ours), _per_user("baseline", baseline)
    if first.shape != second.shape:
        raise RecBoleOOVError(
            f"paired_test: ours has {len(first)} users and the baseline {len(second)}; a paired test needs the same "
            f"ones"
        )
    if len(first) < 2:
        raise RecBoleOOVError(f"paired_test: {len(first)} users are too few; a paired test needs at least 2")
    difference = first - second
    gain = np.round(difference if bigger_is_better else -difference, _DECIMALS)
    n_equal = int((gain == 0).sum())
    statistic, p_value = (0.0, 1.0) if n_equal == len(gain) else _one_sided(test, gain)
    return PairedTest(test, len(gain), n_equal, float(difference.mean()), statistic, p_value)


def _one_sided(test: str, gain: np.ndarray) -> tuple[float, float]:
    # "greater" is the right tail: the alternative is that the gains lie above zero.
    if test == "wilcoxon":
        # Users without a difference are taken out here: with them, older releases of scipy give up the exact test.
        result = stats.wilcoxon(gain[gain != 0], alternative="greater")
    else:
        with warnings.catch_warnings():
            # All gains equal: t is infinite, which is what it should be.
            warnings.simplefilter("ignore", RuntimeWarning)
            result = stats.ttest_1samp(gain, 0.0, alternative="greater")
    return float(result.statistic), float(result.pvalue)


def _per_user(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=float)
    if array.ndim not in (1, 2):
        raise RecBoleOOVError(f"paired_test: {name} has shape {array.shape}; it must be (users,) or (seeds, users)")
    if not np.isfinite(array).all():
        raise RecBoleOOVError(
            f"paired_test: {name} holds {int((~np.isfinite(array)).sum())} values that are NaN or infinite; leave "
            f"users without a value out on both sides"
        )
    averaged: np.ndarray = np.atleast_2d(array).mean(axis=0)
    return averaged


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """P-values corrected by Holm's step-down method: rejecting those below α errs at all with probability at most α.

    The i-th smallest of m becomes ``max over j <= i of min(1, (m - j + 1) p_(j))`` (Holm 1979, A Simple Sequentially
    Rejective Multiple Test Procedure). Same order and shape as given: (m,).

    Raises:
        RecBoleOOVError: A p-value is not between 0 and 1.
    """
    p = np.asarray(p_values, dtype=float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise RecBoleOOVError(f"holm: p-values must be a list of numbers from 0 to 1, not {p.tolist()}")
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return corrected


def compare(
    ours: pd.DataFrame,
    baselines: Mapping[str, pd.DataFrame],
    *,
    metrics: Iterable[str],
    groups: Iterable[str] = ("overall",),
    test: str = "wilcoxon",
) -> list[PairedTest]:
    """One family of paired tests: ours against every baseline, in every group and metric, corrected together.

    Args:
        ours: Per-user values as :func:`recbole_oov.evaluation.per_user.read_per_user` returns them.
        baselines: The same by method.
        metrics: Such as ``recall@10``; RecBole's metrics that are better when smaller are turned round.
        groups: Such as ``iv`` and ``oov``.
        test: As of :func:`paired_test`.

    Returns:
        A result a question, baseline after baseline.

    Raises:
        RecBoleOOVError: As :func:`paired_test`; a metric is missing, or methods were evaluated on other users.
    """
    metrics, groups = list(metrics), list(groups)
    results = []
    for name, frame in baselines.items():
        for group in groups:
            for metric in metrics:
                first, second = _values("ours", ours, group, metric), _values(name, frame, group, metric)
                if not first.index.equals(second.index):
                    odd = first.index.symmetric_difference(second.index)
                    raise RecBoleOOVError(
                        f"compare: {len(odd)} users of group {group} have {metric} of ours or of {name} alone (user "
                        f"{', '.join(map(str, odd[:5]))}); a paired test needs the same users: evaluate on one split"
                    )
                smaller = metric.partition("@")[0].lower() in smaller_metrics
                result = paired_test(first.to_numpy(), second.to_numpy(), test=test, bigger_is_better=not smaller)
                results.append(replace(result, baseline=name, group=group, metric=metric))
    corrected = holm([result.p_value for result in results])
    return [replace(result, p_holm=float(p)) for result, p in zip(results, corrected, strict=True)]


def _values(name: str, frame: pd.DataFrame, group: str, metric: str) -> pd.Series:
    chosen = frame[(frame["group"] == group) & (frame["metric"] == metric)]
    if chosen.empty:
        known = sorted({f"{g} {m}" for g, m in zip(frame["group"], frame["metric"], strict=True)})
        raise RecBoleOOVError(
            f"compare: {name} has no {metric} of group {group}; it has {', '.join(known) or 'nothing'}"
        )
    values = chosen.set_index("user")["value"].sort_index()
    if values.index.has_duplicates:
        twice = values.index[values.index.duplicated()][0]
        raise RecBoleOOVError(f"compare: {name} has several values of {metric} for user {twice} in group {group}")
    return values
