"""Heater: a mixture of experts turns content into something like an embedding, and training mixes the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_oov.model.cold_start import ColdStartRecommender
from recbole_oov.model.content_network import Scale, mlp, share_problems, size_problems


class Heater(ColdStartRecommender):
    r"""Mixture-of-experts transformation of content, randomized training, similarity constraint.

    .. math:: Q_i = \tanh\Big(\sum_k g_k(c_i)\, E_k(c_i)\Big), \qquad g(c) = \tanh(W_g c + b_g)

    .. math:: L = \sum_{u, i} \big(f_U(e_u)^\top f_V(P_i) - R_{ui}\big)^2 + \alpha \sum_i \lVert Q_i - e_i \rVert^2

    Each expert :math:`E_k` is a network of its own. In training :math:`P_i` is :math:`Q_i` with probability
    ``content_share`` and the base model's :math:`e_i` otherwise (randomized training); an OOV item always
    has :math:`Q_i`, an IV item :math:`e_i`. :math:`R_{ui}` is 1 for an interaction and 0 for a random IV item. The base
    embeddings are scaled to a mean square of 1, which tanh can reach (the published code standardises them).

    Reference: Zhu, Sefati, Saadatpanah and Caverlee, Recommendation for New Users and New Items via Randomized Training
    and Mixture-of-Experts Transformation, SIGIR 2020.
    """

    paper = "https://doi.org/10.1145/3397271.3401178"
    keeps_iv_items = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d = self.embedding_dim
        self.content_share: float = config["content_share"]
        self.similarity_weight: float = config["similarity_weight"]
        self.content_scale = Scale(self.content[self.iv_items])
        self.user_scale, self.item_scale = Scale(self.base_users), Scale(self.base_items[self.iv_items])
        self.gate = nn.Linear(self.content_dim, config["n_experts"])
        self.experts = nn.ModuleList(
            mlp(self.content_dim, config["expert_sizes"], d, nn.Tanh) for _ in range(config["n_experts"])
        )
        self.user_tower, self.item_tower = mlp(d, [d], d, nn.Tanh), mlp(d, [d], d, nn.Tanh)

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        problems = super().config_problems(config) + size_problems(config, "expert_sizes")
        if config["n_experts"] < 1:
            problems.append(f"n_experts: {config['n_experts']!r} is not allowed; give a whole number of at least 1")
        return problems + share_problems(config, "content_share")

    def take_base(self, users: Tensor, items: Tensor) -> None:
        """As of every model of the kind; the embeddings are scaled anew."""
        super().take_base(users, items)
        self.user_scale.measure(self.base_users)
        self.item_scale.measure(self.base_items[self.iv_items])

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """The squared error of the scores of positives and negatives, and the weighted distance of Q from the base."""
        users = interaction[self.USER_ID].repeat(2)
        items = torch.cat([interaction[self.ITEM_ID], interaction[self.NEG_ITEM_ID]])
        labels = torch.ones(len(items), device=items.device)
        labels[len(items) // 2 :] = 0.0
        base, generated = self.item_scale(self.base_items[items]), self.generate(self.content[items])
        of_content = torch.rand(len(items), 1, device=items.device) < self.content_share
        item = self.item_tower(torch.where(of_content, generated, base))
        scores = (self.user_tower(self.user_scale(self.base_users[users])) * item).sum(dim=1)
        distance = (generated - base).square().sum(dim=1).mean()
        return (scores - labels).square().mean(), self.similarity_weight * distance

    def generate(self, content: Tensor) -> Tensor:
        """Q, what stands in for the scaled base embedding. (N, content_dim) -> (N, d)"""
        inputs = self.content_scale(content)
        gates = torch.tanh(self.gate(inputs))
        experts = torch.stack([torch.tanh(expert(inputs)) for expert in self.experts], dim=1)  # (N, n_experts, d)
        return torch.tanh((gates[:, :, None] * experts).sum(dim=1))

    def user_embeddings(self) -> Tensor:
        """(n_users, d)"""
        embeddings: Tensor = self.user_tower(self.user_scale(self.base_users))
        return embeddings

    def new_item_embeddings(self, content: Tensor) -> Tensor:
        """(N, content_dim) -> (N, d)"""
        embeddings: Tensor = self.item_tower(self.generate(content))
        return embeddings

    def item_embeddings(self) -> Tensor:
        """(n_items, d)"""
        inputs = self.item_scale(self.base_items)
        inputs[self.oov] = self.generate(self.content[self.oov])
        embeddings: Tensor = self.item_tower(inputs)
        return embeddings
