"""The OOV vocabulary: names that are unique, say something, and come from training interactions alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_oov.data.histories import Histories
from recbole_oov.errors import ConfigError
from recbole_oov.lm.vocabulary import WalkSettings, clustered, random_walks, shuffled

WALK = WalkSettings(walks_per_node=10, walk_length=20, window=3, dim=16, epochs=3)


def histories_of(lists: dict[int, list[int]], n_users: int, n_items: int) -> Histories:
    """Histories from a dictionary of user id to item ids."""
    users = sorted(lists)
    offsets = np.cumsum([0, *(len(lists[user]) for user in users)])
    items = np.concatenate([lists[user] for user in users])
    return Histories(np.array(users), items, offsets, n_users, n_items)


@pytest.fixture(scope="module")
def two_tastes() -> Histories:
    """Users 1-20 choose among items 1-15, users 21-40 among 16-30; user 41 and items 31, 32 were never seen."""
    random = np.random.default_rng(0)
    lists = {u: (random.permutation(15)[:10] + (1 if u <= 20 else 16)).tolist() for u in range(1, 41)}
    return histories_of(lists, n_users=42, n_items=33)


def test_clusters_find_the_two_tastes(two_tastes: Histories) -> None:
    vocabulary = clustered(two_tastes, n_clusters=2, walk=WALK, seed=0)
    first, second = vocabulary.item_cluster[1:16], vocabulary.item_cluster[16:31]
    assert len(set(first.tolist())) == len(set(second.tolist())) == 1
    assert first[0] != second[0]
    assert set(vocabulary.user_cluster[1:21].tolist()) == {int(first[0])}, "users and items share clusters"
    assert set(vocabulary.user_cluster[21:41].tolist()) == {int(second[0])}


def test_who_was_never_seen_is_in_the_reserved_cluster(two_tastes: Histories) -> None:
    vocabulary = clustered(two_tastes, n_clusters=2, walk=WALK, seed=0)
    assert vocabulary.n_clusters == 3
    assert vocabulary.item_cluster[[31, 32]].tolist() == [2, 2]
    assert vocabulary.user_cluster[41] == 2
    assert torch.all(vocabulary.item_vectors[[0, 31, 32]] == 0)
    assert torch.all(vocabulary.centroids[2] == 0)


@pytest.mark.parametrize("deal", [False, True])
def test_names_are_unique_over_users_and_items(two_tastes: Histories, deal: bool) -> None:
    vocabulary = clustered(two_tastes, n_clusters=4, walk=WALK, seed=0)
    if deal:
        vocabulary = shuffled(vocabulary, two_tastes, seed=3)
    pairs = list(zip(vocabulary.item_cluster.tolist(), vocabulary.item_rank.tolist(), strict=True))
    pairs += list(zip(vocabulary.user_cluster.tolist(), vocabulary.user_rank.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs)


def test_ranks_count_from_the_centroid(two_tastes: Histories) -> None:
    vocabulary = clustered(two_tastes, n_clusters=4, walk=WALK, seed=0)
    for cluster in range(4):
        items = (vocabulary.item_cluster == cluster).nonzero().flatten()
        nearness = (vocabulary.item_vectors[items] @ vocabulary.centroids[cluster]).numpy()
        assert (np.diff(nearness[np.argsort(vocabulary.item_rank[items].numpy())]) <= 1e-6).all()


def test_a_seed_decides_the_vocabulary(two_tastes: Histories) -> None:
    once, again, other = (clustered(two_tastes, n_clusters=3, walk=WALK, seed=seed).state() for seed in (1, 1, 2))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not torch.equal(once["item_vectors"], other["item_vectors"])


def test_shuffled_keeps_the_shape_and_loses_the_sense(two_tastes: Histories) -> None:
    vocabulary = clustered(two_tastes, n_clusters=2, walk=WALK, seed=0)
    control = shuffled(vocabulary, two_tastes, seed=0)
    sizes = [torch.bincount(v.item_cluster, minlength=3).tolist() for v in (vocabulary, control)]
    assert sizes[0] == sizes[1]
    assert len(set(control.item_cluster[1:16].tolist())) == 2, "a taste is spread over clusters"
    assert control.item_cluster[31] == 2


def test_too_many_clusters_are_refused(two_tastes: Histories) -> None:
    with pytest.raises(ConfigError, match=r"n_clusters: 71 .* of 70 users and items .* n_clusters ≤ 70"):
        clustered(two_tastes, n_clusters=71, walk=WALK, seed=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=30), st.integers(0, 99))
def test_walks_step_along_training_interactions_only(pairs: list[tuple[int, int]], seed: int) -> None:
    users, items = np.array(pairs).T
    walks = random_walks(users, items, n_users=7, walk=WalkSettings(2, 7), seed=seed)
    edges = {(u, i + 7) for u, i in pairs}
    for walk in walks.tolist():
        for a, b in itertools.pairwise(walk):
            assert (min(a, b), max(a, b)) in edges
    assert {node for walk in walks.tolist() for node in walk} == {node for edge in edges for node in edge}
