"""USIM: a new item starts where its content puts it, and imagined users, one after another, move it to its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_oov.config.rules import is_number
from recbole_oov.data.item_users import ItemUsers
from recbole_oov.errors import ConfigError
from recbole_oov.model.content_network import content_neighbours
from recbole_oov.model.deepmusic import DeepMusic
from recbole_oov.model.imagination import (
    STOP_RULES,
    Policy,
    Potential,
    Sequences,
    StopRule,
    Switches,
    Targets,
    UserSpace,
    imagine,
    state_of,
)
from recbole_oov.model.imagination_ppo import Critic, ImaginationSettings
from recbole_oov.model.ranking import RankingPotential, ranking_loss

_ROWS = 1024
"""Training items that are generated at a time where all are."""


@dataclass(frozen=True)
class Imagination:
    """What was imagined for some items, and why, for a person to read.

    Embeddings are the base model's in length and direction; rewards are in the units of ``embedding_units``.

    Attributes:
        users: Internal ids, 0 after the end. (B, T)
        embeddings: Before the first step and after each; where nothing moves any more, the last. (B, T + 1, d)
        lengths: Steps taken. (B,)
        stop: Probability to stop before each step. (B, T)
        chosen: Probability of the user among all users, given that it goes on. (B, T)
        values: What the critic expects to be earned from each state on. (B, T + 1)
        rewards: For training items alone: by how much each step brought them nearer, in parts; 0 after the end.
            (B, T, P)
        reward_names: Names of the parts.
    """

    users: Tensor
    embeddings: Tensor
    lengths: Tensor
    stop: Tensor
    chosen: Tensor
    values: Tensor
    rewards: Tensor | None = None
    reward_names: tuple[str, ...] = ()


class USIM(DeepMusic):
    r"""User sequence imagination.

    A generator puts an item at :math:`h_0 = G(c)` by its content. A policy that was trained by reinforcement learning
    then picks users: each moves the item by :math:`h_{t+1} = h_t + \lambda e_{a_t}`, one step up the gradient of that
    user's score, until the policy stops. Users, IV items and the dot product stay the base model's. How the policy
    learns is in :mod:`recbole_oov.model.imagination` and :mod:`recbole_oov.model.imagination_ppo`.

    With ``embedding_units: norm`` the space in which all this happens has users and IV items of length 1 on average
    (root mean square), so that the same λ and p mean the same for each base model: a typical user moves an item by λ
    times the length of a typical item, and a step costs p times that. ``raw`` takes embeddings as they are.

    Reference: User Sequence Imagination for Cold-start Item Recommendation, NeurIPS 2024.

    Attributes:
        settings: What sequences are like, and how is learned from them.
        policy, critic: What is learned.
    """

    paper = "https://openreview.net/forum?id=JyWAFGCJPl"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.settings = settings_of(config)
        self.readers = ItemUsers(dataset)
        n_known = len(self.readers.known_users)
        if self.settings.candidates > n_known:
            raise ConfigError(
                f"imagination_candidates: {self.settings.candidates} are more than the {n_known} users who have a "
                f"training row; give fewer"
            )
        self._units: str = config["embedding_units"]
        self._reward: str = config["imagination_reward"]
        self._generator: str = config["generator_objective"]
        self._most_readers: int | None = config["max_item_users"]
        self._weight: float = config["reward_weight"]
        self._revisit: bool = config["revisit_users"]
        self._n_neighbours: int = config["generator_neighbours"]
        if self._n_neighbours:
            self.neighbour_map = nn.Linear(self.embedding_dim, self.embedding_dim, bias=False)
            nn.init.eye_(self.neighbour_map.weight)
            self._near: tuple[Tensor, Tensor] | None = None
        self.policy, self.critic = Policy(self.embedding_dim), Critic(self.embedding_dim)
        self.learns_to_imagine(False)
        # Power, factor, unit of lengths: until validation has chosen them lengths stay as generated.
        self.register_buffer("lengths", torch.tensor([0.0, 1.0, 1.0]))
        # Which stop rule and how many steps: until the policy has been trained none, and items stay where G puts them.
        self.register_buffer("stopping", torch.tensor([STOP_RULES.index("fixed"), 0]))

    stopping: Tensor
    lengths: Tensor

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        return super().config_problems(config) + option_problems(config)

    def learns_to_imagine(self, learns: bool) -> None:
        """Whether policy and critic are to be trained, which they are in a stage of their own."""
        self.policy.requires_grad_(learns)
        self.critic.requires_grad_(learns)

    # ---- the generator ----

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """The generator's: squared distances (Eq. 14), distances as in the code, or the ranking loss."""
        items = interaction[self.ITEM_ID]
        generated = self._generated(self.content[items], items)
        if self._generator == "ranking":
            return ranking_loss(generated, self.targets(items), self.base_users)
        missing = generated - self.base_items[items]
        loss: Tensor
        if self.settings.switches.generator_loss == "paper":
            loss = missing.square().sum(dim=1).mean()
        else:
            loss = missing.norm(dim=1).mean()
        return loss

    def generate(self, content: Tensor, items: Tensor | None = None) -> Tensor:
        r"""Embeddings by content, for items that are in no data set as well.

        With lengths calibrated (:meth:`calibrate`) they are :math:`s\, (\lVert g \rVert / m)^q\, g` of what the
        networks say, g, with m the mean length over training items.

        Args:
            content: (N, content_dim)
            items: Ids where they are in the data set; what does not change about them is then computed once. Training
                items are no neighbours of themselves. (N,)

        Returns:
            (N, d)
        """
        power, factor, unit = self.lengths.unbind()
        generated = self._generated(content, items)
        lengths = generated.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return generated if self._as_generated else factor * (lengths / unit) ** power * generated

    @property
    def _as_generated(self) -> bool:
        return self.lengths[:2].tolist() == [0.0, 1.0]

    @torch.no_grad()
    def calibrate(self, power: float, factor: float) -> None:
        """Set how long generated embeddings are; 0 and 1 leave them as they are.

        Args:
            power: q, from -1, where all are of one length, to 0, where differences stay.
            factor: s, what all of them are multiplied by.
        """
        known = self.iv_items
        unit = torch.cat(
            [self._generated(self.content[items], items).norm(dim=1) for items in known.split(_ROWS)]
        ).mean()
        self.lengths.copy_(torch.stack([unit.new_tensor(power), unit.new_tensor(factor), unit.clamp_min(1e-12)]))
        self.forget_tables()

    def _generated(self, content: Tensor, items: Tensor | None = None) -> Tensor:
        """What the networks say. Arguments as of :meth:`generate`. (N, d)"""
        generated = super().generate(content)
        if not self._n_neighbours:
            return generated
        if items is None:
            places, weights = content_neighbours(content, self.content[self.iv_items], self._n_neighbours)
        else:
            places, weights = (table[items] for table in self._neighbours_of_all())
        near = (weights[:, :, None] * self.base_items[self.iv_items[places]]).sum(dim=1)
        added: Tensor = self.neighbour_map(near)
        return generated + added

    def _neighbours_of_all(self) -> tuple[Tensor, Tensor]:
        """Places among IV items, and weights, for every item of the data set. (n_items, K), (n_items, K)"""
        if self._near is None or self._near[0].device != self.content.device:
            known, others = self.iv_items, self.oov.nonzero().squeeze(1)
            places = torch.zeros(
                self.n_items, min(self._n_neighbours, len(known)), dtype=torch.long, device=known.device
            )
            weights = self.content.new_zeros(places.shape)
            own = torch.arange(len(known), device=known.device)
            for items, selves in ((known, own), (others, None)):
                found = content_neighbours(self.content[items], self.content[known], self._n_neighbours, selves)
                width = found[0].shape[1]
                places[items, :width], weights[items, :width] = found
                places[items, width:] = found[0][:, :1]  # an item that is among them has one less; no weight here
            self._near = places, weights
        return self._near

    # ---- the space ----

    @torch.no_grad()
    def user_space(self) -> UserSpace:
        """The users who can be imagined: those with training rows."""
        known = torch.zeros(self.n_users, dtype=torch.bool, device=self.base_users.device)
        known[self.readers.known_users] = True
        return UserSpace(self.base_users / self.units()[0], known)

    def units(self) -> tuple[Tensor, Tensor]:
        """What user and item embeddings are divided by."""
        if self._units == "raw":
            return self.base_users.new_ones(()), self.base_users.new_ones(())
        known = self.base_users[self.readers.known_users], self.base_items[self.iv_items]
        users, items = (table.square().sum(dim=1).mean().sqrt() for table in known)
        return users, items

    def starts(self, content: Tensor, items: Tensor | None = None) -> Tensor:
        """h_0, in the space's units. Arguments as of :meth:`generate`. (N, content_dim) -> (N, d)"""
        return self.generate(content, items) / self.units()[1]

    def targets(self, items: Tensor, draw: torch.Generator | None = None) -> Targets:
        """Embeddings and users of training items; of an item's users ``max_item_users`` at most, drawn at random.

        Args:
            items: (B,)
            draw: Draws them; None for torch's own generator.
        """
        counts = self.readers.counts[items]
        row = torch.repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        place = torch.arange(len(row), device=row.device) - first[row]
        users = self.readers.users[self.readers.offsets[items][row] + place]
        lots = torch.rand(len(row), generator=draw, device=row.device, dtype=torch.float64)
        users = users[torch.argsort(row + lots)]
        width = int(counts.max()) if self._most_readers is None else min(int(counts.max()), self._most_readers)
        kept = place < width
        table = torch.zeros(len(items), width, dtype=torch.long, device=row.device)
        table[row[kept], place[kept]] = users[kept]
        return Targets(self.base_items[items] / self.units()[1], table)

    def potential(self, targets: Targets, users: UserSpace, starts: Tensor) -> Potential:
        """How far items are from where they should be; ``starts`` is where the items of the batch start. (B, d)"""
        if self._reward == "ranking":
            return RankingPotential(targets, users, starts, torch.stack(self.units()).prod())
        return Potential(targets, users, self.settings.switches, self._weight)

    @torch.no_grad()
    def lesson(self, items: Tensor, users: UserSpace, draw: torch.Generator) -> tuple[Tensor, Targets, Potential]:
        """What the policy learns from: where some training items start, where they should end, how far that is. (B,)"""
        self.generator.eval()  # it is trained, and drops nothing any more
        targets = self.targets(items, draw)
        start = self.starts(self.content[items], items)
        return start, targets, self.potential(targets, users, start)

    # ---- what OOV items get ----

    @property
    def stop_rule(self) -> tuple[StopRule, int]:
        """When sequences end, and after how many steps at the latest."""
        rule, steps = self.stopping.tolist()
        return STOP_RULES[rule], steps

    def stop_by(self, rule: StopRule, steps: int) -> None:
        """Set ``stop_rule``."""
        self.stopping.copy_(torch.tensor([STOP_RULES.index(rule), steps]))
        self.forget_tables()

    def sequences(self, start: Tensor) -> Sequences:
        """Imagine all steps that ``imagination_steps`` allows. In the space's units. (B, d)"""
        return imagine(
            start,
            self.policy,
            self.user_space(),
            steps=self.settings.steps,
            rate=self.settings.rate,
            countdown=self.settings.switches.countdown,
            revisit=self._revisit,
        )

    def new_item_embeddings(self, content: Tensor, items: Tensor | None = None) -> Tensor:
        """Where imagination leaves items that start at G(c). Arguments as of :meth:`generate`. (N, d)"""
        if self.stop_rule[1] == 0:
            return self.generate(content, items)
        sequences = self.sequences(self.starts(content, items))
        return sequences.ends(sequences.lengths(*self.stop_rule)) * self.units()[1]

    def item_embeddings(self) -> Tensor:
        """(n_items, d)"""
        return self.with_base_items(self.new_item_embeddings(self.content[self.oov], self.oov.nonzero().squeeze(1)))

    @torch.no_grad()
    def imagine(self, item_content: Tensor, items: Tensor | None = None) -> Imagination:
        """Imagine users for items that are described by their content alone; they need not be in the data set.

        Args:
            item_content: As wide as ``content``; one item, or B of them. (content_dim,) or (B, content_dim)
            items: Ids of the items where they are training items, to see the rewards that the policy was trained by.
                (B,)

        Returns:
            See :class:`Imagination`; up to the longest of the B sequences.

        Raises:
            ValueError: The content is of another width, or one of ``items`` is no training item.
        """
        content = torch.atleast_2d(item_content).to(self.content)
        if content.shape[1] != self.content_dim:
            raise ValueError(f"content is {content.shape[1]} numbers wide; the model was trained on {self.content_dim}")
        if items is not None and (len(items) != len(content) or not torch.isin(items, self.iv_items).all()):
            raise ValueError("items: give one training item for each row of content; others have no rewards")
        start = self.starts(content, items)
        sequences = self.sequences(start)
        lengths = sequences.lengths(*self.stop_rule)
        width = int(lengths.max()) if len(lengths) else 0
        step = torch.arange(width + 1, device=start.device)
        over = step[:width] >= lengths[:, None]
        path = torch.stack([sequences.ends(lengths.minimum(t)) for t in step], dim=1)
        left = self.settings.steps - step
        values = torch.stack([self.critic(state_of(path[:, t], left[t])) for t in range(width + 1)], dim=1)
        return Imagination(
            users=sequences.users[:, :width].masked_fill(over, 0),
            embeddings=path * self.units()[1],
            lengths=lengths,
            stop=sequences.stop[:, :width],
            chosen=sequences.chosen[:, :width],
            values=values,
            rewards=None if items is None else self._rewards(path, items),
            reward_names=() if items is None else (RankingPotential if self._reward == "ranking" else Potential).names,
        )

    def _rewards(self, path: Tensor, items: Tensor) -> Tensor:
        draw = torch.Generator(device=path.device).manual_seed(0)
        potential = self.potential(self.targets(items, draw), self.user_space(), path[:, 0])
        left = torch.stack([potential(path[:, t]) for t in range(path.shape[1])], dim=1)
        return left[:, :-1] - left[:, 1:]


def settings_of(config: Any) -> ImaginationSettings:
    """The settings in a configuration."""
    variant = config["variant"]
    switches = Switches(**variant) if isinstance(variant, Mapping) else Switches.all(variant)
    return ImaginationSettings(
        steps=config["imagination_steps"],
        rate=config["step_rate"],
        price=config["step_price"],
        candidates=config["imagination_candidates"],
        switches=switches,
        rollouts=config["rollouts"],
        updates=config["ppo_updates"],
        clip=config["ppo_clip"],
        discount=config["discount"],
        trace=config["advantage_trace"],
        policy_rate=config["policy_learning_rate"],
        value_rate=config["value_learning_rate"],
        weight_decay=config["policy_weight_decay"],
    )


_WORDS = {
    "embedding_units": ("norm", "raw"),
    "generator_objective": ("regression", "ranking"),
    "imagination_reward": ("distance", "ranking"),
    "imagination_learning": ("ppo", "direct"),
}


def option_problems(config: Mapping[str, Any]) -> list[str]:
    """Problems with the options of the imagination."""
    problems = []
    variant, names = config["variant"], [field.name for field in fields(Switches)]
    sides = (
        [variant] if isinstance(variant, str) else list(variant.values()) if isinstance(variant, Mapping) else [None]
    )
    unknown = [key for key in variant if key not in names] if isinstance(variant, Mapping) else []
    if unknown or any(side not in ("paper", "code") for side in sides):
        problems.append(
            f"variant: {variant!r} is not allowed; give paper, code, or a mapping with some of {', '.join(names)}, as "
            f"in {{positives: code}}"
        )
    if config["stop_rule"] is not None and config["stop_rule"] not in STOP_RULES:
        problems.append(
            f"stop_rule: {config['stop_rule']!r} is not known; give {', '.join(STOP_RULES)}, or None to let validation "
            f"choose"
        )
    stop_steps, steps = config["stop_steps"], config["imagination_steps"]
    if stop_steps is not None and not (isinstance(stop_steps, int) and 0 <= stop_steps <= steps):
        problems.append(
            f"stop_steps: {stop_steps!r} is not allowed; give a number from 0 to imagination_steps, {steps}"
        )
    for key in ("length_powers", "length_factors"):
        if not isinstance(config[key], list | tuple) or not config[key] or not all(map(is_number, config[key])):
            problems.append(f"{key}: {config[key]!r} is not allowed; give a list of numbers to choose from")
    for key, known in _WORDS.items():
        if config[key] not in known:
            problems.append(f"{key}: {config[key]!r} is not known; there are {' and '.join(known)}")
    most = config["max_item_users"]
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or most < 1):
        problems.append(f"max_item_users: {most!r} is not allowed; give a whole number of at least 1, or None for all")
    neighbours = config["generator_neighbours"]
    if not isinstance(neighbours, int) or isinstance(neighbours, bool) or neighbours < 0:
        problems.append(
            f"generator_neighbours: {neighbours!r} is not allowed; give a whole number of training items, 0 for none"
        )
    for key in ("imagination_candidates", "rollouts", "ppo_updates", "imagination_batch_size"):
        if not isinstance(config[key], int) or config[key] < 1:
            problems.append(f"{key}: {config[key]!r} is not allowed; give a whole number of at least 1")
    for key in ("discount", "advantage_trace", "reward_weight"):
        if not 0 <= config[key] <= 1:
            problems.append(f"{key}: {config[key]!r} is not allowed; give a number from 0 to 1")
    for key in ("step_rate", "ppo_clip", "policy_learning_rate", "value_learning_rate"):
        if not config[key] > 0:
            problems.append(f"{key}: {config[key]!r} is not allowed; give a number above 0")
    return problems
