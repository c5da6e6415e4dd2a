"""Scores of all items, some items at a time: for evaluations in which one row of scores would not fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

Blocks = Iterator[tuple[Tensor, Tensor]]
"""Item ids, ascending (M',), and their scores (B, M'); over all blocks each item once, with or without [PAD]."""


class BlockScorer(Protocol):
    """Scores the cases of a batch, at most some items at a time."""

    def __call__(self, interaction: Interaction, size: int) -> Blocks: ...


@dataclass
class ItemBlocks:
    """A batch's scores on their way to the metrics, in the place of a matrix (B, n_items).

    Attributes:
        scored: Item ids and scores as the model gives them.
        n_rows: B.
        n_items: Items of the data set, [PAD] included.
        hidden: Rows and items that are not to be ranked. (H,), (H,)
        check: Called with the scores of each block; raises where they are no numbers.
    """

    scored: Blocks
    n_rows: int
    n_items: int
    hidden: tuple[Tensor, Tensor]
    check: Callable[[Tensor], None]

    def __iter__(self) -> Blocks:
        """The blocks with -inf where nothing is to be ranked, [PAD] among it."""
        rows, items = self.hidden
        for ids, scores in self.scored:
            first = int(len(ids) > 0 and bool(ids[0] == 0))
            self.check(scores[:, first:])
            scores[:, :first] = -torch.inf
            column = torch.searchsorted(ids, items).clamp(max=max(len(ids) - 1, 0))
            here = ids[column] == items if len(ids) else torch.zeros_like(items, dtype=torch.bool)
            scores[rows[here], column[here]] = -torch.inf
            yield ids, scores


def dot_product_blocks(rows: Tensor, items: Tensor, size: int) -> Blocks:
    """(B, d), (n_items, d), at most so many items at a time."""
    for start in range(0, len(items), size):
        block = items[start : start + size]
        yield torch.arange(start, start + len(block), device=items.device), rows @ block.T
