"""USIM's sequences on small tensors with answers that can be worked out: steps, rewards, candidates, PPO, stopping."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recbole_oov.model.imagination import (
    END,
    STOP_RULES,
    Policy,
    Potential,
    Sequences,
    Side,
    Switches,
    Targets,
    UserSpace,
    explored,
    imagine,
    moved,
    state_of,
)
from recbole_oov.model.imagination_ppo import Critic, ImaginationSettings, RecPPO, Step, advantages, rollout

N_USERS, N_ITEMS, SIZE = 40, 12, 6
UNKNOWN = [5, 17]
"""Users without a training row."""
SIDES: tuple[Side, ...] = ("paper", "code")


@dataclasses.dataclass
class Toy:
    users: UserSpace
    targets: Targets
    start: Tensor
    policy: Policy
    critic: Critic
    draw: torch.Generator

    def rollout(self, settings: ImaginationSettings) -> list[Step]:
        potential = Potential(self.targets, self.users, settings.switches)
        return rollout(self.start, self.targets, potential, self.policy, self.users, settings, self.draw)


def toy(seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    known = torch.ones(N_USERS, dtype=torch.bool)
    known[UNKNOWN] = False
    users = UserSpace(torch.randn(N_USERS, SIZE, dtype=torch.float64), known)
    own = torch.zeros(N_ITEMS, 4, dtype=torch.long)
    for item in range(N_ITEMS):
        count = 1 + item % 4
        own[item, :count] = users.ids[torch.randperm(len(users))[:count]]
    targets = Targets(torch.randn(N_ITEMS, SIZE, dtype=torch.float64), own)
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(N_ITEMS, SIZE, dtype=torch.float64)
    return Toy(users, targets, start, Policy(SIZE).double(), Critic(SIZE).double(), draw)


def settings_of(side: Side = "paper", **others: object) -> ImaginationSettings:
    return ImaginationSettings(candidates=3, switches=Switches.all(side), **others)  # type: ignore[arg-type]


def scores_error(h: Tensor, t: Toy) -> Tensor:
    """f of Eq. 8, item by item."""
    return torch.stack(
        [
            torch.stack(
                [((h[i] - t.targets.embeddings[i]) @ t.users.embeddings[u]).abs() for u in own if u != END]
            ).mean()
            for i, own in enumerate(t.targets.users)
        ]
    )


# ---- transition and end ----


def test_a_user_moves_the_item_by_its_embedding_and_the_end_by_nothing() -> None:
    t = toy()
    action = torch.tensor([7, END, 3] * 4)
    h = moved(t.start, action, t.users, 0.07)
    for row, user in enumerate(action.tolist()):
        expected = t.start[row] + (0.07 * t.users.embeddings[user] if user else 0)
        assert torch.equal(h[row], expected)


def test_the_end_costs_the_price_once_and_nothing_comes_after_it() -> None:
    t = toy()
    left, ended = set(range(N_ITEMS)), []
    for step in t.rollout(settings_of(price=0.3, steps=6)):
        assert set(step.rows.tolist()) == left
        over = step.action == step.candidates.shape[1]
        assert torch.allclose(step.reward[over], torch.tensor(-0.3, dtype=torch.float64))
        assert torch.equal(step.state[over, :-1], step.next_state[over, :-1])
        assert step.ends[over].all() and (step.parts[~over] != 0).all()
        left -= set(step.rows[over].tolist())
        ended.append(int(over.sum()))
    assert sum(map(bool, ended)) > 1


def test_in_the_code_s_way_what_has_ended_stays_where_it_is_and_is_learned_from() -> None:
    t = toy()
    over = torch.zeros(N_ITEMS, dtype=torch.bool)
    for step in t.rollout(settings_of("code", price=0.3, steps=6)):
        assert step.rows.tolist() == list(range(N_ITEMS))
        assert (step.reward[over] == 0).all() and (step.parts[over] == 0).all() and step.ends[over].all()
        assert torch.equal(step.state[over, :-1], step.next_state[over, :-1])
        over |= step.action == step.candidates.shape[1]
    assert over.any()


# ---- reward ----


@given(seed=st.integers(0, 200), price=st.floats(0, 1), steps=st.integers(1, 9))
def test_rewards_of_a_sequence_add_up_to_what_lies_between_its_ends(seed: int, price: float, steps: int) -> None:
    t = toy(seed)
    done = t.rollout(settings_of(price=price, steps=steps))
    end, e = t.start.clone(), t.targets.embeddings
    taken, earned = torch.zeros(2, N_ITEMS, dtype=torch.float64)
    for step in done:
        end[step.rows] = step.next_state[:, :-1]
        taken[step.rows] += 1
        earned[step.rows] += step.reward
    nearer = (t.start - e).norm(dim=1) - (end - e).norm(dim=1)
    expected = nearer + scores_error(t.start, t) - scores_error(end, t) - price * taken
    assert torch.allclose(earned, expected, atol=1e-10)


def test_the_code_s_reward_is_that_of_the_ten_users_who_score_the_item_highest() -> None:
    t = toy()
    potential = Potential(t.targets, t.users, Switches.all("code"), weight=0.3)
    e, h = t.targets.embeddings, t.start
    for i in range(N_ITEMS):
        best = sorted(t.users.ids.tolist(), key=lambda u: -float(t.users.embeddings[u] @ e[i]))[:10]
        errors = [abs(float(t.users.embeddings[u] @ (h[i] - e[i]))) for u in best]
        discounted = sum(error / float(torch.log2(torch.tensor(j + 2.0))) for j, error in enumerate(errors)) / 10
        expected = [0.3 * float((h[i] - e[i]).norm()), 0.7 * discounted]
        assert potential(h)[i].tolist() == pytest.approx(expected, rel=1e-6)


# ---- exploration ----


@given(seed=st.integers(0, 200), side=st.sampled_from(SIDES))
def test_the_exploring_policy_adds_up_to_one_and_knows_candidates_alone(seed: int, side: Side) -> None:
    t = toy(seed)
    candidates = explored(t.start, t.targets, t.users, 3, Switches.all(side), t.draw)
    probs = t.policy.over_candidates(state_of(t.start, 4), t.users, candidates, stop=side).exp()
    assert torch.allclose(probs.sum(dim=1), torch.ones(N_ITEMS, dtype=torch.float64))
    assert (probs[:, :-1][candidates == END] == 0).all()
    for row in candidates:
        real = row[row != END].tolist()
        assert real == sorted(set(real)) and real and not set(real) & set(UNKNOWN)


def test_what_training_chooses_among_follows_the_equations() -> None:
    t = toy()
    candidates = explored(t.start, t.targets, t.users, 3, Switches(), t.draw)
    missing = t.targets.embeddings - t.start
    for i in range(N_ITEMS):
        cosine = torch.nn.functional.cosine_similarity(missing[i], t.users.embeddings, dim=1)
        near = sorted(t.users.ids.tolist(), key=lambda u: -float(cosine[u]))[:3]
        good = set(near) | set(t.targets.users[i].tolist()) - {END}
        found = set(candidates[i].tolist()) - {END}
        assert good <= found and len(found - good) <= 3
    code = explored(t.start, t.targets, t.users, 3, Switches.all("code"), t.draw)
    assert ((code != END).sum(dim=1) <= 6).all()


def test_stopping_in_training_is_as_likely_as_anywhere_and_in_the_code_s_way_far_likelier() -> None:
    t = toy()
    candidates = explored(t.start, t.targets, t.users, 2, Switches(), t.draw)
    state = state_of(t.start, 4)
    everywhere = t.policy.over_all(state, t.users)[1]
    paper = t.policy.over_candidates(state, t.users, candidates, stop="paper")
    code = t.policy.over_candidates(state, t.users, candidates, stop="code")
    assert torch.allclose(paper[:, -1], everywhere)
    assert (code[:, -1] > everywhere).all()
    users, stop = t.policy.over_all(state, t.users)
    joint = torch.cat([(users + torch.log1p(-stop.exp())[:, None]).gather(1, candidates), stop[:, None]], dim=1)
    joint[:, :-1][candidates == END] = -torch.inf
    assert torch.allclose(code, joint.log_softmax(dim=1))


def test_the_padding_user_and_users_without_training_rows_are_never_imagined() -> None:
    t = toy()
    log_probs, _ = t.policy.over_all(state_of(t.start, 4), t.users)
    assert (log_probs[:, [END, *UNKNOWN]] == -torch.inf).all()
    assert torch.allclose(log_probs.exp().sum(dim=1), torch.ones(N_ITEMS, dtype=torch.float64))
    everyone = t.users.best(t.start, len(t.users), by="product")
    assert not torch.isin(everyone, torch.tensor([END, *UNKNOWN])).any()


# ---- stopping ----


def test_stop_rules_cut_the_same_sequence() -> None:
    stop = torch.tensor([[0.1, 0.3, 0.9], [0.6, 0.1, 0.1], [0.04, 0.05, 0.06]])
    chosen = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.05, 0.06, 0.04]])
    sequences = Sequences(torch.ones(3, 3, dtype=torch.long), torch.arange(12.0).view(3, 4, 1), stop, chosen)
    assert sequences.lengths("threshold").tolist() == [2, 0, 3]
    assert sequences.lengths("joint").tolist() == [2, 0, 2]
    assert sequences.lengths("fixed", 2).tolist() == [2, 2, 2]
    assert sequences.lengths("threshold", 1).tolist() == [1, 0, 1]
    assert sequences.ends(sequences.lengths("joint")).squeeze(1).tolist() == [2.0, 4.0, 10.0]


@pytest.mark.parametrize("rule", STOP_RULES)
def test_without_steps_an_item_stays_where_its_content_puts_it(rule: str) -> None:
    t = toy()
    for steps, cut in ((0, None), (5, 0)):
        sequences = imagine(t.start, t.policy, t.users, steps=steps, rate=0.1)
        assert torch.equal(sequences.ends(sequences.lengths(rule, cut)), t.start)  # type: ignore[arg-type]


def test_the_most_probable_users_are_imagined_one_after_the_other() -> None:
    t = toy()
    for countdown in SIDES:
        sequences = imagine(t.start, t.policy, t.users, steps=3, rate=0.1, countdown=countdown)
        for i in range(N_ITEMS):
            h = t.start[i]
            for step in range(3):
                left = 3 - step if countdown == "paper" else 3
                log_probs, stop = t.policy.over_all(state_of(h[None], left), t.users)
                user = int(log_probs.argmax())
                assert user == sequences.users[i, step]
                assert float(log_probs.max().exp()) == pytest.approx(float(sequences.chosen[i, step]))
                assert float(stop.exp()) == pytest.approx(float(sequences.stop[i, step]))
                h = h + 0.1 * t.users.embeddings[user]
                assert torch.allclose(h, sequences.embeddings[i, step + 1])
    once = imagine(t.start, t.policy, t.users, steps=30, rate=0.1, revisit=False).users
    assert all(len(set(row)) == 30 for row in once.tolist())


def test_items_are_imagined_apart_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    t = toy()
    whole = imagine(t.start, t.policy, t.users, steps=4, rate=0.1)
    monkeypatch.setattr("recbole_oov.model.imagination._BLOCK", N_USERS * 5)
    assert t.users.rows_at_once == 5
    pieces = imagine(t.start, t.policy, t.users, steps=4, rate=0.1)
    for one, other in zip(vars(whole).values(), vars(pieces).values(), strict=True):
        assert torch.allclose(one, other)


# ---- learning ----


def test_advantages_look_as_far_ahead_as_the_trace_says() -> None:
    t = toy()
    torch.nn.init.constant_(t.policy.stop.bias, -1.0)
    steps = t.rollout(settings_of(steps=4))
    one = advantages(steps, t.critic, N_ITEMS, 0.9, 0.0)
    far = advantages(steps, t.critic, N_ITEMS, 0.9, 1.0)
    returns = torch.zeros(N_ITEMS, dtype=torch.float64)
    with torch.no_grad():
        for at, step in reversed(list(enumerate(steps))):
            following = torch.where(step.ends, 0.0, t.critic(step.next_state))
            assert torch.allclose(one[at][1], step.reward + 0.9 * following)
            assert torch.allclose(one[at][0], one[at][1] - t.critic(step.state))
            returns[step.rows] = step.reward + 0.9 * returns[step.rows]
            assert torch.allclose(far[at][1], returns[step.rows])


def test_the_first_update_is_the_policy_gradient_and_a_far_policy_gains_nothing() -> None:
    t = toy()
    step = t.rollout(settings_of())[0]
    advantage = torch.randn(N_ITEMS, dtype=torch.float64)
    ppo = RecPPO(t.policy, t.critic, settings_of())
    gradient = torch.autograd.grad(ppo.policy_loss(step, advantage, t.users), t.policy.query.weight)[0]
    log_probs = t.policy.over_candidates(step.state, t.users, step.candidates, stop="paper")
    reinforce = -(log_probs.gather(1, step.action[:, None]).squeeze(1) * advantage).sum()
    assert torch.allclose(gradient, torch.autograd.grad(reinforce, t.policy.query.weight)[0])
    step.log_prob = step.log_prob - 1.0  # the new policy is e times as sure of every action
    loss = ppo.policy_loss(step, advantage.abs(), t.users)
    assert float(loss.detach()) == pytest.approx(-1.2 * float(advantage.abs().sum()))
    assert torch.autograd.grad(loss, t.policy.query.weight)[0].abs().max() == 0


def test_the_policy_learns_which_users_lead_to_the_item() -> None:
    """Items lie where one user's embedding leads, and the state tells which: the policy must find that user."""
    torch.manual_seed(0)
    n, size = 8, 8
    space = UserSpace(torch.cat([torch.zeros(1, size), torch.eye(size)]), torch.ones(n + 1, dtype=torch.bool))
    start = 0.5 * torch.eye(n)
    targets = Targets(start + 1.5 * torch.eye(n), torch.arange(1, n + 1)[:, None])
    settings = ImaginationSettings(steps=3, rate=0.5, price=0.0, candidates=3, policy_rate=0.02, value_rate=0.01)
    policy, critic, draw = Policy(size), Critic(size), torch.Generator().manual_seed(0)
    ppo = RecPPO(policy, critic, settings)
    potential = Potential(targets, space, settings.switches)
    for _ in range(60):
        ppo.learn(
            [rollout(start, targets, potential, policy, space, settings, draw) for _ in range(3)], targets, space, draw
        )
    sequences = imagine(start, policy, space, steps=3, rate=0.5)
    assert (sequences.users == torch.arange(1, n + 1)[:, None]).float().mean() >= 0.9
    assert (potential(sequences.ends(sequences.lengths("threshold"))).sum(dim=1) < 0.5).all()
    assert (potential(start).sum(dim=1) == 3).all()


def test_where_a_step_costs_more_than_it_brings_the_policy_stops() -> None:
    t = toy()
    settings = settings_of(price=5.0, policy_rate=0.05, value_rate=0.05)
    ppo = RecPPO(t.policy, t.critic, settings)
    for _ in range(40):
        ppo.learn([t.rollout(settings) for _ in range(2)], t.targets, t.users, t.draw)
    sequences = imagine(t.start, t.policy, t.users, steps=settings.steps, rate=settings.rate)
    # To stop costs the price as well (Eq. 9 knows no exception): the shortest sequence is the cheapest.
    assert (sequences.stop[:, 0] > 0.5).all()
    assert torch.equal(sequences.ends(sequences.lengths("threshold")), t.start)


def test_one_seed_gives_one_result() -> None:
    weights = []
    for _ in range(2):
        t = toy()
        settings = settings_of()
        ppo = RecPPO(t.policy, t.critic, settings)
        ppo.learn([t.rollout(settings) for _ in range(2)], t.targets, t.users, t.draw)
        weights.append(t.policy.query.weight.detach().clone())
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], toy().policy.query.weight)
