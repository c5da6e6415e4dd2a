"""What the training part of a data set says, user by user in time, and the windows that slide over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from scipy.sparse import csr_matrix
from torch import Tensor

from recbole_oov.data.shares import own_part
from recbole_oov.errors import DataError

NEXT_ITEMS = "next_items"
"""Field of a window batch: the item to predict after each position, 0 where nothing is to be learned. (B, L)"""


@dataclass(frozen=True)
class Histories:
    """Every user's training items, oldest first, in one flat array.

    Attributes:
        user_ids: RecBole's internal ids of the users who have training rows, ascending. (U,)
        items: Their items, user after user. (N,)
        offsets: ``items[offsets[u]:offsets[u + 1]]`` belongs to ``user_ids[u]``. (U + 1,)
        n_users: Number of user ids, padding included.
        n_items: Number of item ids, padding included.
    """

    user_ids: np.ndarray
    items: np.ndarray
    offsets: np.ndarray
    n_users: int
    n_items: int

    def n_repeats(self) -> int:
        """How many of the items a user has had before."""
        users = np.repeat(np.arange(len(self.user_ids)), np.diff(self.offsets))
        return len(self.items) - len(np.unique(users * self.n_items + self.items))

    @classmethod
    def from_train(cls, dataset: Any) -> Histories:
        """Read the histories out of a training split; of RecBole's ``SequentialDataset`` back out of it.

        Of a general data set they are its rows by time, in no order where no time is loaded. A sequential
        one of RecBole's has one row a target: ``(i1 | i2), (i1, i2 | i3), …``. The first row's list and the targets of
        all rows are the history. Only training rows are looked at: validation and test targets are not in them.

        Args:
            dataset: The data set behind the training loader, after RecBole's augmentation and split.

        Raises:
            DataError: There is no training row, or a user's rows do not continue each other.
        """
        rows = dataset.inter_feat
        if len(rows) == 0:
            raise DataError(
                "no training row is left: leave-one-out takes two of each user's interactions for validation and "
                "test and needs two more to learn from; loosen user_inter_num_interval or add data"
            )
        if not hasattr(dataset, "item_list_length_field"):
            return cls.of_interactions(dataset)
        list_field = dataset.iid_field + dataset.config["LIST_SUFFIX"]
        users = rows[dataset.uid_field].numpy()
        order = np.argsort(users, kind="stable")
        users = users[order]
        targets = rows[dataset.iid_field].numpy()[order]
        lengths = rows[dataset.item_list_length_field].numpy()[order]
        lists = rows[list_field].numpy()[order]

        follows = users[1:] == users[:-1]
        last_of_list = lists[np.arange(len(lists)), lengths - 1]
        if not np.array_equal(last_of_list[1:][follows], targets[:-1][follows]):
            raise DataError("the training rows of a user are not in time order; set eval_args.order to TO")

        user_ids, first_rows, n_rows = np.unique(users, return_index=True, return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(lengths[first_rows] + n_rows)])
        items = np.empty(offsets[-1], dtype=np.int64)
        for u, (row, count) in enumerate(zip(first_rows, n_rows, strict=True)):
            head = lengths[row]
            items[offsets[u] : offsets[u] + head] = lists[row, :head]
            items[offsets[u] + head : offsets[u + 1]] = targets[row : row + count]
        return cls(user_ids, items, offsets, dataset.user_num, dataset.item_num)

    @classmethod
    def of_interactions(cls, dataset: Any) -> Histories:
        """All rows of a data set without lists, each user's by time. Only of a training part is this not a leak."""
        rows, time = dataset.inter_feat, dataset.time_field
        users, items = (np.asarray(rows[field]) for field in (dataset.uid_field, dataset.iid_field))
        keys = (np.asarray(rows[time]), users) if has_time(dataset) else (users,)
        user_ids, counts = np.unique(users, return_counts=True)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return cls(user_ids, items[np.lexsort(keys)], offsets, dataset.user_num, dataset.item_num)

    def __len__(self) -> int:
        return len(self.user_ids)

    def of(self, index: int) -> np.ndarray:
        """The items of the user at ``index`` in ``user_ids``, oldest first."""
        return self.items[self.offsets[index] : self.offsets[index + 1]]

    def newest(self, users: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """The newest items of given users, oldest first, 0 after them. (B,) ids -> (B, length), (B,) how many"""
        ids = users.cpu().numpy()
        at = np.minimum(np.searchsorted(self.user_ids, ids), len(self) - 1)
        ends = self.offsets[at + 1]
        lengths = np.where(self.user_ids[at] == ids, np.minimum(ends - self.offsets[at], length), 0)
        columns = np.arange(length)
        places = np.minimum((ends - lengths)[:, None] + columns, len(self.items) - 1)
        items = np.where(columns < lengths[:, None], self.items[places], 0)
        return torch.from_numpy(items).to(users.device), torch.from_numpy(lengths).to(users.device)

    def before(self, users: Tensor, items: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """What users had before they had given items, the newest alone, oldest first, 0 after them.

        Args:
            users: Ids. (B,)
            items: One of each user's items; of an item that is there more than once the last counts. (B,)
            length: How many at most.

        Returns:
            Of the rows with something before the item their numbers (N,), and it (N, length).
        """
        rows, found = [], []
        for row, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
            at = int(np.searchsorted(self.user_ids, user))
            own = self.of(at) if at < len(self) and self.user_ids[at] == user else self.items[:0]
            place = np.flatnonzero(own == item)
            if len(place) and place[-1] > 0:
                rows.append(row)
                found.append(torch.from_numpy(own[max(0, place[-1] - length) : place[-1]]))
        lists = torch.zeros(len(rows), length, dtype=torch.long)
        for row, one in enumerate(found):
            lists[row, : len(one)] = one
        return torch.tensor(rows, dtype=torch.long), lists

    def shuffled(self, generator: torch.Generator) -> Histories:
        """The same, each user's items in an order drawn at random."""
        user = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        order = np.lexsort((torch.rand(len(self.items), generator=generator, dtype=torch.float64).numpy(), user))
        return Histories(self.user_ids, self.items[order], self.offsets, self.n_users, self.n_items)

    def item_counts(self) -> np.ndarray:
        """How often each item was interacted with in training. (n_items,)"""
        return np.bincount(self.items, minlength=self.n_items)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(user id, item id) of every training interaction, in order. Both (N,)"""
        return np.repeat(self.user_ids, np.diff(self.offsets)), self.items


def has_time(dataset: Any) -> bool:
    """Whether the interactions of a data set say when they were."""
    return dataset.time_field is not None and dataset.time_field in dataset.inter_feat.columns


def is_unordered(dataset: Any) -> bool:
    """Whether histories have no order of their own: in general data sets, by ``history_order``, or for want of a time.

    Sequential ones always have one, also those whose files hold lists and no time.
    """
    if hasattr(dataset, "item_list_length_field"):
        return False
    return dataset.config["history_order"] == "random" or not has_time(dataset)


def seen_matrix(*datasets: Any) -> csr_matrix:
    """Which items each user has in the given splits, of sequential or general data sets. (n_users, n_items) bool"""
    first = datasets[0]
    users, items = [], []
    for dataset in datasets:
        rows = dataset.inter_feat
        users.append(rows[dataset.uid_field].numpy())
        items.append(rows[dataset.iid_field].numpy())
        if hasattr(dataset, "item_id_list_field") and dataset is first and len(rows):
            # The oldest item of a history is nobody's target: it stands in the lists alone.
            users.append(users[-1])
            items.append(rows[dataset.item_id_list_field].numpy()[:, 0])
    ones = np.ones(sum(map(len, users)), dtype=bool)
    return csr_matrix((ones, (np.concatenate(users), np.concatenate(items))), shape=(first.user_num, first.item_num))


class WindowLoader:
    """Batches of history windows in which every position is a target: what an all-position trainer iterates.

    A history of n items has n - 1 targets. A window shows at most ``length`` items and has the item after each of
    them as its target. Longer histories are covered by windows that start ``stride`` items apart; a target that
    an earlier window had is not learned again, so that each target counts exactly once an epoch, and every
    target but those of the first window sees at least ``length - stride`` items before it.

    Args:
        histories: The training histories.
        user_field: Name of the user id field.
        list_field: Name of the item list field.
        length_field: Name of the list length field.
        length: Items a window shows (``MAX_ITEM_LIST_LENGTH``).
        stride: How far apart windows start; at most ``length``.
        batch_size: Targets in a batch, at least: windows are added until it is reached. RecBole's
            ``train_batch_size`` counts one prefix a row, that is one target a row, so the two mean the same.
        seed: Seeds the order of windows, together with the epoch's number.
        shuffle: Draw a new order each epoch.
        group_lengths: With ``shuffle``, let windows of like length share a batch, so that little of it is padding; the
            order of the batches is as random as before.
        share: (rank, processes) in a multi-process run: every process takes its share of each batch's windows.
        reorder: Put each history into a new order each epoch, drawn at random.

    Attributes:
        part: Of the latest batch's targets, the part that is this process's.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        user_field: str,
        list_field: str,
        length_field: str,
        length: int,
        stride: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        group_lengths: bool = False,
        share: tuple[int, int] = (0, 1),
        reorder: bool = False,
    ) -> None:
        self.user_field, self.list_field, self.length_field = user_field, list_field, length_field
        self.batch_size, self.shuffle, self.group_lengths = batch_size, shuffle, group_lengths
        self._generator = torch.Generator().manual_seed(seed)
        self.share, self.part = share, 1.0
        self._histories, self._size, self._reorder = histories, (length, stride), reorder
        self._cut(histories)
        self.sampler = self  # RecBole's trainer calls ``sampler.set_epoch`` in multi-process runs

    def set_epoch(self, epoch: int) -> None:
        """The order already differs between epochs: nothing to do."""

    def _cut(self, histories: Histories) -> None:
        self.users, self.inputs, self.targets, self.lengths = _windows(histories, *self._size)
        self._supervised = (self.targets > 0).sum(dim=1)
        if not len(self.users):
            raise DataError(
                "no user has two training items, so that nothing comes after anything; loosen user_inter_num_interval, "
                "or keep less for validation and test"
            )

    @property
    def n_targets(self) -> int:
        """Targets an epoch learns from."""
        return int(self._supervised.sum())

    def __len__(self) -> int:
        """An upper bound of the number of batches (for progress bars)."""
        return max(1, -(-self.n_targets // self.batch_size))

    def __iter__(self) -> Iterator[Interaction]:
        for whole in self._batches():
            index, self.part = own_part(whole, self._supervised[whole], self.share)
            longest = int(self.lengths[index].max())
            yield Interaction(
                {
                    self.user_field: self.users[index],
                    self.list_field: self.inputs[index, :longest],
                    self.length_field: self.lengths[index],
                    NEXT_ITEMS: self.targets[index, :longest],
                }
            )

    def _batches(self) -> list[Tensor]:
        """The windows of each batch, in the order of an epoch."""
        if self._reorder:
            self._cut(self._histories.shuffled(self._generator))
        n = len(self.users)
        order = torch.randperm(n, generator=self._generator) if self.shuffle else torch.arange(n)
        grouped = self.shuffle and self.group_lengths
        if grouped:
            order = order[torch.argsort(self.lengths[order], stable=True)]
        batch_of = torch.cumsum(self._supervised[order], dim=0).sub(1).div(self.batch_size, rounding_mode="floor")
        batches = list(torch.split(order, torch.unique_consecutive(batch_of, return_counts=True)[1].tolist()))
        if grouped:
            batches = [batches[at] for at in torch.randperm(len(batches), generator=self._generator).tolist()]
        return batches


def _windows(histories: Histories, length: int, stride: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Users (W,), inputs (W, L), targets (W, L) and lengths (W,) of all windows."""
    users, starts, ends, covered_to = [], [], [], []
    for u in range(len(histories)):
        n_targets = len(histories.of(u)) - 1
        start, covered = 0, 0
        while covered < n_targets:
            end = min(start + length, n_targets)
            # The last window ends with the history, so that its targets have all the context there is.
            begin = max(0, end - length)
            users.append(u)
            starts.append(begin)
            ends.append(end)
            covered_to.append(covered)
            covered, start = end, start + stride
    inputs = torch.zeros(len(users), length, dtype=torch.long)
    targets = torch.zeros_like(inputs)
    for w, (u, begin, end, covered) in enumerate(zip(users, starts, ends, covered_to, strict=True)):
        items = torch.from_numpy(histories.of(u))
        inputs[w, : end - begin] = items[begin:end]
        targets[w, covered - begin : end - begin] = items[covered + 1 : end + 1]
    lengths = torch.tensor(ends) - torch.tensor(starts)
    return torch.from_numpy(histories.user_ids[users]), inputs, targets, lengths
