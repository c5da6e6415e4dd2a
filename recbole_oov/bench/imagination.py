"""The suite of USIM's imagination: candidates as ids, beside rows of zeros and ones over all users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_oov.bench.harness import Contest, Side, tensors_differ
from recbole_oov.bench.suites import Setting
from recbole_oov.model.imagination import END, Policy, Potential, Targets, UserSpace, state_of
from recbole_oov.model.imagination_ppo import Critic, ImaginationSettings, RecPPO, Step, advantages, rollout


@dataclass
class _Task:
    """A batch of items, and who learns from it."""

    users: UserSpace
    targets: Targets
    start: Tensor
    policy: Policy
    critic: Critic
    settings: ImaginationSettings

    @property
    def ppo(self) -> RecPPO:
        return RecPPO(self.policy, self.critic, self.settings)


@dataclass(frozen=True)
class _Drawn:
    """What chance decided in one step: items that go on (R,), random candidates (R, k), chosen users (R,)."""

    rows: Tensor
    random: Tensor
    action: Tensor


def sequences(setting: Setting) -> Contest:
    """One sequence for each of 1,024 items, and the gradients of PPO's first update, by the paper's equations.

    The other side keeps candidates, actions and the items' own users as rows over all users and makes candidates with
    ``one_hot``, as the published code does. What chance decided is handed to it.
    """
    task = _task(setting)
    drawn = [_drawn(task, step) for step in _tried(task)]

    def ours() -> list[Tensor]:
        steps = _tried(task)
        return _learned(task, steps, [step.candidates for step in steps], dense=False)

    def theirs() -> list[Tensor]:
        steps, masks = _dense_rollout(task, drawn)
        return _learned(task, steps, masks, dense=True)

    n_rows = sum(len(step.rows) for step in drawn)
    return Contest(
        Side("ids", ours),
        Side("one-hot rows", theirs),
        lambda a, b: tensors_differ(a, b, within=1e-4, what="end points and gradients"),
        note=f"{len(task.start):,} items, {len(task.users):,} users, {task.settings.candidates} candidates of each "
        f"kind, {n_rows:,} steps in all; the other side does not have to draw",
    )


def one_update(n_items: int, candidates: int) -> Callable[[], object]:
    """Sequences of a batch of items over CiteULike-a's users, and the gradients of PPO's first update."""
    task = _made_up(5551, n_items, candidates, 64)

    def job() -> None:
        steps = _tried(task)
        _learned(task, steps, [step.candidates for step in steps], dense=False)

    return job


def _task(setting: Setting) -> _Task:
    return _made_up(60, 12, 3, 8) if setting.tiny else _made_up(5551, 1024, 20, 64)


def _made_up(n_users: int, n_items: int, k: int, size: int) -> _Task:
    torch.manual_seed(2020)
    known = torch.ones(n_users + 1, dtype=torch.bool)
    users = UserSpace(F.normalize(torch.randn(n_users + 1, size), dim=1), known)
    counts = torch.empty(n_items).exponential_(1 / 9.7).long().clamp(1, 50)  # warm_emb: 9.7 users an item
    own = torch.randint(1, n_users + 1, (n_items, int(counts.max()))).sort(dim=1).values
    own[:, 1:].masked_fill_(own[:, 1:] == own[:, :-1], END)
    own[torch.arange(own.shape[1]) >= counts[:, None]] = END
    targets = Targets(F.normalize(torch.randn(n_items, size), dim=1), own)
    start = 0.5 * targets.embeddings + 0.05 * torch.randn(n_items, size)
    policy = Policy(size)
    nn.init.constant_(policy.stop.bias, -3.0)  # a policy that was never trained ends half of all sequences at once
    return _Task(users, targets, start, policy, Critic(size), ImaginationSettings(candidates=k))


def _tried(task: _Task) -> list[Step]:
    potential = Potential(task.targets, task.users, task.settings.switches)
    draw = torch.Generator().manual_seed(2020)
    return rollout(task.start, task.targets, potential, task.policy, task.users, task.settings, draw)


def _drawn(task: _Task, step: Step) -> _Drawn:
    h, targets = step.state[:, :-1], Targets(task.targets.embeddings[step.rows], task.targets.users[step.rows])
    good = torch.cat([task.users.best(targets.embeddings - h, task.settings.candidates, by="cosine"), targets.users], 1)
    random = step.candidates.masked_fill((step.candidates[:, :, None] == good[:, None, :]).any(dim=2), END)
    random = random.sort(dim=1, descending=True).values[:, : task.settings.candidates]
    action = F.pad(step.candidates, (0, 1), value=END).gather(1, step.action[:, None]).squeeze(1)
    return _Drawn(step.rows, random, action)


def _learned(task: _Task, steps: list[Step], candidates: list[Tensor], *, dense: bool) -> list[Tensor]:
    """Where the last step began, rewards, and the policy's gradients after all steps of one update."""
    task.policy.zero_grad(set_to_none=True)
    settings, n = task.settings, sum(len(step.rows) for step in steps)
    aims = advantages(steps, task.critic, len(task.start), settings.discount, settings.trace)
    for step, mask, (advantage, _) in zip(steps, candidates, aims, strict=True):
        loss = _dense_loss(task, step, mask, advantage) if dense else task.ppo.policy_loss(step, advantage, task.users)
        (loss / n).backward()
    gradients = [p.grad.clone() for p in task.policy.parameters() if p.grad is not None]
    return [steps[-1].state.clone(), torch.cat([step.reward for step in steps]), *gradients]


@torch.no_grad()
def _dense_rollout(task: _Task, drawn: list[_Drawn]) -> tuple[list[Step], list[Tensor]]:
    """As ``rollout``, over all users: the steps, and the candidates of each as (R, n_users) bool."""
    users, settings, n_users = task.users, task.settings, len(task.users.embeddings)
    own = _multi_hot(task.targets.users, n_users)
    share = own / own.sum(dim=1, keepdim=True)
    h, wanted = task.start, task.targets.embeddings
    steps, masks = [], []
    for number, by_chance in enumerate(drawn):
        left = settings.steps - number
        rows, state = by_chance.rows, state_of(h[by_chance.rows], left)
        here = h[rows]
        cosines = ((wanted[rows] - here) @ users.directions.T).masked_fill(users.excluded, -torch.inf)
        near = F.one_hot(cosines.topk(settings.candidates, dim=1).indices, n_users).sum(dim=1) > 0
        random = F.one_hot(by_chance.random, n_users).sum(dim=1) > 0
        mask = (near | random | (own[rows] > 0)) & ~users.excluded
        chosen = F.one_hot(by_chance.action, n_users).float()
        log_prob = _dense_log_probs(task, state, mask, chosen)
        after = here + settings.rate * chosen @ users.embeddings
        parts = _dense_potential(task, here, rows, share[rows]) - _dense_potential(task, after, rows, share[rows])
        h = h.index_copy(0, rows, after)
        ended = by_chance.action == END if left > 1 else torch.ones_like(rows, dtype=torch.bool)
        reward = parts.sum(dim=1) - settings.price
        steps.append(
            Step(rows, state, chosen, by_chance.action, log_prob, parts, reward, ended, state_of(after, left - 1))
        )
        masks.append(mask)
    return steps, masks


def _multi_hot(ids: Tensor, n: int) -> Tensor:
    """(R, K) ids, END for nobody -> (R, n) zeros and ones"""
    rows = torch.zeros(len(ids), n).scatter_(1, ids, 1.0)
    rows[:, END] = 0.0
    return rows


def _dense_potential(task: _Task, h: Tensor, rows: Tensor, share: Tensor) -> Tensor:
    missing = h - task.targets.embeddings[rows]
    errors = (missing @ task.users.embeddings.T).abs()
    return torch.stack([missing.norm(dim=1), (errors * share).sum(dim=1)], dim=1)


def _dense_log_probs(task: _Task, state: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
    """Log-probability of what was chosen, where the column of nobody is the end. (R,)"""
    stop = task.policy.stop(state)
    logits = (task.policy.query(state) @ task.users.embeddings.T).masked_fill(~mask, -1e9)
    among = logits.log_softmax(dim=1) + F.logsigmoid(-stop)
    ends = torch.zeros_like(mask)
    ends[:, END] = True
    return (torch.where(ends, F.logsigmoid(stop), among) * chosen).sum(dim=1)


def _dense_loss(task: _Task, step: Step, mask: Tensor, advantage: Tensor) -> Tensor:
    ratio = (_dense_log_probs(task, step.state, mask, step.candidates) - step.log_prob).exp()
    clipped = ratio.clamp(1 - task.settings.clip, 1 + task.settings.clip)
    return -torch.minimum(ratio * advantage, clipped * advantage).sum()
