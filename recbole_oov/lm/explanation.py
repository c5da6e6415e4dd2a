"""Why an item was scored as it was: its two tokens' log-probabilities, and what of the history moved them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Scorer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Histories (B, L), padded with 0, and their lengths (B,) -> log p(cluster of item) and log p(item | cluster) of the
items in question. (B, N) each"""


@dataclass(frozen=True)
class TokenExplanation:
    """Of N items after one history of L items, in C different clusters.

    Attributes:
        cluster_log_probs: log p(cluster | history) of each item's cluster. (N,)
        item_log_probs: log p(item | history, cluster); the two add up to the item's score. (N,)
        history: Item ids, oldest first. (L,)
        by_item: By how much each of them raises the score: what it is, less what it is without that item. (L, N)
        clusters: Clusters of the history, ascending. (C,)
        by_cluster: The same for all items of a cluster at once. (C, N)
    """

    cluster_log_probs: Tensor
    item_log_probs: Tensor
    history: Tensor
    by_item: Tensor
    clusters: Tensor
    by_cluster: Tensor


def explain_by_occlusion(history: Tensor, history_clusters: Tensor, score: Scorer) -> TokenExplanation:
    """Leave out each item of a history, then each cluster, and see how the scores change.

    What is left moves together, as if the user had never had the item. A history that would be left empty
    says nothing of what an item adds to it: its influence is 0.

    Args:
        history: Item ids, oldest first, none of them 0. (L,)
        history_clusters: Their clusters. (L,)
        score: Scores the items in question after any histories.
    """
    clusters = torch.unique(history_clusters)
    kept_without_item = ~torch.eye(len(history), dtype=torch.bool, device=history.device)
    kept_without_cluster = history_clusters[None] != clusters[:, None]
    whole = torch.ones(1, len(history), dtype=torch.bool, device=history.device)
    kept = torch.cat([whole, kept_without_item, kept_without_cluster])
    empty = ~kept.any(dim=1)
    kept[empty] = True  # the same as nothing left out
    lengths = kept.sum(dim=1)
    order = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)  # what is kept, in its order, then the rest
    shown = history[order].masked_fill(torch.arange(len(history), device=history.device) >= lengths[:, None], 0)
    cluster_log_probs, item_log_probs = score(shown, lengths)
    scores = cluster_log_probs + item_log_probs
    moved = scores[0] - scores[1:]
    return TokenExplanation(
        cluster_log_probs[0],
        item_log_probs[0],
        history,
        moved[: len(history)],
        clusters,
        moved[len(history) :],
    )
