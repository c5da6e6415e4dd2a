"""Any sequential model together with the sequential rules of its training histories (``rules_weight``)."""

from __future__ import annotations

from typing import Any

from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.data.sequential_rules import SequentialRuleTable


def with_rules(model_class: type, config: Any) -> type:
    """The class, or with ``rules_weight`` above 0 one of the same name that mixes its probabilities with the rules."""
    if not config["rules_weight"]:
        return model_class
    return type(model_class.__name__, (RulesMixtureMixin, model_class), {"__module__": model_class.__module__})


class RulesMixtureMixin:
    """Mixes a sequential model's probabilities with :class:`~recbole_oov.data.sequential_rules.SequentialRuleTable`.

    The rules are counted, not learned, and the model's loss is its own: training is that of the model alone, but for
    which of its epochs is best on validation.
    """

    recommends_new_items = False
    """A score of an item that is in no data set would stand beside mixed ones on another scale."""
    rules: SequentialRuleTable
    ITEM_SEQ: str
    ITEM_SEQ_LEN: str
    ITEM_ID: str

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)  # type: ignore[call-arg]
        self.rules_weight = float(config["rules_weight"])
        self.rules = SequentialRuleTable(dataset, config["rules_gap"], config["rules_decay"])

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Log-probabilities of all items. (B, n_items)"""
        own: Tensor = super().full_sort_predict(interaction)  # type: ignore[misc]
        history, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self.rules.mixed(own.view(len(history), -1), history, lengths, self.rules_weight)

    def predict(self, interaction: Interaction) -> Tensor:
        """Log-probability of one given item a row. (B,)"""
        return self.full_sort_predict(interaction).gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    def block_scorer(self) -> None:
        """Rules are looked up for all items at once."""
        return
