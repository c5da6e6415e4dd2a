"""The ranking objective against a direct computation, and the quick NDCG against RecBole's definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recbole_oov.evaluation.dot_product import dot_product_ndcg
from recbole_oov.model.imagination import END, Targets, UserSpace
from recbole_oov.model.ranking import RankingPotential, ranking_loss

N_USERS, N_ITEMS, SIZE = 20, 7, 4


def data(seed: int = 0) -> tuple[UserSpace, Targets, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    known = torch.ones(N_USERS, dtype=torch.bool)
    known[4] = False
    users = UserSpace(torch.randn(N_USERS, SIZE, generator=draw, dtype=torch.float64), known)
    own = torch.zeros(N_ITEMS, 3, dtype=torch.long)
    for item in range(N_ITEMS):
        count = 1 + item % 3
        own[item, :count] = users.ids[torch.randperm(len(users), generator=draw)[:count]]
    embeddings = torch.randn(N_ITEMS, SIZE, generator=draw, dtype=torch.float64)
    return users, Targets(torch.zeros_like(embeddings), own), embeddings


def lists(targets: Targets) -> list[list[int]]:
    return [[user for user in row if user != END] for row in targets.users.tolist()]


@given(seed=st.integers(0, 50))
def test_the_loss_is_the_two_softmaxes(seed: int) -> None:
    users, targets, h = data(seed)
    own, scores = lists(targets), h @ users.embeddings.T
    everyone = sorted({user for row in own for user in row})
    pairs = [(item, user) for item, row in enumerate(own) for user in row]
    among_items = sum(float(scores[i, u] - scores[:, u].logsumexp(0)) for i, u in pairs) / len(pairs)
    among_users = 0.0
    for item, row in enumerate(own):
        total = float(scores[item, everyone].logsumexp(0))
        among_users += sum(float(scores[item, user]) - total for user in row) / len(row) / N_ITEMS
    expected = -(among_items + among_users)
    assert float(ranking_loss(h, targets, users.embeddings)) == pytest.approx(expected, rel=1e-9)


@given(seed=st.integers(0, 50), scale=st.floats(0.1, 5))
def test_the_potential_is_the_item_s_own_part_while_the_others_stay(seed: int, scale: float) -> None:
    users, targets, starts = data(seed)
    h = starts + 0.3
    potential = RankingPotential(targets, users, starts, torch.tensor(scale, dtype=torch.float64))
    own = lists(targets)
    everyone = sorted({user for row in own for user in row})
    for item, row in enumerate(own):
        at_start = scale * starts @ users.embeddings.T
        score = scale * h[item] @ users.embeddings.T
        items = sum(math.log1p(float((at_start[:, u] - score[u]).exp().sum())) for u in row) / len(row)
        others = sum(float(score[everyone].logsumexp(0) - score[u]) for u in row) / len(row)
        assert potential(h)[item].tolist() == pytest.approx([items, others], rel=1e-9)
    kept = torch.arange(N_ITEMS) % 2 == 0
    assert torch.allclose(potential.only(kept)(h[kept]), potential(h)[kept])


def test_moving_to_an_item_s_user_brings_it_up() -> None:
    users, targets, starts = data()
    potential = RankingPotential(targets, users, starts, torch.tensor(1.0, dtype=torch.float64))
    moved = starts + 2 * users.embeddings[targets.users[:, 0]]
    assert (potential(moved)[::3] < potential(starts)[::3]).all()  # items with one user


@given(seed=st.integers(0, 100), k=st.integers(1, 9))
def test_the_quick_ndcg_is_ndcg(seed: int, k: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    users, items = (torch.randn(n, 3, generator=draw) for n in (6, 9))
    has = torch.rand(6, 9, generator=draw) < 0.3
    has[:, 0] |= ~has.any()
    values = []
    for user in has.any(dim=1).nonzero().squeeze(1).tolist():
        order = (items @ users[user]).argsort(descending=True)[:k].tolist()
        gain = sum(1 / math.log2(place + 2) for place, item in enumerate(order) if has[user, item])
        values.append(gain / sum(1 / math.log2(place + 2) for place in range(min(k, int(has[user].sum())))))
    assert dot_product_ndcg(users, items, has.nonzero(), k) == pytest.approx(sum(values) / len(values))


def test_the_quick_ndcg_does_not_depend_on_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    users, items = torch.randn(2, 30, 3)
    positives = (torch.rand(30, 30) < 0.2).nonzero()
    whole = dot_product_ndcg(users, items, positives, 5)
    monkeypatch.setattr("recbole_oov.evaluation.dot_product._BLOCK", 70)
    assert dot_product_ndcg(users, items, positives, 5) == pytest.approx(whole)
    assert math.isnan(dot_product_ndcg(users, items, torch.empty(0, 2, dtype=torch.long), 5))
