"""The OOV vocabulary: names that are unique, say something, and come from training interactions alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_oov.data.histories import Histories
from recbole_oov.errors import ConfigError
from recbole_oov.lm import vocabulary as vocabulary_module
from recbole_oov.lm.identifiers import fine_tokens
from recbole_oov.lm.residual import places_among_equals, residual_codes
from recbole_oov.lm.semantic import semantic
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
    with pytest.raises(ConfigError, match=r"n_clusters: 35 .* of 30 items .* n_clusters ≤ 30"):
        clustered(two_tastes, n_clusters=35, walk=WALK, seed=0, separate=True)


def test_separate_clusters_of_users_and_items_have_nothing_in_common(two_tastes: Histories) -> None:
    vocabulary = clustered(two_tastes, n_clusters=2, walk=WALK, seed=0, separate=True)
    assert vocabulary.n_clusters == 5
    assert set(vocabulary.item_cluster[1:31].tolist()) == {0, 1} and set(vocabulary.item_cluster[31:].tolist()) == {4}
    assert set(vocabulary.user_cluster[1:41].tolist()) == {2, 3} and vocabulary.user_cluster[41] == 4
    assert len(set(vocabulary.item_cluster[1:16].tolist())) == 1 != vocabulary.item_cluster[16]
    joint = clustered(two_tastes, n_clusters=2, walk=WALK, seed=0)
    assert torch.equal(joint.item_vectors, vocabulary.item_vectors)
    torch.testing.assert_close(vocabulary.centroids[:4].norm(dim=1), torch.ones(4))


def test_vectors_of_long_walks_are_kept_and_found_again(
    two_tastes: Histories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECBOLE_OOV_CACHE", str(tmp_path))
    once = clustered(two_tastes, n_clusters=3, walk=WALK, seed=1)
    assert not list(tmp_path.rglob("*")), "not worth keeping"
    monkeypatch.setattr(vocabulary_module, "_WORTH_KEEPING", 1)
    kept = clustered(two_tastes, n_clusters=3, walk=WALK, seed=1)
    monkeypatch.setattr(vocabulary_module, "random_walks", None)  # nobody walks again
    again = clustered(two_tastes, n_clusters=3, walk=WALK, seed=1)
    for state in (kept.state(), again.state()):
        assert all(torch.equal(state[name], tensor) for name, tensor in once.state().items())
    with pytest.raises(TypeError):
        clustered(two_tastes, n_clusters=3, walk=WALK, seed=2)


def content_of(n_items: int) -> torch.Tensor:
    """Three topics, two subjects in each, and a little of the item's own."""
    item = torch.arange(n_items)
    generator = torch.Generator().manual_seed(0)
    topics = 4 * torch.eye(6)[item % 3] + torch.eye(6)[3 + item % 2]
    return F.normalize(topics + 0.01 * torch.randn(n_items, 6, generator=generator), dim=1)


def test_semantic_codes_say_topic_then_subject(two_tastes: Histories) -> None:
    content = content_of(33)
    vocabulary = semantic(two_tastes, content, n_clusters=3, seed=0)
    items = torch.arange(1, 31)
    for topic in range(3):
        assert len(set(vocabulary.item_cluster[items[items % 3 == topic]].tolist())) == 1
    assert len(set(vocabulary.item_cluster[1:4].tolist())) == 3
    assert vocabulary.item_cluster[[0, 31, 32]].tolist() == [3, 3, 3] and vocabulary.user_cluster[41] == 3
    codes = residual_codes(vocabulary, n_codes=2, levels=2, seed=0)
    assert codes.shape == (33, 2)
    subjects = [set(codes[items[items % 2 == subject], 0].tolist()) for subject in (0, 1)]
    assert sorted(map(len, subjects)) == [1, 1] and subjects[0] != subjects[1], "the same code in every cluster"
    coded = replace(vocabulary, item_codes=codes)
    last = places_among_equals(coded)
    names = torch.cat([coded.item_cluster[:, None], codes, last[:, None]], dim=1).tolist()
    assert len({tuple(name) for name in names}) == 33
    assert int(last[1:31].max()) < 5 < int(vocabulary.item_rank.max()), "codes leave little for the last token to tell"


def test_what_users_do_with_items_does_not_move_semantic_tokens_of_items(two_tastes: Histories) -> None:
    dealt = replace(two_tastes, items=np.random.default_rng(3).permutation(two_tastes.items))
    one, two = (semantic(histories, content_of(33), n_clusters=3, seed=0) for histories in (two_tastes, dealt))
    assert torch.equal(one.item_cluster, two.item_cluster) and torch.equal(one.item_vectors, two.item_vectors)


def test_residual_codes_are_dealt_out_at_random_too(two_tastes: Histories) -> None:
    vocabulary = semantic(two_tastes, content_of(33), n_clusters=3, seed=0)
    vocabulary = replace(vocabulary, item_codes=residual_codes(vocabulary, n_codes=2, levels=1, seed=0))
    control = shuffled(vocabulary, two_tastes, seed=0)
    pairs = [torch.stack([v.item_cluster, v.item_codes[:, 0]]) for v in (vocabulary, control)]  # type: ignore[index]
    assert not torch.equal(*pairs)
    assert sorted(pairs[0].T.tolist()) == sorted(pairs[1].T.tolist())


@pytest.mark.parametrize(("own", "with_codes"), [(False, False), (True, False), (False, True), (True, True)])
def test_codebooks_and_last_tokens_share_no_token(two_tastes: Histories, own: bool, with_codes: bool) -> None:
    vocabulary = clustered(two_tastes, n_clusters=2, walk=WALK, seed=0)
    if with_codes:
        vocabulary = replace(vocabulary, item_codes=residual_codes(vocabulary, n_codes=4, levels=2, seed=0))
    fine = fine_tokens(vocabulary, own=own)
    parts = [set(torch.cat([fine.items, fine.users]).tolist())]
    parts += [] if fine.codes is None else [set(column.tolist()) for column in fine.codes.T]
    assert len(parts) == (3 if with_codes else 1)
    assert sum(map(len, parts)) == len(set.union(*parts)) and max(set.union(*parts)) == fine.total - 1
    assert not own or len(set(fine.items.tolist())) == 33


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
