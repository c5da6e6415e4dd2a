"""ALDI: a content student learns to rate, rank and tell items apart as the base model, its teacher, does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_oov.data.item_users import ItemUsers
from recbole_oov.evaluation.item_blocks import Blocks, BlockScorer, dot_product_blocks
from recbole_oov.model.cold_start import ColdStartRecommender
from recbole_oov.model.content_network import Scale, content_network, measure_input, mlp, size_problems


class ALDI(ColdStartRecommender):
    r"""Aligning distillation from IV items to OOV items.

    The teacher's score is the base model's, :math:`t_{ui} = e_u^\top e_i`, the student's
    :math:`s_{ui} = f_U(e_u)^\top f_I(c_i)`. Over (user, item, negative), with H the binary cross-entropy of a logit:

    .. math:: L = -\ln \sigma(s_{ui} - s_{uj})
              + \gamma \big(|t_{ui} - s_{ui}| + |t_{uj} - s_{uj}|\big)
              + \alpha\, w_i H\big(s_{ui} - s_{uj},\; \sigma(t_{ui} - t_{uj})\big)
              + \beta\, w_i H\big(\Delta^s_i,\; \sigma(\Delta^t_i)\big)

    the supervised loss, and the alignments of rating distributions, of rankings and of identification;
    :math:`\Delta_i = v_i^\top v_i - \mathrm{mean}_j\, v_i^\top v_j` says how well an item is told from the negatives of
    the batch, v being :math:`e` for the teacher and :math:`f_I(c)` for the student. With ``teacher_weights`` the
    teacher counts less for items that it saw little of: :math:`w_i = \tanh(M n_i / \bar n)`,
    :math:`n_i = \sum_{u \in U_i} 1 / |I_u|`.

    IV items keep the base model's scores, OOV items have the student's.

    Reference: Huang, Wang, Huang, Qian, Li and Chen, Aligning Distillation For Cold-start Item Recommendation, SIGIR
    2023.
    """

    paper = "https://doi.org/10.1145/3539618.3591732"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d = self.embedding_dim
        self.rating_weight: float = config["rating_weight"]
        self.ranking_weight: float = config["ranking_weight"]
        self.identification_weight: float = config["identification_weight"]
        self.item_network = content_network(self.content[self.iv_items], config["student_sizes"], d, nn.Tanh)
        self.user_network = nn.Sequential(Scale(self.base_users), mlp(d, config["student_sizes"], d, nn.Tanh))
        weights = torch.ones(self.n_items)
        if config["teacher_weights"]:
            weights = teacher_weights(ItemUsers(dataset), self.n_users, cap=config["teacher_cap"])
        self.register_buffer("teacher_weight", weights.to(self.device))
        self.teacher_weight: Tensor

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        return super().config_problems(config) + size_problems(config, "student_sizes")

    def take_base(self, users: Tensor, items: Tensor) -> None:
        """As of every model of the kind; the input of the user network is scaled anew."""
        super().take_base(users, items)
        measure_input(self.user_network, self.base_users)

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The supervised loss and the weighted alignments of ratings, rankings and identification."""
        users, items, others = (interaction[name] for name in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        base = self.base_users[users], self.base_items[items], self.base_items[others]
        student = self.user_network(base[0]), *self.item_network(self.content[torch.cat([items, others])]).chunk(2)
        (t_pos, t_neg), (s_pos, s_neg) = _scores(*base), _scores(*student)
        weight = self.teacher_weight[items]
        rating = ((t_pos - s_pos).abs() + (t_neg - s_neg).abs()).mean()
        ranking = _cross_entropy(s_pos - s_neg, t_pos - t_neg, weight)
        identification = _cross_entropy(_identification(*student[1:]), _identification(*base[1:]), weight)
        return (
            -F.logsigmoid(s_pos - s_neg).mean(),
            self.rating_weight * rating,
            self.ranking_weight * ranking,
            self.identification_weight * identification,
        )

    def new_item_embeddings(self, content: Tensor) -> Tensor:
        """(N, content_dim) -> (N, d)"""
        embeddings: Tensor = self.item_network(content)
        return embeddings

    @torch.no_grad()
    def score_new_items(self, users: Tensor, content: Tensor) -> Tensor:
        """(B,), (N, content_dim) -> (B, N)"""
        student = self._student_users(F.embedding(users, self._tables()[0]))
        return student @ self.new_item_embeddings(content).T

    def item_embeddings(self) -> Tensor:
        """(n_items, d)"""
        return self.with_base_items(self.item_network(self.content[self.oov]))

    def predict(self, interaction: Interaction) -> Tensor:
        """(B,)"""
        users, items = self._tables()
        ids = interaction[self.ITEM_ID]
        base, item = F.embedding(interaction[self.USER_ID], users), F.embedding(ids, items)
        user = torch.where(self.oov[ids, None], self._student_users(base), base)
        return (user * item).sum(dim=1)

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, n_items)"""
        users, items = self._tables()
        base = F.embedding(interaction[self.USER_ID], users)
        scores = base @ items.T
        scores[:, self.oov] = self._student_users(base) @ items[self.oov].T
        return scores

    def block_scorer(self) -> BlockScorer:
        """As of the other cold-start models; OOV items with the users that the student makes of theirs."""
        users, items = self._tables()

        def blocks(interaction: Interaction, size: int) -> Blocks:
            base = F.embedding(interaction[self.USER_ID], users)
            students = self._student_users(base)
            for ids, scores in dot_product_blocks(base, items, size):
                scores[:, self.oov[ids]] = students @ items[ids[self.oov[ids]]].T
                yield ids, scores

        return blocks

    @torch.no_grad()
    def _student_users(self, base: Tensor) -> Tensor:
        users: Tensor = self.user_network(base)
        return users


def teacher_weights(item_users: ItemUsers, n_users: int, *, cap: float) -> Tensor:
    """How far the teacher is to be trusted with each item, from 0 to 1. (n_items,)

    Args:
        item_users: The training users of items.
        n_users: Ids of users, [PAD] included.
        cap: M: an item of average frequency has tanh(M).
    """
    per_user = torch.bincount(item_users.users, minlength=n_users).clamp(min=1).reciprocal()
    items = torch.repeat_interleave(torch.arange(len(item_users.counts)), item_users.counts)
    frequency = torch.zeros(len(item_users.counts)).index_add_(0, items, per_user[item_users.users].float())
    mean = frequency[item_users.counts > 0].mean()
    return torch.tanh(cap * frequency / mean).clamp(max=float(torch.tanh(torch.tensor(cap))))


def _scores(user: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    return (user * positive).sum(dim=1), (user * negative).sum(dim=1)


def _identification(items: Tensor, others: Tensor) -> Tensor:
    """The own inner product, less the mean of those with the batch's negatives. (B, d), (B, d) -> (B,)"""
    return items.square().sum(dim=1) - items @ others.mean(dim=0)


def _cross_entropy(student: Tensor, teacher: Tensor, weight: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), weight)
