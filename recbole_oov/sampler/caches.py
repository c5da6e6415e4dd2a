"""Where pools come from: fresh draws, or a cache of candidates for each user that is resampled once an epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recbole_oov.sampler.pools import NegativePools

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
"""(B,), (B, P) -> (B, P), without a graph."""

_MEMORY = 5
"""Epochs of scores that SRNS remembers."""
_BLOCK = 2048


class FreshPools:
    """Pools drawn anew for every batch, uniform or by popularity.

    Args:
        pools: Draws them.
        alpha: The power of the counts; None for uniform.
    """

    def __init__(self, pools: NegativePools, alpha: float | None = None) -> None:
        self.pools, self.alpha = pools, alpha

    def begin_epoch(self, epoch: int, score: ScoreFunction) -> None:
        """Nothing to prepare."""

    def draw(self, users: Tensor, size: int) -> Tensor:
        """(B,) -> (B, size)"""
        if self.alpha is None:
            return self.pools.uniform(users, size)
        return self.pools.popularity(users, size, self.alpha)

    def spread(self, users: Tensor, pool: Tensor) -> Tensor | None:
        """No memory of scores."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing but the generator's, which the pools keep."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to load."""


class AdaSIRCache(FreshPools):
    """AdaSIR's first step: each user keeps ``cache`` candidates, out of ``candidates`` by softmax(s - log q), renewed
    every epoch; half of the old ones stay in the running (Chen et al., NeurIPS 2022). Memory: n_users * cache ids.
    """

    def __init__(self, pools: NegativePools, cache: int, candidates: int) -> None:
        super().__init__(pools)
        self.cache, self.candidates = int(cache), int(candidates)
        self.items: Tensor | None = None

    def begin_epoch(self, epoch: int, score: ScoreFunction) -> None:
        blocks = []
        for users in torch.arange(self.pools.n_users, device=self.pools.device).split(_BLOCK):
            users_known = users[self.pools.degree[users] > 0]
            block = torch.zeros(len(users), self.cache, dtype=torch.long, device=users.device)
            block[self.pools.degree[users] > 0] = self._renewed(users_known, score)
            blocks.append(block)
        self.items = torch.cat(blocks)

    def _renewed(self, users: Tensor, score: ScoreFunction) -> Tensor:
        running = self.pools.uniform(users, self.candidates)
        generator = self.pools.generator
        if self.items is not None:
            kept = min(self.cache // 2, self.candidates)
            order = torch.rand(len(users), self.cache, generator=generator, device=users.device).argsort(dim=1)
            running[:, :kept] = self.items[users].gather(1, order[:, :kept])
        chosen = torch.multinomial(
            score(users, running).softmax(dim=1), self.cache, replacement=True, generator=generator
        )
        return running.gather(1, chosen)

    def draw(self, users: Tensor, size: int) -> Tensor:
        assert self.items is not None, "begin_epoch comes first"
        at = torch.randint(self.cache, (len(users), size), generator=self.pools.generator, device=self.pools.device)
        return self.items[users].gather(1, at)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.items is None else {"items": self.items}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.items = state.get("items")


class SRNSCache(FreshPools):
    """SRNS's memory: each user's cache, the last scores of its items, and its renewal by softmax(score / T).

    The published code remembers the scores of some 3000 fixed candidates a user; here those of the cached items alone
    are remembered, and an item that is new to the cache starts without spread. Memory: n_users * size * 6 numbers.
    """

    def __init__(self, pools: NegativePools, size: int, candidates: int, temperature: float) -> None:
        super().__init__(pools)
        self.size, self.candidates, self.temperature = int(size), int(candidates), temperature
        self.items: Tensor | None = None
        self.history: Tensor | None = None  # (n_users, size, _MEMORY)

    def begin_epoch(self, epoch: int, score: ScoreFunction) -> None:
        pools = self.pools
        if self.items is None or self.history is None:
            self.items = torch.zeros(pools.n_users, self.size, dtype=torch.long, device=pools.device)
            self.history = torch.zeros(pools.n_users, self.size, _MEMORY, device=pools.device)
            known = (pools.degree > 0).nonzero().squeeze(1)
            self.items[known] = pools.uniform(known, self.size)
            for users in known.split(_BLOCK):
                self.history[users] = score(users, self.items[users])[:, :, None].expand(-1, -1, _MEMORY)
            return
        for users in (pools.degree > 0).nonzero().squeeze(1).split(_BLOCK):
            running = torch.cat([self.items[users], pools.uniform(users, self.candidates)], dim=1)
            now = score(users, running)
            past = torch.cat([self.history[users], now[:, self.size :, None].expand(-1, -1, _MEMORY)], dim=1)
            past = torch.cat([past[:, :, 1:], now[:, :, None]], dim=2)
            chosen = torch.multinomial((now / self.temperature).softmax(dim=1), self.size, generator=pools.generator)
            self.items[users] = running.gather(1, chosen)
            self.history[users] = past.gather(1, chosen[:, :, None].expand(-1, -1, _MEMORY))

    def draw(self, users: Tensor, size: int) -> Tensor:
        assert self.items is not None, "begin_epoch comes first"
        return self.items[users]

    def spread(self, users: Tensor, pool: Tensor) -> Tensor | None:
        assert self.history is not None
        return self.history[users].std(dim=2, correction=0)

    def state_dict(self) -> dict[str, Tensor]:
        if self.items is None or self.history is None:
            return {}
        return {"items": self.items, "history": self.history}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.items, self.history = state.get("items"), state.get("history")
