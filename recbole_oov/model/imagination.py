"""Imagined users: state, policy, transition, exploration set and reward of USIM, on plain tensors.

Everything happens in the space of a frozen base model: users are points that do not move, an item starts at an
embedding made from its content, and each imagined user moves it by one step. "User Sequence Imagination for Cold-start
Item Recommendation", NeurIPS 2024 (USIM). Equation numbers are the paper's; where the published code does something
else, :class:`Switches` says so.

Shapes: B items, N steps, d the embedding size, K candidates, C known users of an item, kept for training.
Users are given by id, 0 is nobody: RecBole's padding user, whose embedding is zero, and so the action that ends it all.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

END = 0
"""The action that ends the imagination."""

_BLOCK = 1 << 22
"""Scores of all users held at once, 16 MiB of them."""

Side = Literal["paper", "code"]
StopRule = Literal["joint", "threshold", "fixed"]
STOP_RULES: tuple[StopRule, ...] = ("joint", "threshold", "fixed")


@dataclass(frozen=True)
class Switches:
    """The six points at which paper and published code differ; each can be set apart.

    Attributes:
        positives: Good candidates. Paper: the k users nearest in direction to what is missing, and the item's own
            users. Code: the former where they are among the k that score the item highest, else all of them.
        reward: Paper: both terms in full, over the item's own users. Code: ``w`` and ``1 - w`` times them, over the ten
            users that score the item highest, discounted by rank.
        training_stop: Probability to stop in training. Paper: unchanged. Code: renormalised with the candidates', which
            raises it to nearly 1 where they are few among many users.
        countdown: Steps left, as the policy sees them at inference. Paper: they fall. Code: always N.
        generator_loss: Paper: squared distance. Code: distance.
        after_stop: Rows of an item that has stopped. Paper: no part of the sequence. Code: learned from, with reward 0.
    """

    positives: Side = "paper"
    reward: Side = "paper"
    training_stop: Side = "paper"
    countdown: Side = "paper"
    generator_loss: Side = "paper"
    after_stop: Side = "paper"

    @classmethod
    def all(cls, side: Side) -> Switches:
        """All six on one side."""
        return cls(**{field.name: side for field in fields(cls)})


class UserSpace:
    """The users of a frozen base model who can be imagined.

    Args:
        embeddings: Row 0 is the padding user's. (n_users, d)
        known: Users with training rows, True for at least one. The others' embeddings were never trained, and nobody
            imagines them; the padding user neither. (n_users,) bool

    Attributes:
        embeddings: Zero for users who cannot be imagined. (n_users, d)
        directions: Of length 1, or zero. (n_users, d)
        ids: Users who can be imagined, ascending.
        excluded: The others. (n_users,) bool
    """

    def __init__(self, embeddings: Tensor, known: Tensor) -> None:
        known = known.clone()
        known[END] = False
        self.embeddings = torch.where(known[:, None], embeddings, 0.0)
        self.directions = F.normalize(self.embeddings, dim=1)
        self.ids = known.nonzero().squeeze(1)
        self.excluded = ~known

    def __len__(self) -> int:
        return len(self.ids)

    def best(self, queries: Tensor, k: int, *, by: Literal["cosine", "product"]) -> Tensor:
        """The k users that have the largest cosine or product with each query, best first. (B, d) -> (B, k)"""
        table = self.directions if by == "cosine" else self.embeddings
        found = []
        for block in queries.split(self.rows_at_once):
            found.append((block @ table.T).masked_fill_(self.excluded, -torch.inf).topk(k, dim=1).indices)
        return torch.cat(found)

    def log_sum(self, queries: Tensor) -> Tensor:
        """The softmax's logarithmic denominator over all users. (B, d) -> (B,)"""
        return (queries @ self.embeddings.T).masked_fill(self.excluded, -torch.inf).logsumexp(dim=1)

    @property
    def rows_at_once(self) -> int:
        """How many items can be compared with all users at once."""
        return max(1, _BLOCK // len(self.excluded))


class Policy(nn.Module):
    r"""Whom to imagine next, and whether to stop (Eq. 3).

    .. math:: \pi(\text{end} \mid s) = \sigma(W_2 s + c), \qquad
              \pi(u \mid s) = (1 - \pi(\text{end} \mid s)) \operatorname{softmax}_u(e_u^\top W_1 s)

    The state s is the embedding and the number of steps left.

    Args:
        size: d.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(size + 1, size, bias=False)
        self.stop = nn.Linear(size + 1, 1)

    def over_candidates(self, state: Tensor, users: UserSpace, candidates: Tensor, *, stop: Side) -> Tensor:
        """The policy that explores (Eq. 12): candidates share what all users have, others have nothing.

        Args:
            state: (B, d + 1)
            users: All users.
            candidates: Ids, ``END`` where a row has fewer than K; at least one user in each row. (B, K)
            stop: Whether the probability to stop stays as it is (paper) or is renormalised too (code).

        Returns:
            Log-probabilities of the candidates, minus infinity for ``END``, and in the last column to stop. (B, K + 1)
        """
        query, stop_logit = self.query(state), self.stop(state)
        logits = torch.bmm(users.embeddings[candidates], query[:, :, None]).squeeze(2)
        logits = logits.masked_fill(candidates == END, -torch.inf)
        if stop == "paper":
            among = logits.log_softmax(dim=1) + F.logsigmoid(-stop_logit)
            return torch.cat([among, F.logsigmoid(stop_logit)], dim=1)
        blocks = query.split(users.rows_at_once)  # computed again in the backward pass, so as not to be kept
        everyone = torch.cat([checkpoint(users.log_sum, block, use_reentrant=False) for block in blocks])
        among = logits - everyone[:, None] + F.logsigmoid(-stop_logit)
        return torch.cat([among, F.logsigmoid(stop_logit)], dim=1).log_softmax(dim=1)

    def over_all(self, state: Tensor, users: UserSpace) -> tuple[Tensor, Tensor]:
        """The policy itself: log-probabilities of all users given that it goes on, and to stop. (B, n_users), (B,)"""
        logits = (self.query(state) @ users.embeddings.T).masked_fill(users.excluded, -torch.inf)
        return logits.log_softmax(dim=1), F.logsigmoid(self.stop(state)).squeeze(1)


def state_of(embedding: Tensor, left: int | Tensor) -> Tensor:
    """The state: an item's embedding and the number of steps left, for all or for each. (B, d) -> (B, d + 1)"""
    column = torch.as_tensor(left, dtype=embedding.dtype, device=embedding.device).expand(len(embedding))
    return torch.cat([embedding, column[:, None]], dim=1)


def moved(embedding: Tensor, action: Tensor, users: UserSpace, rate: float) -> Tensor:
    """One step along the gradient of the user's score (Eq. 5-6): h + λ e_u; ``END`` moves nothing. (B, d), (B,)"""
    return embedding + rate * users.embeddings[action]


@dataclass(frozen=True)
class Targets:
    """What training items should end at; of IV items alone.

    Attributes:
        embeddings: Those that the base model learned. (B, d)
        users: Who interacted with them, ``END`` where there are fewer than C. (B, C)
    """

    embeddings: Tensor
    users: Tensor

    def only(self, kept: Tensor) -> Targets:
        """Some of them. (B,) bool"""
        return Targets(self.embeddings[kept], self.users[kept])


def explored(
    h: Tensor, targets: Targets, users: UserSpace, k: int, switches: Switches, draw: torch.Generator
) -> Tensor:
    """The users among whom training chooses (Eq. 10-11): good ones, and k at random.

    Args:
        h: Where the items are. (B, d)
        targets: Where they should be.
        users: All users; at least k.
        k: k1 and k2 of the paper.
        switches: See ``positives``.
        draw: Draws the random users. One that is among the good ones already adds none.

    Returns:
        Ids in ascending order, each once, ``END`` in free places. (B, K)
    """
    near = users.best(targets.embeddings - h, k, by="cosine")
    if switches.positives == "paper":
        good = torch.cat([near, targets.users], dim=1)
    else:
        scoring = users.best(targets.embeddings, k, by="product")
        both = (near[:, :, None] == scoring[:, None, :]).any(dim=2)
        both |= ~both.any(dim=1, keepdim=True)
        good = near.masked_fill(~both, END)
    others = torch.randint(len(users), (len(h), k), generator=draw, device=h.device)
    candidates = torch.cat([good, users.ids[others]], dim=1).sort(dim=1).values
    twice = candidates[:, 1:] == candidates[:, :-1]
    candidates[:, 1:].masked_fill_(twice, END)
    return candidates


class Potential:
    """How far items are from where they should be; a step's reward is by how much that falls.

    The parts' sum is what a reward is made of, so that rewards of a sequence add up to the difference between its ends.

    Args:
        targets: Where the items should be.
        users: All users.
        switches: See ``reward``.
        weight: The code's w.
    """

    names: tuple[str, ...] = ("embedding", "scores")

    def __init__(self, targets: Targets, users: UserSpace, switches: Switches, weight: float = 0.5) -> None:
        self._embeddings = targets.embeddings
        if switches.reward == "paper":
            readers = targets.users
            share = (readers != END).to(self._embeddings.dtype)
            share = share / share.sum(dim=1, keepdim=True).clamp_min(1)
            self._weights = (1.0, 1.0)
        else:
            readers = users.best(targets.embeddings, min(10, len(users)), by="product")
            ranks = torch.arange(readers.shape[1], device=readers.device)
            share = (1 / (ranks + 2.0).log2() / readers.shape[1]).expand(readers.shape)
            self._weights = (weight, 1 - weight)
        self._readers, self._share = users.embeddings[readers], share

    def only(self, kept: Tensor) -> Potential:
        """That of some items. (B,) bool"""
        part = copy.copy(self)
        part._embeddings, part._readers, part._share = self._embeddings[kept], self._readers[kept], self._share[kept]
        return part

    def __call__(self, h: Tensor) -> Tensor:
        """Distance to the embedding (Eq. 7), and mean error of the users' scores (Eq. 8). (B, d) -> (B, 2)"""
        missing = h - self._embeddings
        errors = torch.bmm(self._readers, missing[:, :, None]).squeeze(2).abs()
        parts = torch.stack([missing.norm(dim=1), (errors * self._share).sum(dim=1)], dim=1)
        return parts * parts.new_tensor(self._weights)


@dataclass(frozen=True)
class Sequences:
    """Imagined sequences of users, as long as they may become, and what the policy thought at each step.

    Attributes:
        users: The most probable user at each step. (B, N)
        embeddings: Before the first step and after each. (B, N + 1, d)
        stop: Probability to stop before the step. (B, N)
        chosen: Probability of the user, given that it goes on. (B, N)
    """

    users: Tensor
    embeddings: Tensor
    stop: Tensor
    chosen: Tensor

    def lengths(self, rule: StopRule, steps: int | None = None) -> Tensor:
        """How many steps are taken. (B,)

        Args:
            rule: ``joint``: until stopping is the most probable action of all. ``threshold``: until it is more probable
                than going on. ``fixed``: ``steps`` in any case.
            steps: At most so many; None for N.
        """
        n = self.users.shape[1] if steps is None else min(steps, self.users.shape[1])
        goes_on = 1 - self.stop[:, :n]
        if rule == "fixed":
            return torch.full((len(self.users),), n, device=self.users.device)
        stops = self.stop[:, :n] >= (goes_on * self.chosen[:, :n] if rule == "joint" else goes_on)
        return (~stops).long().cumprod(dim=1).sum(dim=1)

    def ends(self, lengths: Tensor) -> Tensor:
        """The embeddings after so many steps. (B,) -> (B, d)"""
        return self.embeddings[torch.arange(len(lengths), device=lengths.device), lengths]


@torch.no_grad()
def imagine(
    start: Tensor,
    policy: Policy,
    users: UserSpace,
    *,
    steps: int,
    rate: float,
    countdown: Side = "paper",
    revisit: bool = True,
) -> Sequences:
    """Imagine users for items of which only the first embedding is known, without stopping.

    The user at a step does not depend on when the sequence will be cut, so that all stop rules read from one result.

    Args:
        start: h_0. (B, d)
        policy: Chooses the most probable of all users.
        users: All users.
        steps: N.
        rate: λ.
        countdown: See :class:`Switches`.
        revisit: Whether a user may come again.
    """
    parts = [
        _imagined(block, policy, users, steps, rate, countdown, revisit) for block in start.split(users.rows_at_once)
    ]
    return Sequences(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _imagined(
    h: Tensor, policy: Policy, users: UserSpace, steps: int, rate: float, countdown: Side, revisit: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    path, ids = [h], [torch.empty(len(h), 0, dtype=torch.long, device=h.device)]
    stop, chosen = [h.new_empty(len(h), 0)], [h.new_empty(len(h), 0)]
    for step in range(steps):
        left = steps - step if countdown == "paper" else steps
        log_probs, log_stop = policy.over_all(state_of(h, left), users)
        if not revisit:
            log_probs = log_probs.scatter(1, torch.cat(ids, dim=1), -torch.inf)
        best, user = log_probs.max(dim=1, keepdim=True)
        h = moved(h, user.squeeze(1), users, rate)
        path.append(h)
        ids.append(user)
        stop.append(log_stop.exp()[:, None])
        chosen.append(best.exp())
    return torch.cat(ids, dim=1), torch.stack(path, dim=1), torch.cat(stop, dim=1), torch.cat(chosen, dim=1)
