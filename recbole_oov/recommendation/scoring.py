"""A model's scores of all items, for users of the data set and for histories that are in no data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor

from recbole_oov.errors import ConfigError, RecBoleOOVError

_AUTO_ENCODERS = ("MultiVAE", "MultiDAE", "RecVAE", "MacridVAE")
"""Models of RecBole's that read nothing of a user but the row of the rating matrix."""
_LINEAR = ("EASE", "SLIMElastic")


class Scores:
    """Scores of all items.

    Args:
        model: A trained model.
        dataset: The training part of its data set.
    """

    def __init__(self, model: Any, dataset: Any) -> None:
        self.model, self.dataset = model.eval(), dataset
        self.sequential = model.type == ModelType.SEQUENTIAL
        self._item_features: Interaction | None = None

    @torch.no_grad()
    def of_users(self, users: Tensor) -> Tensor:
        """For users of the data set, as the evaluation scores them; (B,) -> (B, n_items) on the CPU.

        What a sequential model reads is the user's whole training history.

        Raises:
            ConfigError: A user without training row, under a sequential model.
            RecBoleOOVError: A score is NaN or infinite.
        """
        if self.sequential:
            return self._full_sort(self.rows_after_users(users), len(users))
        return self._full_sort(self.dataset.join(Interaction({self.dataset.uid_field: users})), len(users))

    @torch.no_grad()
    def of_histories(self, histories: Sequence[Tensor]) -> Tensor:
        """For users who are in no data set, by their items, oldest first. (B, n_items) on the CPU

        Raises:
            ConfigError: The model cannot: says why.
        """
        model, name = self.model, type(self.model).__name__
        if getattr(model, "score_histories", None) is not None:
            distinct = [torch.unique(history) for history in histories]
            place = torch.repeat_interleave(torch.tensor([len(items) for items in distinct]))
            items = torch.cat(distinct)
            scores = model.score_histories(place.to(model.device), items.to(model.device), len(histories))
            return self._checked(scores, len(histories))
        if self.sequential:
            return self._of_sequences(histories)
        if name in _LINEAR or (name == "ItemKNN" and model.method == "item"):
            weights = model.w if name == "ItemKNN" else model.item_similarity
            # (hᵀ W)ᵀ = Wᵀ h: a sparse matrix has to stand on the left, and is never made dense.
            product = np.asarray((weights.T @ self._multi_hot(histories).T).T)
            return self._checked(torch.from_numpy(product), len(histories))
        if name in _AUTO_ENCODERS:
            return self._of_rating_rows(histories)
        raise ConfigError(
            f"history: {name} knows a user by what it has learned of that user, and cannot recommend by a history "
            f"alone; train a model that can: a sequential one, OOVLLMRec, ContentKNN, ItemKNN, "
            f"{', '.join((*_LINEAR, *_AUTO_ENCODERS))}"
        )

    @property
    def longest_history(self) -> int | None:
        """How many items of a history are read, the newest; None for all of them."""
        if self.sequential and getattr(self.model, "score_histories", None) is None:
            return int(self.model.max_seq_length)
        return None

    # ---- what models read ----

    def _next_rows(self, users: Tensor) -> Interaction:
        """RecBole's row for the item that follows the user's last training row."""
        dataset = self.dataset
        rows, length_field = dataset.inter_feat, dataset.item_list_length_field
        last = torch.full((dataset.user_num,), -1)
        of_rows = rows[dataset.uid_field]
        # A user's rows are in time order; they need not stand together.
        order = np.argsort(of_rows.numpy(), kind="stable")
        ends = np.flatnonzero(np.diff(of_rows.numpy()[order], append=-1))
        last[of_rows[order[ends]]] = torch.from_numpy(order[ends])
        chosen = last[users]
        if (chosen < 0).any():
            user = dataset.id2token(dataset.uid_field, int(users[(chosen < 0).nonzero()[0, 0]]))
            raise ConfigError(
                f"user: {user} has no training row, so that {type(self.model).__name__} has no sequence to go on with; "
                f"give what the user has with history"
            )
        base = rows[chosen]
        lengths = base[length_field]
        columns = {dataset.uid_field: users}
        for name in base.columns:
            list_field = getattr(dataset, f"{name}_list_field", None)
            if name != dataset.uid_field and list_field in base.columns:
                columns[list_field] = _with_last(base[list_field], base[name], lengths)
        longest = base[dataset.item_id_list_field].shape[1]
        columns[length_field] = (lengths + 1).clamp(max=longest)
        return Interaction(columns)

    def rows_after_users(self, users: Tensor) -> Interaction:
        """What a sequential model reads of users of the data set. (B,)"""
        return self.dataset.join(self._next_rows(users))

    def rows_after_histories(self, histories: Sequence[Tensor]) -> Interaction:
        """What a sequential model reads of histories. (B,)"""
        dataset = self.dataset
        longest = int(self.model.max_seq_length)
        lists = torch.zeros(len(histories), longest, dtype=torch.long)
        for row, history in enumerate(histories):
            lists[row, : min(len(history), longest)] = history[-longest:]
        lengths = torch.tensor([min(len(history), longest) for history in histories])
        columns = {dataset.item_id_list_field: lists, dataset.item_list_length_field: lengths}
        if getattr(self.model, "recommends_for_histories", False):
            columns[dataset.uid_field] = torch.zeros(len(histories), dtype=torch.long)
        return Interaction(columns)

    def _of_sequences(self, histories: Sequence[Tensor]) -> Tensor:
        name = type(self.model).__name__
        try:
            return self._full_sort(self.rows_after_histories(histories), len(histories))
        except KeyError as error:
            raise ConfigError(
                f"history: {name} reads {error.args[0]} beside the items, which a history does not have; train a "
                f"model that reads items alone, such as SASRec or GRU4Rec"
            ) from error

    def _of_rating_rows(self, histories: Sequence[Tensor]) -> Tensor:
        model = self.model
        kept = model.history_item_id, model.history_item_value
        distinct = [torch.unique(history) for history in histories]
        model.history_item_id = torch.nn.utils.rnn.pad_sequence(distinct, batch_first=True).to(model.device)
        model.history_item_value = (model.history_item_id > 0).to(kept[1])
        try:
            rows = Interaction({self.dataset.uid_field: torch.arange(len(histories))})
            return self._full_sort(rows, len(histories))
        finally:
            model.history_item_id, model.history_item_value = kept

    def _multi_hot(self, histories: Sequence[Tensor]) -> np.ndarray:
        rows = np.zeros((len(histories), self.dataset.item_num), dtype=np.float32)
        for row, history in enumerate(histories):
            rows[row, history.numpy()] = 1.0
        return rows

    # ---- scores ----

    def _full_sort(self, rows: Interaction, n_rows: int) -> Tensor:
        try:
            scores = self.model.full_sort_predict(rows.to(self.model.device))
        except NotImplementedError:
            scores = self._pair_by_pair(rows)
        return self._checked(scores, n_rows)

    def _pair_by_pair(self, rows: Interaction) -> Tensor:
        """As RecBole's trainer scores with a model that has ``predict`` alone."""
        if self._item_features is None:
            self._item_features = self.dataset.get_item_feature()
        parts: list[Tensor] = []
        predict: Callable[[Interaction], Tensor] = self.model.predict
        for row in range(len(rows)):
            pairs = rows[row : row + 1].repeat_interleave(self.dataset.item_num)
            pairs.update(self._item_features)
            parts.append(predict(pairs.to(self.model.device)).view(-1))
        return torch.stack(parts)

    def _checked(self, scores: Tensor, n_rows: int) -> Tensor:
        scores = scores.reshape(n_rows, -1).float().cpu()
        if not torch.isfinite(scores[:, 1:]).all():
            raise RecBoleOOVError(f"{type(self.model).__name__} scored items NaN or infinite; train it again")
        return scores.clone()


def _with_last(lists: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
    """Lists (B, L, …) of the given lengths with one more value (B, …) at the end; full ones lose their oldest."""
    longest = lists.shape[1]
    full = lengths == longest
    new = lists.clone()
    new[full] = torch.roll(lists[full], -1, dims=1)
    new[torch.arange(len(new)), lengths.clamp(max=longest - 1)] = values.to(new.dtype)
    return new
