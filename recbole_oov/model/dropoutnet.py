"""DropoutNet: towers over embedding and content, trained with the embedding left out now and then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_oov.model.cold_start import ColdStartRecommender
from recbole_oov.model.content_network import Scale, mlp, share_problems, size_problems


class DropoutNet(ColdStartRecommender):
    r"""A user tower and an item tower learn to give the base model's scores, the item's embedding missing or not.

    .. math:: \hat U_u = f_U(e_u), \quad \hat V_i = f_V([m_i\, e_i,\; c_i]), \qquad
              L = \sum_{u, i} (e_u^\top e_i - \hat U_u^\top \hat V_i)^2

    with :math:`m_i = 0` for a share ``item_dropout`` of the batch and 1 otherwise.
    For an OOV item :math:`m_i = 0`, which training has prepared the tower for. IV items and users are scored with the
    towers as well, so the ranking of IV items changes.

    Reference: Volkovs, Yu and Poutanen, DropoutNet: Addressing Cold Start in Recommender Systems, NeurIPS 2017.
    """

    paper = "https://papers.nips.cc/paper/7081-dropoutnet-addressing-cold-start-in-recommender-systems"
    keeps_iv_items = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d, sizes = self.embedding_dim, config["tower_sizes"]
        self.item_dropout: float = config["item_dropout"]
        self.content_scale = Scale(self.content[self.iv_items])
        self.user_scale, self.item_scale = Scale(self.base_users), Scale(self.base_items[self.iv_items])
        self.user_tower = mlp(d, sizes, d, nn.Tanh)
        self.item_tower = mlp(d + self.content_dim, sizes, d, nn.Tanh)

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        return (
            super().config_problems(config)
            + size_problems(config, "tower_sizes")
            + share_problems(config, "item_dropout")
        )

    def take_base(self, users: Tensor, items: Tensor) -> None:
        """As of every model of the kind; the towers' inputs are scaled anew."""
        super().take_base(users, items)
        self.user_scale.measure(self.base_users)
        self.item_scale.measure(self.base_items[self.iv_items])

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The squared error of the scores of the positives and as many random IV items."""
        users = interaction[self.USER_ID].repeat(2)
        items = torch.cat([interaction[self.ITEM_ID], interaction[self.NEG_ITEM_ID]])
        kept = torch.rand(len(items), device=items.device) >= self.item_dropout
        user = self._user(self.base_users[users])
        item = self._item(self.base_items[items] * kept[:, None], self.content[items])
        target = (self.base_users[users] * self.base_items[items]).sum(dim=1)
        return ((user * item).sum(dim=1) - target).square().mean()

    def user_embeddings(self) -> Tensor:
        """(n_users, d)"""
        return self._user(self.base_users)

    def new_item_embeddings(self, content: Tensor) -> Tensor:
        """(N, content_dim) -> (N, d)"""
        return self._item(self.base_items.new_zeros(len(content), self.embedding_dim), content)

    def item_embeddings(self) -> Tensor:
        """(n_items, d)"""
        return self._item(self.base_items, self.content)  # the base embedding of an OOV item is zero

    def _user(self, base: Tensor) -> Tensor:
        embeddings: Tensor = self.user_tower(self.user_scale(base))
        return embeddings

    def _item(self, base: Tensor, content: Tensor) -> Tensor:
        inputs = torch.cat([self.item_scale(base), self.content_scale(content)], dim=1)
        embeddings: Tensor = self.item_tower(inputs)
        return embeddings
