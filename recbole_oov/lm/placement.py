"""A place in the OOV vocabulary for items without training interactions, by their content.

META ID names an item by what users did with it, so that an item nobody has had yet cannot be named. Here a linear map
from content to walk vectors is fitted on training items; it takes any item with content to the vector that it would
have had, and the vector to a cluster. How sure content is of the cluster can be told as well, by logistic regression.
Nothing of such an item but its content is read, and nothing is learned for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from recbole_oov.lm.vocabulary import OOVVocabulary

_PENALTIES = np.logspace(-4, 3, 29)
"""Ridge penalties that are tried, in units of the content's mean squared singular value."""
_INVERSE_PENALTY = 0.3
_FOLDS = 5
_NEVER = 1e4
"""A logit below all others by this much has a probability of 0."""


@dataclass(frozen=True)
class ContentFit:
    """An affine map from item content to walk vectors, and what it says of items that it was not fitted on.

    Attributes:
        weight: (content_dim, dim)
        bias: (dim,)
        left_out: For each item that it was fitted on, what the map fitted on all others gives. (N, dim)
        penalty: The chosen ridge penalty, in units of the content's mean squared singular value.
        explained: Share of the vectors' variance that ``left_out`` explains; 0 is as good as the mean.
    """

    weight: Tensor
    bias: Tensor
    left_out: Tensor
    penalty: float
    explained: float


def fit_content_map(content: Tensor, vectors: Tensor) -> ContentFit:
    r"""Ridge regression, the penalty chosen by the exact leave-one-out error.

    With :math:`X = U S V^\top` (centred) and :math:`h_i = 1/N + \sum_j u_{ij}^2 s_j^2 / (s_j^2 + \lambda)`, leaving
    item i out makes its residual :math:`(y_i - \hat y_i) / (1 - h_i)`, without fitting again.

    Args:
        content: Of training items, at least 2. (N, content_dim)
        vectors: Their walk vectors. (N, dim)
    """
    x, y = content.double().cpu().numpy(), vectors.double().cpu().numpy()
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    u, s, vt = np.linalg.svd(x - x_mean, full_matrices=False)
    uy = u.T @ (y - y_mean)
    unit = max(float((s**2).mean()), 1e-12)
    residuals = [_left_out_residuals(u, s, uy, y - y_mean, unit * penalty) for penalty in _PENALTIES]
    errors = [float((residual**2).sum()) for residual in residuals]
    best = int(np.argmin(errors))
    weight = vt.T @ ((s / (s**2 + unit * _PENALTIES[best]))[:, None] * uy)
    return ContentFit(
        torch.from_numpy(weight).float(),
        torch.from_numpy(y_mean - x_mean @ weight).float(),
        torch.from_numpy(y - residuals[best]).float(),
        float(_PENALTIES[best]),
        1 - errors[best] / max(float(((y - y_mean) ** 2).sum()), 1e-12),
    )


def _left_out_residuals(u: np.ndarray, s: np.ndarray, uy: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    shrunk = s**2 / (s**2 + penalty)
    leverage = 1 / len(u) + (u**2) @ shrunk
    return np.asarray((y - u @ (shrunk[:, None] * uy)) / np.maximum(1 - leverage, 1e-9)[:, None])


def fit_shares(content: Tensor, clusters: Tensor, n_clusters: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression of an item's cluster on its content.

    Args:
        content: Of training items. (N, content_dim)
        clusters: Theirs. (N,)
        n_clusters: K.

    Returns:
        Weight (content_dim, K) and bias (K,) of the logits; clusters without items have a probability of 0.
    """
    weight = torch.zeros(content.shape[1], n_clusters)
    bias = torch.full((n_clusters,), -_NEVER)
    if bool((clusters == clusters[0]).all()):  # whatever the content
        bias[clusters[0]] = 0.0
        return weight, bias
    length = max(float(content.square().sum(dim=1).mean().sqrt()), 1e-12)
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=500)
    model.fit((content / length).double().numpy(), clusters.numpy())
    coefficients, constants = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row of logits stands for two
        coefficients, constants = np.vstack([0 * coefficients, coefficients]), np.array([0.0, *constants])
    weight[:, model.classes_] = torch.from_numpy(coefficients.T / length).float()
    bias[model.classes_] = torch.from_numpy(constants).float()
    return weight, bias


class Guess(NamedTuple):
    """What content says of N items.

    Attributes:
        vectors: Walk vectors. (N, dim)
        log_shares: Log-probabilities of clusters; None where each item is in one. (N, K)
    """

    vectors: Tensor
    log_shares: Tensor | None


class Placement(nn.Module):
    """Guesses of walk vectors and clusters by content, for all items of a data set and for new ones.

    Args:
        content: Of all items. (n_items, content_dim)
        vocabulary: Made from training interactions alone.
        oov: True for items without training interactions; [PAD] is False. (n_items,) bool
        spread: Whether an item is spread over clusters by the probability that it is in them.

    Attributes:
        guesses: Walk vectors by content, those of training items from the other training items alone. They are shorter
            the less the content says. (n_items, dim)
        log_shares: With ``spread`` log-probabilities of clusters by content, those of training items out of fold.
            (n_items, K)
        oov: As given. (n_items,) bool
        explained: As of :class:`ContentFit`.
    """

    weight: Tensor
    bias: Tensor
    guesses: Tensor
    oov: Tensor
    share_weight: Tensor
    share_bias: Tensor
    log_shares: Tensor

    def __init__(self, content: Tensor, vocabulary: OOVVocabulary, oov: Tensor, *, spread: bool = False) -> None:
        super().__init__()
        self.spread = spread
        learned = ~oov
        learned[0] = False
        fit = fit_content_map(content[learned], vocabulary.item_vectors[learned])
        guesses = content @ fit.weight + fit.bias
        guesses[learned] = fit.left_out
        guesses[0] = 0
        self.explained = fit.explained
        self.register_buffer("weight", fit.weight)
        self.register_buffer("bias", fit.bias)
        self.register_buffer("guesses", guesses)
        self.register_buffer("oov", oov)
        if spread:
            self._fit_shares(content, vocabulary)

    def _fit_shares(self, content: Tensor, vocabulary: OOVVocabulary) -> None:
        items, clusters, k = self.learned, vocabulary.item_cluster, vocabulary.n_clusters
        weight, bias = fit_shares(content[items], clusters[items], k)
        log_shares = (content @ weight + bias).log_softmax(dim=1)
        for fold in range(_FOLDS):
            left_out = torch.arange(len(items)) % _FOLDS == fold
            rest = items[~left_out]
            if left_out.any() and len(torch.unique(clusters[rest])) > 1:
                fitted, constant = fit_shares(content[rest], clusters[rest], k)
                log_shares[items[left_out]] = (content[items[left_out]] @ fitted + constant).log_softmax(dim=1)
        self.register_buffer("share_weight", weight)
        self.register_buffer("share_bias", bias)
        self.register_buffer("log_shares", log_shares)

    def of_items(self, items: Tensor) -> Guess:
        """What content says of items of the data set. (N,) ids"""
        return Guess(self.guesses[items], self.log_shares[items] if self.spread else None)

    @property
    def learned(self) -> Tensor:
        """Ids of the items with training interactions, ascending."""
        known = ~self.oov
        known[0] = False
        return known.nonzero().squeeze(1)

    def forward(self, content: Tensor) -> Guess:
        """What content says of any items. (N, content_dim)"""
        vectors = content @ self.weight + self.bias
        shares = (content @ self.share_weight + self.share_bias).log_softmax(dim=1) if self.spread else None
        return Guess(vectors, shares)

    def clusters(self, vectors: Tensor, centroids: Tensor, item_cluster: Tensor) -> Tensor:
        """The cluster whose centroid is nearest by cosine, among those that hold an item with training interactions.

        Args:
            vectors: (N, dim)
            centroids: Unit vectors. (K, dim)
            item_cluster: Of all items. (n_items,)

        Returns:
            (N,) long
        """
        holds_items = torch.zeros(len(centroids), dtype=torch.bool, device=vectors.device)
        holds_items[item_cluster[self.learned]] = True
        return (vectors @ centroids.T).masked_fill(~holds_items, -torch.inf).argmax(dim=1)


def placed(vocabulary: OOVVocabulary, placement: Placement) -> OOVVocabulary:
    """Move items out of the reserved cluster to where their content says they belong.

    Each takes a rank of its cluster that nobody has, behind all that are taken, nearest to the centroid first. Names
    of users and of all other items stay what they are.

    Args:
        vocabulary: Made from training interactions, on the CPU.
        placement: On the CPU; says which items, and where.
    """
    oov = placement.oov
    items = oov.nonzero().squeeze(1)
    vectors = placement.guesses[items]
    clusters = placement.clusters(vectors, vocabulary.centroids, vocabulary.item_cluster)
    similarity = (F.normalize(vectors, dim=1) * vocabulary.centroids[clusters]).sum(dim=1)
    order = np.lexsort((items.numpy(), -similarity.numpy(), clusters.numpy()))
    free = np.zeros(vocabulary.n_clusters, dtype=np.int64)
    others = torch.cat([vocabulary.item_cluster[~oov], vocabulary.user_cluster])
    taken = torch.cat([vocabulary.item_rank[~oov], vocabulary.user_rank])
    np.maximum.at(free, others.numpy(), taken.numpy() + 1)
    sizes = np.bincount(clusters.numpy(), minlength=vocabulary.n_clusters)
    ranks = np.arange(len(order)) + np.repeat(free - (np.cumsum(sizes) - sizes), sizes)
    item_cluster, item_rank = vocabulary.item_cluster.clone(), vocabulary.item_rank.clone()
    item_vectors = vocabulary.item_vectors.clone()
    item_cluster[items], item_vectors[items] = clusters, vectors
    item_rank[items[torch.from_numpy(order)]] = torch.from_numpy(ranks)
    return replace(vocabulary, item_cluster=item_cluster, item_rank=item_rank, item_vectors=item_vectors)
