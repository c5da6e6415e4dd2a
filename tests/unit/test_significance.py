"""Paired tests and Holm's correction, against values known by hand, by enumeration or in closed form."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from recbole_oov.errors import RecBoleOOVError
from recbole_oov.evaluation.significance import compare, holm, paired_test

ZEROS = np.zeros(5)


def test_wilcoxon_of_five_gains() -> None:
    result = paired_test(np.array([1.0, 2, 3, 4, 5]), ZEROS)
    assert (result.statistic, result.p_value) == (15, pytest.approx(1 / 32))
    assert (result.difference, result.n_users, result.n_equal) == (3, 5, 0)
    assert paired_test(ZEROS, np.array([1.0, 2, 3, 4, 5])).p_value == 1


def test_wilcoxon_is_the_share_of_sign_patterns_at_least_as_good() -> None:
    gains = np.array([0.3, -0.1, 0.7, 0.2, -0.4, 0.9, 0.6, 0.5])
    ranks = np.abs(gains).argsort().argsort() + 1
    observed = ranks[gains > 0].sum()
    sums = [np.dot(signs, ranks) for signs in itertools.product([0, 1], repeat=len(gains))]
    result = paired_test(gains, np.zeros(8))
    assert result.statistic == observed
    assert result.p_value == pytest.approx(np.mean(np.array(sums) >= observed))


def test_wilcoxon_leaves_equal_users_out() -> None:
    ours = np.array([1.0, 2, 3, 4, 5, 7, 7, 7])
    result = paired_test(ours, np.array([0.0, 0, 0, 0, 0, 7, 7, 7]))
    assert (result.n_users, result.n_equal, result.p_value) == (8, 3, pytest.approx(1 / 32))


def test_t_of_three_gains_in_closed_form() -> None:
    result = paired_test(np.array([1.0, 2, 3]), np.zeros(3), test="t")
    t = 2 * math.sqrt(3)
    assert result.statistic == pytest.approx(t)
    # Student's distribution with two degrees of freedom: F(t) = 1/2 + t / (2 sqrt(2 + t^2)).
    assert result.p_value == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)))


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_the_right_tail_is_ours(test: str) -> None:
    random = np.random.default_rng(0)
    ours, baseline = random.normal(0.5, 1, 200), random.normal(0, 1, 200)
    assert paired_test(ours, baseline, test=test).p_value < 1e-4
    assert paired_test(baseline, ours, test=test).p_value > 1 - 1e-4
    assert paired_test(baseline, ours, test=test, bigger_is_better=False).p_value < 1e-4
    assert paired_test(baseline, ours, test=test, bigger_is_better=False).difference < 0


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_of_equal_methods_one_in_twenty_is_called_better(test: str) -> None:
    random = np.random.default_rng(1)
    n = 600
    p = np.array([paired_test(random.normal(size=40), random.normal(size=40), test=test).p_value for _ in range(n)])
    for level in (0.05, 0.5):
        assert abs((p < level).mean() - level) < 4 * math.sqrt(level * (1 - level) / n)


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_seeds_in_another_order_are_no_difference(test: str) -> None:
    by_seed = np.tile([[0.1], [0.2], [0.3]], 40)
    assert (by_seed.mean(axis=0) != by_seed[::-1].mean(axis=0)).any(), "the sums differ in their last bit"
    result = paired_test(by_seed, by_seed[::-1], test=test)
    assert (result.p_value, result.statistic, result.n_equal) == (1, 0, 40)


def test_gains_that_are_equal_but_for_rounding_share_a_rank() -> None:
    ours = np.array([0.1 + 0.2, 0.3, 0.3, -0.3, -0.1])
    assert paired_test(ours, ZEROS).statistic == paired_test(np.array([3.0, 3, 3, -3, -1]), ZEROS).statistic == 10.5


@pytest.mark.parametrize("test", ["wilcoxon", "t"])
def test_methods_that_never_differ(test: str) -> None:
    result = paired_test(np.arange(5.0), np.arange(5.0), test=test)
    assert (result.p_value, result.statistic, result.n_equal, result.difference) == (1, 0, 5, 0)


def test_the_same_gain_for_everybody() -> None:
    assert paired_test(ZEROS + 0.5, ZEROS, test="t").p_value == 0
    assert paired_test(ZEROS - 0.5, ZEROS, test="t").p_value == 1


def test_seeds_of_a_user_are_one_observation() -> None:
    random = np.random.default_rng(2)
    ours, baseline = random.normal(0.1, 1, 50), random.normal(size=50)
    once = paired_test(ours, baseline, test="t")
    assert paired_test(np.stack([ours] * 5), baseline, test="t") == once
    spread = np.stack([ours + 3, ours - 3])
    assert paired_test(spread, np.stack([baseline] * 2), test="t").p_value == pytest.approx(once.p_value)


@pytest.mark.parametrize(
    ("ours", "baseline", "message"),
    [
        (np.array([1.0, np.nan]), np.zeros(2), "ours holds 1 values that are NaN or infinite"),
        (np.zeros(2), np.array([np.inf, np.nan]), "baseline holds 2 values that are NaN or infinite"),
        (np.zeros(3), np.zeros(2), "ours has 3 users and the baseline 2"),
        (np.zeros(1), np.zeros(1), "1 users are too few"),
        (np.zeros((2, 2, 2)), np.zeros(2), r"ours has shape \(2, 2, 2\)"),
    ],
)
def test_values_that_cannot_be_compared(ours: np.ndarray, baseline: np.ndarray, message: str) -> None:
    with pytest.raises(RecBoleOOVError, match=message):
        paired_test(ours, baseline)


def test_an_unknown_test() -> None:
    with pytest.raises(RecBoleOOVError, match="'z' is not one of wilcoxon, t"):
        paired_test(ZEROS, ZEROS, test="z")


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.5, 0.9, 0.6]), [1, 1, 1])
    np.testing.assert_allclose(holm([0.02]), [0.02])
    np.testing.assert_allclose(holm([0.01, 0.01]), [0.02, 0.02])
    assert len(holm([])) == 0


def test_holm_keeps_the_order_and_lies_between_raw_and_bonferroni() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        p = random.uniform(size=random.integers(1, 9)) ** 3
        corrected = holm(p)
        assert (corrected >= p).all()
        assert (corrected <= np.minimum(1, p * len(p)) + 1e-12).all()
        assert (np.diff(corrected[p.argsort()]) >= 0).all()


@pytest.mark.parametrize("p", [[0.1, float("nan")], [1.5], [-0.1], [[0.1]]])
def test_holm_refuses_what_is_no_p_value(p: list[float]) -> None:
    with pytest.raises(RecBoleOOVError, match="numbers from 0 to 1"):
        holm(p)


def table(values: dict[tuple[str, str], list[float]], users: list[str]) -> pd.DataFrame:
    return pd.concat(
        pd.DataFrame({"user": users, "group": group, "metric": metric, "value": numbers})
        for (group, metric), numbers in values.items()
    )


USERS = ["u1", "u2", "u3", "u4", "u5"]
GAIN, LEVEL = [1.0, 2, 3, 4, 5], [0.0, 0, 0, 0, 0]


def test_a_family_is_aligned_by_user_and_corrected_together() -> None:
    ours = table({("iv", "recall@10"): GAIN, ("oov", "recall@10"): LEVEL}, USERS)
    base = table({("iv", "recall@10"): LEVEL, ("oov", "recall@10"): LEVEL}, USERS)
    shuffled = table({("iv", "recall@10"): GAIN[::-1], ("oov", "recall@10"): LEVEL}, USERS[::-1])
    found = compare(ours, {"BPR": base, "self": shuffled}, metrics=["recall@10"], groups=["iv", "oov"])
    assert [(r.baseline, r.group, r.p_value) for r in found] == [
        ("BPR", "iv", pytest.approx(1 / 32)),
        ("BPR", "oov", 1),
        ("self", "iv", 1),
        ("self", "oov", 1),
    ]
    assert [r.p_holm for r in found] == [pytest.approx(4 / 32), 1, 1, 1]


def test_metrics_that_are_better_when_smaller() -> None:
    ours, base = table({("overall", "rmse"): LEVEL}, USERS), table({("overall", "rmse"): GAIN}, USERS)
    (result,) = compare(ours, {"BPR": base}, metrics=["rmse"])
    assert (result.p_value, result.difference) == (pytest.approx(1 / 32), -3)


def test_methods_that_cannot_be_compared() -> None:
    ours = table({("overall", "recall@10"): GAIN}, USERS)
    other = table({("overall", "recall@10"): GAIN}, [*USERS[:4], "u6"])
    with pytest.raises(RecBoleOOVError, match=r"2 users of group overall have recall@10 .* alone \(user u5, u6\)"):
        compare(ours, {"BPR": other}, metrics=["recall@10"])
    with pytest.raises(RecBoleOOVError, match="BPR has no ndcg@10 of group overall; it has overall recall@10"):
        compare(table({("overall", "ndcg@10"): GAIN}, USERS), {"BPR": ours}, metrics=["ndcg@10"])
    with pytest.raises(RecBoleOOVError, match="ours has several values of recall@10 for user u1"):
        compare(pd.concat([ours, ours]), {"BPR": ours}, metrics=["recall@10"])
