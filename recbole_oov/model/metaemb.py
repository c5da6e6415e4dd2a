"""MetaEmb: content gives an embedding that is good at once, and better after one step on a few interactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.data.item_users import ItemUsers
from recbole_oov.model.cold_start import ColdStartRecommender
from recbole_oov.model.content_network import content_network, positive_problems, share_problems, size_problems


class MetaEmb(ColdStartRecommender):
    r"""A generator of initial id embeddings, learned by meta-learning over IV items as tasks.

    For each item two small batches a and b of users are drawn, who have it (label 1) or not (label 0). With
    :math:`\ell` the binary cross-entropy of :math:`\sigma(e_u^\top \phi)` under the frozen base model,

    .. math:: \phi = G(c_i), \qquad \phi' = \phi - a\, \frac{\partial \ell_a(\phi)}{\partial \phi}, \qquad
              L = \alpha\, \ell_a(\phi) + (1 - \alpha)\, \ell_b(\phi')

    The first term wants good recommendations without any interaction, the second ones that are
    good after one step of learning. The gradient goes through the step. An OOV item is scored with :math:`\phi`.

    Reference: Pan, Li, Ao, Tang and He, Warm Up Cold-start Advertisements: Improving CTR Predictions via Learning to
    Learn ID Embeddings, SIGIR 2019.
    """

    paper = "https://arxiv.org/abs/1904.11547"
    learns_from = "items"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.step_size: float = config["step_size"]
        self.cold_weight: float = config["cold_weight"]
        self.users_a_batch: int = config["users_a_batch"]
        self.generator = content_network(self.content[self.iv_items], config["generator_sizes"], self.embedding_dim)
        self.item_users = ItemUsers(dataset).to(self.device)

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        problems = super().config_problems(config) + size_problems(config, "generator_sizes")
        return (
            problems + positive_problems(config, "step_size", "users_a_batch") + share_problems(config, "cold_weight")
        )

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """The weighted losses before and after the step."""
        items = interaction[self.ITEM_ID]
        users_a, users_b = self._users(items), self._users(items)
        initial = self.generate(self.content[items])
        cold = self._cross_entropy(users_a, initial)  # (B,)
        (gradient,) = torch.autograd.grad(cold.sum(), initial, create_graph=True)
        warm = self._cross_entropy(users_b, initial - self.step_size * gradient)
        return self.cold_weight * cold.mean(), (1 - self.cold_weight) * warm.mean()

    def _users(self, items: Tensor) -> Tensor:
        """Users who have each item, then as many who do not. (B, 2 m)"""
        n = self.users_a_batch
        return torch.cat([self.item_users.positives(items, n), self.item_users.negatives(items, n)], dim=1)

    def _cross_entropy(self, users: Tensor, embeddings: Tensor) -> Tensor:
        """Of each item over its users, the first half of whom have it. (B, 2 m), (B, d) -> (B,)"""
        logits = torch.bmm(self.base_users[users], embeddings[:, :, None]).squeeze(2)
        labels = torch.zeros_like(logits)
        labels[:, : logits.shape[1] // 2] = 1.0
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)

    def generate(self, content: Tensor) -> Tensor:
        """Initial embeddings by content. (N, content_dim) -> (N, d)"""
        generated: Tensor = self.generator(content)
        return generated

    def new_item_embeddings(self, content: Tensor) -> Tensor:
        """(N, content_dim) -> (N, d)"""
        return self.generate(content)

    def item_embeddings(self) -> Tensor:
        """(n_items, d)"""
        return self.with_base_items(self.generate(self.content[self.oov]))
