"""Axes of the drawings: round steps, linear or logarithmic."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """From values to places on the page.

    Attributes:
        low, high: The range of the axis.
        start, end: Where its ends are drawn.
        ticks: Values that get a mark.
        logarithmic: Whether equal distances are equal factors.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value, rounded to a tenth."""
        low, high, at = (
            (math.log(self.low), math.log(self.high), math.log(value))
            if self.logarithmic
            else (self.low, self.high, value)
        )
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)


def linear(values: list[float], start: float, end: float, *, n_ticks: int = 5, margin: float = 0.04) -> Scale:
    """A scale with some air around the values."""
    low, high = min(values), max(values)
    room = (high - low) * margin or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room
    rough = (high - low) / n_ticks
    power = 10.0 ** math.floor(math.log10(rough))
    steps = [power * factor for factor in (1, 2, 2.5, 5, 10)]
    at = next(at for at, step in enumerate(steps) if step >= rough)
    ticks = _multiples(low, high, steps[at])
    while len(ticks) < 2 and at > 0:  # one mark says nothing about distances
        at -= 1
        ticks = _multiples(low, high, steps[at])
    return Scale(low, high, start, end, ticks)


def _multiples(low: float, high: float, step: float) -> tuple[float, ...]:
    return tuple(round(i * step, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1))


def logarithmic(values: list[float], start: float, end: float) -> Scale:
    """A scale of positive values over more than a factor of ten; ticks at 1, 2 and 5."""
    low, high = min(values) / 1.25, max(values) * 1.25
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 2000 else (1,)
    ticks = tuple(f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high)
    return Scale(low, high, start, end, ticks, logarithmic=True)
