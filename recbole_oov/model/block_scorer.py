"""Which models score items some at a time: those with a method ``block_scorer``, or that score by dot products."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.evaluation.item_blocks import BlockScorer, dot_product_blocks
from recbole_oov.model.base_embeddings import base_embeddings

_TOLERANCE = 1e-4
"""Relative to the largest score: sums in another order."""
REFUSALS = (TypeError, AttributeError, LookupError, ValueError, RuntimeError)
"""What a model raises whose methods take other things than those of RecBole's sequential models."""


def block_scorer(model: Any, cases: Interaction) -> BlockScorer | None:
    """How a model scores items some at a time; None where it scores all items or none.

    Args:
        model: In evaluation mode.
        cases: A few cases, on which the scores are compared with the model's own.
    """
    own: Any = getattr(model, "block_scorer", None)
    if own is not None:
        scorer: BlockScorer | None = own()
        return scorer
    if isinstance(model, SequentialRecommender):
        return _of_histories(model, cases)
    return of_embeddings(model)


def of_embeddings(model: Any) -> BlockScorer | None:
    """A general recommender that scores by the dot product of embeddings."""
    try:
        users, items = base_embeddings(model)
    except (ConfigError, NotImplementedError):
        return None
    return lambda interaction, size: dot_product_blocks(users[interaction[model.USER_ID]], items, size)


def _of_histories(model: Any, cases: Interaction) -> BlockScorer | None:
    asked = Interaction({**cases.interaction, model.ITEM_ID: torch.arange(len(cases)) % (model.n_items - 1) + 1})
    asked = asked.to(model.device)
    found = histories_and_items(model, asked)
    if found is None:
        return None
    made, items = found
    try:
        predicted = model.predict(asked).view(-1)
    except REFUSALS:
        return None
    products = (made * items[asked[model.ITEM_ID]]).sum(dim=1)
    if not (products - predicted).abs().max() <= _TOLERANCE * predicted.abs().max().clamp(min=1e-12):
        return None
    return lambda interaction, size: dot_product_blocks(
        model.forward(interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN]), items, size
    )


def histories_and_items(model: Any, cases: Interaction) -> tuple[Tensor, Tensor] | None:
    """What a sequential model may score by the dot product of: ``forward(histories, lengths)`` and ``item_embedding``.

    Returns:
        (B, d) and (n_items, d), whose products are still to be compared with the model's scores; None where the model
        has no such table, or its ``forward`` takes or gives something else.
    """
    table = getattr(getattr(model, "item_embedding", None), "weight", None)
    if not isinstance(table, Tensor) or len(table) < model.n_items:
        return None
    items = table[: model.n_items].detach()  # some models have a row for a mask behind the items
    try:
        made = model.forward(cases[model.ITEM_SEQ], cases[model.ITEM_SEQ_LEN])
    except REFUSALS:
        return None
    if not isinstance(made, Tensor) or made.shape != (len(cases), items.shape[1]):
        return None
    return made, items
