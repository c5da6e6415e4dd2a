"""RecBole's causal networks with the items of the history left out of training and scoring (``history_items``)."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.data.excluded_history import check_repeats, struck_out
from recbole_oov.data.histories import Histories


class ExcludedHistoryMixin:
    """Never recommends an item of the history that it reads; in training those are no wrong answers.

    The second half is done where the loss of all positions is made
    (:func:`~recbole_oov.trainer.all_positions.all_position_loss`), which sees the history of each.
    """

    ITEM_SEQ: str
    ITEM_ID: str
    excludes_history = True

    def __init__(self, config: Any, dataset: Any) -> None:
        check_repeats(config, Histories.from_train(dataset))
        super().__init__(config, dataset)  # type: ignore[call-arg]

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """Scores of all items, the least finite number for those of the history. (B, n_items)"""
        history = interaction[self.ITEM_SEQ]
        scores: Tensor = super().full_sort_predict(interaction).view(len(history), -1)  # type: ignore[misc]
        return struck_out(scores, history)

    def predict(self, interaction: Interaction) -> Tensor:
        """Score of one given item a row. (B,)"""
        scores: Tensor = super().predict(interaction)  # type: ignore[misc]
        had = (interaction[self.ITEM_SEQ] == interaction[self.ITEM_ID][:, None]).any(dim=1)
        return scores.masked_fill(had.view_as(scores), torch.finfo(scores.dtype).min)

    def block_scorer(self) -> None:
        """Items are struck out of scores of all of them at once."""
        return
