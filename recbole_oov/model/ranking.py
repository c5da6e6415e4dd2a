"""A ranking objective for item embeddings: what an item's users have it for, among other items and other users."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from recbole_oov.model.imagination import END, Potential, Targets, UserSpace


def ranking_loss(h: Tensor, targets: Targets, users: Tensor) -> Tensor:
    r"""How badly generated embeddings are ranked by the users who have the items; differentiable.

    .. math:: -\frac1{\sum_i |U_i|} \sum_i \sum_{u \in U_i}
              \log \frac{e^{h_i^\top e_u}}{\sum_{k \in B} e^{h_k^\top e_u}}
              -\frac1{|B|} \sum_i \frac1{|U_i|} \sum_{u \in U_i}
              \log \frac{e^{h_i^\top e_u}}{\sum_{v \in U_B} e^{h_i^\top e_v}}

    First the item among the items of the batch, as its user ranks them; then the user among all users of the batch's
    items. The competitors are generated as well, as those of an OOV item are.

    Args:
        h: Generated embeddings of the batch. (B, d)
        targets: The items' users.
        users: All users' embeddings, in the units in which scores are logits. (n_users, d)
    """
    ids = targets.users.unique()
    ids = ids[ids != END]
    has = _membership(targets.users, ids).to(h.dtype)
    scores = h @ users[ids].T
    among_items = (scores.log_softmax(dim=0) * has).sum() / has.sum()
    among_users = ((scores.log_softmax(dim=1) * has).sum(dim=1) / has.sum(dim=1).clamp_min(1)).mean()
    return -(among_items + among_users)


def _membership(own: Tensor, ids: Tensor) -> Tensor:
    """Whether each of ``ids``, ascending, is in each row. (B, C), (V,) -> (B, V) bool"""
    column = torch.searchsorted(ids, own).clamp(max=len(ids) - 1)
    found = torch.zeros(len(own), len(ids) + 1, dtype=torch.bool, device=own.device)
    found.scatter_(1, column.masked_fill(own == END, len(ids)), True)
    return found[:, :-1]


class RankingPotential(Potential):
    """As :func:`ranking_loss` item by item, for a policy to be rewarded by; the other items stay where they start.

    Args:
        targets: The items of a batch.
        users: All users.
        starts: Where the items of the batch start. (B, d)
        scale: What a product of two embeddings of the space is multiplied by to be a logit.
    """

    names = ("among items", "among users")

    def __init__(self, targets: Targets, users: UserSpace, starts: Tensor, scale: Tensor) -> None:
        share = (targets.users != END).to(starts.dtype)
        self._share = share / share.sum(dim=1, keepdim=True).clamp_min(1)
        self._readers = users.embeddings[targets.users]
        ids = targets.users.unique()
        self._everyone, self._scale = users.embeddings[ids[ids != END]], scale
        sums = users.embeddings.new_zeros(len(users.embeddings))
        sums[ids[ids != END]] = (scale * starts @ self._everyone.T).logsumexp(dim=0)
        self._of_items = sums[targets.users]

    def only(self, kept: Tensor) -> RankingPotential:
        part = copy.copy(self)
        part._readers, part._share, part._of_items = self._readers[kept], self._share[kept], self._of_items[kept]
        return part

    def __call__(self, h: Tensor) -> Tensor:
        """Mean negative log-likelihoods of the item among items and of the user among users. (B, d) -> (B, 2)"""
        scores = self._scale * torch.bmm(self._readers, h[:, :, None]).squeeze(2)
        of_users = (self._scale * h @ self._everyone.T).logsumexp(dim=1, keepdim=True)
        missing = (torch.logaddexp(scores, self._of_items) - scores, of_users - scores)
        return torch.stack([(part * self._share).sum(dim=1) for part in missing], dim=1)
