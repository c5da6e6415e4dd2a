"""OOVLLMRec as a general recommender: asked for a user, after the newest of the user's training items.

It stands beside general recommenders and the cold-start family, on the same splits and the same cases.
"""

from __future__ import annotations

from typing import Any

from recbole.data.interaction import Interaction
from recbole.utils import InputType, ModelType
from torch import Tensor

from recbole_oov.data.histories import NEXT_ITEMS, has_time
from recbole_oov.model.oovllmrec import OOVLLMRec


class OOVLLMRecGeneral(OOVLLMRec):
    """:class:`~recbole_oov.model.oovllmrec.OOVLLMRec` on RecBole's general data sets.

    A user's training items are the history, by time (``history_order: time``), or in a new order each epoch
    (``random``, and without a time). Each is learned from those before it; in validation and test one ranking a user is
    asked for, after the newest ``MAX_ITEM_LIST_LENGTH`` of them. Options: ``properties/model/OOVLLMRec.yaml``.
    """

    type = ModelType.GENERAL
    input_type = InputType.POINTWISE
    recommends_for_histories = False  # such lists have no order

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        if config["history_order"] == "time" and not has_time(dataset):
            self.logger.warning(
                f"history_order: no {config['TIME_FIELD']} is loaded, so that histories have no order; they are put "
                f"into a new one each epoch, as with random"
            )

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """As of OOVLLMRec, of history windows; of RecBole's rows that of each item after the user's items before it.

        A user's oldest training item has none before it: nothing is learned of such a row.
        """
        if NEXT_ITEMS in interaction:
            return super().calculate_loss(interaction)
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        row, before = self.histories.before(users, items, self.max_seq_length)
        if not len(row):
            return self.item_map_out.weight.sum() * 0.0
        columns = {self.USER_ID: users[row], self.ITEM_SEQ: before.to(users.device), self.ITEM_ID: items[row]}
        lengths = (columns[self.ITEM_SEQ] > 0).sum(dim=1)
        return super().calculate_loss(Interaction({**columns, self.ITEM_SEQ_LEN: lengths}))

    def _asked_after(self, interaction: Interaction) -> Interaction:
        if self.ITEM_SEQ in interaction:
            return interaction
        return self._after_training(interaction[self.USER_ID])
