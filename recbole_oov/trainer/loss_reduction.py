"""How a model's loss of a batch is made of its rows, found out by computing it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.utils import InputType

from recbole_oov.data.shares import SharedBatches
from recbole_oov.randomness import random_state, set_random_state

_ROWS = 48
_RTOL = 1e-4


def loss_reduction(model: Any, loader: Any) -> str | None:
    """Whether a model's loss of a batch is the mean of its rows' losses, or their sum.

    It is computed for some rows, and for two parts of them, of unequal size, without dropout. A copy of the model does
    it, and random numbers are put back.

    Args:
        model: A model of RecBole's.
        loader: What it learns from.

    Returns:
        ``"mean"``, ``"sum"``, or None where it is neither, or cannot be computed in this way.
    """
    state = random_state()
    try:
        model = copy.deepcopy(model).eval()
        batch = _batch(model, loader).to(model.device)
        n = len(batch)
        cut = n // 3
        whole, first, second = (
            _loss(model, _rows(batch, index)) for index in (range(n), range(cut), range(cut, n)) if len(index)
        )
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return None
    finally:
        set_random_state(state)
    if torch.allclose(whole, (cut * first + (n - cut) * second) / n, rtol=_RTOL):
        return "mean"
    return "sum" if torch.allclose(whole, first + second, rtol=_RTOL) else None


@torch.no_grad()
def _loss(model: Any, batch: Interaction) -> torch.Tensor:
    losses = model.calculate_loss(batch)
    parts = torch.stack(list(losses)) if isinstance(losses, tuple) else losses.reshape(1)
    return parts.double()


def _rows(batch: Interaction, index: range) -> Interaction:
    return Interaction({name: column[list(index)] for name, column in batch.interaction.items()})


def _batch(model: Any, loader: Any) -> Interaction:
    """Some training rows, with negatives: RecBole's, or where the loader has none, other rows' items."""
    if isinstance(loader, SharedBatches):
        rows: Interaction = loader.loader.collate_fn(list(range(min(_ROWS, loader.loader.sample_size))))
        return rows
    columns = {name: column[:_ROWS].clone() for name, column in loader.rows.items()}
    model = getattr(model, "base", model)  # of AutoSample
    negatives = columns[model.ITEM_ID].roll(1)
    if model.input_type == InputType.PAIRWISE:
        columns[model.NEG_ITEM_ID] = negatives
    else:
        columns[model.ITEM_ID] = torch.cat([columns[model.ITEM_ID][::2], negatives[1::2]])
        columns[model.LABEL] = (torch.arange(len(negatives), device=negatives.device) % 3 > 0).float()
    return Interaction(columns)
