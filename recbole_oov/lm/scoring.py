"""The tree of OOV tokens: what is learned at its branches and leaves, and exact scores of all items from one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenTree(nn.Module):
    """Two levels: the root branches into clusters, a cluster into its items.

    log p(item | history) = log p(cluster | history) + log p(item | history, cluster), with one small softmax each.
    Only existing pairs are in the tree, so the probabilities of all items sum to one and no invalid item can come
    out. A target is learned among its own cluster's leaves, so its cost grows with the size of a cluster, not with the
    number of items.

    Items that nothing is learned from can be *placed* in the tree. They are in no denominator, neither in training nor
    in scoring: their score is the logarithm of what they would weigh beside the others, plus ``offset``, and the
    others' scores are what they would be without them. The token of a placed item was never learned; the mean of its
    cluster's takes its place (:meth:`with_means`).

    Items that cannot come next, as those a user has had where nobody repeats one, can be *excluded* row by row: they
    are in no denominator in that row, so that an item is no wrong answer for being like one of them. A cluster of which
    nothing is left cannot come next.

    Args:
        item_cluster: Cluster of every item, padding (row 0) included. (n_items,)
        n_clusters: K; clusters without items are allowed.
        placed: True for placed items; None for none. (n_items,) bool

    Attributes:
        members: Item ids by cluster and slot, placed ones last, 0 where a cluster has fewer items. (K, R)
        slot: An item's place among its cluster's items. (n_items,)
        by_cluster: All item ids but placed ones, cluster after cluster.
        sizes: Items of each cluster, without placed ones, as a list. K
        n_learned: The same where the tree is, so that it can be compared there. (K,)
        placed: As given; None for none.
        offset: What is added to the score of placed items. Nothing was learned of their popularity, so that there is no
            telling from training alone how their scores stand beside the others'.
        keeps: Whether scoring on a CPU keeps output vectors in the order of clusters, for the next histories that the
            same tensor is given for. With a million items, bringing them into that order takes five times as long as
            their dot products with a few histories.
    """

    members: Tensor
    slot: Tensor
    n_learned: Tensor
    by_cluster: Tensor
    item_cluster: Tensor
    placed: Tensor | None

    def __init__(self, item_cluster: Tensor, n_clusters: int, placed: Tensor | None = None) -> None:
        super().__init__()
        real = torch.arange(1, len(item_cluster), device=item_cluster.device)
        is_placed = torch.zeros_like(item_cluster, dtype=torch.bool) if placed is None else placed
        key = 2 * item_cluster + is_placed
        order = real[torch.argsort(key[1:], stable=True)]
        slot = torch.zeros_like(item_cluster)
        slot[order] = _places(item_cluster[order], n_clusters)
        members = item_cluster.new_zeros(n_clusters, int(slot.max()) + 1)
        members[item_cluster[order], slot[order]] = order
        by_cluster = order[~is_placed[order]]
        sizes = torch.bincount(item_cluster[by_cluster], minlength=n_clusters)
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("slot", slot, persistent=False)
        self.register_buffer("n_learned", sizes, persistent=False)
        self.register_buffer("by_cluster", by_cluster, persistent=False)
        self.sizes: list[int] = sizes.tolist()
        self.register_buffer("item_cluster", item_cluster.clone(), persistent=False)
        self.register_buffer("placed", None if placed is None else placed.clone(), persistent=False)
        self.offset = 0.0
        self.keeps = False
        self._kept: tuple[Tensor, Tensor] | None = None

    def nll(
        self,
        cluster_logits: Tensor,
        states: Tensor,
        leaves: Tensor,
        targets: Tensor,
        excluded: Tensor | None = None,
    ) -> Tensor:
        """Negative log-likelihood of each target item, none of them placed.

        Args:
            cluster_logits: (N, K)
            states: The state at the target's own cluster token. (N, d)
            leaves: Output vector of every item. (n_items, d)
            targets: Item ids. (N,)
            excluded: Items that cannot come next, 0 for none; the target must not be among them. (N, H)

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
        logits = [block @ leaf_blocks[c].T for c, block in zip(present.tolist(), state_blocks, strict=True)]
        if excluded is not None:
            self._drop(logits, excluded[order], cluster[order], counts)
        leaf_nll = torch.cat(
            [F.cross_entropy(block, slots, reduction="none") for block, slots in zip(logits, slot_blocks, strict=True)]
        )
        cluster_nll = F.cross_entropy(self._possible(cluster_logits, excluded), cluster, reduction="none")
        return cluster_nll + torch.empty_like(leaf_nll).index_put((order,), leaf_nll)

    @property
    def empty(self) -> Tensor:
        """Whether a cluster has no item (only users, or nobody, or placed ones): it cannot come next. (K,) bool"""
        return self.n_learned == 0

    def cluster_log_probs(self, cluster_logits: Tensor, excluded: Tensor | None = None) -> Tensor:
        """Log p(cluster | history).

        Args:
            cluster_logits: (B, K)
            excluded: Items that cannot come next, 0 for none. (B, H)

        Returns:
            (B, K), the least finite number where a cluster has no item, or none that can come next.
        """
        return self._possible(cluster_logits, excluded).log_softmax(dim=-1)

    def leaf_log_probs(
        self, branches: Tensor, leaves: Tensor, clusters: Tensor, excluded: Tensor | None = None
    ) -> Tensor:
        """Log p(item | history, cluster) of the items of given clusters.

        Args:
            branches: The state at each of the given cluster tokens, had it come next. (B, C, d)
            leaves: Output vector of every item. (n_items, d)
            clusters: (B, C), or (C,) where they are the same for all rows.
            excluded: Items that cannot come next, 0 for none. (B, H)

        Returns:
            (B, C, R) by slot, the least finite number where there is no item, or one that is excluded.
        """
        members = self.members[clusters]
        if clusters.dim() == 1:
            logits = torch.bmm(branches.transpose(0, 1), leaves[members].transpose(1, 2)).transpose(0, 1)
            members = members[None]
        else:
            logits = (leaves[members] @ branches[..., None]).squeeze(-1)
        least = torch.finfo(logits.dtype).min
        nothing = members == 0
        if excluded is not None:
            gone = torch.zeros(len(logits), len(self.item_cluster), dtype=torch.bool, device=logits.device)
            gone.scatter_(1, excluded, True)
            row = torch.arange(len(logits), device=logits.device)[:, None, None]
            nothing = nothing | gone[row, members]
        logits = logits.masked_fill_(nothing, least)
        if self.placed is None:
            return logits.log_softmax(dim=-1).masked_fill(nothing, least)
        is_placed = self.placed[members]
        of_learned = logits.masked_fill(is_placed, least).logsumexp(dim=-1, keepdim=True)
        return (logits + self.offset * is_placed - of_learned).masked_fill(nothing, least)

    def log_probs(
        self, cluster_logits: Tensor, branches: Tensor, leaves: Tensor, excluded: Tensor | None = None
    ) -> Tensor:
        """Exact log-probability of every item.

        Args:
            cluster_logits: (B, K)
            branches: The state at each cluster token, had it come next. (B, K, d)
            leaves: Output vector of every item. (n_items, d)
            excluded: Items that cannot come next, 0 for none. (B, H)

        Returns:
            (B, n_items); the columns of the padding item and of excluded ones are the least finite number.
        """
        if self.placed is None and leaves.device.type == "cpu":
            return self._log_probs_by_cluster(cluster_logits, branches, leaves, excluded)
        every = torch.arange(len(self.members), device=self.members.device)
        leaf_log_probs = self.leaf_log_probs(branches, leaves, every, excluded)
        # Summed where they lie, then one selection of columns: two by pairs of indices take far longer.
        whole = (leaf_log_probs + self.cluster_log_probs(cluster_logits, excluded)[:, :, None]).flatten(1)
        scores = whole.index_select(1, self.item_cluster * leaf_log_probs.shape[2] + self.slot)
        least = torch.finfo(scores.dtype).min
        scores[:, 0] = least
        if excluded is not None:
            scores.clamp_(min=least)  # nothing left of a cluster: twice the least finite number is infinite
        return scores

    def log_prob_blocks(
        self, cluster_logits: Tensor, branches: Tensor, leaves: Tensor, size: int, excluded: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """:meth:`log_probs` cluster by cluster, of at most so many items at a time, none of them placed.

        A cluster with more items than that is scored twice: its denominator comes first.

        Args:
            cluster_logits, branches, leaves, excluded: As of :meth:`log_probs`.
            size: Items of a block at most.

        Yields:
            Item ids (M',), ascending, and scores (B, M').
        """
        # A part at a time: whoever asks for blocks has no room for a second table of all vectors.
        return self._blocks(cluster_logits, branches, lambda place: leaves[self.by_cluster[place]], size, excluded)

    def _blocks(
        self,
        cluster_logits: Tensor,
        branches: Tensor,
        vectors: Callable[[slice], Tensor],
        size: int,
        excluded: Tensor | None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """:meth:`log_prob_blocks` by what gives the output vectors of some places of ``by_cluster``."""
        cluster_log_probs, end = self.cluster_log_probs(cluster_logits, excluded), 0
        for cluster, n_items in enumerate(self.sizes):
            if not n_items:
                continue
            start, end = end, end + n_items
            parts = [slice(first, min(first + size, end)) for first in range(start, end, size)]
            logits_of = partial(self._part_logits, branches[:, cluster], vectors, parts, cluster, excluded)
            logits = [] if len(parts) > 1 else [logits_of(0)]
            sums = [of_part.logsumexp(dim=1) for of_part in logits or map(logits_of, range(len(parts)))]
            shift = (cluster_log_probs[:, cluster] - torch.stack(sums).logsumexp(dim=0))[:, None]
            for n, part in enumerate(parts):
                # An excluded item's stays the least finite number: no shift is large enough to be seen beside it, and
                # that of a cluster of which nothing is left is the difference of two such numbers.
                yield self.by_cluster[part], (logits[n] if logits else logits_of(n)) + shift

    def _part_logits(
        self,
        state: Tensor,
        vectors: Callable[[slice], Tensor],
        parts: Sequence[slice],
        cluster: int,
        excluded: Tensor | None,
        n: int,
    ) -> Tensor:
        """What the n-th part of a cluster's items have at its branch. (B, M')"""
        first = parts[n].start - parts[0].start
        return self._without(state @ vectors(parts[n]).T, excluded, cluster, first)

    def _drop(self, logits: list[Tensor], excluded: Tensor, cluster: Tensor, counts: Tensor) -> None:
        """Set excluded items to the least finite number, in place, in blocks of rows of one cluster each.

        Args:
            logits: Of all items of a block's cluster. (N_c, M_c) each
            excluded: Items, 0 for none, of all blocks' rows. (N, H)
            cluster: Of the rows, ascending. (N,)
            counts: How many of them each block has.
        """
        row, column = ((self.item_cluster[excluded] == cluster[:, None]) & (excluded > 0)).nonzero(as_tuple=True)
        starts = counts.cumsum(0) - counts
        block = torch.repeat_interleave(counts)[row]
        found = torch.bincount(block, minlength=len(counts)).tolist()
        rows, slots = (row - starts[block]).split(found), self.slot[excluded[row, column]].split(found)
        for of_block, here, slot in zip(logits, rows, slots, strict=True):
            of_block[here, slot] = torch.finfo(of_block.dtype).min

    def _without(self, logits: Tensor, excluded: Tensor | None, cluster: int, first: int = 0) -> Tensor:
        """Set excluded items to the least finite number, in place.

        Args:
            logits: Of a cluster's items by slot, or of those from slot ``first`` on. (N, M)
            excluded: Items, 0 for none; None for none at all. (N, H)
            cluster: Which one.
            first: The first slot.
        """
        if excluded is None:
            return logits
        place = self.slot[excluded] - first
        here = (self.item_cluster[excluded] == cluster) & (excluded > 0) & (place >= 0) & (place < logits.shape[1])
        row, column = here.nonzero(as_tuple=True)
        logits[row, place[row, column]] = torch.finfo(logits.dtype).min
        return logits

    def _log_probs_by_cluster(
        self, cluster_logits: Tensor, branches: Tensor, leaves: Tensor, excluded: Tensor | None = None
    ) -> Tensor:
        """:meth:`log_probs` without the padding of the smaller clusters, which is most of a processor's work there."""
        scores = leaves.new_empty(len(branches), 1 + len(self.by_cluster))  # by cluster, behind the padding item
        scores[:, 0], end = torch.finfo(leaves.dtype).min, 1
        ordered = self._in_order(leaves)
        for ids, of_cluster in self._blocks(cluster_logits, branches, ordered.__getitem__, scores.shape[1], excluded):
            start, end = end, end + len(ids)
            scores[:, start:end] = of_cluster
        place = torch.zeros_like(self.item_cluster)
        place[self.by_cluster] = torch.arange(1, end, device=place.device)
        return scores.index_select(1, place)

    def _in_order(self, leaves: Tensor) -> Tensor:
        """Output vectors cluster after cluster, without placed ones. (M, d)"""
        if self._kept is not None and self._kept[0] is leaves:
            return self._kept[1]
        ordered = leaves[self.by_cluster]
        if self.keeps and not torch.is_grad_enabled():
            self._kept = leaves, ordered
        return ordered

    def forget(self) -> None:
        """Keep nothing any more."""
        self.keeps, self._kept = False, None

    def log_weights(
        self, cluster_logits: Tensor, branches: Tensor, leaves: Tensor, new_leaves: Tensor, new_clusters: Tensor
    ) -> Tensor:
        """What items outside the tree would score, were they placed in it.

        Args:
            cluster_logits, branches, leaves: As of :meth:`log_probs`.
            new_leaves: Output vectors of the new items. (N, d)
            new_clusters: Their clusters, none of them without items. (N,)

        Returns:
            (B, N)
        """
        blocks = leaves[self.by_cluster].split(self.sizes)
        scores = branches.new_empty(len(branches), len(new_leaves))
        cluster_log_probs = self.cluster_log_probs(cluster_logits)
        for cluster in torch.unique(new_clusters).tolist():
            here = new_clusters == cluster
            of_learned = (branches[:, cluster] @ blocks[cluster].T).logsumexp(dim=1, keepdim=True)
            of_new = branches[:, cluster] @ new_leaves[here].T
            scores[:, here] = cluster_log_probs[:, cluster, None] + of_new - of_learned
        return scores + self.offset

    def log_mixtures(
        self,
        cluster_logits: Tensor,
        branches: Tensor,
        leaves: Tensor,
        tokens: Tensor,
        new_vectors: Tensor,
        log_shares: Tensor,
    ) -> Tensor:
        """As :meth:`log_weights`, of items of which only the probability of their being in each cluster is known.

        Args:
            cluster_logits, branches, leaves: As of :meth:`log_probs`.
            tokens: What a new item's output vector has of each cluster. (K, d)
            new_vectors: What it has of its own. (N, d)
            log_shares: Log-probabilities of the clusters; those without items are left out. (N, K)

        Returns:
            (B, N)
        """
        blocks = leaves[self.by_cluster].split(self.sizes)
        cluster_log_probs = self.cluster_log_probs(cluster_logits)
        scores = branches.new_full((len(branches), len(new_vectors)), torch.finfo(branches.dtype).min)
        for cluster in (~self.empty).nonzero().squeeze(1).tolist():
            of_learned = (branches[:, cluster] @ blocks[cluster].T).logsumexp(dim=1, keepdim=True)
            of_new = branches[:, cluster] @ (tokens[cluster] + new_vectors).T
            weights = cluster_log_probs[:, cluster, None] + of_new - of_learned
            scores = torch.logaddexp(scores, weights + log_shares[:, cluster])
        return scores + self.offset

    def cluster_means(self, vectors: Tensor) -> Tensor:
        """Mean over each cluster's items, without placed ones; zero where there are none. (n_items, d) -> (K, d)"""
        cluster = self.item_cluster[self.by_cluster]
        sums = vectors.new_zeros(len(self.members), vectors.shape[1]).index_add(0, cluster, vectors[self.by_cluster])
        return sums / torch.bincount(cluster, minlength=len(sums)).clamp_min(1)[:, None]

    def with_means(self, vectors: Tensor) -> Tensor:
        """Vectors of all items in which placed ones have the mean of their cluster. (n_items, d)"""
        if self.placed is None:
            return vectors
        return torch.where(self.placed[:, None], self.cluster_means(vectors)[self.item_cluster], vectors)

    def _possible(self, cluster_logits: Tensor, excluded: Tensor | None = None) -> Tensor:
        """Logits, the least finite number for clusters that cannot come next. (B, K) -> (B, K)"""
        nothing_left = self.empty if excluded is None else self._n_excluded(excluded) >= self.n_learned
        return cluster_logits.masked_fill(nothing_left, torch.finfo(cluster_logits.dtype).min)

    def _n_excluded(self, excluded: Tensor) -> Tensor:
        """How many items of each cluster are excluded; one that is named twice counts once. (B, H) -> (B, K)"""
        ordered = excluded.sort(dim=1).values
        counts = (ordered > 0) & (ordered != F.pad(ordered[:, :-1], (1, 0)))
        zeros = ordered.new_zeros(len(ordered), len(self.members))
        return zeros.scatter_add_(1, self.item_cluster[ordered], counts.long())


def _places(clusters: Tensor, n_clusters: int) -> Tensor:
    """Of clusters in ascending order: which place each entry has among those of its cluster, from 0. (N,)"""
    sizes = torch.bincount(clusters, minlength=n_clusters)
    return torch.arange(len(clusters), device=clusters.device) - (sizes.cumsum(0) - sizes)[clusters]


def prefix_mask(key_mask: Tensor) -> Tensor:
    """Causal attention among real tokens. (B, T) bool -> (B, 1, T, T) bool, True where a query may attend"""
    length = key_mask.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=key_mask.device).tril()
    mask = causal & key_mask[:, None, :]
    # Every token attends to itself, padding too: a row without any key would turn into NaN.
    mask.diagonal(dim1=1, dim2=2).fill_(True)
    return mask[:, None]


def sibling_mask(key_mask: Tensor, n_siblings: int) -> Tensor:
    """Attention of the branches of the token tree, as siblings behind a prefix that was read before.

    Each attends to all real prefix tokens and to itself, not to other siblings: it sees what it would see alone.

    Args:
        key_mask: True where a prefix token is real. (B, T) bool
        n_siblings: C.

    Returns:
        True where a query may attend. (B, 1, C, T + C) bool
    """
    own = torch.eye(n_siblings, dtype=torch.bool, device=key_mask.device)
    prefix = key_mask[:, None, :].expand(-1, n_siblings, -1)
    return torch.cat([prefix, own.expand(len(key_mask), -1, -1)], dim=2)[:, None]


def branches_mask(key_mask: Tensor, n_siblings: int) -> Tensor:
    """Attention of a prefix and of siblings behind it, read in one pass. (B, T) bool -> (B, 1, T + C, T + C) bool"""
    prefix = F.pad(prefix_mask(key_mask), (0, n_siblings))
    return torch.cat([prefix, sibling_mask(key_mask, n_siblings)], dim=2)


def token_positions(key_mask: Tensor) -> Tensor:
    """Position ids that count real tokens only. (B, T) long"""
    return (key_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def sibling_positions(key_mask: Tensor, n_siblings: int) -> Tensor:
    """Position ids of siblings: each stands where the token after the real ones would. (B, C)"""
    return key_mask.sum(dim=1, keepdim=True).expand(-1, n_siblings)
