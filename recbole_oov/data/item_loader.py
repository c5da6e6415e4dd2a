"""Batches of items instead of interactions."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from recbole.data.interaction import Interaction
from torch import Tensor


class ItemLoader:
    """Each item once an epoch, in a new random order.

    Args:
        items: Ids. (N,)
        item_field: Name of the item id field.
        batch_size: Items in a batch.
        seed: Of the order.
    """

    shuffle = False  # RecBole would ask for torch's sampler

    def __init__(self, items: Tensor, *, item_field: str, batch_size: int, seed: int) -> None:
        self.items, self.item_field, self.batch_size = items, item_field, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def __iter__(self) -> Iterator[Interaction]:
        order = torch.randperm(len(self.items), generator=self.generator).to(self.items.device)
        for index in order.split(self.batch_size):
            yield Interaction({self.item_field: self.items[index]})
