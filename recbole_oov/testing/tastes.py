"""Data on which content says who likes an item: two groups of users, each with items and words of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

WORDS = (
    ("murder", "police", "detective", "jury", "poison", "witness"),
    ("rocket", "orbit", "planet", "comet", "nebula", "shuttle"),
)
"""The words of titles, by taste."""


def two_tastes(
    n_users: int = 60, n_items: int = 60, length: int = 14, seed: int = 0
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Histories and titles for :func:`~recbole_oov.testing.write_atomic`.

    Users and items with an even number have one taste, those with an odd number the other. Users have items of their
    taste alone; three words of the taste make a title. Which of the own items a user has is chance, so that nothing
    but the taste can be learned.

    Args:
        n_users: Users.
        n_items: Items.
        length: Items that each user has.
        seed: Of histories and titles.

    Returns:
        Item tokens by user token, titles by item token.
    """
    random = np.random.default_rng(seed)
    histories = {
        f"u{user}": [f"i{item}" for item in random.permutation(np.arange(user % 2, n_items, 2))[:length]]
        for user in range(n_users)
    }
    titles = {f"i{item}": " ".join(random.choice(WORDS[item % 2], 3, replace=False)) for item in range(n_items)}
    return histories, titles


def taste_auc(model: Any, dataset: Any, items: Sequence[int] | np.ndarray) -> float:
    """How often a user's score is higher for an item of the own taste than for one of the other; ties count half.

    Args:
        model: A trained general recommender; it is put into evaluation mode.
        dataset: A data set of :func:`two_tastes`, for its tokens.
        items: Internal ids of the items to compare.

    Returns:
        1 for who knows the tastes, .5 for who does not.
    """
    model.eval()
    users = torch.arange(1, dataset.user_num, device=model.device)
    with torch.no_grad():
        scores = model.full_sort_predict(Interaction({dataset.uid_field: users})).view(len(users), -1).cpu().double()
    tastes = [
        torch.tensor([int(str(token)[1:]) % 2 for token in dataset.field2id_token[field][1:]])
        for field in (dataset.uid_field, dataset.iid_field)
    ]
    among = torch.as_tensor(np.asarray(items))
    own = tastes[0][:, None] == tastes[1][among - 1]
    shares = []
    for row, mine in zip(scores[:, among], own, strict=True):
        gap = row[mine][:, None] - row[~mine]
        shares.append(float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean()))
    return float(np.mean(shares))
