"""Rows of different lengths in one flat array."""

from __future__ import annotations

import torch
from torch import Tensor


def ragged_rows(offsets: Tensor, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Some rows of a ragged array, one after another.

    Args:
        offsets: ``values[offsets[r]:offsets[r + 1]]`` is row r. (R + 1,)
        values: (N,)
        rows: Which rows, in which order. (M,)

    Returns:
        Of every entry which of ``rows`` it is in, itself, and its place in ``values``. (E,) each
    """
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    row = torch.repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    index = torch.arange(len(row), device=row.device) - before[row] + starts[row]
    return row, values[index], index
