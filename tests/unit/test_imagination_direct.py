"""Sequences by their own gradient: a certain policy gains what its sequence is worth; it learns what PPO learns."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from recbole_oov.model.imagination import Policy, Potential, Targets, UserSpace, imagine
from recbole_oov.model.imagination_direct import DirectLearner, expected_gain
from recbole_oov.model.imagination_ppo import ImaginationSettings, rollout


@dataclasses.dataclass
class Axes:
    """Items that lie where one user's embedding leads, and the state tells which."""

    n: int = 8

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        n = self.n
        self.users = UserSpace(torch.cat([torch.zeros(1, n), torch.eye(n)]), torch.ones(n + 1, dtype=torch.bool))
        self.start = 0.5 * torch.eye(n)
        self.targets = Targets(self.start + 1.5 * torch.eye(n), torch.arange(1, n + 1)[:, None])
        self.policy = Policy(n)

    def potential(self, settings: ImaginationSettings) -> Potential:
        return Potential(self.targets, self.users, settings.switches)

    def draw(self) -> torch.Generator:
        return torch.Generator().manual_seed(0)


def settings_of(**others: object) -> ImaginationSettings:
    return ImaginationSettings(**{"steps": 3, "rate": 0.5, "price": 0.1, "candidates": 3, **others})  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", [-60.0, 60.0])
def test_a_certain_policy_gains_what_its_sequence_is_worth(stop: float) -> None:
    axes, settings = Axes(), settings_of()
    with torch.no_grad():
        axes.policy.query.weight.copy_(200 * torch.eye(axes.n, axes.n + 1))
        axes.policy.stop.weight.zero_()
        axes.policy.stop.bias.fill_(stop)
    potential = axes.potential(settings)
    expected = expected_gain(axes.start, axes.targets, potential, axes.policy, axes.users, settings, axes.draw())
    steps = rollout(axes.start, axes.targets, potential, axes.policy, axes.users, settings, axes.draw())
    gained = torch.zeros(axes.n)
    for step in steps:
        gained.index_add_(0, step.rows, step.reward)
    assert torch.allclose(expected.gain.detach(), gained, atol=1e-5)
    assert torch.allclose(expected.length.detach(), torch.full((axes.n,), float(len(steps))), atol=1e-5)
    assert torch.allclose(expected.ended.detach(), torch.full((axes.n,), float(stop > 0)), atol=1e-5)


def test_the_gradient_is_that_of_finite_differences() -> None:
    axes, settings = Axes(4), settings_of(candidates=4)
    users = UserSpace(axes.users.embeddings.double(), ~axes.users.excluded)
    targets = Targets(axes.targets.embeddings.double(), axes.targets.users)
    policy, start = axes.policy.double(), axes.start.double() + 0.1

    def gain() -> torch.Tensor:
        potential = Potential(targets, users, settings.switches)
        return expected_gain(start, targets, potential, policy, users, settings, axes.draw()).gain.mean()

    gain().backward()
    weight, step = policy.query.weight, 1e-6
    for place in ((0, 0), (1, 3), (3, 4)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
                values.append(float(gain()))
                weight[place] -= sign * step
        assert weight.grad is not None
        assert float(weight.grad[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-8)


def test_the_policy_learns_which_users_lead_to_the_item() -> None:
    axes, settings = Axes(), settings_of(price=0.0, policy_rate=0.05)
    learner, draw, potential = DirectLearner(axes.policy, settings), axes.draw(), axes.potential(settings)
    for _ in range(150):
        learner.learn(axes.start, axes.targets, potential, axes.users, draw)
    sequences = imagine(axes.start, axes.policy, axes.users, steps=3, rate=0.5)
    assert (sequences.users == torch.arange(1, axes.n + 1)[:, None]).float().mean() >= 0.9
    assert (potential(sequences.ends(sequences.lengths("threshold"))).sum(dim=1) < 0.5).all()


def test_where_a_step_costs_more_than_it_brings_the_policy_stops() -> None:
    axes, settings = Axes(), settings_of(price=5.0, policy_rate=0.05)
    learner, draw, potential = DirectLearner(axes.policy, settings), axes.draw(), axes.potential(settings)
    for _ in range(40):
        learner.learn(axes.start, axes.targets, potential, axes.users, draw)
    assert (imagine(axes.start, axes.policy, axes.users, steps=3, rate=0.5).stop[:, 0] > 0.5).all()
