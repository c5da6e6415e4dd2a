"""How the policy of USIM learns: sequences are tried out, and PPO makes what went well more probable (Eq. 13)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_oov.model.imagination import (
    END,
    Policy,
    Potential,
    Switches,
    Targets,
    UserSpace,
    explored,
    moved,
    state_of,
)


@dataclass(frozen=True)
class ImaginationSettings:
    """What the sequences are like, and how is learned from them; names in brackets are the paper's.

    Attributes:
        steps: Users imagined for an item at most (N).
        rate: How far a user moves the item (λ).
        price: Of a step (p).
        candidates: Users among whom training chooses: the best so many, and as many at random (k1, k2).
        switches: Where paper and code differ.
        rollouts: Sequences tried out for an item before anything is learned from them.
        updates: Steps of PPO on them.
        clip: How far the new policy may go from the old one before nothing more is gained.
        discount: γ.
        trace: λ of generalised advantage estimation. 0 looks one step ahead, as paper and code do.
        policy_rate, value_rate: Learning rates.
        weight_decay: Of both.
    """

    steps: int = 7
    rate: float = 0.07
    price: float = 0.05
    candidates: int = 20
    switches: Switches = field(default_factory=Switches)
    rollouts: int = 3
    updates: int = 5
    clip: float = 0.2
    discount: float = 0.99
    trace: float = 0.0
    policy_rate: float = 5e-4
    value_rate: float = 1e-3
    weight_decay: float = 1e-6


class Critic(nn.Module):
    """The value of a state: a linear function of embedding and steps left.

    Args:
        size: d.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.value = nn.Linear(size + 1, 1)

    def forward(self, state: Tensor) -> Tensor:
        """(B, d + 1) -> (B,)"""
        values: Tensor = self.value(state).squeeze(1)
        return values


@dataclass
class Step:
    """What happened in one step to those of the B items that are learned from: R of them.

    Attributes:
        rows: Which of the B items. (R,)
        state, next_state: (R, d + 1)
        candidates: (R, K)
        action: Column of the candidate, K for the end. (R,)
        log_prob: Of the action, when it was chosen. (R,)
        parts: What the reward is made of, without the price; 0 after the end. (R, P)
        reward: (R,)
        ends: Whether no step follows. (R,) bool
    """

    rows: Tensor
    state: Tensor
    candidates: Tensor
    action: Tensor
    log_prob: Tensor
    parts: Tensor
    reward: Tensor
    ends: Tensor
    next_state: Tensor


@torch.no_grad()
def rollout(
    start: Tensor,
    targets: Targets,
    potential: Potential,
    policy: Policy,
    users: UserSpace,
    settings: ImaginationSettings,
    draw: torch.Generator,
) -> list[Step]:
    """Try out one sequence of users for each of some training items (Algorithm 1).

    Args:
        start: h_0. (B, d)
        targets: Where the items should end.
        potential: How far they are from there.
        policy: Chooses at random, by its probabilities.
        users, settings: See there.
        draw: The only source of randomness.

    Returns:
        N steps; fewer where all items have ended before.
    """
    switches, rows = settings.switches, torch.arange(len(start), device=start.device)
    h, before, running = start, potential(start), torch.ones_like(rows, dtype=torch.bool)
    steps: list[Step] = []
    for left in range(settings.steps, 0, -1):
        if switches.after_stop == "paper":  # what has ended is no longer part of anything
            rows, h, before, targets, potential = _only(running, rows, h, before, targets, potential)
            running = running[running]
        if not len(rows):
            break
        state = state_of(h, left)
        candidates = explored(h, targets, users, settings.candidates, switches, draw)
        log_probs = policy.over_candidates(state, users, candidates, stop=switches.training_stop)
        action = torch.multinomial(log_probs.exp(), 1, generator=draw)
        user = F.pad(candidates, (0, 1), value=END).gather(1, action).squeeze(1)
        h = torch.where(running[:, None], moved(h, user, users, settings.rate), h)
        after = potential(h)
        going_on = running & (user != END)
        steps.append(
            Step(
                rows=rows,
                state=state,
                candidates=candidates,
                action=action.squeeze(1),
                log_prob=log_probs.gather(1, action).squeeze(1),
                parts=before - after,
                reward=((before - after).sum(dim=1) - settings.price) * running,
                ends=~going_on if left > 1 else torch.ones_like(running),
                next_state=state_of(h, left - 1),
            )
        )
        before, running = after, going_on
    return steps


def _only(
    kept: Tensor, rows: Tensor, h: Tensor, before: Tensor, targets: Targets, potential: Potential
) -> tuple[Tensor, Tensor, Tensor, Targets, Potential]:
    if kept.all():
        return rows, h, before, targets, potential
    return rows[kept], h[kept], before[kept], targets.only(kept), potential.only(kept)


class RecPPO:
    """The paper's PPO, with a critic that knows the value of a finished item to be 0.

    Args:
        policy: The actor.
        critic: Estimates the value of states.
        settings: See there.
    """

    def __init__(self, policy: Policy, critic: Critic, settings: ImaginationSettings) -> None:
        self._policy, self._critic, self._settings = policy, critic, settings
        decay = settings.weight_decay
        self._of_policy = torch.optim.Adam(policy.parameters(), lr=settings.policy_rate, weight_decay=decay)
        self._of_critic = torch.optim.Adam(critic.parameters(), lr=settings.value_rate, weight_decay=decay)

    def learn(
        self, rollouts: list[list[Step]], targets: Targets, users: UserSpace, draw: torch.Generator
    ) -> tuple[float, float]:
        """Update policy and critic by what happened.

        Args:
            rollouts: Of the same items.
            targets: Where the items should have ended.
            users: All users.
            draw: Draws steps left for the finished items.

        Returns:
            The last losses of policy and critic.
        """
        settings = self._settings
        n_items = len(targets.embeddings)
        steps = [step for own in rollouts for step in own]
        aims = [
            aim for own in rollouts for aim in advantages(own, self._critic, n_items, settings.discount, settings.trace)
        ]
        n = sum(len(step.rows) for step in steps)
        of_policy = of_critic = 0.0
        for _ in range(settings.updates):
            self._of_policy.zero_grad()
            of_policy = 0.0
            for step, (advantage, _) in zip(steps, aims, strict=True):  # one by one, to hold one step's candidates only
                loss = self.policy_loss(step, advantage, users) / n
                loss.backward()
                of_policy += float(loss.detach())
            self._of_policy.step()

            self._of_critic.zero_grad()
            left = torch.randint(settings.steps + 1, (n_items,), generator=draw, device=draw.device)
            finished = self._critic(state_of(targets.embeddings, left)).square().mean()
            states, values = torch.cat([step.state for step in steps]), torch.cat([value for _, value in aims])
            value_loss = (self._critic(states) - values).square().mean() + finished
            value_loss.backward()
            self._of_critic.step()
            of_critic = float(value_loss.detach())
        return of_policy, of_critic

    def policy_loss(self, step: Step, advantage: Tensor, users: UserSpace) -> Tensor:
        """PPO's clipped surrogate of one step, summed over its rows."""
        settings = self._settings
        log_probs = self._policy.over_candidates(
            step.state, users, step.candidates, stop=settings.switches.training_stop
        )
        ratio = (log_probs.gather(1, step.action[:, None]).squeeze(1) - step.log_prob).exp()
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        return -torch.minimum(ratio * advantage, clipped * advantage).sum()


@torch.no_grad()
def advantages(
    steps: list[Step], critic: Critic, n_items: int, discount: float, trace: float
) -> list[tuple[Tensor, Tensor]]:
    """For each step by how much it was better than expected, and what the critic should have expected. (R,), (R,)"""
    found: list[tuple[Tensor, Tensor]] = []
    later = steps[-1].reward.new_zeros(n_items)
    for step in reversed(steps):
        goes_on = (~step.ends).to(step.reward.dtype)
        value = critic(step.state)
        error = step.reward + discount * critic(step.next_state) * goes_on - value
        later[step.rows] = error + discount * trace * goes_on * later[step.rows]
        found.append((later[step.rows], later[step.rows] + value))
    return found[::-1]
