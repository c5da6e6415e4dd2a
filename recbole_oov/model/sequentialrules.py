"""SequentialRules: what followed the items of the history in training; a control that learns nothing."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn

from recbole_oov.data.histories import Histories
from recbole_oov.data.sequential_rules import SequentialRuleTable


class SequentialRules(SequentialRecommender):
    """Ranks items by how often, and how closely, they came behind the items of the history in training.

    The rules SR of Ludewig and Jannach, which look at the newest item alone (``rules_decay: 0``), and with a decay at
    those before it as well; with ``rules_gap: 1`` and no decay a first-order Markov chain. One count is divided among
    all training items by popularity, so that what no rule names is ranked by it.

    Configuration keys are explained in ``properties/model/SequentialRules.yaml``.

    Reference: Ludewig and Jannach, Evaluation of session-based recommendation algorithms, UMUAI 2018.
    """

    input_type = InputType.POINTWISE
    recommends_for_oov_items = False
    recommends_for_histories = True
    needs_content = False
    needs_text = False
    needs_base_model = False
    learns_by_gradient = False
    paper = "https://arxiv.org/abs/1803.09587"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.rules = SequentialRuleTable(dataset, config["rules_gap"], config["rules_decay"])
        popularity = torch.from_numpy(Histories.from_train(dataset).item_counts())
        self.register_buffer("popularity", (popularity / popularity.sum()).float(), persistent=False)
        self.no_parameter = nn.Parameter(torch.zeros(1))

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Nothing is learned: the loss is zero."""
        return self.no_parameter.sum() * 0.0

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, n_items)"""
        scores: Tensor = self.rules(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]) + self.popularity
        return scores

    def predict(self, interaction: Interaction) -> Tensor:
        """(B,)"""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)
