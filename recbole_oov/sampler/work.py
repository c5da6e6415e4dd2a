"""What training with a sampler costs, counted: the same on every machine, whatever else runs on it."""

from __future__ import annotations

from dataclasses import dataclass

_OF_A_GRADIENT = 3
"""A vector in a loss counts three times: forward, backward, update."""


@dataclass
class Work:
    """Item vectors that were looked at.

    Attributes:
        scored: Without a graph: candidates, and the positives they are compared with.
        learned: In a loss, with gradients.
    """

    scored: int = 0
    learned: int = 0

    @property
    def total(self) -> int:
        """One number, in vectors without a graph."""
        return self.scored + _OF_A_GRADIENT * self.learned


def dns_epoch(rows: int, pool: int) -> int:
    """The work of an epoch of dynamic negative sampling: each row has ``pool`` candidates and its positive scored, and
    a loss of two items.
    """
    return rows * Work(scored=pool + 1, learned=2).total
