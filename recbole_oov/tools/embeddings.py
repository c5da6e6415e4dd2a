"""The embeddings by whose dot product a trained model ranks, with a proof that it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.model.base_embeddings import base_embeddings
from recbole_oov.model.block_scorer import REFUSALS, histories_and_items
from recbole_oov.model.cold_start import ColdStartRecommender

_N_USERS = 64
_TOLERANCE = 1e-4
"""Relative to the largest score: sums in another order."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of a trained model, by internal id; row 0 is padding.

    Attributes:
        items: (n_items, d)
        users: (n_users, d); None for a sequential model, whose users are what their histories make of them.
        gap: The largest difference between a dot product and the model's own score, relative to the largest score.
        n_scores: How many scores were compared.
    """

    items: Tensor
    users: Tensor | None
    gap: float
    n_scores: int


@torch.no_grad()
def embeddings_of(model: Any, test_data: Any) -> Embeddings:
    """The embeddings of a model, whose dot product was compared with the model's scores.

    Args:
        model: A trained model; it is left in evaluation mode.
        test_data: RecBole's test loader, whose first histories a sequential model is asked with.

    Raises:
        ConfigError: The model has no such embeddings, or does not score by their dot product.
    """
    model.eval()
    if model.type == ModelType.SEQUENTIAL:
        return _sequential(model, test_data._dataset)
    name = type(model).__name__
    if model.type not in (ModelType.GENERAL, ModelType.TRADITIONAL):
        raise ConfigError(
            f"export: {name} scores a user and an item out of many features, so that there is no embedding of either "
            f"to export; {_REMEDY}"
        )
    if isinstance(model, ColdStartRecommender):
        users, items = model.user_embeddings().detach(), model.item_embeddings().detach()
    else:
        try:
            users, items = base_embeddings(model)
        except (ConfigError, NotImplementedError) as error:
            raise ConfigError(
                f"export: {name} does not score by the dot product of a user's and an item's embedding, so that no "
                f"table of embeddings can stand in for it; {_REMEDY}"
            ) from error
    asked = torch.arange(1, min(_N_USERS, len(users) - 1) + 1, device=users.device)
    everything = torch.arange(1, len(items), device=items.device)

    def compared() -> Iterator[tuple[Tensor, Tensor]]:
        # User by user: the model gathers two embeddings for each pair, of 64 users gigabytes.
        for user in asked:
            pairs = Interaction({model.USER_ID: user.repeat(len(everything)), model.ITEM_ID: everything})
            yield items[1:] @ users[user], model.predict(pairs).flatten()

    return Embeddings(items, users, _gap(name, compared()), len(asked) * len(everything))


_REMEDY = "choose BPR, LightGCN, NGCF, SASRec, GRU4Rec or a cold-start model such as DeepMusic"


def _sequential(model: Any, dataset: Any) -> Embeddings:
    name = type(model).__name__
    if getattr(model, "rules_weight", 0.0):
        raise ConfigError(
            "export: with rules_weight scores are not those of embeddings alone; train the model without it"
        )
    if getattr(model, "excludes_history", False):
        raise ConfigError(
            "export: with history_items: excluded scores are not those of embeddings alone: items of the history have "
            "none; train the model with scored"
        )
    histories = dataset.inter_feat[:_N_USERS].to(model.device)
    refusal = ConfigError(
        f"export: {name} does not score by the dot product of a history's representation, forward(histories, lengths), "
        f"and item_embedding, so that no table of embeddings can stand in for it; {_REMEDY}"
    )
    found = histories_and_items(model, histories)
    if found is None:
        raise refusal
    made, items = found
    try:
        scores = model.full_sort_predict(histories).view(len(histories), -1)
    except REFUSALS as error:
        raise refusal from error
    gap = _gap(name, [((made @ items.T)[:, 1:], scores[:, 1:])])
    return Embeddings(items, None, gap, scores[:, 1:].numel())


def _gap(name: str, compared: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The largest difference between dot products and scores, relative to the largest score; too large a one raises."""
    differences, largest = [], []
    for products, scores in compared:
        if products.shape != scores.shape:
            raise ConfigError(f"export: {name} gives scores of {tuple(scores.shape)} for {tuple(products.shape)}")
        differences.append((products - scores).abs().max())
        largest.append(scores.abs().max())
    gap = float(torch.stack(differences).max() / torch.stack(largest).max().clamp(min=1e-12))
    if not gap <= _TOLERANCE:
        raise ConfigError(
            f"export: {name} does not score by the dot product of its embeddings: they differ from its own scores by "
            f"{gap:.1g} of the largest one; {_REMEDY}"
        )
    return gap
