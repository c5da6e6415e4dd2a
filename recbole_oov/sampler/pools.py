"""Pools of candidate negatives, drawn on the device.

A pool is a block of item ids, (B, P), one row for each user of a batch. It never holds a training positive of the
user, the padding item, or an item without a training row (an OOV item). Popularity is counted in the training part.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from recbole_oov.errors import ConfigError

POPULARITY_POWER = 0.75
"""The power of an item's count by which popular items are drawn, where none is given (Mikolov et al., 2013)."""
_ROUNDS = 64
"""After so many rounds of rejection, the rows that are left are drawn from their own complement, which is exact."""
_LARGEST_GUIDE = 1 << 20
_SMALL_TABLE = 1 << 26
"""Up to so many (user, item) pairs are looked up in a table of bytes; more by binary search."""


class NegativePools:
    """Draws pools for the users of one training part.

    Args:
        users: The users of the training rows. (n,)
        items: Their items. (n,)
        n_users: Number of user ids, the padding user 0 included.
        n_items: Number of item ids, the padding item 0 included.
        device: Where pools are drawn.
        seed: Of the generator, whose state ``state_dict`` holds.
    """

    def __init__(
        self, users: Tensor, items: Tensor, *, n_users: int, n_items: int, device: Any = "cpu", seed: int = 0
    ) -> None:
        self.n_users, self.n_items, self.device = n_users, n_items, torch.device(device)
        users, items = users.to(self.device).long(), items.to(self.device).long()
        self.counts = torch.bincount(items, minlength=n_items)
        """Training rows of each item. (n_items,)"""
        self.counts[0] = 0
        self.iv_items = self.counts.nonzero().squeeze(1)
        """The items with a training row, ascending. (n_iv,)"""
        self._place = torch.full((n_items,), -1, dtype=torch.long, device=self.device)
        self._place[self.iv_items] = torch.arange(len(self.iv_items), device=self.device)
        self._keys = torch.unique(users * n_items + items)  # sorted, each pair once
        owner = self._keys // n_items
        self.degree = torch.bincount(owner, minlength=n_users)
        """Training positives of each user, each counted once. (n_users,)"""
        self._first = self.degree.cumsum(0) - self.degree
        # How many of the user's non-positives lie below each positive: one binary search turns a rank among the
        # non-positives into an item, without rejection.
        below = self._place[self._keys % n_items] - (torch.arange(len(owner), device=self.device) - self._first[owner])
        self._below = owner * (len(self.iv_items) + 1) + below
        self._table = self._dense() if n_users * n_items <= _SMALL_TABLE else None
        self._cumulative: dict[float, tuple[Tensor, Tensor]] = {}
        self.generator = torch.Generator(device=self.device).manual_seed(seed)

    @classmethod
    def from_train(cls, dataset: Any, *, device: Any = "cpu", seed: int = 0) -> NegativePools:
        """The pools of RecBole's training split ``dataset``; nothing else is looked at."""
        rows = dataset.inter_feat
        return cls(
            torch.as_tensor(rows[dataset.uid_field]),
            torch.as_tensor(rows[dataset.iid_field]),
            n_users=dataset.user_num,
            n_items=dataset.item_num,
            device=device,
            seed=seed,
        )

    def again(self, seed: int) -> NegativePools:
        """The same pools with a generator of their own; tables are shared."""
        other = copy.copy(self)
        other.generator = torch.Generator(device=self.device).manual_seed(seed)
        return other

    def check(self, size: int, name: str = "sampler") -> None:
        """Refuse pools that some user has too few unseen items for.

        Raises:
            ConfigError: A user has interacted with every item, or with so many that fewer than ``size`` are left.
        """
        free = torch.where(self.degree > 0, len(self.iv_items) - self.degree, self.n_items)
        user = int(free.argmin())
        if int(free[user]) >= size:
            return
        n_short = int((free < size).sum())
        if int(free[user]) == 0:
            raise ConfigError(
                f"{name}: the user with internal id {user} has interacted with all {len(self.iv_items)} items of the "
                f"training part, so that there is no negative to draw ({n_short} users have fewer than {size}); leave "
                f"such users out with user_inter_num_interval"
            )
        raise ConfigError(
            f"{name} pool: {size} is more than the {int(free[user])} items that the user with internal id {user} has "
            f"not seen ({n_short} users have fewer than {size}); set pool to {int(free[user])} or less, or leave such "
            f"users out with user_inter_num_interval"
        )

    def is_positive(self, users: Tensor, items: Tensor) -> Tensor:
        """Whether each pair is a training row; any shapes that broadcast."""
        if self._table is not None:
            found: Tensor = self._table[users * self.n_items + items]
            return found
        wanted = users * self.n_items + items
        at = torch.searchsorted(self._keys, wanted).clamp(max=len(self._keys) - 1)
        known: Tensor = self._keys[at] == wanted
        return known

    def uniform(self, users: Tensor, size: int) -> Tensor:
        """Each unseen IV item with the same probability, with replacement. (B,) -> (B, size)

        Exact: the r-th non-positive of a user is r plus the number of the user's positives that have at most r
        non-positives below them.
        """
        if self._table is None:
            return self._unseen(users[:, None].expand(-1, size))
        # Where positives are looked up fast, most of a first guess stands, and what does not is drawn exactly.
        guess = torch.randint(len(self.iv_items), (len(users), size), generator=self.generator, device=self.device)
        pool = self.iv_items[guess]
        row, column = self.is_positive(users[:, None], pool).nonzero(as_tuple=True)
        pool[row, column] = self._unseen(users[row])
        return pool

    def _unseen(self, users: Tensor) -> Tensor:
        """One unseen item for each entry of ``users``, of any shape, without rejection."""
        n_iv = len(self.iv_items)
        draw = torch.rand(users.shape, generator=self.generator, device=self.device, dtype=torch.float64)
        rank = (draw * (n_iv - self.degree[users])).long()
        above = torch.searchsorted(self._below, users * (n_iv + 1) + rank, right=True)
        return self.iv_items[rank + above - self._first[users]]

    def popularity(self, users: Tensor, size: int, alpha: float = 0.75) -> Tensor:
        """Unseen items with probability proportional to count^alpha, with replacement. (B,) -> (B, size)"""
        cumulative = self._cumulative_weights(alpha)
        rows = users[:, None].expand(-1, size).reshape(-1)
        pool = self._from_cumulative(cumulative, len(rows))
        bad = self.is_positive(rows, pool).nonzero().squeeze(1)
        for _ in range(_ROUNDS):
            if len(bad) == 0:
                break
            pool[bad] = self._from_cumulative(cumulative, len(bad))
            bad = bad[self.is_positive(rows[bad], pool[bad])]
        for user in rows[bad].unique():
            own = bad[rows[bad] == user]
            weight = self._weights(alpha)
            weight[self.is_positive(user, torch.arange(self.n_items, device=self.device))] = 0
            pool[own] = torch.multinomial(weight, len(own), replacement=True, generator=self.generator)
        return pool.view(len(users), size)

    def log_probability(self, items: Tensor, alpha: float) -> Tensor:
        """Log q of ``popularity``'s base distribution, before positives are left out. Same shape as ``items``."""
        weight = self._weights(alpha)
        return (weight / weight.sum()).log()[items].float()

    def _weights(self, alpha: float) -> Tensor:
        """Count^alpha, 0 for items without a training row, for a negative alpha too. (n_items,)"""
        return torch.where(self.counts > 0, self.counts.double() ** alpha, 0.0)

    def permutation(self, n: int) -> Tensor:
        """A random order of n rows. (n,)"""
        return torch.randperm(n, generator=self.generator, device=self.device)

    def state_dict(self) -> dict[str, Tensor]:
        """What the next draws depend on."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a state of ``state_dict``."""
        self.generator.set_state(state["generator"].cpu())

    def _dense(self) -> Tensor:
        table = torch.zeros(self.n_users * self.n_items, dtype=torch.bool, device=self.device)
        table[self._keys] = True
        return table

    def _cumulative_weights(self, alpha: float) -> tuple[Tensor, Tensor]:
        """Cumulative probabilities of the IV items, (n_iv,), and where a search may start: (G,), G a power of two.

        Entry b is the first item whose cumulative probability reaches b / G, which is at or before that of any number
        from b / G on.
        """
        if alpha not in self._cumulative:
            weight = self.counts[self.iv_items].double() ** alpha
            cumulative = (weight / weight.sum()).cumsum(0)
            size = min(_LARGEST_GUIDE, 1 << (4 * len(cumulative)).bit_length())
            starts = torch.arange(size, device=self.device, dtype=torch.float64) / size
            self._cumulative[alpha] = cumulative, torch.searchsorted(cumulative, starts).clamp(max=len(cumulative) - 1)
        return self._cumulative[alpha]

    def _from_cumulative(self, weights: tuple[Tensor, Tensor], n: int) -> Tensor:
        cumulative, guide = weights
        draw = torch.rand(n, generator=self.generator, device=self.device, dtype=torch.float64)
        place = guide[(draw * len(guide)).long()]
        late = (cumulative[place] < draw).nonzero().squeeze(1)  # the others are where a search would end
        place[late] = torch.searchsorted(cumulative, draw[late]).clamp(max=len(cumulative) - 1)
        return self.iv_items[place]
