"""What follows what in training: counts of items behind items, by how far apart they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor, nn

from recbole_oov.data.histories import Histories


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

    table: csr_matrix
    """How often each item (column) followed each other one (row). (n_items, n_items) float32, on the CPU"""

    def __init__(self, dataset: Any, gap: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        # No buffer, and in no state dict: it is counted again where a checkpoint is loaded with its data.
        self.table = _followers(Histories.from_train(dataset), gap)

    def forward(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """What follows histories: counts with decay, 0 for what never did. (B, n_items)

        Args:
            histories: Item ids, oldest first, 0 after them. (B, L)
            lengths: (B,)
        """
        items, n = histories.cpu().numpy(), lengths.cpu().numpy()[:, None]
        age = n - 1 - np.arange(items.shape[1])
        weights = np.where(age >= 0, float(self.decay) ** np.maximum(age, 0), 0.0)
        row, place = np.nonzero((items != 0) & (weights > 0))
        entries = weights[row, place].astype(np.float32), (row, items[row, place])
        asked = csr_matrix(entries, shape=(len(items), self.table.shape[0]))
        return torch.from_numpy((asked @ self.table).toarray()).to(histories.device)

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


def _followers(histories: Histories, gap: int) -> csr_matrix:
    users, items = histories.pairs()
    shape = (histories.n_items, histories.n_items)
    table = csr_matrix(shape, dtype=np.float64)
    for apart in range(1, min(gap, len(items) - 1) + 1):
        same = users[:-apart] == users[apart:]
        if not same.any():
            break
        ones = np.full(int(same.sum()), 1 / apart)
        table = table + csr_matrix((ones, (items[:-apart][same], items[apart:][same])), shape=shape)
    return table.astype(np.float32)
