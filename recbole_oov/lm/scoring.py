"""The tree of OOV tokens: what is learned at its branches and leaves, and exact scores of all items from one pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenTree(nn.Module):
    """Two levels: the root branches into clusters, a cluster into its items.

    log p(item | history) = log p(cluster | history) + log p(item | history, cluster), with one small softmax each.
    Only existing pairs are in the tree, so the probabilities of all items sum to one and no invalid item can come
    out. A target is learned among its own cluster's leaves, so its cost grows with the size of a cluster, not with the
    number of items.

    Args:
        item_cluster: Cluster of every item, padding (row 0) included. (n_items,)
        n_clusters: K; clusters without items are allowed.

    Attributes:
        members: Item ids by cluster and slot, 0 where a cluster has fewer items. (K, R)
        slot: An item's place among its cluster's items. (n_items,)
        by_cluster: All item ids, cluster after cluster. (n_items - 1,)
        sizes: Items of each cluster. K
        empty: Whether a cluster has no item (only users, or nobody): it cannot come next. (K,)
    """

    members: Tensor
    slot: Tensor
    empty: Tensor
    by_cluster: Tensor
    item_cluster: Tensor

    def __init__(self, item_cluster: Tensor, n_clusters: int) -> None:
        super().__init__()
        real = torch.arange(1, len(item_cluster), device=item_cluster.device)
        order = real[torch.argsort(item_cluster[1:], stable=True)]
        sizes = torch.bincount(item_cluster[1:], minlength=n_clusters)
        start = sizes.cumsum(0) - sizes
        slot = torch.zeros_like(item_cluster)
        slot[order] = torch.arange(len(order), device=order.device) - start[item_cluster[order]]
        members = item_cluster.new_zeros(n_clusters, int(sizes.max()))
        members[item_cluster[order], slot[order]] = order
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("slot", slot, persistent=False)
        self.register_buffer("empty", sizes == 0, persistent=False)
        self.register_buffer("by_cluster", order, persistent=False)
        self.sizes: list[int] = sizes.tolist()
        self.register_buffer("item_cluster", item_cluster.clone(), persistent=False)

    def nll(self, cluster_logits: Tensor, states: Tensor, leaves: Tensor, targets: Tensor) -> Tensor:
        """Negative log-likelihood of each target item.

        Args:
            cluster_logits: (N, K)
            states: The state at the target's own cluster token. (N, d)
            leaves: Output vector of every item. (n_items, d)
            targets: Item ids. (N,)

        Returns:
            (N,)
        """
        cluster = self.item_cluster[targets]
        # Sorted by cluster, each cluster's states meet its own leaves alone: no padding, whatever the sizes are.
        order = torch.argsort(cluster, stable=True)
        present, counts = torch.unique_consecutive(cluster[order], return_counts=True)
        state_blocks = states[order].split(counts.tolist())
        slot_blocks = self.slot[targets[order]].split(counts.tolist())
        leaf_blocks = leaves[self.by_cluster].split(self.sizes)
        leaf_nll = torch.cat(
            [
                F.cross_entropy(block @ leaf_blocks[c].T, slots, reduction="none")
                for c, block, slots in zip(present.tolist(), state_blocks, slot_blocks, strict=True)
            ]
        )
        cluster_nll = F.cross_entropy(self._of_items(cluster_logits), cluster, reduction="none")
        return cluster_nll + torch.empty_like(leaf_nll).index_put((order,), leaf_nll)

    def log_probs(self, cluster_logits: Tensor, branches: Tensor, leaves: Tensor) -> Tensor:
        """Exact log-probability of every item.

        Args:
            cluster_logits: (B, K)
            branches: The state at each cluster token, had it come next. (B, K, d)
            leaves: Output vector of every item. (n_items, d)

        Returns:
            (B, n_items); the padding item's column is the least finite number.
        """
        leaf_log_probs = self._leaf_logits(branches.transpose(0, 1), leaves).log_softmax(dim=-1)
        scores = self._of_items(cluster_logits).log_softmax(dim=-1)[:, self.item_cluster]
        scores = scores + leaf_log_probs[self.item_cluster, :, self.slot].T
        scores[:, 0] = torch.finfo(scores.dtype).min
        return scores

    def _of_items(self, cluster_logits: Tensor) -> Tensor:
        return cluster_logits.masked_fill(self.empty, torch.finfo(cluster_logits.dtype).min)

    def _leaf_logits(self, states: Tensor, leaves: Tensor) -> Tensor:
        """(K, N, d) states of each cluster → (K, N, R) logits of its items, the least finite number where none is."""
        logits = torch.bmm(states, leaves[self.members].transpose(1, 2))
        return logits.masked_fill((self.members == 0)[:, None], torch.finfo(logits.dtype).min)


def sibling_mask(key_mask: Tensor, n_siblings: int) -> Tensor:
    """Attention mask for a prefix followed by the branches of the token tree as siblings.

    Prefix tokens attend causally to real prefix tokens. Each sibling attends to all real prefix tokens and to
    itself, not to other siblings: each one sees exactly what it would see alone after the prefix.

    Args:
        key_mask: True where a prefix token is real. (B, T) bool
        n_siblings: K.

    Returns:
        True where a query may attend. (B, 1, T + K, T + K) bool
    """
    batch, length = key_mask.shape
    total = length + n_siblings
    mask = torch.zeros(batch, total, total, dtype=torch.bool, device=key_mask.device)
    causal = torch.ones(length, length, dtype=torch.bool, device=key_mask.device).tril()
    mask[:, :length, :length] = causal & key_mask[:, None, :]
    mask[:, length:, :length] = key_mask[:, None, :]
    # Every token attends to itself, padding too: a row without any key would turn into NaN.
    mask.diagonal(dim1=1, dim2=2).fill_(True)
    return mask[:, None]


def token_positions(key_mask: Tensor) -> Tensor:
    """Position ids that count real tokens only. (B, T) long"""
    return (key_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def sibling_positions(key_mask: Tensor, n_siblings: int) -> Tensor:
    """Position ids: real prefix tokens are counted, every sibling stands where the next token would. (B, T + K)"""
    following = key_mask.sum(dim=1, keepdim=True).expand(-1, n_siblings)
    return torch.cat([token_positions(key_mask), following], dim=1)
