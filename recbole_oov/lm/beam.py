"""Beam search over the tree of OOV tokens: what generation does, beside the exact scores of all items."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recbole_oov.lm.scoring import TokenTree

_LEAVES_AT_ONCE = 1 << 18
"""Leaves that beams meet at a time, over all rows of a block."""


def beam_search(
    tree: TokenTree,
    cluster_logits: Tensor,
    branches_of: Callable[[Tensor], Tensor],
    leaves: Tensor,
    n_beams: int,
    excluded: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best items that ``n_beams`` beams find.

    The first step keeps the ``n_beams`` most probable clusters, the second the ``n_beams`` most probable items of
    those. All items have two tokens, so that no length penalty is needed. Tokens that name no item are masked: every
    beam that is returned ends in an item. With as many beams as there are clusters the first step drops nothing, and
    the items are those of the exact scores, in their order.

    Args:
        tree: The tokens that name items.
        cluster_logits: (B, K)
        branches_of: Gives the states at chosen cluster tokens, had each come next: (B, C) -> (B, C, d).
        leaves: Output vector of every item. (n_items, d)
        n_beams: At least 1.
        excluded: Items that cannot come next, 0 for none. (B, H)

    Returns:
        Log-probabilities, best first, and item ids. Where the clusters of the first step hold fewer items than there
        are beams, excluded ones not counted, the rest are the least finite number and the padding item. (B, n_beams)
        each, fewer where the tree has fewer items.
    """
    cluster_log_probs = tree.cluster_log_probs(cluster_logits, excluded)
    width = min(n_beams, int((~tree.empty).sum()))
    steps, clusters = cluster_log_probs.topk(width, dim=1)
    branches = branches_of(clusters)
    rows = max(1, _LEAVES_AT_ONCE // (width * tree.members.shape[1]))
    scores, items = [], []
    for at in torch.arange(len(clusters), device=clusters.device).split(rows):
        found = tree.leaf_log_probs(branches[at], leaves, clusters[at], None if excluded is None else excluded[at])
        totals = (steps[at, :, None] + found).flatten(1)
        best, place = totals.topk(min(n_beams, totals.shape[1]), dim=1)
        item = tree.members[clusters[at]].flatten(1).gather(1, place)
        item = item.masked_fill(best <= torch.finfo(best.dtype).min / 2, 0)  # excluded: nothing else was left
        scores.append(best.masked_fill(item == 0, torch.finfo(best.dtype).min))
        items.append(item)
    return torch.cat(scores), torch.cat(items)


def as_scores(log_probs: Tensor, items: Tensor, n_items: int) -> Tensor:
    """A score for every item: what beams found, and the least finite number for all others.

    Args:
        log_probs, items: As of :func:`beam_search`. (B, n_beams)
        n_items: Number of item ids, padding included.

    Returns:
        (B, n_items)
    """
    scores = log_probs.new_full((len(items), n_items), torch.finfo(log_probs.dtype).min)
    scores.scatter_(1, items, log_probs)
    scores[:, 0] = torch.finfo(scores.dtype).min
    return scores
