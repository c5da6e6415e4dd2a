"""CLCRec: content is taught to tell which embedding belongs to it, among others, and may stand in for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_oov.model.cold_start import ColdStartRecommender
from recbole_oov.model.content_network import content_network, positive_problems, share_problems, size_problems


class CLCRec(ColdStartRecommender):
    r"""Contrastive learning of the mutual information between content and collaborative embeddings.

    Users and items have trainable embeddings :math:`p_u`, :math:`q_i`, and a network encodes content, :math:`h(c_i)`.

    .. math:: L_{RE} = -\log \frac{\exp(\cos(q_i, h(c_i)) / \tau)}
                                {\sum_{j \in \{i\} \cup N} \exp(\cos(q_i, h(c_j)) / \tau)}, \qquad
              L_{UI} = -\log \frac{\exp(p_u^\top z_i / \tau)}
                                {\sum_{j \in \{i\} \cup N} \exp(p_u^\top z_j / \tau)}

    .. math:: L = \lambda L_{RE} + (1 - \lambda) L_{UI} + \eta \lVert \Theta \rVert

    :math:`z` is an item's embedding, or for a share ``content_share`` of the items its content's code, so that the two
    can stand in for each other (hybrid contrastive training). N are random IV items. IV items are scored with
    :math:`q_i`, OOV items with :math:`h(c_i)`. The embeddings start as the base model's and are trained further, so
    the ranking of IV items changes.

    Reference: Wei, Wang, Li, Nie, Li, Li and Chua, Contrastive Learning for Cold-Start Recommendation, MM 2021.
    """

    paper = "https://arxiv.org/abs/2107.05315"
    input_type = InputType.PAIRWISE
    keeps_iv_items = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.temperature: float = config["temperature"]
        self.content_share: float = config["content_share"]
        self.content_weight: float = config["content_weight"]
        self.norm_weight: float = config["norm_weight"]
        self.n_negatives: int = config["n_negatives"]
        self.encoder = content_network(
            self.content[self.iv_items], config["encoder_sizes"], self.embedding_dim, nn.LeakyReLU
        )
        self.user_table = nn.Parameter(self.base_users.clone())
        self.item_table = nn.Parameter(self.base_items.clone())

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        problems = super().config_problems(config) + size_problems(config, "encoder_sizes")
        problems += positive_problems(config, "temperature", "n_negatives")
        return problems + share_problems(config, "content_share", "content_weight")

    @torch.no_grad()
    def take_base(self, users: Tensor, items: Tensor) -> None:
        """As of every model of the kind; the own embeddings start from it."""
        super().take_base(users, items)
        self.user_table.copy_(self.base_users)
        self.item_table.copy_(self.base_items)

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, Tensor, Tensor]:
        """The contrast of content, the contrast of users, and the regularisation, each weighted."""
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        iv = self.iv_items
        negatives = iv[torch.randint(len(iv), (self.n_negatives,), device=iv.device)]
        every = torch.cat([items, negatives])
        code, embedding, user = self.encoder(self.content[every]), self.item_table[every], self.user_table[users]
        of_content = torch.rand(len(every), 1, device=every.device) < self.content_share
        cosine_ready = F.normalize(embedding[: len(items)], dim=1), F.normalize(code, dim=1)
        content_loss = self._contrast(*cosine_ready, items, negatives)
        user_loss = self._contrast(user, torch.where(of_content, code, embedding), items, negatives)
        norms = (user.norm(dim=1).mean() + embedding.norm(dim=1).mean()) / 2
        return self.content_weight * content_loss, (1 - self.content_weight) * user_loss, self.norm_weight * norms

    def _contrast(self, anchors: Tensor, candidates: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
        """InfoNCE of each anchor's own candidate against the negatives, which the batch shares.

        Args:
            anchors: (B, d)
            candidates: Those of the B items, then those of the negatives. (B + n, d)
            items: (B,)
            negatives: One that is the item itself does not count. (n,)
        """
        own = (anchors * candidates[: len(anchors)]).sum(dim=1, keepdim=True)
        others = anchors @ candidates[len(anchors) :].T
        others = others.masked_fill(items[:, None] == negatives, -torch.inf)
        logits = torch.cat([own, others], dim=1) / self.temperature
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))

    def user_embeddings(self) -> Tensor:
        """(n_users, d)"""
        return self.user_table

    def new_item_embeddings(self, content: Tensor) -> Tensor:
        """(N, content_dim) -> (N, d)"""
        embeddings: Tensor = self.encoder(content)
        return embeddings

    def item_embeddings(self) -> Tensor:
        """(n_items, d)"""
        table = self.item_table.detach().clone()
        table[self.oov] = self.encoder(self.content[self.oov])
        table[0] = 0.0
        return table
