"""What a negative sampler is: a function from a scored pool to a choice, under a name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recbole_oov.errors import ConfigError


@dataclass(frozen=True)
class PoolBatch:
    """The candidates of one batch, without a graph. Vectors have a layer axis: L is 1 but for graph models.

    Attributes:
        scores: s_uj of every candidate, (B, P); (B, 0) where the sampler does not ask for scores.
        positive_scores: s_ui, (B,); zeros where not asked for.
        user: The user's vectors; one layer where the model merges layers before scoring. (B, 1 or L, d)
        positive: The positive's vectors. (B, L, d)
        layer_scores: u . e_j of every candidate at every layer; s_uj where there is one layer. (B, P, L)
        pool: The vectors of some candidates: column l of the argument names the candidate whose layer l is given,
            (B, L) -> (B, L, d). None, as the three above, where not asked for.
        log_q: log of the probability each candidate was drawn with, up to a constant; None where uniform. (B, P)
        spread: Standard deviation of sigmoid(s_uj - s_ui) over recent epochs; for SRNS alone. (B, P)
        epoch: The epoch, from 0.
        generator: Of all randomness.
    """

    scores: Tensor
    positive_scores: Tensor
    user: Tensor | None = None
    positive: Tensor | None = None
    layer_scores: Tensor | None = None
    pool: Callable[[Tensor], Tensor] | None = None
    log_q: Tensor | None = None
    spread: Tensor | None = None
    epoch: int = 0
    generator: torch.Generator | None = None


@dataclass(frozen=True)
class Choice:
    """What a sampler chose: the negative is w * positive + (1 - w) * candidate, a real item where w is None.

    Attributes:
        index: The chosen column of the pool, (B,); or one for each layer, (B, L).
        positive_share: w, the positive's share, (B, L, 1) or (B, L, d).
    """

    index: Tensor
    positive_share: Tensor | None = None


ChooseFunction = Callable[..., Choice]

SOURCES = {
    "uniform": (),
    "popularity": ("alpha",),
    "adasir": ("cache", "candidates"),
    "srns": ("candidates", "temperature"),
}
"""Where pools come from, and which options each source reads; the power of ``popularity`` has a default."""


@dataclass(frozen=True)
class Sampler:
    """A registered sampler.

    Attributes:
        name: Its name in options.
        choose: ``choose(batch, **options) -> Choice``, pure but for the batch's generator.
        pool: Size of the pool where the options name none.
        source: Where pools come from: ``uniform``, ``popularity``, or a per-user cache (``adasir``, ``srns``).
        needs_scores: Whether candidates are to be scored.
        mixes: Whether it makes a negative that is no item, which only models with item vectors can learn from.
        options: Its options with their defaults. One with a whole number for default takes whole numbers.
        positive: Those of them that have to be above 0.
        paper: Where it was published.
    """

    name: str
    choose: ChooseFunction
    pool: int = 32
    source: str = "uniform"
    needs_scores: bool = True
    mixes: bool = False
    options: Mapping[str, float] = field(default_factory=dict)
    positive: Collection[str] = ()
    paper: str = ""


_samplers: dict[str, Sampler] = {}


def register_sampler(
    name: str,
    *,
    pool: int = 32,
    source: str = "uniform",
    needs_scores: bool = True,
    mixes: bool = False,
    positive: Collection[str] = (),
    paper: str = "",
    **options: float,
) -> Callable[[ChooseFunction], ChooseFunction]:
    """Register the decorated function as a sampler, for ``--sampler=NAME`` and for searches.

    Example:
        >>> @register_sampler("second_hardest", pool=16)
        ... def second_hardest(batch: PoolBatch) -> Choice:
        ...     return Choice(batch.scores.topk(2).indices[:, 1])

    Raises:
        ConfigError: Another function has the name, the source is not known or lacks an option that it reads, or an
            option is read by neither the function nor the source.
    """

    def add(choose: ChooseFunction) -> ChooseFunction:
        _check_options(name, choose, source, options)
        known = _samplers.get(name)
        if known is not None and known.choose.__qualname__ != choose.__qualname__:
            raise ConfigError(f"register_sampler: the name {name!r} is taken by {known.choose.__qualname__}")
        _samplers[name] = Sampler(name, choose, pool, source, needs_scores, mixes, options, positive, paper)
        return choose

    return add


def _check_options(name: str, choose: ChooseFunction, source: str, options: Collection[str]) -> None:
    if source not in SOURCES:
        raise ConfigError(f"register_sampler: {name} names the source {source!r}; there are {', '.join(SOURCES)}")
    parameters = inspect.signature(choose).parameters
    if lacking := [option for option in SOURCES[source] if option not in options and source != "popularity"]:
        raise ConfigError(f"register_sampler: {name}: the source {source} reads {', '.join(lacking)}; give defaults")
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    if unread := [option for option in options if option not in parameters and option not in SOURCES[source]]:
        raise ConfigError(
            f"register_sampler: {name}: {', '.join(unread)} is read neither by the source {source} nor by "
            f"{choose.__qualname__}({', '.join(parameters)}); give both the same name"
        )


def sampler_names() -> list[str]:
    """The names of all samplers, in the order in which they were registered."""
    _load()
    return list(_samplers)


def get_sampler(name: str) -> Sampler:
    """The sampler called ``name``.

    Raises:
        ConfigError: There is none; the message names those there are.
    """
    _load()
    if name not in _samplers:
        near = difflib.get_close_matches(name, _samplers, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(f"sampler: there is no sampler called {name!r}; {hint}there are {', '.join(_samplers)}")
    return _samplers[name]


def _load() -> None:
    import recbole_oov.sampler.candidates  # noqa: F401  registers the built-in ones
