"""ClusterPop: the most popular training items of the user's own cluster; a control that learns nothing.

It uses the clusters that OOVLLMRec names users and items by, and no model: what it scores, the tokens alone know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_oov.data.histories import Histories
from recbole_oov.lm.identifiers import identifier_problems, walk_vocabulary


class ClusterPop(SequentialRecommender):
    """Ranks the items of the user's cluster first, by training popularity; then all others, by popularity."""

    input_type = InputType.POINTWISE
    recommends_for_oov_items = False
    needs_content = False
    needs_text = False
    needs_base_model = False
    learns_by_gradient = False
    paper = "https://arxiv.org/abs/2406.08477"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        histories = Histories.from_train(dataset)
        vocabulary = walk_vocabulary(config, dataset, histories)
        popularity = torch.from_numpy(histories.item_counts()).double()
        # At most 1 for popularity, 1 more for the own cluster.
        self.register_buffer("popularity", (popularity / popularity.max()).to(self.device))
        self.register_buffer("item_cluster", vocabulary.item_cluster.to(self.device))
        self.register_buffer("user_cluster", vocabulary.user_cluster.to(self.device))
        self.no_parameter = nn.Parameter(torch.zeros(1))

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        return identifier_problems(config)

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Nothing is learned: the loss is zero."""
        return self.no_parameter.sum() * 0.0

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, n_items)"""
        # Not by indexing: that takes the id -1 for the last user.
        same = F.embedding(interaction[self.USER_ID], self.user_cluster[:, None]) == self.item_cluster
        scores: Tensor = self.popularity + same
        return scores

    def predict(self, interaction: Interaction) -> Tensor:
        """(B,)"""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)
