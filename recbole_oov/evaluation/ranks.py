"""From scores to the rank of one held-out item a user, and from ranks to metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from recbole_oov.data.histories import seen_matrix
from recbole_oov.errors import RecBoleOOVError


@torch.no_grad()
def target_ranks(
    model: Any, eval_data: Any, *, mask: Sequence[Any] = (), seed: int = 0, device: Any = "cpu"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rank of each user's held-out item among all items, 0 for the first.

    Ties are broken at random: an item that ties with n others takes each of the n + 1 places equally often, so
    that a model which cannot tell items apart scores what chance scores. (RecBole's top-k gives the place to the
    lowest id, and ids follow first appearance, which follows popularity.)

    Args:
        model: A RecBole model with ``full_sort_predict``.
        eval_data: RecBole's full-sort loader of a leave-one-out split.
        mask: Data sets whose interactions are left out of their user's ranking (the history); the held-out item
            itself is never left out.
        seed: Of the tie-breaks.
        device: Where the model is.

    Returns:
        User ids (U,), the held-out items (U,), their ranks (U,).

    Raises:
        RecBoleOOVError: A score is NaN or infinite, or a user has more than one held-out item.
    """
    model.eval()
    seen = seen_matrix(*mask) if mask else None
    random = np.random.default_rng(seed)
    users, targets, ranks = [], [], []
    for interaction, _, positive_u, positive_i in eval_data:
        user = interaction[model.USER_ID].numpy()
        if len(positive_u) != len(user):
            raise RecBoleOOVError("target_ranks: more than one held-out item a user; use a leave-one-out split")
        scores = model.full_sort_predict(interaction.to(device)).view(len(user), -1).double().cpu().numpy()
        if not np.isfinite(scores[:, 1:]).all():
            raise RecBoleOOVError(f"{type(model).__name__} scored items NaN or infinite")
        target = positive_i.numpy()
        rows = np.arange(len(user))
        own = scores[rows, target][:, None]
        candidate = np.ones(scores.shape, dtype=bool)
        candidate[:, 0] = False
        if seen is not None:
            candidate[seen[user].toarray()] = False
        candidate[rows, target] = False
        above = ((scores > own) & candidate).sum(axis=1)
        ties = ((scores == own) & candidate).sum(axis=1)
        users.append(user)
        targets.append(target)
        ranks.append(above + random.integers(0, ties + 1))
    return np.concatenate(users), np.concatenate(targets), np.concatenate(ranks)


def metrics_of_ranks(ranks: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Recall, NDCG and MRR at k of one held-out item each, from its rank (0 for the first). Same shape as ranks."""
    hit = ranks < k
    return {
        f"recall@{k}": hit.astype(float),
        f"ndcg@{k}": np.where(hit, 1.0 / np.log2(ranks + 2.0), 0.0),
        f"mrr@{k}": np.where(hit, 1.0 / (ranks + 1.0), 0.0),
    }
