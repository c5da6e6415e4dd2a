"""Any sequential model together with the sequential rules of its training histories (``rules_weight``)."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.data.sequential_rules import SequentialRuleTable


class RulesMixtureMixin:
    """Mixes a sequential model's probabilities with :class:`~recbole_oov.data.sequential_rules.SequentialRuleTable`.

    The rules are counted, not learned, and the model's loss is its own: training is that of the model alone, but for
    which of its epochs is best on validation.
    """

    rules: SequentialRuleTable
    ITEM_SEQ: str
    ITEM_SEQ_LEN: str
    ITEM_ID: str
    USER_ID: str

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)  # type: ignore[call-arg]
        self.rules_weight = float(config["rules_weight"])
        self.rules = SequentialRuleTable(dataset, config["rules_gap"], config["rules_decay"])

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Log-probabilities of all items. (B, n_items)"""
        history, lengths = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        own: Tensor = super().full_sort_predict(interaction).view(len(history), -1)  # type: ignore[misc]
        if getattr(self, "rank_by", "sequential") == "direct":  # asked without a history, beside the ranking with one
            return own
        return self.rules.mixed(_logits(own), history, lengths, self.rules_weight)

    def predict(self, interaction: Interaction) -> Tensor:
        """Log-probability of one given item a row. (B,)"""
        # Sampled evaluation asks about a hundred items of a user, one after another: those are scored once.
        read = torch.cat(
            [
                interaction[field].view(len(interaction), -1)
                for field in (self.USER_ID, self.ITEM_SEQ, self.ITEM_SEQ_LEN)
            ],
            dim=1,
        )
        new = torch.ones(len(read), dtype=torch.bool, device=read.device)
        new[1:] = (read[1:] != read[:-1]).any(dim=1)
        scores = self.full_sort_predict(interaction[new.nonzero().squeeze(1)])
        # Not by indexing alone: that takes the id -1 for the last item.
        return scores[new.cumsum(0) - 1].gather(1, interaction[self.ITEM_ID][:, None]).squeeze(1)

    def block_scorer(self) -> None:
        """Rules are looked up for all items at once."""
        return


def _logits(scores: Tensor) -> Tensor:
    """Scores that a softmax makes probabilities of; some of RecBole's models (RepeatNet) give those themselves."""
    out = scores <= torch.finfo(scores.dtype).min  # struck out, with what they had
    sums = scores.masked_fill(out, 0.0).sum(dim=1)
    whole = bool((sums <= 1 + 1e-3).all()) and (bool(out.any()) or torch.allclose(sums, sums.new_ones(()), atol=1e-3))
    if not whole or not bool((out | (scores >= 0)).all()):
        return scores
    return scores.clamp(min=torch.finfo(scores.dtype).tiny).log().masked_fill(out, torch.finfo(scores.dtype).min)
