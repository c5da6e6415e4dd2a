"""What a table of interactions is like: sizes, histories, popularity. Pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Interactions:
    """Numbers of a table of interactions.

    Attributes:
        users: Users with a row.
        items: Items with a row.
        rows: Interactions.
        density: Share of all (user, item) pairs that are there; repeated pairs count once.
        repeated: Rows whose user and item are in another row already.
        history: Rows of a user, at :data:`QUANTILES`.
        popularity: Rows of an item, at :data:`QUANTILES`.
        gini: Of the items' rows: 0 where all items have the same, towards 1 where one item has all.
        head: Share of the rows that the most popular 1 %, 10 % and 20 % of the items have.
        rare: Items with fewer than five rows.
        first: Time of the oldest row, ISO 8601 in UTC; None without times, or where these are no dates.
        last: Time of the newest row.
    """

    users: int
    items: int
    rows: int
    density: float
    repeated: int
    history: tuple[float, ...]
    popularity: tuple[float, ...]
    gini: float
    head: dict[str, float]
    rare: int
    first: str | None
    last: str | None


def describe_interactions(users: np.ndarray, items: np.ndarray, times: np.ndarray | None) -> Interactions:
    """Count a table of interactions, at least one row of it.

    Args:
        users: User ids. (N,)
        items: Item ids. (N,)
        times: Seconds after 1970, or None. (N,)
    """
    histories = np.unique(users, return_counts=True)[1]
    counts = popularity_curve(items)
    pairs = len(np.unique(users.astype(np.int64) * (int(items.max()) + 1) + items))
    total = len(items)
    return Interactions(
        users=len(histories),
        items=len(counts),
        rows=total,
        density=pairs / (len(histories) * len(counts)),
        repeated=total - pairs,
        history=_quantiles(histories),
        popularity=_quantiles(counts),
        gini=gini(counts),
        head={f"{share} %": float(counts[: -(-len(counts) * share // 100)].sum() / total) for share in (1, 10, 20)},
        rare=int((counts < 5).sum()),
        first=None if times is None else date(float(times.min())),
        last=None if times is None else date(float(times.max())),
    )


def popularity_curve(items: np.ndarray) -> np.ndarray:
    """Rows of each item that has any, most popular first. (N,) -> (n_items,)"""
    counts: np.ndarray = np.sort(np.unique(items, return_counts=True)[1])[::-1]
    return counts


def gini(counts: np.ndarray) -> float:
    r"""Gini's coefficient, :math:`\sum_i (2i - n - 1) x_i / (n \sum_i x_i)` with x ascending and i from 1. (n,)"""
    ascending = np.sort(counts).astype(np.float64)
    n = len(ascending)
    return float(((2 * np.arange(1, n + 1) - n - 1) * ascending).sum() / (n * ascending.sum()))


def sparkline(values: np.ndarray, width: int = 40) -> str:
    """Values as a line of bars, on a logarithmic scale: each bar is the mean of a part of them. (n,), above 0"""
    parts = [np.log1p(part.mean()) for part in np.array_split(values, min(width, len(values)))]
    top = max(parts)
    return "".join(_BARS[min(len(_BARS) - 1, int(part / top * len(_BARS)))] for part in parts)


def date(seconds: float) -> str | None:
    """A time in seconds after 1970 as a date, ISO 8601 in UTC; None where it is out of what a date can be."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return None


def _quantiles(counts: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(counts, QUANTILES))
