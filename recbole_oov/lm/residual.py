"""Residual codes: what an item's cluster leaves of its vector, clustered again, and again (TIGER, arXiv 2305.05065).

TIGER learns its codebooks with a residual-quantised autoencoder; residual k-means is the form without a network, which
its authors and others compare with.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from recbole_oov.lm.vocabulary import OOVVocabulary


def residual_codes(vocabulary: OOVVocabulary, *, n_codes: int, levels: int, seed: int) -> Tensor:
    """Codes of every item's vector, after what its cluster and the codes before have said of it.

    Level 0 is the mean of the cluster's items; each further level is fitted by k-means on what is left of all items
    together, so that a code means the same in every cluster.

    Args:
        vocabulary: Clusters and vectors of the items; those with a zero vector get the code 0.
        n_codes: Codes of a codebook; fewer where there are fewer different vectors.
        levels: Codebooks, at least 1.
        seed: Of k-means.

    Returns:
        (n_items, levels) long
    """
    known = vocabulary.item_vectors.any(dim=1).nonzero().squeeze(1)
    clusters = vocabulary.item_cluster[known]
    left = vocabulary.item_vectors[known].double()
    sums = torch.zeros(vocabulary.n_clusters, left.shape[1], dtype=left.dtype).index_add(0, clusters, left)
    left = left - (sums / torch.bincount(clusters, minlength=len(sums)).clamp_min(1)[:, None])[clusters]
    codes = torch.zeros(len(vocabulary.item_cluster), levels, dtype=torch.long)
    for level in range(levels):
        different = len(torch.unique(left, dim=0))
        kmeans = KMeans(n_clusters=min(n_codes, different), n_init=2, random_state=seed + level).fit(left.numpy())
        code = torch.from_numpy(kmeans.labels_.astype(np.int64))
        codes[known, level] = code
        left = left - torch.from_numpy(kmeans.cluster_centers_)[code]
    return codes


def places_among_equals(vocabulary: OOVVocabulary) -> Tensor:
    """Of items with the same cluster and codes which one each is, from 0, by rank: the token that tells them apart.

    Returns:
        (n_items,) long
    """
    assert vocabulary.item_codes is not None
    names = torch.cat([vocabulary.item_cluster[:, None], vocabulary.item_codes], dim=1)
    _, name = torch.unique(names, dim=0, return_inverse=True)
    order = torch.from_numpy(np.lexsort((vocabulary.item_rank.numpy(), name.numpy())))
    sizes = torch.bincount(name)
    first = sizes.cumsum(0) - sizes
    places = torch.empty_like(name)
    places[order] = torch.arange(len(name)) - first[name[order]]
    return places


def as_vectors(table: Tensor, codes: Tensor) -> Tensor:
    """The sum of the vectors of each row's tokens. (V, d), (..., L) -> (..., d)"""
    return F.embedding(codes, table).sum(dim=-2)
