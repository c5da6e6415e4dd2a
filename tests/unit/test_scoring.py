"""The token tree: exact probabilities, the loss that trains them, and siblings that do not see each other."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_oov.lm.backbone import TinySettings, tiny_backbone
from recbole_oov.lm.scoring import TokenTree, sibling_mask, sibling_positions


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
    together = model(
        inputs_embeds=torch.cat([prefix, siblings.expand(2, -1, -1)], dim=1),
        attention_mask=sibling_mask(real, k),
        position_ids=sibling_positions(real, k),
    ).last_hidden_state[:, -k:]
    for row in range(2):
        context = prefix[row][real[row]]
        for s in range(k):
            alone = model(inputs_embeds=torch.cat([context, siblings[s : s + 1]])[None]).last_hidden_state[0, -1]
            torch.testing.assert_close(together[row, s], alone, atol=1e-5, rtol=1e-5)
