"""What the plugin adds to RecBole's evaluation, for any trainer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_oov.data.histories import seen_matrix
from recbole_oov.errors import ConfigError, RecBoleOOVError


class EvaluationMixin:
    """History masking for sequential models and a guard against scores that are no numbers.

    RecBole ranks NaN highest and never masks a sequential model's history. With ``mask_history: True`` the items a
    user has in the training part (and, in the test, in the validation part) are left out of the user's ranking,
    unless one of them is what is to be predicted.
    """

    config: Any
    model: Any
    _train_data: Any = None
    _valid_data: Any = None
    _phase = "valid"

    def fit(self, train_data: Any, valid_data: Any = None, *args: Any, **kwargs: Any) -> Any:
        self.remember(train_data, valid_data)
        fit: Any = super().fit  # type: ignore[misc]
        return fit(train_data, valid_data, *args, **kwargs)

    def remember(self, train_data: Any, valid_data: Any) -> None:
        """Tell the trainer what users have interacted with, so that it can be masked without ``fit``."""
        self._train_data, self._valid_data = train_data, valid_data
        self._seen: dict[str, Any] = {}

    def evaluate(self, eval_data: Any, *args: Any, **kwargs: Any) -> Any:
        self._phase = "valid" if eval_data is self._valid_data else "test"
        evaluate: Any = super().evaluate  # type: ignore[misc]
        return evaluate(eval_data, *args, **kwargs)

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        batch_eval: Any = super()._full_sort_batch_eval  # type: ignore[misc]
        interaction, scores, positive_u, positive_i = batch_eval(batched_data)
        self._check_finite(scores, interaction)
        if self.config["mask_history"] and batched_data[1] is None:
            kept = scores[positive_u, positive_i]
            users, items = self._seen_by(interaction[self.config["USER_ID_FIELD"]])
            scores[users, items] = -torch.inf
            scores[positive_u, positive_i] = kept
        return interaction, scores, positive_u, positive_i

    def _seen_by(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """(row of the batch, item) of all that the batch's users have seen."""
        if self._train_data is None:
            raise ConfigError("mask_history: call trainer.remember(train_data, valid_data) before evaluating")
        if self._phase not in self._seen:
            parts = [self._train_data] if self._phase == "valid" else [self._train_data, self._valid_data]
            self._seen[self._phase] = seen_matrix(*(part._dataset for part in parts if part is not None))
        rows = self._seen[self._phase][users.cpu().numpy()].tocoo()
        device = users.device
        return torch.from_numpy(rows.row.astype(np.int64)).to(device), torch.from_numpy(rows.col.astype(np.int64)).to(
            device
        )

    def _check_finite(self, scores: Tensor, interaction: Any) -> None:
        """RecBole has set the padding item and masked items to -inf; any other number must be finite."""
        bad = (scores.isnan() | (scores == torch.inf)).any(dim=1)
        if bad.any():
            users = interaction[self.config["USER_ID_FIELD"]][bad.to(interaction[self.config["USER_ID_FIELD"]].device)]
            raise RecBoleOOVError(
                f"{type(self.model).__name__} scored some items NaN or infinite for {int(bad.sum())} users of a batch "
                f"(user ids {users[:5].tolist()}); such scores would be ranked first. Lower the learning rate, or look "
                f"for a division by zero in the model"
            )
