"""The best k items of each row of scores, ties broken by lot.

RecBole's ``torch.topk`` gives ties to the lowest ids. Ids follow first appearance, which follows popularity, so that
a model which cannot tell items apart scores far above chance. Here each (row, item) draws a number, and of two equal
scores the higher number comes first. The numbers are a hash, not a stream: they do not depend on the batch, the
device or what was drawn before.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_BLOCK = 1 << 17
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))


def fair_topk(scores: Tensor, k: int, cases: Tensor, items: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The k highest scores of each row and their items, best first, ties by lot.

    Args:
        scores: One row a case; -inf marks items that are not to be ranked, and wins no place while others are left.
            (B, M) float
        k: How many; at most M.
        cases: A number for each row that is its own in the whole evaluation. (B,) int64
        items: Item id of each column, (M,), or of each score, (B, M); int64.
        seed: Of the lots.

    Returns:
        Scores (B, k) and item ids (B, k).
    """
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    tied = ((values[:, 1:] == values[:, :-1]) & values[:, 1:].isfinite()).any(dim=1)
    values, columns = values[:, :k].clone(), columns[:, :k]
    chosen = items[columns] if items.dim() == 1 else items.gather(1, columns)
    if tied.any():
        rows = tied.nonzero()[:, 0]
        own = items.expand(len(rows), -1) if items.dim() == 1 else items[rows]
        values[rows], chosen[rows] = _by_lot(scores[rows], values[rows, -1:], k, _lots(cases[rows], own, seed), own)
    return values, chosen


def best_values(scores: Tensor, *choices: tuple[int, Tensor | None]) -> list[Tensor]:
    """The k highest scores of each row among some of its columns, best first.

    Args:
        scores: (B, M)
        choices: Each k and the columns to choose among, (M',); None for all of them.

    Returns:
        For each choice, (B, k); of all its columns, if it has fewer.
    """
    choices = tuple((min(k, scores.shape[1] if columns is None else len(columns)), columns) for k, columns in choices)
    if scores.device.type != "cpu" or scores.dtype not in (torch.float32, torch.float64):
        return [(scores if own is None else scores.index_select(1, own)).topk(k, dim=1).values for k, own in choices]
    # NumPy's selection uses the processor's vector instructions; torch's carries the columns along, in twice the time.
    # It moves what it selects from: copies, of a block of rows at a time, so that they stay in the cache.
    rows = max(1, _BLOCK // scores.shape[1])
    best: list[list[np.ndarray]] = [[] for _ in choices]
    for start in range(0, len(scores), rows):
        block = scores[start : start + rows]
        copies = [block.clone() if own is None else block.index_select(1, own) for _, own in choices]
        for (k, _), copy, found in zip(choices, copies, best, strict=True):
            found.append(_sorted_end(copy.numpy(), k))
    return [torch.from_numpy(np.concatenate(found)[:, ::-1].copy()) for found in best]


def _sorted_end(scores: np.ndarray, k: int) -> np.ndarray:
    """The k highest of each row, ascending; ``scores`` is put out of order. (B, M) -> (B, k)"""
    if k > 0:
        scores.partition(scores.shape[1] - k, axis=1)
    end = scores[:, scores.shape[1] - k :]
    end.sort(axis=1)
    return end


def _by_lot(scores: Tensor, last: Tensor, k: int, lots: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """The k best of rows with ties: all above the k-th score, then those equal to it by their lots."""
    place = torch.where(scores > last, 2.0, torch.where(scores == last, lots, -1.0))
    columns = place.topk(k, dim=1).indices
    by_lot = lots.gather(1, columns).argsort(dim=1, descending=True)
    columns = columns.gather(1, by_lot)
    by_score = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, by_score.indices)
    return by_score.values, items.gather(1, columns)


def _lots(cases: Tensor, items: Tensor, seed: int) -> Tensor:
    """A number in [0, 1) for each case and item: the SplitMix64 hash of both and the seed. (B, M) float64"""
    offset = (_GOLDEN * (seed + 1) + (1 << 63)) % (1 << 64) - (1 << 63)  # wrapped, as torch does with its own
    start = _mixed(cases + offset)[:, None]
    return (_mixed(start + _GOLDEN * (items + 1)) & ((1 << 53) - 1)).double() / (1 << 53)


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014); int64 arithmetic wraps as it needs."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        x = (x ^ _shifted(x, shift)) * factor
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, n: int) -> Tensor:
    """A logical shift to the right; torch's own copies the sign."""
    return (x >> n) & ((1 << (64 - n)) - 1)
