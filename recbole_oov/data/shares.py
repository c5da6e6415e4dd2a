"""Which part of a batch each process of a run takes.

All processes go through the same batches in the same order, that of a run of one process, and each takes its rows of
every batch. (RecBole gives each an order of its own over a part of the data, and repeats rows until all parts are of
one length.) So every row counts once, and the mean of the processes' losses, weighted by their terms, is the batch's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

Share = tuple[int, int]
"""This process's number, and how many there are."""


def own_part(index: Tensor, terms: Tensor, share: Share) -> tuple[Tensor, float]:
    """The rows of a batch that a process takes: every n-th.

    Args:
        index: The rows of the whole batch, at least one. (B,)
        terms: What each of them has in the loss: targets of a history window, else one. (B,)
        share: Which process, of how many.

    Returns:
        The rows, and their part of the batch's terms. A batch with fewer rows than processes leaves some without any;
        these get one that is no part of it, since all must take part in every step.
    """
    rank, n = share
    own = index[rank::n]
    if len(own) == 0:
        return index[:1], 0.0
    return own, 1.0 if n == 1 else float(terms[rank::n].sum() / terms.sum())


class SharedBatches:
    """The batches of a training loader of RecBole's as one process would have them, and of each a process's share.

    Args:
        loader: The loader, as RecBole makes it for one of several processes.
        share: Which process, of how many.

    Attributes:
        part: Of the latest batch, the part that is this process's.
    """

    shuffle = False  # RecBole would tell torch's distributed sampler the epoch

    def __init__(self, loader: AbstractDataLoader, share: Share) -> None:
        self.loader, self.share, self.part = loader, share, 1.0
        loader._init_batch_size_and_step()  # RecBole has divided the batch size by the number of processes
        rows = list(range(loader.sample_size))
        order = RandomSampler(rows, generator=loader.generator) if loader.shuffle else SequentialSampler(rows)
        self._shares = _Shares(BatchSampler(order, loader.step, drop_last=False), share)
        self._batches: DataLoader[Any] = DataLoader(
            rows,  # type: ignore[arg-type]
            batch_sampler=self._shares,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            generator=loader.generator,
        )

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Interaction]:
        n, size = self.loader.sample_size, self.loader.step
        for at, batch in enumerate(self._batches):
            rows = min(size, n - at * size)
            self.part = len(range(self.share[0], rows, self.share[1])) / rows
            yield batch


class _Shares:
    """torch's batches of row numbers, and of each a process's part."""

    def __init__(self, batches: BatchSampler, share: Share) -> None:
        self.batches, self.share = batches, share

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        rank, n = self.share
        for batch in self.batches:
            yield batch[rank::n] or batch[:1]
