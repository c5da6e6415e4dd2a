"""Items of the history that cannot come next (``history_items: excluded``): which, and on which data."""

from __future__ import annotations

from collections.abc import Mapping
from logging import getLogger
from typing import Any

import torch
from torch import Tensor

from recbole_oov.data.histories import Histories
from recbole_oov.errors import DataError


def check_repeats(config: Mapping[str, Any], histories: Histories) -> None:
    """See that nobody has an item again in training.

    Raises:
        DataError: Somebody has; a warning instead where ``data_checks`` says so.
    """
    if not (n_repeats := histories.n_repeats()):
        return
    problem = (
        f"history_items: excluded never recommends an item of the history, but {n_repeats} of "
        f"{len(histories.items)} training interactions repeat one of their user's; give scored, or "
        f"data_checks: warn to learn from them and recommend none all the same"
    )
    if config["data_checks"] != "warn":
        raise DataError(problem)
    getLogger().warning(problem)


def had_before(items: Tensor, targets: Tensor) -> Tensor:
    """Of every target the items that were read before it, but for the target itself; 0 for none.

    Args:
        items: Histories. (B, L)
        targets: The item after each of a history, 0 where it is none to learn from. (B, L)

    Returns:
        (N, L)
    """
    row, position = targets.nonzero(as_tuple=True)
    had = items[row]
    place = torch.arange(had.shape[1], device=items.device)
    return had.masked_fill((place > position[:, None]) | (had == targets[row, position][:, None]), 0)


def struck_out(scores: Tensor, items: Tensor) -> Tensor:
    """Scores in which given items have the least finite number, in place.

    Args:
        scores: (N, n_items)
        items: Item ids of each row, 0 for none. (N, L)
    """
    row, place = items.nonzero(as_tuple=True)
    scores[row, items[row, place]] = torch.finfo(scores.dtype).min
    return scores
