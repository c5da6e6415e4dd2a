"""A quick look at how well embeddings rank some items, where a whole evaluation would be too much to choose by."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 1 << 22
"""Scores held at once, 16 MiB of them."""


@torch.no_grad()
def dot_product_ndcg(users: Tensor, items: Tensor, positives: Tensor, k: int) -> float:
    """Mean NDCG@k of ranking all of ``items`` by the dot product, over the users with a positive.

    No item is left out of anyone's ranking, and ties are not drawn by lot: it is for choosing between settings, not for
    reporting.

    Args:
        users: (U, d)
        items: (M, d)
        positives: Pairs of rows of ``users`` and ``items``, each once. (P, 2)
        k: At most M.

    Returns:
        From 0 to 1; NaN without positives.
    """
    rows, place = positives[:, 0].unique(return_inverse=True)
    gain = 1 / torch.arange(2, k + 2, dtype=torch.float64, device=items.device).log2()
    ideal, total = gain.cumsum(0), 0.0
    size = max(1, _BLOCK // len(items))
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        here = (place >= start) & (place < start + size)
        is_positive = torch.zeros(len(block), len(items), dtype=torch.bool, device=items.device)
        is_positive[place[here] - start, positives[here, 1]] = True
        best = (users[block] @ items.T).topk(k, dim=1).indices
        found = (is_positive.gather(1, best) * gain).sum(dim=1)
        total += float((found / ideal[is_positive.sum(dim=1).clamp(max=k) - 1]).sum())
    return total / len(rows) if len(rows) else float("nan")
