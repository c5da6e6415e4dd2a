"""GAR: a generator and a recommender as adversaries, so that generated items compete with those that were learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch.func import functional_call

from recbole_oov.model.cold_start import ColdStartRecommender
from recbole_oov.model.content_network import Scale, content_network, mlp, share_problems, size_problems


class GAR(ColdStartRecommender):
    r"""Generative adversarial training of a generator G and a recommender R on the base embeddings.

    The recommender's score is :math:`y(u, v) = D_U(e_u)^\top D_V(v)` with two towers that add to an embedding, at first
    nothing: they fine-tune the base model. Over (user, item, negative):

    .. math:: L_R = -\ln \sigma\big(y(u, e_i) - (1 - \beta)\, y(u, G(c_i)) - \beta\, y(u, e_j)\big)

    .. math:: L_G = -(1 - \alpha) \ln \sigma\big(y(u, G(c_i)) - y(u, e_i)\big) + \alpha\, \lvert G(c_i) - e_i \rvert

    The recommender tells generated embeddings from learned ones, the generator tries to be preferred to them and stays
    near them. :math:`L_R` moves the towers alone, :math:`L_G` the generator alone. All items and users are scored
    through the towers, so the ranking of IV items changes.

    Reference: Chen, Wang, Huang, Huang, Xu, Lin, He and Li, Generative Adversarial Framework for Cold-Start Item
    Recommendation, SIGIR 2022.
    """

    paper = "https://doi.org/10.1145/3477495.3531897"
    keeps_iv_items = False

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d, sizes = self.embedding_dim, config["tower_sizes"]
        self.similarity_weight: float = config["similarity_weight"]
        self.negative_weight: float = config["negative_weight"]
        self.weights_penalty: float = config["weights_penalty"]
        self.generator = content_network(self.content[self.iv_items], config["generator_sizes"], d, nn.Tanh)
        dropout: float = config["tower_dropout"]
        self.user_tower = FineTuned(self.base_users, sizes, dropout)
        self.item_tower = FineTuned(self.base_items[self.iv_items], sizes, dropout)

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        problems = super().config_problems(config) + size_problems(config, "generator_sizes", "tower_sizes")
        return problems + share_problems(config, "similarity_weight", "negative_weight")

    def take_base(self, users: Tensor, items: Tensor) -> None:
        """As of every model of the kind; the towers' inputs are scaled anew."""
        super().take_base(users, items)
        self.user_tower.scale.measure(self.base_users)
        self.item_tower.scale.measure(self.base_items[self.iv_items])

    def calculate_loss(self, interaction: Interaction) -> tuple[Tensor, Tensor]:
        """The recommender's loss and the generator's."""
        items = interaction[self.ITEM_ID]
        user = self.base_users[interaction[self.USER_ID]]
        positive, negative = self.base_items[items], self.base_items[interaction[self.NEG_ITEM_ID]]
        generated = self.generate(self.content[items])
        recommender = self._recommender_loss(user, positive, negative, generated.detach())
        generator = self._generator_loss(user, positive, generated)
        return recommender + self._penalty(self.user_tower, self.item_tower), generator + self._penalty(self.generator)

    def _recommender_loss(self, user: Tensor, positive: Tensor, negative: Tensor, generated: Tensor) -> Tensor:
        tower, beta = self.user_tower(user), self.negative_weight
        real, fake, other = (
            (tower * part).sum(dim=1) for part in self.item_tower(torch.cat([positive, generated, negative])).chunk(3)
        )
        return -F.logsigmoid(real - (1 - beta) * fake - beta * other).mean()

    def _generator_loss(self, user: Tensor, positive: Tensor, generated: Tensor) -> Tensor:
        fake, real = _frozen(self.item_tower, torch.cat([generated, positive])).chunk(2)
        preferred = -F.logsigmoid((_frozen(self.user_tower, user) * (fake - real)).sum(dim=1)).mean()
        alpha = self.similarity_weight
        return (1 - alpha) * preferred + alpha * (generated - positive).abs().sum(dim=1).mean()

    def _penalty(self, *networks: nn.Module) -> Tensor:
        """Without it the recommender wins by ever larger scores."""
        weights = [weight for network in networks for weight in network.parameters() if weight.dim() > 1]
        return self.weights_penalty * torch.stack([weight.square().sum() / 2 for weight in weights]).sum()

    def generate(self, content: Tensor) -> Tensor:
        """What stands in for the base embedding. (N, content_dim) -> (N, d)"""
        generated: Tensor = self.generator(content)
        return generated

    def user_embeddings(self) -> Tensor:
        """(n_users, d)"""
        embeddings: Tensor = self.user_tower(self.base_users)
        return embeddings

    def new_item_embeddings(self, content: Tensor) -> Tensor:
        """(N, content_dim) -> (N, d)"""
        embeddings: Tensor = self.item_tower(self.generate(content))
        return embeddings

    def item_embeddings(self) -> Tensor:
        """(n_items, d)"""
        embeddings: Tensor = self.item_tower(self.with_base_items(self.generate(self.content[self.oov])))
        return embeddings


class FineTuned(nn.Module):
    """Embeddings and what a network adds to them, at first nothing.

    Args:
        examples: Embeddings, to scale the network's input by. (N, d)
        hidden: Sizes of the network's hidden layers.
        dropout: On the network's input.
    """

    def __init__(self, examples: Tensor, hidden: list[int], dropout: float) -> None:
        super().__init__()
        d = examples.shape[1]
        self.scale, self.dropout, self.network = Scale(examples), nn.Dropout(dropout), mlp(d, hidden, d, nn.Tanh)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(N, d) -> (N, d)"""
        added: Tensor = self.network(self.dropout(self.scale(embeddings)))
        return embeddings + self.scale.size * added


def _frozen(tower: nn.Module, rows: Tensor) -> Tensor:
    """What a tower makes of rows, with a gradient for the rows alone."""
    weights = {name: parameter.detach() for name, parameter in tower.named_parameters()}
    embeddings: Tensor = functional_call(tower, weights, (rows,))
    return embeddings
