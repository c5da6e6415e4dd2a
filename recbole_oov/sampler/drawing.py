"""One sampler at work on one base model: pools drawn, scored, chosen from, and turned into a loss."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.config.reading import shown
from recbole_oov.errors import ConfigError
from recbole_oov.sampler.base_models import KNOWN, BaseModel, VectorModel
from recbole_oov.sampler.caches import AdaSIRCache, FreshPools, SRNSCache
from recbole_oov.sampler.choice import Choice, PoolBatch, Sampler, get_sampler
from recbole_oov.sampler.pools import POPULARITY_POWER, NegativePools


def read_sampler(value: object) -> tuple[Sampler, dict[str, Any]]:
    """The option ``sampler``: a name, or a mapping ``{name: …, pool: …, …}``.

    Returns:
        The sampler and all of its options, ``pool`` among them.

    Raises:
        ConfigError: There is no such sampler, or it has no such option, or a value is no number it can take.
    """
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise ConfigError(
            f"sampler: {shown(value)} is not allowed; it must be a name, as in dns, or a mapping with a name, as in "
            f"{{name: dns_mn, pool: 32, m: 4}}"
        )
    sampler = get_sampler(value["name"])
    given = {key: option for key, option in value.items() if key != "name"}
    defaults = {"pool": sampler.pool, **sampler.options}
    problems = []
    for key, option in given.items():
        if key == "pool" and option != 1 and sampler.pool == 1 and not sampler.needs_scores:
            problems.append(f"sampler: {sampler.name} draws one item and has no pool to choose from; leave pool out")
        elif key not in defaults:
            problems.append(f"sampler: {sampler.name} has no option {key!r}; it has {', '.join(defaults)}")
        elif isinstance(option, bool) or not isinstance(option, int | float) or not math.isfinite(option):
            problems.append(f"sampler {key}: {shown(option)} is not allowed; it must be a number")
        elif isinstance(defaults[key], int) and (option != int(option) or option < 1):
            problems.append(f"sampler {key}: {shown(option)} is not allowed; it must be a whole number of at least 1")
        elif key in sampler.positive and option <= 0:
            problems.append(f"sampler {key}: {shown(option)} is not allowed; it must be a number above 0")
        else:
            given[key] = type(defaults[key])(option)  # 4.0 is a 4 where whole numbers are counted
    options = {**defaults, **given}
    if not problems and "m" in options and options["m"] > options["pool"]:
        problems.append(f"sampler m: {options['m']} is more than pool, {options['pool']}; set m to at most pool")
    if problems:
        raise ConfigError(problems)
    return sampler, options


def with_pool(value: object, pool: int | None) -> object:
    """A sampler of ``samplers`` with pools of size ``pool``, where it chooses among several and names no size."""
    options = {"name": value} if isinstance(value, str) else value
    if pool is None or not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        return value
    sampler = get_sampler(options["name"])
    chooses = sampler.needs_scores and sampler.source == "uniform"
    return {"pool": pool, **options} if chooses else value


def candidate_names(samplers: Sequence[tuple[Sampler, Mapping[str, Any]]]) -> list[str]:
    """What to call the candidates of a search: by the sampler's name, and where several have it, by the options in
    which these differ, as in "dns pool 32".
    """
    names = []
    for sampler, options in samplers:
        same = [other for kind, other in samplers if kind.name == sampler.name]
        own = [key for key in options if any(other[key] != options[key] for other in same)]
        names.append(" ".join([sampler.name, *(f"{key} {options[key]}" for key in own)]))
    return names


class Drawing:
    """Draws negatives with one sampler for one base model.

    Args:
        sampler: The sampler.
        options: Its options, ``pool`` among them, as of ``read_sampler``.
        base: The base model.
        pools: Draws pools; its generator is the only randomness.

    Raises:
        ConfigError: The sampler makes negatives that are no items and the base model has no vectors that are known,
            or some user has fewer unseen items than ``pool``.
    """

    def __init__(self, sampler: Sampler, options: Mapping[str, Any], base: BaseModel, pools: NegativePools) -> None:
        if sampler.mixes and not base.has_vectors:
            raise ConfigError(
                f"sampler: {sampler.name} makes negatives that are no items, for which the vectors of "
                f"{type(base.model).__name__} would have to be known; they are for {', '.join(KNOWN)}. Choose one of "
                f"these models, or a sampler of real items such as dns"
            )
        self.sampler, self.base, self.pools = sampler, base, pools
        self.size = int(options["pool"])
        self.options = {key: value for key, value in options.items() if key != "pool"}
        self.source = _source(sampler, options, base, pools)
        parameters = inspect.signature(sampler.choose).parameters
        takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        self._accepted = set(self.options) if takes_all else set(parameters)
        self.epoch = 0
        pools.check(self.size)

    def begin_epoch(self, epoch: int) -> None:
        """Renew caches. Called before each epoch."""
        self.epoch = epoch
        if type(self.source) is not FreshPools:
            with torch.no_grad():
                self.base.begin_step()
                self.source.begin_epoch(epoch, self.base.scores)

    def draw(self, users: Tensor) -> Tensor:
        """A pool for each user. (B,) -> (B, P)"""
        return self.source.draw(users, self.size)

    @torch.no_grad()
    def choose(self, interaction: Interaction, pool: Tensor, scored: PoolBatch | None = None) -> Choice:
        """Let the sampler choose. ``scored``: the same pool, scored before for another sampler."""
        batch = scored if scored is not None else self.scored(interaction, pool)
        options = {key: value for key, value in self.options.items() if key in self._accepted}
        chosen: Choice = self.sampler.choose(batch, **options)
        self.source.renew(interaction[self.base.model.USER_ID], self.base.scores)
        return chosen

    @torch.no_grad()
    def scored(self, interaction: Interaction, pool: Tensor, *, vectors: bool | None = None) -> PoolBatch:
        """What the sampler is shown of a pool."""
        base, users = self.base, interaction[self.base.model.USER_ID]
        if not self.sampler.needs_scores:
            unscored = torch.empty(len(users), 0, device=users.device)
            return PoolBatch(unscored, unscored.sum(1), epoch=self.epoch, generator=self.pools.generator)
        positives = interaction[base.model.ITEM_ID]
        scores = base.scores(users, torch.cat([positives[:, None], pool], dim=1))
        of_vectors: dict[str, Any] = {}
        if self.sampler.mixes if vectors is None else vectors:
            assert isinstance(base, VectorModel)
            # Counted once more than the scores whatever the number of layers, so that budgets compare across models.
            base.work.scored += pool.numel() + len(users)
            of_vectors = {
                "user": base.user_layers(base.user_vectors(users)),
                "positive": base.item_layers(positives),
                "layer_scores": scores[:, 1:, None] if base.n_layers == 1 else base.layer_scores(users, pool),
                "pool": lambda columns: base.layers_of(pool.gather(1, columns)),
            }
        return PoolBatch(
            scores[:, 1:],
            scores[:, 0],
            log_q=self.source.log_q(users, pool),
            spread=self.source.spread(users, positives, pool),
            epoch=self.epoch,
            generator=self.pools.generator,
            **of_vectors,
        )

    def loss(self, interaction: Interaction) -> Tensor | tuple[Tensor, ...]:
        """The base model's loss of a batch of (user, positive), with negatives of the sampler's choice."""
        self.base.begin_step()
        pool = self.draw(interaction[self.base.model.USER_ID])
        choice = self.choose(interaction, pool)
        if choice.positive_share is None and choice.index.dim() == 1:
            return self.base.item_loss(interaction, pool.gather(1, choice.index[:, None]).squeeze(1))
        assert isinstance(self.base, VectorModel)
        negative, shares = negative_vector(self.base, interaction, [(pool, choice, 1.0)])
        return self.base.vector_loss(interaction, negative, shares)

    def state_dict(self) -> dict[str, Any]:
        """What the next draws depend on."""
        return {"pools": self.pools.state_dict(), "source": self.source.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state of ``state_dict``."""
        self.pools.load_state_dict(state["pools"])
        self.source.load_state_dict(state["source"])


def negative_vector(
    base: VectorModel, interaction: Interaction, chosen: Sequence[tuple[Tensor, Choice, float]]
) -> tuple[Tensor, list[tuple[Tensor, float]]]:
    """The vector sum_k p_k e_k of chosen negatives, with a graph, and the items it is made of.

    For index (B,) e_k is the item's own vector. For (B, L), layer l is w * positive + (1 - w) * candidate with the
    candidate of that layer; the share of each layer's item in the regularisation is p_k / L.

    Args:
        base: The base model.
        interaction: Users and positives. (B,)
        chosen: Pool, choice and weight p_k of each sampler.

    Returns:
        (B, d'), and the items (B,) with their share, for each sampler one by one or layer by layer.
    """
    columns = [choice.index if choice.index.dim() == 2 else choice.index[:, None] for _, choice, _ in chosen]
    items = [pool.gather(1, column) for (pool, _, _), column in zip(chosen, columns, strict=True)]  # (B, 1 or L)
    # Looked up at once: each look-up has a gradient as large as all items.
    vectors = base.layers_of(torch.stack([ids.expand(-1, base.n_layers) for ids in items], dim=1)).unbind(1)
    mixes = any(choice.positive_share is not None for _, choice, _ in chosen)
    positive = base.item_layers(interaction[base.model.ITEM_ID]) if mixes else None
    mixed: Tensor | None = None
    for layers, (_, choice, weight) in zip(vectors, chosen, strict=True):
        if positive is not None and choice.positive_share is not None:
            layers = choice.positive_share * positive + (1 - choice.positive_share) * layers
        mixed = weight * layers if mixed is None else mixed + weight * layers
    assert mixed is not None
    shares = [
        (ids, weight / of_one.shape[1])
        for of_one, (_, _, weight) in zip(items, chosen, strict=True)
        for ids in of_one.unbind(1)
    ]
    return base.merge(mixed), shares


def _source(sampler: Sampler, options: Mapping[str, Any], base: BaseModel, pools: NegativePools) -> FreshPools:
    if sampler.source == "uniform":
        return FreshPools(pools)
    if sampler.source == "popularity":
        return FreshPools(pools, float(options.get("alpha", POPULARITY_POWER)))
    if sampler.source == "adasir":
        return AdaSIRCache(pools, options["cache"], options["candidates"])
    if sampler.source == "srns":
        return SRNSCache(pools, base, options["pool"], options["candidates"], options["temperature"])
    raise AssertionError(f"{sampler.source} is none of those that register_sampler lets through")
