"""ContentClusterPop: what is popular in the content clusters that a user reads; a control that learns no embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType
from sklearn.cluster import KMeans
from torch import Tensor, nn

from recbole_oov.data.content import item_content
from recbole_oov.data.histories import seen_matrix


class ContentClusterPop(GeneralRecommender):
    r"""Items of the clusters that the user's training items are in, by popularity.

    .. math:: \hat y_{ui} = \frac{|\{j \in H_u : k(j) = k(i)\}| + \epsilon}{|H_u| + \epsilon} \cdot p_i

    with :math:`k(i)` the content cluster of an item (k-means, fitted on IV items), :math:`H_u` the user's training
    items, and :math:`p_i` the training users of an IV item. An OOV item has the mean of the IV items of its cluster, so
    that all OOV items of a cluster are level, which the evaluation decides by lot. With :math:`\epsilon = 10^{-3}`
    users without history are given what is popular.
    """

    input_type = InputType.POINTWISE
    type = ModelType.TRADITIONAL
    recommends_for_oov_items = True
    needs_content = True
    needs_text = False
    needs_base_model = False
    learns_by_gradient = False
    paper = ""

    popularity: Tensor
    cluster: Tensor
    shares: Tensor

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        content = item_content(config, dataset).numpy()
        seen = seen_matrix(dataset).tocsr()
        counts = np.asarray(seen.sum(axis=0)).ravel().astype(np.float64)
        iv = np.flatnonzero(counts)
        n_clusters = min(config["n_content_clusters"], len(iv))
        clusters = KMeans(n_clusters, n_init=1, random_state=config["seed"]).fit(content[iv])
        cluster = clusters.predict(content)
        sums = np.bincount(cluster[iv], counts[iv], minlength=n_clusters)
        sizes = np.bincount(cluster[iv], minlength=n_clusters)
        mean = sums / np.maximum(sizes, 1)
        popularity = np.where(counts > 0, counts, mean[cluster])
        popularity[0] = 0.0
        member = np.eye(n_clusters)[cluster]
        member[0] = 0.0
        history = seen.astype(np.float64) @ member
        shares = (history + _EPSILON) / (history.sum(axis=1, keepdims=True) + _EPSILON)
        self.register_buffer("popularity", torch.from_numpy(popularity / popularity.max()).float().to(self.device))
        self.register_buffer("cluster", torch.from_numpy(cluster).long().to(self.device))
        self.register_buffer("shares", torch.from_numpy(shares).float().to(self.device))  # (n_users, n_clusters)
        self.no_parameter = nn.Parameter(torch.zeros(1))

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        if config["n_content_clusters"] < 1:
            return [f"n_content_clusters: {config['n_content_clusters']!r} is not allowed; give at least 1"]
        return []

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Nothing is learned: the loss is zero."""
        return self.no_parameter.sum() * 0.0

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, n_items)"""
        return F.embedding(interaction[self.USER_ID], self.shares)[:, self.cluster] * self.popularity

    def predict(self, interaction: Interaction) -> Tensor:
        """(B,)"""
        items = interaction[self.ITEM_ID]
        popularity = F.embedding(items, self.popularity[:, None]).squeeze(1)
        shares = F.embedding(interaction[self.USER_ID], self.shares)
        return shares.gather(1, self.cluster[items][:, None]).squeeze(1) * popularity


_EPSILON = 1e-3
