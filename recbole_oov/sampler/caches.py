"""Where pools come from: fresh draws, or a cache of candidates for each user that is resampled once an epoch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recbole_oov.sampler.base_models import BaseModel
from recbole_oov.sampler.pools import NegativePools

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
"""(B,), (B, P) -> (B, P), without a graph."""

_MEMORY = 5
"""Epochs that SRNS remembers."""
_BLOCK = 2048
"""Users whose candidates are scored at once."""


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

    def log_q(self, users: Tensor, pool: Tensor) -> Tensor | None:
        """Log of the probability with which each candidate came into ``pool``, up to a constant; None if uniform."""
        return None if self.alpha is None else self.pools.log_probability(pool, self.alpha)

    def spread(self, users: Tensor, positives: Tensor, pool: Tensor) -> Tensor | None:
        """How much the candidates have moved in recent epochs; None without a memory."""
        return None

    def renew(self, users: Tensor, score: ScoreFunction) -> None:
        """Nothing to renew after a batch."""

    def state_dict(self) -> dict[str, Tensor]:
        """Nothing but the generator's, which the pools keep."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to load."""


class AdaSIRCache(FreshPools):
    """AdaSIR's first step: each user keeps ``cache`` candidates, out of ``candidates`` by softmax(s), and a random half
    of them is renewed every epoch (Chen et al., "Learning Recommenders for Implicit Feedback with Importance
    Resampling"). Memory: n_users * cache ids and as many weights.

    Which half goes is left to chance, as in the published code: old candidates that would compete with new ones by
    their scores would stay for good, so that all users end with the few hardest of all items.
    """

    def __init__(self, pools: NegativePools, cache: int, candidates: int) -> None:
        super().__init__(pools)
        self.cache, self.candidates = int(cache), int(candidates)
        self.items: Tensor | None = None
        self.log_weight: Tensor | None = None
        """With which each came into the cache. (n_users, cache)"""
        self._latest: Tensor | None = None

    def begin_epoch(self, epoch: int, score: ScoreFunction) -> None:
        pools, known = self.pools, (self.pools.degree > 0).nonzero().squeeze(1)
        first = self.items is None or self.log_weight is None
        if self.items is None or self.log_weight is None:
            self.items = torch.zeros(pools.n_users, self.cache, dtype=torch.long, device=pools.device)
            self.log_weight = torch.zeros(pools.n_users, self.cache, device=pools.device)
        for users in known.split(_BLOCK):
            items, log_weight = self._resampled(users, score)
            if not first:
                both = torch.cat([self.items[users], items], 1), torch.cat([self.log_weight[users], log_weight], 1)
                kept = self._places(len(users), 2 * self.cache, self.cache)
                items, log_weight = both[0].gather(1, kept), both[1].gather(1, kept)
            self.items[users], self.log_weight[users] = items, log_weight

    def _resampled(self, users: Tensor, score: ScoreFunction) -> tuple[Tensor, Tensor]:
        proposed = self.pools.uniform(users, self.candidates)
        log_weight = score(users, proposed).log_softmax(dim=1)
        chosen = torch.multinomial(log_weight.exp(), self.cache, replacement=True, generator=self.pools.generator)
        return proposed.gather(1, chosen), log_weight.gather(1, chosen)

    def _places(self, n: int, among: int, size: int) -> Tensor:
        return torch.randint(among, (n, size), generator=self.pools.generator, device=self.pools.device)

    def draw(self, users: Tensor, size: int) -> Tensor:
        assert self.items is not None and self.log_weight is not None, "begin_epoch comes first"
        at = self._places(len(users), self.cache, size)
        self._latest = self.log_weight[users[:, None], at]
        return self.items[users[:, None], at]

    def log_q(self, users: Tensor, pool: Tensor) -> Tensor | None:
        """Of the latest pool: log softmax(s) at the time when each of its candidates came into the cache."""
        return self._latest

    def state_dict(self) -> dict[str, Tensor]:
        if self.items is None or self.log_weight is None:
            return {}
        return {"items": self.items, "log_weight": self.log_weight}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.items, self.log_weight = state.get("items"), state.get("log_weight")


class SRNSCache(FreshPools):
    """SRNS's memory: a few candidates a user, drawn anew after every batch, and the model as it was in recent epochs.

    A batch chooses among the ``size`` candidates in the caches of its users; then each cache is drawn again, without
    replacement, out of what it held and ``candidates`` unseen items, by softmax(score / T). A candidate's spread is
    the standard deviation of sigmoid(s_uj - s_ui) over the last five epochs.

    The published code keeps the past scores of 3000 items a user, out of which alone caches are drawn; here the weights
    of those epochs are kept, so that any item has a past. Memory: n_users * size ids, five times the model's weights.

    Args:
        pools: Draws the others.
        base: The base model.
        size: Candidates in a user's cache.
        candidates: Others that a cache is drawn anew from.
        temperature: T.
    """

    def __init__(self, pools: NegativePools, base: BaseModel, size: int, candidates: int, temperature: float) -> None:
        super().__init__(pools)
        self.base, self.size, self.candidates, self.temperature = base, int(size), int(candidates), temperature
        self.items: Tensor | None = None
        self.past: list[BaseModel] = []
        """The base model at the beginning of each of the last epochs, oldest first."""

    def begin_epoch(self, epoch: int, score: ScoreFunction) -> None:
        if self.items is None:
            known = (self.pools.degree > 0).nonzero().squeeze(1)
            self.items = torch.zeros(self.pools.n_users, self.size, dtype=torch.long, device=self.pools.device)
            self.items[known] = self.pools.uniform(known, self.size)
        self.past = [*self.past, self.base.snapshot()][-_MEMORY:]

    def draw(self, users: Tensor, size: int) -> Tensor:
        assert self.items is not None, "begin_epoch comes first"
        return self.items[users]

    def spread(self, users: Tensor, positives: Tensor, pool: Tensor) -> Tensor | None:
        both = torch.cat([positives[:, None], pool], dim=1)
        scores = torch.stack([past.scores(users, both) for past in self.past])
        return torch.sigmoid(scores[:, :, 1:] - scores[:, :, :1]).std(dim=0, correction=0)

    def renew(self, users: Tensor, score: ScoreFunction) -> None:
        """Draw the caches of these users anew, each once."""
        assert self.items is not None, "begin_epoch comes first"
        users = users.unique()
        running = torch.cat([self.items[users], self.pools.uniform(users, self.candidates)], dim=1)
        scores = score(users, running)
        weight = (scores / self.temperature).softmax(dim=1)
        chosen = torch.multinomial(weight, self.size, generator=self.pools.generator)
        # Where fewer weights than the cache holds are not 0 as floats, the law is as good as the order of the scores.
        sharp = (weight > 0).sum(dim=1) < self.size
        chosen[sharp] = scores[sharp].topk(self.size, dim=1).indices
        self.items[users] = running.gather(1, chosen)

    def state_dict(self) -> dict[str, Tensor]:
        if self.items is None:
            return {}
        weights = {
            f"{at}.{name}": value
            for at, past in enumerate(self.past)
            for name, value in past.model.state_dict().items()
        }
        return {"items": self.items, **weights}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.items, self.past = state.get("items"), []
        for at in range(_MEMORY):
            weights = {key.partition(".")[2]: value for key, value in state.items() if key.startswith(f"{at}.")}
            if weights:
                self.past.append(self.base.snapshot(weights))
