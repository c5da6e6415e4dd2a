"""Pools: what is never in them, how likely the rest is, and what they are made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_oov.data.oov_split import oov_mask
from recbole_oov.errors import ConfigError
from recbole_oov.sampler import NegativePools, pools


def random_pools(
    seed: int, *, n_users: int = 20, n_items: int = 50, share: float = 0.3
) -> tuple[NegativePools, set[Any]]:
    """Random interactions; the last five items have none. User 0 is the padding user, user 1 has one free item."""
    random = np.random.default_rng(seed)
    pairs = {(u, i) for u in range(2, n_users) for i in range(1, n_items - 5) if random.random() < share}
    pairs |= {(1, i) for i in range(1, n_items - 6)} | {(2, n_items - 6), (2, 1)}
    users, items = (torch.tensor(column) for column in zip(*sorted(pairs), strict=True))
    return NegativePools(users, items, n_users=n_users, n_items=n_items, seed=seed), pairs


@pytest.mark.parametrize("table", [True, False], ids=["table", "search"])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.02, 0.95))
def test_no_positive_no_padding_no_item_without_a_row(table: bool, seed: int, share: float) -> None:
    source, pairs = random_pools(seed, share=share)
    if not table:
        source._table = None
    trained = {item for _, item in pairs}
    users = torch.tensor(sorted({user for user, _ in pairs}))
    users = users[source.degree[users] < len(source.iv_items)]
    for drawn in (source.uniform(users, 40), source.popularity(users, 40)):
        assert drawn.shape == (len(users), 40)
        for user, row in zip(users.tolist(), drawn.tolist(), strict=True):
            assert not {(user, item) for item in row} & pairs
            assert set(row) <= trained and 0 not in row


@pytest.mark.parametrize("table", [True, False], ids=["table", "search"])
def test_every_unseen_item_is_as_likely(table: bool) -> None:
    source, pairs = random_pools(3)
    if not table:
        source._table = None
    user, n = 5, 200_000
    counts = torch.bincount(source.uniform(torch.tensor([user]), n)[0], minlength=source.n_items)
    free = [i for i in source.iv_items.tolist() if (user, i) not in pairs]
    expected = n / len(free)
    chi_square = float(((counts[free] - expected) ** 2 / expected).sum())
    assert int(counts.sum()) == int(counts[free].sum())
    assert chi_square < len(free) + 5 * (2 * len(free)) ** 0.5, "within five standard deviations of chi-square"


def test_popularity_follows_training_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for rounds in (64, 0):  # by rejection, and from the complement that is left when rejection gives up
        monkeypatch.setattr(pools, "_ROUNDS", rounds)
        source, pairs = random_pools(4)
        user, n = 6, 100_000
        found = torch.bincount(source.popularity(torch.tensor([user]), n, alpha=0.5)[0], minlength=source.n_items) / n
        weight = source.counts.double() ** 0.5
        weight[[i for u, i in pairs if u == user]] = 0
        assert torch.allclose(found.double(), weight / weight.sum(), atol=0.005)


def test_a_user_with_one_free_item_gets_that_item() -> None:
    source, _ = random_pools(0)
    assert set(source.uniform(torch.tensor([1]), 30)[0].tolist()) == {44}
    assert set(source.popularity(torch.tensor([1]), 30)[0].tolist()) == {44}


def test_the_seed_decides_and_the_state_continues() -> None:
    first, second = (random_pools(7)[0] for _ in range(2))
    users = torch.arange(2, 20)
    assert torch.equal(first.uniform(users, 8), second.uniform(users, 8))
    state = first.state_dict()
    expected = [first.uniform(users, 8), first.popularity(users, 8)]
    second.load_state_dict(state)
    assert all(map(torch.equal, expected, [second.uniform(users, 8), second.popularity(users, 8)]))


def test_users_without_enough_unseen_items_are_refused() -> None:
    source, _ = random_pools(1)
    source.check(1)
    with pytest.raises(ConfigError, match=r"pool: 8 is more than the 1 items that the user with internal id 1 has"):
        source.check(8)
    users, items = torch.tensor([1, 1, 1, 2]), torch.tensor([1, 2, 3, 1])
    everything = NegativePools(users, items, n_users=3, n_items=4)
    with pytest.raises(ConfigError, match=r"internal id 1 has interacted with all 3 items .* user_inter_num_interval"):
        everything.check(1)


def test_pools_know_the_training_rows_alone(circles: Any) -> None:
    """That held-out rows do not move the weights of a run is tested in tests/recipe/test_negative_sampling.py."""
    train = circles.fresh_train()
    rows = train.inter_feat
    users, items = rows[train.uid_field], rows[train.iid_field]
    source = NegativePools.from_train(train, seed=1)
    assert set(source.iv_items.tolist()) == set(np.flatnonzero(~oov_mask(train))[1:].tolist())
    assert torch.equal(source.counts[1:], torch.bincount(items, minlength=train.item_num)[1:])
    everybody, every_item = torch.arange(train.user_num)[:, None], torch.arange(train.item_num)
    pairs = set(zip(users.tolist(), items.tolist(), strict=True))
    known = source.is_positive(everybody, every_item).nonzero().tolist()
    assert {(user, item) for user, item in known} == pairs


def test_the_same_pools_with_another_generator() -> None:
    source, _ = random_pools(3)
    users = torch.tensor([5, 5])
    first, second = source.again(7), source.again(7)
    before = source.generator.get_state()
    assert torch.equal(first.uniform(users, 16), second.uniform(users, 16))
    assert torch.equal(source.generator.get_state(), before)
    assert not torch.equal(source.again(8).uniform(users, 16), source.again(7).uniform(users, 16))
