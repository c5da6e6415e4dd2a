"""The token tree: exact probabilities, the loss that trains them, and siblings that do not see each other."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_oov.lm.backbone import Backbone, TinySettings, tiny_backbone
from recbole_oov.lm.beam import as_scores, beam_search
from recbole_oov.lm.scoring import TokenTree


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.integers(0, 1000))
def test_tree_is_a_distribution_over_items_and_the_loss_is_its_logarithm(clusters: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    item_cluster, k, d = torch.tensor(clusters), 5, 8
    tree = TokenTree(item_cluster, k)
    n = len(clusters)
    logits = torch.randn(3, k, dtype=torch.double)
    branches, leaves = torch.randn(3, k, d, dtype=torch.double), torch.randn(n, d, dtype=torch.double)
    scores = tree.log_probs(logits, branches, leaves)
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(scores[:, 1:].exp().sum(1), torch.ones(3, dtype=torch.double))
    for item in range(1, n):
        target = torch.full((3,), item)
        nll = tree.nll(logits, branches[:, item_cluster[item]], leaves, target)
        torch.testing.assert_close(nll, -scores[:, item])
        with_items = torch.isin(torch.arange(k), item_cluster[1:])
        by_hand = logits[:, item_cluster[item]] - logits[:, with_items].logsumexp(1)
        same = [j for j in range(1, n) if clusters[j] == clusters[item]]
        own = (branches[:, item_cluster[item]] @ leaves[same].T).log_softmax(1)[:, same.index(item)]
        torch.testing.assert_close(scores[:, item], by_hand + own)


def test_siblings_equal_one_pass_each() -> None:
    torch.manual_seed(0)
    settings_ = TinySettings(hidden_size=16, n_layers=2, n_heads=2, inner_size=32, dropout=0.1)
    model = tiny_backbone(settings_, vocab_size=30, max_positions=20).eval()
    lengths, k = [7, 4], 5
    prefix, siblings = torch.randn(2, 7, 16), torch.randn(k, 16)
    real = torch.arange(7) < torch.tensor(lengths)[:, None]
    real[0, 2] = False  # padding inside, as after a short item text
    state, together = Backbone(model, n_words=25, n_oov=5).branches(prefix, real, siblings.expand(2, -1, -1))
    for row in range(2):
        context = prefix[row][real[row]]
        torch.testing.assert_close(state[row], model(inputs_embeds=context[None]).last_hidden_state[0, -1])
        for s in range(k):
            alone = model(inputs_embeds=torch.cat([context, siblings[s : s + 1]])[None]).last_hidden_state[0, -1]
            torch.testing.assert_close(together[row, s], alone, atol=1e-5, rtol=1e-5)


def a_tree(seed: int, *, placed: int = 0) -> tuple[TokenTree, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A tree of 5 clusters, one of them without items, and 30 items of which the last ``placed`` were not learned."""
    generator = torch.Generator().manual_seed(seed)
    item_cluster = torch.cat([torch.tensor([4, 0, 1, 2, 4]), torch.randint(4, (25,), generator=generator)])
    item_cluster[5:][item_cluster[5:] == 3] = 4
    mask = torch.arange(30) >= 30 - placed if placed else None
    logits = torch.randn(3, 5, generator=generator, dtype=torch.double)
    branches = torch.randn(3, 5, 8, generator=generator, dtype=torch.double)
    return TokenTree(item_cluster, 5, mask), logits, branches, torch.randn(30, 8, generator=generator).double()


def test_scores_by_cluster_are_those_of_all_clusters_at_once() -> None:
    tree, logits, branches, leaves = a_tree(3)
    nobody = tree.log_probs(logits, branches, leaves)
    tree.placed = torch.zeros(30, dtype=torch.bool)  # the way of placed items, of which there are none
    torch.testing.assert_close(tree.log_probs(logits, branches, leaves), nobody)


def test_placed_items_are_in_nobodys_denominator() -> None:
    tree, logits, branches, leaves = a_tree(0, placed=6)
    scores = tree.log_probs(logits, branches, leaves)
    without = TokenTree(tree.item_cluster[:24], 5).log_probs(logits, branches, leaves[:24])
    torch.testing.assert_close(scores[:, :24], without)
    torch.testing.assert_close(scores[:, 1:24].exp().sum(1), torch.ones(3).double())
    targets = torch.tensor([1, 7, 20])
    states = branches[torch.arange(3), tree.item_cluster[targets]]
    nll = tree.nll(logits, states, leaves, targets)
    torch.testing.assert_close(nll, -without[torch.arange(3), targets])
    # A placed item that is a learned one's twin weighs what that one weighs; the offset moves placed items alone.
    twin = leaves.clone()
    twin[29] = leaves[(tree.item_cluster[:24] == tree.item_cluster[29]).nonzero()[-1, 0]]
    of_twin = tree.log_probs(logits, branches, twin)
    assert torch.isclose(of_twin[:, 29:], of_twin[:, 1:24]).any(dim=1).all()
    tree.offset = 2.0
    moved = tree.log_probs(logits, branches, leaves)
    torch.testing.assert_close(moved[:, 24:], scores[:, 24:] + 2)
    assert torch.equal(moved[:, :24], scores[:, :24])


def test_what_is_outside_the_tree_scores_as_if_it_were_placed_in_it() -> None:
    tree, logits, branches, leaves = a_tree(1, placed=6)
    tree.offset = 0.5
    scores = tree.log_probs(logits, branches, leaves)
    torch.testing.assert_close(
        tree.log_weights(logits, branches, leaves, leaves[24:], tree.item_cluster[24:]), scores[:, 24:]
    )


def test_a_mixture_is_the_sum_over_clusters_of_what_the_item_would_weigh_there() -> None:
    tree, logits, branches, leaves = a_tree(4, placed=6)
    tree.offset = 0.5
    tokens, own = torch.randn(5, 8).double(), torch.randn(2, 8).double()
    shares = torch.tensor([[0.5, 0.2, 0.2, 0.0, 0.1], [0.0, 0.0, 1.0, 0.0, 0.0]]).double()
    found = tree.log_mixtures(logits, branches, leaves, tokens, own, shares.log())
    by_hand = torch.zeros(3, 2).double()
    for cluster in (0, 1, 2, 4):
        where = torch.full((2,), cluster)
        weights = tree.log_weights(logits, branches, leaves, tokens[cluster] + own, where).exp()
        by_hand += shares[:, cluster] * weights
    torch.testing.assert_close(found, by_hand.log())


def test_placed_items_take_the_mean_of_their_clusters_learned_vectors() -> None:
    tree, _, _, leaves = a_tree(2, placed=6)
    with_means = tree.with_means(leaves)
    assert torch.equal(with_means[:24], leaves[:24])
    for item in range(24, 30):
        same = tree.item_cluster[:24] == tree.item_cluster[item]
        same[0] = False
        torch.testing.assert_close(with_means[item], leaves[:24][same].mean(0))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), placed=st.sampled_from([0, 6]), n_beams=st.integers(5, 40))
def test_beams_as_wide_as_the_clusters_find_the_exact_best_items(seed: int, placed: int, n_beams: int) -> None:
    tree, logits, branches, leaves = a_tree(seed, placed=placed)
    exact = tree.log_probs(logits, branches, leaves)
    n_found = min(n_beams, 29)

    def branches_of(clusters: torch.Tensor) -> torch.Tensor:
        return branches.gather(1, clusters[..., None].expand(-1, -1, 8))

    found, items = beam_search(tree, logits, branches_of, leaves, n_beams)
    best, order = exact[:, 1:].topk(n_found, dim=1)
    assert torch.equal(items[:, :n_found], order + 1)
    torch.testing.assert_close(found[:, :n_found], best)
    assert (items[:, n_found:] == 0).all()
    scores = as_scores(found, items, 30)
    assert torch.equal(scores.topk(n_found).indices, order + 1)
    assert (scores[:, 0] == torch.finfo(scores.dtype).min).all() and torch.isfinite(scores).all()


def test_narrow_beams_name_only_items_of_their_clusters_with_their_exact_scores() -> None:
    tree, logits, branches, leaves = a_tree(3)
    exact = tree.log_probs(logits, branches, leaves)
    asked: list[torch.Tensor] = []

    def branches_of(clusters: torch.Tensor) -> torch.Tensor:
        asked.append(clusters)
        return branches.gather(1, clusters[..., None].expand(-1, -1, 8))

    found, items = beam_search(tree, logits, branches_of, leaves, 2)
    assert [clusters.shape for clusters in asked] == [(3, 2)], "one pass, for the beams alone"
    best_clusters = tree.cluster_log_probs(logits).topk(2).indices
    for row in range(3):
        allowed = torch.isin(tree.item_cluster, best_clusters[row])
        allowed[0] = False
        by_hand = exact[row].masked_fill(~allowed, -torch.inf).topk(2)
        assert torch.equal(items[row], by_hand.indices)
        torch.testing.assert_close(found[row], by_hand.values)


def test_beams_that_outnumber_the_items_of_their_clusters_are_empty_not_invalid() -> None:
    tree = TokenTree(torch.tensor([1, 0, 1, 1]), 2)
    branches, leaves = torch.randn(1, 2, 4), torch.randn(4, 4)
    found, items = beam_search(tree, torch.zeros(1, 2), lambda c: branches[:, c[0]], leaves, 3)
    assert sorted(items[0].tolist()) == [1, 2, 3]
    found, items = beam_search(tree, torch.tensor([[9.0, 0.0]]), lambda c: branches[:, c[0]], leaves, 1)
    assert items.tolist() == [[1]]
    scores = as_scores(found, items, 4)
    assert (scores[0, [0, 2, 3]] == torch.finfo(torch.float32).min).all()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 29), min_size=4, max_size=4), min_size=3, max_size=3),
    st.none() | st.integers(0, 4),
    st.integers(0, 1000),
)
def test_excluded_items_are_as_if_they_were_not_in_the_tree(
    excluded: list[list[int]], whole: int | None, seed: int
) -> None:
    tree, logits, branches, leaves = a_tree(seed)
    if whole is not None:  # all items of a cluster, some of them twice
        excluded = [gone + tree.members[whole].tolist() for gone in excluded]
    out = torch.tensor(excluded)
    scores = tree.log_probs(logits, branches, leaves, out)
    least = torch.finfo(scores.dtype).min
    every = torch.arange(5)
    of_clusters = tree.cluster_log_probs(logits, out)
    by_slot = tree.leaf_log_probs(branches, leaves, every, out) + of_clusters[:, :, None]
    left_over = scores.double().exp().sum(1)
    torch.testing.assert_close(left_over, torch.ones_like(left_over), atol=1e-5, rtol=0)
    for row, gone in enumerate(excluded):
        left = [item for item in range(1, 30) if item not in gone]
        assert (scores[row, [0, *gone]] == least).all() and (scores[row, left] > least / 2).all()
        remain = sorted({int(tree.item_cluster[item]) for item in left})
        torch.testing.assert_close(of_clusters[row, remain], logits[row, remain].log_softmax(0))
        for item in left:
            cluster = int(tree.item_cluster[item])
            rivals = [other for other in left if int(tree.item_cluster[other]) == cluster]
            own = (branches[row, cluster] @ leaves[rivals].T).log_softmax(0)[rivals.index(item)]
            expected = own + of_clusters[row, cluster]
            torch.testing.assert_close(scores[row, item], expected)
            torch.testing.assert_close(by_slot[row, cluster, tree.slot[item]], expected)
            nll = tree.nll(
                logits[row, None], branches[row, None, cluster], leaves, torch.tensor([item]), out[row, None]
            )
            torch.testing.assert_close(nll, -expected[None])
    for ids, part in tree.log_prob_blocks(logits, branches, leaves, 2, out):
        torch.testing.assert_close(part, scores[:, ids])
    tree.placed = torch.zeros(30, dtype=torch.bool)  # the way of GPUs
    torch.testing.assert_close(tree.log_probs(logits, branches, leaves, out), scores)


def test_beams_end_in_no_excluded_item_even_where_nothing_else_is_left() -> None:
    tree, logits, branches, leaves = a_tree(3)
    gone = [item for item in range(1, 30) if int(tree.item_cluster[item]) in (0, 1)]
    out = torch.tensor([gone] * 3)
    found, items = beam_search(
        tree, logits, lambda c: branches.gather(1, c[..., None].expand(-1, -1, 8)), leaves, 30, out
    )
    exact = tree.log_probs(logits, branches, leaves, out)
    assert not torch.isin(items, out).any()
    real = items > 0
    assert real.sum(1).tolist() == [29 - len(gone)] * 3 and (found[~real] == torch.finfo(found.dtype).min).all()
    torch.testing.assert_close(found[real], exact.gather(1, items)[real])


def test_vectors_that_are_kept_are_those_that_are_given() -> None:
    """Scores of the same tensor again, of another one, and with gradients: never those of the one before."""
    tree, logits, branches, leaves = a_tree(3)
    with torch.no_grad():
        first, others = tree.log_probs(logits, branches, leaves), leaves.roll(1, 0)
        expected = tree.log_probs(logits, branches, others)
        assert tree._kept is None and not torch.allclose(expected, first)
        tree.keeps = True
        for _ in range(2):
            assert torch.equal(tree.log_probs(logits, branches, leaves), first)
            assert torch.equal(tree.log_probs(logits, branches, others), expected)
        assert tree._kept is not None
    tree.forget()
    assert tree._kept is None and not tree.keeps
    tree.keeps = True
    scores = tree.log_probs(logits, branches, leaves.requires_grad_())
    assert tree._kept is None
    (-scores[:, 1:].sum()).backward()
    assert leaves.grad is not None and bool(leaves.grad.any())
