"""The search for a sampler: probabilities that follow what each sampler's gradient does to validation.

W' = W - xi grad L_train is one step of training under p; its effect on validation is
dL_val(W') / dp_k = -xi <grad L_val(W'), g_k>, where g_k is the gradient of the loss under sampler k alone. Descent on
the mixture's own loss over p would always prefer the lowest-scored, easiest candidate, whatever that does to ranking; a
test keeps that mistake. Two things decide what is preferred instead:

- L_val is a softmax over the hardest of some uniform items, chosen by the model and not by p. Over uniform items it is
  what uniform sampling descends, and uniform sampling wins.
- The products are divided by the length of g_k. Adam's steps have one length whatever the gradient's, and a negative
  that contains the positive has a short gradient.

Gradients are taken at the vectors of users and items, for graph models after propagation, so that K of them cost no
propagation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.sampler.base_models import BaseModel, VectorModel
from recbole_oov.sampler.mixture import Candidate, items_of
from recbole_oov.sampler.pools import NegativePools


@dataclass
class Architecture:
    """alpha, the schedule of its temperature, and the pruning of samplers.

    p = softmax(alpha / tau), tau falling from 1 to ``final_temperature`` over ``epochs``. A sampler whose p stays under
    ``prune_below`` / K for ``patience`` epochs is dropped, as long as two are left.
    """

    n: int
    epochs: int
    final_temperature: float = 0.2
    learning_rate: float = 0.05
    prune_below: float = 0.05
    patience: int = 3
    trajectory: list[list[float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.alpha = torch.zeros(self.n, dtype=torch.float64, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.alpha], lr=self.learning_rate)
        self.alive = torch.ones(self.n, dtype=torch.bool)
        self._low = torch.zeros(self.n, dtype=torch.long)

    def temperature(self, epoch: int) -> float:
        """Tau = final_temperature^(t / (T - 1)), from 1 to final_temperature."""
        return float(self.final_temperature ** (epoch / max(1, self.epochs - 1)))

    def probabilities(self, epoch: int) -> Tensor:
        """p, with a graph; 0 for dropped samplers. (K,)"""
        logits = (self.alpha / self.temperature(epoch)).masked_fill(~self.alive, -torch.inf)
        return logits.softmax(dim=0)

    def step(self, epoch: int, products: Tensor) -> None:
        """One step of Adam on -sum_k p_k h_k / max_k |h_k|.

        Args:
            epoch: For the temperature.
            products: h_k = <grad L_val, g_k>, 0 for samplers that were not asked. (K,)
        """
        scale = products.abs().max()
        if not scale > 0:
            return
        self.optimizer.zero_grad()
        (-(self.probabilities(epoch) * (products.double() / scale)).sum()).backward()
        self.optimizer.step()

    def end_epoch(self, epoch: int) -> list[int]:
        """Record p and drop samplers; returns the places of those dropped now."""
        p = self.probabilities(epoch).detach()
        self.trajectory.append(p.tolist())
        self._low = torch.where(p < self.prune_below / self.n, self._low + 1, 0)
        dropped: list[int] = []
        for at in p.argsort().tolist():
            if self.alive[at] and self._low[at] >= self.patience and int(self.alive.sum()) > 2:
                self.alive[at] = False
                dropped.append(at)
        return dropped


def sampled_softmax(positive: Tensor, negative: Tensor) -> Tensor:
    """-log of the positive's share among itself and n negatives: (B,), (B, n) -> ()."""
    logits = torch.cat([positive[:, None], negative], dim=1)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))


@torch.no_grad()
def hardest(base: BaseModel, users: Tensor, pool: Tensor, n: int) -> Tensor:
    """The n items of each pool that the model scores highest. (V,), (V, P) -> (V, n)"""
    return pool.gather(1, base.scores(users, pool).topk(n, dim=1).indices)


@dataclass(frozen=True)
class Shares:
    """How the gradients of several processes come together; by default there is one.

    Attributes:
        part: Of the batch's mean, what this process's mean stands for.
        gather: Tensors of all processes along the first axis, the same in each of them.
    """

    part: float = 1.0
    gather: Callable[[Tensor], Tensor] = lambda values: values

    def sum(self, values: Tensor) -> Tensor:
        """Of the processes' values, each weighted by its part."""
        return self.gather(self.part * values[None]).sum(dim=0)


def gradient_products(
    base: BaseModel,
    train: Interaction,
    candidates: dict[int, Candidate],
    valid: Interaction,
    valid_negatives: Tensor,
    n: int,
    shares: Shares | None = None,
) -> tuple[Tensor, Tensor]:
    """h_k = <grad L_val, g_k> and |g_k| for every sampler that was asked.

    Args:
        base: The base model; ``begin_step`` was called.
        train: A batch of (user, positive).
        candidates: What each sampler chose for it.
        valid: Validation rows.
        valid_negatives: Their negatives, which do not depend on p. (V, n)
        n: K.
        shares: Of several processes, each of which has a part of the training batch; g_k is that of the whole.

    Returns:
        (K,) and (K,), 0 and 1 for samplers that were not asked.
    """
    shares = shares or Shares()
    if isinstance(base, VectorModel):
        direction = validation_gradient(base, valid, valid_negatives)
        found = {at: _product(base, train, candidate, *direction, shares) for at, candidate in candidates.items()}
    else:
        found = _parameter_products(base, train, candidates, valid, valid_negatives, shares)
    products, lengths = torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)
    for at, (product, length) in found.items():
        products[at], lengths[at] = product, length
    return products, lengths


def validation_gradient(base: VectorModel, valid: Interaction, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Grad L_val at the vectors of users, (n_users, d'), and of items by layer, (n_items, L, d)."""
    model = base.model
    users, positives = valid[model.USER_ID], valid[model.ITEM_ID]
    items = torch.cat([positives[:, None], negatives], dim=1)
    base.work.learned += items.numel()
    user = base.user_vectors(users).detach().requires_grad_()
    layers = base.item_layers(items).detach().requires_grad_()
    scores = base.score(user[:, None], base.merge(layers))
    of_user, of_items = torch.autograd.grad(sampled_softmax(scores[:, 0], scores[:, 1:]), [user, layers])
    user_table = of_user.new_zeros(model.n_users, *of_user.shape[1:]).index_add_(0, users, of_user)
    item_table = of_items.new_zeros(model.n_items, *of_items.shape[2:])
    item_table.index_add_(0, items.reshape(-1), of_items.flatten(0, 1))
    return user_table, item_table


def _product(
    base: VectorModel,
    train: Interaction,
    candidate: Candidate,
    user_table: Tensor,
    item_table: Tensor,
    shares: Shares,
) -> tuple[float, float]:
    """<grad L_val, g_k> and |g_k|, from the rows that g_k is not zero on."""
    model, choice = base.model, candidate.choice
    users, positives = train[model.USER_ID], train[model.ITEM_ID]
    chosen = candidate.pool.gather(1, choice.index if choice.index.dim() == 2 else choice.index[:, None])  # (B, C)
    base.work.learned += len(users) + chosen.numel()
    user = base.user_vectors(users).detach().requires_grad_()
    positive = base.item_layers(positives).detach().requires_grad_()
    layers = base.item_layers(chosen).detach().requires_grad_()  # (B, C, L, d)
    negative = layers.squeeze(1)
    if choice.positive_share is not None:
        own = layers.diagonal(dim1=1, dim2=2).transpose(1, 2) if layers.shape[1] > 1 else negative  # layer l of item l
        negative = choice.positive_share * positive + (1 - choice.positive_share) * own
    loss = base.ranking_loss(base.score(user, base.merge(positive)), base.score(user, base.merge(negative)), train)
    of_user, of_positive, of_layers = torch.autograd.grad(loss, [user, positive, layers])
    product = (of_user * user_table[users]).sum() + (of_positive * item_table[positives]).sum()
    product = product + (of_layers * item_table[chosen]).sum()
    items = torch.cat([positives, chosen.reshape(-1)])
    squares = _squares(users, of_user, shares)
    squares = squares + _squares(items, torch.cat([of_positive, of_layers.flatten(0, 1)]), shares)
    return float(shares.sum(product)), float(squares.sqrt())


def _squares(ids: Tensor, gradients: Tensor, shares: Shares) -> Tensor:
    """Sum of squares of a table's gradient, whose row at an id is the sum of those given for it. (N,), (N, …) -> ()"""
    ids, gradients = shares.gather(ids), shares.gather(shares.part * gradients)
    rows, place = ids.unique(return_inverse=True)
    return gradients.new_zeros(len(rows), *gradients.shape[1:]).index_add_(0, place, gradients).square().sum()


def _parameter_products(
    base: BaseModel,
    train: Interaction,
    candidates: dict[int, Candidate],
    valid: Interaction,
    negatives: Tensor,
    shares: Shares,
) -> dict[int, tuple[float, float]]:
    """The same at the parameters, for a model whose vectors are not known: K + 1 backward passes."""
    model = base.model
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    items = torch.cat([valid[model.ITEM_ID][:, None], negatives], dim=1)
    base.work.learned += items.numel()
    base.begin_step()  # forgets the vectors that scoring kept, which have no graph
    rows = {model.USER_ID: valid[model.USER_ID].repeat_interleave(items.shape[1]), model.ITEM_ID: items.reshape(-1)}
    scores = model.predict(Interaction(rows)).view(items.shape)
    direction = _gradient(sampled_softmax(scores[:, 0], scores[:, 1:]), parameters)
    products = {}
    for at, candidate in candidates.items():
        loss = base.item_loss(Interaction(dict(train.interaction)), items_of(candidate))
        own = _gradient(sum(loss) if isinstance(loss, tuple) else loss, parameters)
        gradient = [shares.sum(part) for part in own]
        product = sum(float((a * b).sum()) for a, b in zip(direction, gradient, strict=True))
        products[at] = product, math.sqrt(sum(float(part.square().sum()) for part in gradient))
    return products


def _gradient(loss: Any, parameters: Sequence[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


class Steering:
    """The validation rows that steer a search: those of half of the users with any, chosen by a seed.

    So half of the users by whom trained samplers are told apart have had no say in which are trained. Rows of items
    without a training row steer nothing.

    Args:
        users, items: The validation rows. (n,)
        pools: Draws the items that their negatives are taken from.
        batch_size: Rows a step.
        pool_size: Items of each row that the negatives are taken from.
        seed: Of the halves and the order.

    Raises:
        ConfigError: No row is left to steer by.
    """

    def __init__(
        self, users: Tensor, items: Tensor, pools: NegativePools, *, batch_size: int, pool_size: int, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        known = torch.unique(users)
        order = known[torch.randperm(len(known), generator=generator)]
        self.steering_users = order[: len(order) // 2].sort().values
        """Their rows steer. (n/2,)"""
        # An item without a training row has its initial vector: no sampler could bring it forward.
        kept = torch.isin(users, self.steering_users) & (pools.counts[items.to(pools.device)].to(users.device) > 0)
        if not kept.any():
            raise ConfigError(
                "search: no validation item of the users who steer has a training row; give eval_args a split with a "
                "larger validation part, or search: halving, which steers by none"
            )
        self._users, self._items = users[kept].to(pools.device), items[kept].to(pools.device)
        self.pools, self.batch_size, self.pool_size = pools, batch_size, pool_size

    def batch(self, user_field: str, item_field: str) -> tuple[Interaction, Tensor]:
        """Some of the rows at random, (V,), and unseen items of each, (V, P)."""
        pools = self.pools
        n = min(self.batch_size, len(self._users))
        rows = torch.randint(len(self._users), (n,), generator=pools.generator, device=pools.device)
        users = self._users[rows]
        return Interaction({user_field: users, item_field: self._items[rows]}), pools.uniform(users, self.pool_size)
