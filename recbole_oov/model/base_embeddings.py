"""The user and item embeddings of a trained general recommender, as it scores with them."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.errors import ConfigError

_N_PAIRS = 64
_TOLERANCE = 1e-4
"""Relative to the largest score: graph models may sum in another order each time."""


@torch.no_grad()
def base_embeddings(model: Any) -> tuple[Tensor, Tensor]:
    """Embeddings whose dot product is the model's score, for all users and items.

    Taken from ``forward()`` where the model has one without arguments that gives (users, items), as graph models do:
    these are propagated. Else ``user_embedding.weight`` and ``item_embedding.weight``.

    Args:
        model: A general recommender, trained or not. It is left in evaluation mode.

    Returns:
        (n_users, d), (n_items, d)

    Raises:
        ConfigError: There are no such embeddings, or the model scores otherwise than by their dot product.
    """
    model.eval()
    found = _propagated(model) or _tables(model)
    name = type(model).__name__
    if found is None:
        raise ConfigError(
            f"base_model: {name} has no embeddings to start from: neither a forward() without arguments that gives "
            f"(users, items), nor user_embedding and item_embedding of {model.n_users} and {model.n_items} rows; "
            f"choose a model that scores by the dot product of embeddings, such as BPR, LightGCN or NGCF"
        )
    users, items = (table.detach().clone() for table in found)
    _check_dot_product(model, name, users, items)
    return users, items


def _propagated(model: Any) -> tuple[Tensor, Tensor] | None:
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return None
    given = model.forward()
    return _fitting(model, *given[:2]) if isinstance(given, tuple | list) and len(given) >= 2 else None


def _tables(model: Any) -> tuple[Tensor, Tensor] | None:
    tables = [getattr(getattr(model, f"{kind}_embedding", None), "weight", None) for kind in ("user", "item")]
    return _fitting(model, *tables)


def _fitting(model: Any, users: Any, items: Any) -> tuple[Tensor, Tensor] | None:
    fits = (
        isinstance(users, Tensor)
        and isinstance(items, Tensor)
        and users.dim() == items.dim() == 2
        and (len(users), len(items)) == (model.n_users, model.n_items)
        and users.shape[1] == items.shape[1]
    )
    return (users, items) if fits else None


def _check_dot_product(model: Any, name: str, users: Tensor, items: Tensor) -> None:
    ids = torch.arange(1, _N_PAIRS + 1, device=users.device)
    pairs = {model.USER_ID: ids % (model.n_users - 1) + 1, model.ITEM_ID: ids * 7 % (model.n_items - 1) + 1}
    predicted = model.predict(Interaction(pairs)).view(-1)
    products = (users[pairs[model.USER_ID]] * items[pairs[model.ITEM_ID]]).sum(dim=1)
    gap = (predicted - products).abs().max()
    if not gap <= _TOLERANCE * max(1.0, float(products.abs().max())):
        raise ConfigError(
            f"base_model: {name} does not score by the dot product of its user and item embeddings, so that no item "
            f"embedding can stand in for one of its own; choose BPR, LightGCN, NGCF or another model that does"
        )
