"""What follows what in training: counts of items behind items, by how far apart they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from torch import Tensor, nn

from recbole_oov.data.histories import Histories
from recbole_oov.data.ragged import ragged_rows

_ENTRIES_AT_ONCE = 1 << 23
"""Followers of items that are added up at once, about 200 MiB of them."""


class SequentialRuleTable(nn.Module):
    r"""Sequential rules of the training histories, and what they say after a history.

    .. math:: n_{ij} = \sum_{u} \sum_{s < t \le s + G} \frac{[h_{us} = i][h_{ut} = j]}{t - s}, \qquad
              r_j(h) = \sum_{k \ge 0} \gamma^k n_{h_{-1-k} j}

    :math:`n` counts the items up to G places behind an item, each by the inverse of its distance (the rules SR of
    Ludewig and Jannach; with G = 1 a first-order Markov chain), and :math:`r` asks for what the newest item of a
    history is followed by, and with less weight for what the ones before it are.

    Args:
        dataset: The training part of a data set.
        gap: G, how many places behind an item another one follows it.
        decay: γ, the weight of an item of the history beside that of the one after it, from 0 to 1.

    Reference: Ludewig and Jannach, Evaluation of session-based recommendation algorithms, UMUAI 2018.
    """

    offsets: Tensor
    followers: Tensor
    counts: Tensor

    def __init__(self, dataset: Any, gap: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        histories = Histories.from_train(dataset)
        self.n_items = histories.n_items
        offsets, followers, counts = _followers(histories, gap)
        # Not in the state dict: they are counted again where a checkpoint is loaded with its data.
        self.register_buffer("offsets", torch.from_numpy(offsets), persistent=False)
        self.register_buffer("followers", torch.from_numpy(followers), persistent=False)
        self.register_buffer("counts", torch.from_numpy(counts), persistent=False)

    def forward(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """What follows histories: counts with decay, 0 for what never did. (B, n_items)

        Args:
            histories: Item ids, oldest first, 0 after them. (B, L)
            lengths: (B,)
        """
        age = lengths[:, None] - 1 - torch.arange(histories.shape[1], device=histories.device)
        weights = torch.where(age >= 0, float(self.decay) ** age.clamp(min=0), 0.0)
        row, place = ((histories != 0) & (weights > 0)).nonzero(as_tuple=True)
        items, weights = histories[row, place], weights[row, place]
        found = torch.zeros(len(histories) * self.n_items, device=self.counts.device)
        # Not by indexing: that takes the id -1 for the last item.
        ends = F.embedding(items, self.offsets.diff()[:, None]).view(-1).cumsum(0)
        pieces = torch.div(ends, _ENTRIES_AT_ONCE, rounding_mode="floor")
        for size in torch.unique_consecutive(pieces, return_counts=True)[1].tolist():
            entry, followers, index = ragged_rows(self.offsets, self.followers, items[:size])
            found.index_add_(0, row[entry] * self.n_items + followers, weights[entry] * self.counts[index])
            row, items, weights = row[size:], items[size:], weights[size:]
        return found.view(-1, self.n_items)

    def mixed(self, scores: Tensor, histories: Tensor, lengths: Tensor, weight: float) -> Tensor:
        r"""Log-probabilities of items by a model and these rules together.

        .. math:: \log\Big((1 - \lambda) p_j + \lambda \frac{r_j}{R}\Big), \qquad \lambda = w \frac{R}{R + 1}, \quad
                  R = \sum_j r_j

        As kNN-LM interpolates a language model with what it finds in a memory (Khandelwal et al., ICLR 2020). The less
        the rules have to say, the less they count: one of their counts belongs to the model. What the model rules out,
        by the least finite score, the rules do not bring back.

        Args:
            scores: Log-probabilities of a model, or logits of its softmax over all items. (B, n_items)
            histories, lengths: As of :meth:`forward`.
            weight: w, from 0 to below 1.
        """
        out = scores <= torch.finfo(scores.dtype).min
        out[:, 0] = True
        said = self(histories, lengths).masked_fill(out, 0.0)
        total = said.sum(dim=1, keepdim=True)
        of_model = scores.float().masked_fill(out, -torch.inf).log_softmax(dim=1)
        share = weight * total / (total + 1)
        mixed = torch.logaddexp(of_model + torch.log1p(-share), (weight * said / (total + 1)).log())
        return mixed.masked_fill(out, torch.finfo(mixed.dtype).min)


def _followers(histories: Histories, gap: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``followers[offsets[i]:offsets[i + 1]]`` follow item i, ascending, ``counts`` as often. int64, int64, float32"""
    users, items = histories.pairs()
    n = histories.n_items
    table = coo_matrix((n, n), dtype=np.float64).tocsr()
    for apart in range(1, min(gap, len(items) - 1) + 1):
        same = users[:-apart] == users[apart:]
        if not same.any():
            break
        ones = np.full(int(same.sum()), 1 / apart)
        table = table + coo_matrix((ones, (items[:-apart][same], items[apart:][same])), shape=(n, n)).tocsr()
    table.sort_indices()
    return table.indptr.astype(np.int64), table.indices.astype(np.int64), table.data.astype(np.float32)
