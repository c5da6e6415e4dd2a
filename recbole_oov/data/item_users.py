"""The training users of items, and users drawn for items."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recbole_oov.data.histories import seen_matrix


class ItemUsers(nn.Module):
    """Which users have each item in training. Moves with the model; checkpoints leave it out.

    Args:
        train: The training part of a data set.

    Attributes:
        offsets: ``users[offsets[i]:offsets[i + 1]]`` have the item i. (n_items + 1,)
        users: User ids. (N,)
        known_users: Ids of users with training rows. (U,)
    """

    offsets: Tensor
    users: Tensor
    known_users: Tensor
    _pairs: Tensor

    def __init__(self, train: Any) -> None:
        super().__init__()
        by_item = seen_matrix(train).T.tocsr()
        by_item.sum_duplicates()
        users = torch.from_numpy(by_item.indices).long()
        offsets = torch.from_numpy(by_item.indptr).long()
        items = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
        self.n_users = int(train.user_num)
        parts = {"offsets": offsets, "users": users, "known_users": users.unique()}
        for name, part in {**parts, "_pairs": (items * self.n_users + users).sort().values}.items():
            self.register_buffer(name, part, persistent=False)

    @property
    def counts(self) -> Tensor:
        """Training users of each item. (n_items,)"""
        return self.offsets.diff()

    def positives(self, items: Tensor, n: int) -> Tensor:
        """Users who have each item, with replacement. (B,) -> (B, n)

        Raises:
            IndexError: An item has no training user.
        """
        counts = self.counts[items]
        if (counts == 0).any():
            raise IndexError(f"item {int(items[counts == 0][0])} has no training user")
        place = torch.rand(len(items), n, device=items.device, dtype=torch.float64) * counts[:, None]
        return self.users[self.offsets[items][:, None] + place.long().minimum(counts[:, None] - 1)]

    def negatives(self, items: Tensor, n: int) -> Tensor:
        """Users drawn uniformly, (B, n); one who has the item is drawn again, once."""
        drawn = self._random((len(items), n))
        return torch.where(self.has(drawn, items[:, None]), self._random((len(items), n)), drawn)

    def has(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether users have items in training; the arguments broadcast."""
        keys = items * self.n_users + users
        place = torch.searchsorted(self._pairs, keys).clamp(max=len(self._pairs) - 1)
        return self._pairs[place] == keys

    def _random(self, shape: tuple[int, int]) -> Tensor:
        known = self.known_users
        return known[torch.randint(len(known), shape, device=known.device)]
