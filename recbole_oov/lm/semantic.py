"""Semantic identifiers: tokens made of what items are, not of what users did with them (TIGER, arXiv 2305.05065)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from recbole_oov.data.histories import Histories
from recbole_oov.lm.vocabulary import OOVVocabulary, check_size, named, nearest_centroids, unit


def semantic(histories: Histories, content: Tensor, *, n_clusters: int, seed: int) -> OOVVocabulary:
    """Cluster items by their content, and name users by the mean content of their training items.

    The clusters are fitted on items alone, those with training interactions; users go to the nearest one. Users and
    items without training interactions are in the reserved cluster, as with clusters of walks.

    Args:
        histories: Training histories.
        content: Of all items. (n_items, content_dim)
        n_clusters: K.
        seed: Of k-means.

    Returns:
        Its item vectors are unit content vectors.

    Raises:
        ConfigError: There are fewer items with training interactions than clusters.
    """
    users, items = histories.pairs()
    known = np.unique(items)
    check_size(n_clusters, len(known), "items")
    vectors = unit(content.double().numpy())
    sums = np.zeros((histories.n_users, vectors.shape[1]))
    np.add.at(sums, users, vectors[items])
    nodes = np.concatenate([histories.user_ids, known + histories.n_users])
    x = np.concatenate([unit(sums[histories.user_ids]), vectors[known]])
    return named(histories, nodes, x, nearest_centroids(x, n_clusters, seed, fit_on=vectors[known]))
