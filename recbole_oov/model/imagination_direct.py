"""The objective of USIM without reinforcement learning: a policy is differentiated through its own steps.

Ours, as a cheaper baseline for PPO (:mod:`recbole_oov.model.imagination_ppo`): where transition and reward are known
and smooth, as they are for a frozen dot-product model, nothing has to be tried out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_oov.model.imagination import Policy, Potential, Targets, UserSpace, explored, state_of
from recbole_oov.model.imagination_ppo import ImaginationSettings


@dataclass(frozen=True)
class Expected:
    """What a policy earns where every step is the mean of what it might choose.

    Attributes:
        gain: The objective. (B,)
        parts: What it is made of, without the price. (B, P)
        length: Steps, the one that ends a sequence included. (B,)
        ended: Probability that the policy ended it. (B,)
    """

    gain: Tensor
    parts: Tensor
    length: Tensor
    ended: Tensor


def expected_gain(
    start: Tensor,
    targets: Targets,
    potential: Potential,
    policy: Policy,
    users: UserSpace,
    settings: ImaginationSettings,
    draw: torch.Generator,
) -> Expected:
    r"""The return of a sequence (Eq. 7-9) with the mean user in the place of a drawn one; differentiable.

    .. math:: J = \sum_t w_t \left( (1 - \pi(\text{end} \mid s_t)) (D(h_t) - D(h_{t+1})) - p \right), \quad
              w_{t+1} = w_t (1 - \pi(\text{end} \mid s_t)), \quad
              h_{t+1} = h_t + \lambda \sum_u \pi(u \mid s_t, \text{not end})\, e_u

    over the candidates of Eq. 10-12, D the potential and p the price. A policy that is certain of every action gets
    what its sequence is worth; otherwise the mean of D is taken at the mean embedding.

    Args:
        start: h_0. (B, d)
        targets, potential, policy, users, settings, draw: As of
            :func:`recbole_oov.model.imagination_ppo.rollout`.
    """
    h, before = start, potential(start)
    going, parts = torch.ones_like(start[:, 0]), torch.zeros_like(before)
    length = torch.zeros_like(going)
    for left in range(settings.steps, 0, -1):
        candidates = explored(h.detach(), targets, users, settings.candidates, settings.switches, draw)
        log_probs = policy.over_candidates(state_of(h, left), users, candidates, stop=settings.switches.training_stop)
        among = log_probs[:, :-1].softmax(dim=1)
        h = h + settings.rate * torch.bmm(among[:, None], users.embeddings[candidates]).squeeze(1)
        after = potential(h)
        length = length + going
        going = going * (1 - log_probs[:, -1].exp())
        parts = parts + going[:, None] * (before - after)
        before = after
    return Expected(parts.sum(dim=1) - settings.price * length, parts, length, 1 - going)


class DirectLearner:
    """Climbs :func:`expected_gain`; a step of learning for each batch of items.

    Args:
        policy: What learns.
        settings: See there; of PPO's own (rollouts, updates, clip, discount, trace) none is read.
    """

    def __init__(self, policy: Policy, settings: ImaginationSettings) -> None:
        self._policy, self._settings = policy, settings
        self._optimiser = torch.optim.Adam(
            policy.parameters(), lr=settings.policy_rate, weight_decay=settings.weight_decay
        )

    def learn(
        self, start: Tensor, targets: Targets, potential: Potential, users: UserSpace, draw: torch.Generator
    ) -> Expected:
        """One step up for a batch of training items; arguments as of :func:`expected_gain`."""
        self._optimiser.zero_grad()
        found = expected_gain(start, targets, potential, self._policy, users, self._settings, draw)
        (-found.gain.mean()).backward()
        self._optimiser.step()
        return Expected(found.gain.detach(), found.parts.detach(), found.length.detach(), found.ended.detach())
