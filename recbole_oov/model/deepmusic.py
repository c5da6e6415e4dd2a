"""DeepMusic: a network learns the base model's item embeddings from content, and new items get what it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.model.cold_start import ColdStartRecommender
from recbole_oov.model.content_network import content_network, size_problems


class DeepMusic(ColdStartRecommender):
    r"""Content to embedding by regression.

    .. math:: \min_\theta \frac1{|I_{iv}|} \sum_{i \in I_{iv}} \lVert e_i - G_\theta(c_i) \rVert^2 \qquad (\text{MSE})

    with :math:`e_i` the base model's embedding and :math:`c_i` the content of an item. An OOV item is scored with
    :math:`G_\theta(c_i)`; IV items keep :math:`e_i`.

    Reference: van den Oord, Dieleman and Schrauwen, Deep content-based music recommendation, NeurIPS 2013 (their
    objective of mean squared error). The network has one hidden layer, on any content; theirs was convolutional, on
    audio.
    """

    paper = "https://papers.nips.cc/paper/5004-deep-content-based-music-recommendation"
    learns_from = "items"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.generator = content_network(
            self.content[self.iv_items],
            config["generator_sizes"],
            self.embedding_dim,
            dropout=config["generator_dropout"],
        )

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        problems = super().config_problems(config) + size_problems(config, "generator_sizes")
        if not 0 <= config["generator_dropout"] < 1:
            problems.append(
                f"generator_dropout: {config['generator_dropout']!r} is not allowed; give a number from 0 to below 1"
            )
        return problems

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The squared distance to the base model's embeddings, summed over dimensions, mean over items."""
        items = interaction[self.ITEM_ID]
        distance = self.generate(self.content[items]) - self.base_items[items]
        return distance.square().sum(dim=1).mean()

    def generate(self, content: Tensor) -> Tensor:
        """Embeddings by content, for items that are in no data set as well. (N, content_dim) -> (N, d)"""
        generated: Tensor = self.generator(content)
        return generated

    def new_item_embeddings(self, content: Tensor) -> Tensor:
        """(N, content_dim) -> (N, d)"""
        return self.generate(content)

    def item_embeddings(self) -> Tensor:
        """(n_items, d)"""
        return self.with_base_items(self.generate(self.content[self.oov]))
