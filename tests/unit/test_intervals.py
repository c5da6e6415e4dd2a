"""Ranks, their metrics and intervals, against known answers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_oov.errors import RecBoleOOVError
from recbole_oov.evaluation.intervals import bootstrap_interval
from recbole_oov.evaluation.ranks import metrics_of_ranks, target_ranks


class Scorer(torch.nn.Module):
    """Gives every user the same scores."""

    USER_ID = "user_id"

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = torch.tensor(scores)

    def full_sort_predict(self, interaction: Interaction) -> torch.Tensor:
        return self.scores.expand(len(interaction), -1).clone()


def loader(targets: list[int]) -> list[tuple[Interaction, None, torch.Tensor, torch.Tensor]]:
    users = torch.arange(1, len(targets) + 1)
    return [(Interaction({"user_id": users}), None, torch.arange(len(targets)), torch.tensor(targets))]


def split(pairs: list[tuple[int, int]], n_users: int, n_items: int) -> SimpleNamespace:
    users, items = (torch.tensor(column) for column in zip(*pairs, strict=True))
    return SimpleNamespace(
        inter_feat=Interaction({"user_id": users, "item_id": items}),
        uid_field="user_id",
        iid_field="item_id",
        user_num=n_users,
        item_num=n_items,
    )


def test_rank_counts_better_items_and_leaves_out_history_and_padding() -> None:
    model, data = Scorer([9.0, 0.5, 0.4, 0.3, 0.2]), loader([3, 3])
    users, items, ranks = target_ranks(model, data)
    assert (users.tolist(), items.tolist(), ranks.tolist()) == ([1, 2], [3, 3], [2, 2])
    _, _, masked = target_ranks(model, data, mask=[split([(1, 1), (2, 1), (2, 2), (2, 3)], 3, 5)])
    assert masked.tolist() == [1, 0], "user 2's held-out item stays although the history has it"


def test_a_constant_scorer_ranks_as_chance_does() -> None:
    n_items, n_users, k = 50, 4000, 10
    _, _, ranks = target_ranks(Scorer([0.0] * (n_items + 1)), loader([1] * n_users), seed=1)
    metrics = metrics_of_ranks(ranks, k)
    chance = {"recall@10": k / n_items, "ndcg@10": (1 / np.log2(np.arange(k) + 2)).sum() / n_items}
    for name, expected in chance.items():
        standard_error = metrics[name].std() / np.sqrt(n_users)
        assert abs(metrics[name].mean() - expected) < 4 * standard_error


def test_scores_that_are_no_numbers_raise() -> None:
    with pytest.raises(RecBoleOOVError, match="Scorer scored items NaN or infinite"):
        target_ranks(Scorer([0.0, float("nan"), 1.0]), loader([1]))


def test_metrics_of_known_ranks() -> None:
    metrics = metrics_of_ranks(np.array([0, 1, 9, 10]), 10)
    assert metrics["recall@10"].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(metrics["ndcg@10"], [1, 1 / np.log2(3), 1 / np.log2(11), 0])
    np.testing.assert_allclose(metrics["mrr@10"], [1, 0.5, 0.1, 0])


def test_bootstrap_interval_has_the_normal_width_and_counts_users_not_seeds() -> None:
    random = np.random.default_rng(0)
    values = random.normal(3.0, 2.0, size=900)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(900)
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert bootstrap_interval(np.stack([values] * 5)) == pytest.approx((low, high))
