"""Several samplers at once: one mixed negative in the place of a weighted sum of losses.

Relaxation: with probabilities p over K samplers, L_p = sum_k p_k l(s_u,j_k - s_ui), which costs K losses. The
loss-to-instance approximation puts the sum inside: l(f(u, sum_k p_k e_{j_k}) - s_ui), which costs one. For a dot
product and a convex l it is at most L_p (Jensen), with equality where p is one-hot. A base model without known vectors
draws one sampler a batch with probability p_k instead, an unbiased estimate of L_p.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.sampler.base_models import BaseModel, VectorModel
from recbole_oov.sampler.caches import FreshPools
from recbole_oov.sampler.choice import Choice, PoolBatch, Sampler
from recbole_oov.sampler.drawing import Drawing, negative_vector
from recbole_oov.sampler.pools import NegativePools


@dataclass(frozen=True)
class Candidate:
    """What one sampler chose for a batch."""

    pool: Tensor
    choice: Choice


class Mixture:
    """Draws with several samplers and learns from their mixture.

    Uniform pools are drawn and scored once for all samplers that take them; a smaller pool is the beginning of a
    larger one.

    Args:
        samplers: The samplers with their options.
        base: The base model.
        pools: Draws pools.

    Attributes:
        weights: p, float64. (K,) A sampler with p = 0 is not asked.
    """

    def __init__(
        self, samplers: Sequence[tuple[Sampler, dict[str, Any]]], base: BaseModel, pools: NegativePools
    ) -> None:
        self.base, self.pools = base, pools
        self.drawings = [Drawing(sampler, options, base, pools) for sampler, options in samplers]
        self.names = [sampler.name for sampler, _ in samplers]
        self.weights = torch.full((len(self.drawings),), 1 / len(self.drawings), dtype=torch.float64)

    def begin_epoch(self, epoch: int) -> None:
        """Renew the caches of the samplers that have one."""
        for drawing in self._asked():
            drawing.begin_epoch(epoch)

    def loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        """The base model's loss of a batch of (user, positive) with mixed negatives."""
        self.base.begin_step()
        if not isinstance(self.base, VectorModel):
            at = int(torch.multinomial(self.weights, 1, generator=self._cpu_generator()))
            candidate = self.candidates(interaction, [at])[at]
            return self.base.item_loss(interaction, items_of(candidate))
        return self.mixed_loss(interaction, self.candidates(interaction))

    def mixed_loss(self, interaction: Interaction, candidates: dict[int, Candidate]) -> Tensor:
        """The loss of sum_k p_k e_k, each sampler's items regularised with weight p_k.

        The sum is over those that were asked, with p made to sum to one among them.
        """
        assert isinstance(self.base, VectorModel)
        asked = float(self.weights[list(candidates)].sum())
        chosen = [(found.pool, found.choice, float(self.weights[at]) / asked) for at, found in candidates.items()]
        return self.base.vector_loss(interaction, *negative_vector(self.base, interaction, chosen))

    def some(self, n: int) -> list[int]:
        """The places of n samplers, drawn by p without replacement; of all with p > 0 where those are fewer."""
        n = min(n, int((self.weights > 0).sum()))
        return sorted(torch.multinomial(self.weights, n, generator=self._cpu_generator()).tolist())

    @torch.no_grad()
    def candidates(self, interaction: Interaction, places: Sequence[int] | None = None) -> dict[int, Candidate]:
        """What each sampler at ``places`` chooses, by its place; without them every sampler with p > 0."""
        if places is None:
            places = [at for at in range(len(self.drawings)) if self.weights[at] > 0]
        users = interaction[self.base.model.USER_ID]
        shared = [self.drawings[at] for at in places if _takes_uniform(self.drawings[at])]
        pool = self.pools.uniform(users, max((drawing.size for drawing in shared), default=0))
        scored: PoolBatch | None = None
        if any(drawing.sampler.needs_scores for drawing in shared):
            reader = next(drawing for drawing in shared if drawing.sampler.needs_scores)
            scored = reader.scored(interaction, pool, vectors=any(drawing.sampler.mixes for drawing in shared))
        chosen = {}
        for at in places:
            drawing = self.drawings[at]
            if drawing in shared:
                own, seen = pool[:, : drawing.size], _first(scored, drawing.size)
                seen = seen if drawing.sampler.needs_scores else None
            else:
                own, seen = drawing.draw(users), None
            chosen[at] = Candidate(own, drawing.choose(interaction, own, seen))
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """What the next draws depend on."""
        return {"weights": self.weights, "drawings": [drawing.state_dict() for drawing in self.drawings]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of ``state_dict``."""
        self.weights = state["weights"]
        for drawing, own in zip(self.drawings, state["drawings"], strict=True):
            drawing.load_state_dict(own)

    def _asked(self) -> list[Drawing]:
        return [drawing for drawing, weight in zip(self.drawings, self.weights, strict=True) if weight > 0]

    def _cpu_generator(self) -> torch.Generator | None:
        return self.pools.generator if self.pools.device.type == "cpu" else None


def first_rows(candidate: Candidate, n: int) -> Candidate:
    """What was chosen for the first n rows of a batch."""
    choice = candidate.choice
    share = None if choice.positive_share is None else choice.positive_share[:n]
    return Candidate(candidate.pool[:n], Choice(choice.index[:n], share))


def items_of(candidate: Candidate) -> Tensor:
    """The chosen items of a sampler of real items. (B,)"""
    return candidate.pool.gather(1, candidate.choice.index[:, None]).squeeze(1)


def _takes_uniform(drawing: Drawing) -> bool:
    return type(drawing.source) is FreshPools and drawing.source.alpha is None


def _first(scored: PoolBatch | None, size: int) -> PoolBatch | None:
    """The first candidates of a scored pool."""
    if scored is None or scored.scores.shape[1] == size:
        return scored
    return PoolBatch(
        scored.scores[:, :size],
        scored.positive_scores,
        user=scored.user,
        positive=scored.positive,
        layer_scores=None if scored.layer_scores is None else scored.layer_scores[:, :size],
        pool=scored.pool,
        epoch=scored.epoch,
        generator=scored.generator,
    )
