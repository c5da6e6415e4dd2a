r"""How much the identifiers of users and items remember of interactions, and how different they are from each other.

META ID's memorisation and diversity scores (MS, DS), as its code computes them; the paper's own formulas are not known
here. What an identifier is to the model is the vector e_v, the mean of its tokens' input vectors.

The code's memorisation score compares cosines of e with a *ground truth* that it calls adjusted cosine but computes as
a product of sums, :math:`(\sum_u d_{ui}) (\sum_u d_{uj}) / (\sqrt{\sum_u d_{ui}^2} \sqrt{\sum_u d_{uj}^2})` with
:math:`d_{ui} = r_{ui} - \bar r_u`, in which no user needs to have rated both items; for users the sums are zero up to
rounding. :func:`adjusted_cosine` is the true one, :math:`\sum_u d_{ui} d_{uj}` over the same lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor

N_PAIRS = 10_000
"""Random pairs that a score is averaged over, as in the code."""

Similarity = Callable[[csr_matrix, np.ndarray], np.ndarray]
"""Centred ratings, one row an entity, and pairs of rows (N, 2) -> their similarities. (N,)"""


@dataclass(frozen=True)
class TokenScores:
    """The scores of one set of identifiers.

    Attributes:
        diversity: DS, of items.
        memorisation: MS as the code has it: the mean over items and users, with the product of sums. The user half is
            rounding noise.
        memorisation_items: 1 - mean squared error for items, with the true adjusted cosine.
        memorisation_users: The same for users.
    """

    diversity: float
    memorisation: float
    memorisation_items: float
    memorisation_users: float

    def as_dict(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


def token_scores(items: Tensor, users: Tensor, ratings: csr_matrix, *, seed: int = 0) -> TokenScores:
    """All scores at once.

    Args:
        items: e of all items that have an interaction. (I, d)
        users: e of all users that have one. (U, d)
        ratings: Training ratings of those; ones where there are none, and then co-occurrence takes the ratings'
            place. (U, I)
        seed: Of the random pairs.
    """
    centred = centred_ratings(ratings)
    by_item, by_user = csr_matrix(centred.T), centred
    halves = [
        [memorisation_score(e, table, similarity, seed=seed) for e, table in ((items, by_item), (users, by_user))]
        for similarity in (product_of_sums, adjusted_cosine)
    ]
    return TokenScores(diversity_score(items, seed=seed), float(np.mean(halves[0])), *halves[1])


def diversity_score(e: Tensor, *, n_pairs: int = N_PAIRS, seed: int = 0) -> float:
    """DS: mean symmetric Kullback-Leibler divergence of softmax(e) over random pairs; 0 where all are alike.

    ½ (KL(p_i‖p_j) + KL(p_j‖p_i)) = ½ Σ (p_i - p_j) (log p_i - log p_j), p = softmax(e), the code's form.

    Args:
        e: (N, d)
        n_pairs: How many pairs of different rows are drawn.
        seed: Of the draw.
    """
    log_p = e.detach().double().cpu().log_softmax(dim=1)
    i, j = torch.from_numpy(random_pairs(len(e), n_pairs, seed)).T
    divergence = (log_p[i].exp() - log_p[j].exp()) * (log_p[i] - log_p[j])
    return float(divergence.sum(dim=1).mean() / 2)


def memorisation_score(
    e: Tensor, centred: csr_matrix, similarity: Similarity, *, n_pairs: int = N_PAIRS, seed: int = 0
) -> float:
    """One half of MS: 1 - MSE between what interactions and what identifiers say of the likeness of pairs.

    Interactions: ``similarity``, scaled from its smallest value to its largest onto [0, 1]. Identifiers: the cosine of
    e after standardising each column and a PCA that keeps 95 % of the variance.

    Args:
        e: (N, d)
        centred: Centred ratings, one row an entity. (N, M)
        similarity: :func:`adjusted_cosine`, or the code's :func:`product_of_sums`.
        n_pairs: How many pairs of different rows are drawn.
        seed: Of the draw.
    """
    pairs = random_pairs(len(e), n_pairs, seed)
    truth = similarity(centred, pairs)
    truth = (truth - truth.min()) / max(float(np.ptp(truth)), 1e-12)
    reduced = StandardScaler().fit_transform(e.detach().double().cpu().numpy())
    if reduced.any():
        reduced = PCA(n_components=0.95, svd_solver="full").fit_transform(reduced)
    unit = reduced / np.maximum(np.linalg.norm(reduced, axis=1, keepdims=True), 1e-12)
    cosine = (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(axis=1)
    return float(1 - np.mean((truth - cosine) ** 2))


def training_ratings(train_dataset: Any) -> csr_matrix:
    """Training ratings, ones where there are none; of a repeated pair the last.

    Args:
        train_dataset: The training part; its rating field counts only where ``load_col`` has it.

    Returns:
        (n_users, n_items)
    """
    rows, field = train_dataset.inter_feat, train_dataset.config["RATING_FIELD"]
    shape = (train_dataset.user_num, train_dataset.item_num)
    users, items = rows[train_dataset.uid_field].numpy(), rows[train_dataset.iid_field].numpy()
    values = rows[field].double().numpy() if field in rows.columns else np.ones(len(users))
    if hasattr(train_dataset, "item_id_list_field"):
        # The oldest item of a history is nobody's target: it stands in the lists alone.
        first = rows[train_dataset.item_id_list_field].numpy()[:, 0]
        of_list = f"{field}{train_dataset.config['LIST_SUFFIX']}"
        oldest = rows[of_list].double().numpy()[:, 0] if of_list in rows.columns else np.ones(len(users))
        users, items, values = (np.concatenate(pair) for pair in ((users, users), (first, items), (oldest, values)))
    pairs = users * shape[1] + items
    distinct, last = np.unique(pairs[::-1], return_index=True)
    return csr_matrix((values[::-1][last], (distinct // shape[1], distinct % shape[1])), shape=shape)


def centred_ratings(ratings: csr_matrix) -> csr_matrix:
    """Ratings less their user's mean; left as they are where all are the same, as with implicit feedback. (U, I)"""
    ratings = csr_matrix(ratings, dtype=np.float64)
    if len(ratings.data) == 0 or np.ptp(ratings.data) == 0:
        return ratings
    counts = np.maximum(np.diff(ratings.indptr), 1)
    means = np.asarray(ratings.sum(axis=1)).ravel() / counts
    centred = ratings.copy()
    centred.data -= np.repeat(means, np.diff(ratings.indptr))
    return centred


def adjusted_cosine(centred: csr_matrix, pairs: np.ndarray) -> np.ndarray:
    """The true adjusted cosine, Σ_u d_ui d_uj / (‖d_i‖ ‖d_j‖); 0 where nobody has both. (N, M), (P, 2) -> (P,)"""
    rows = diags(_inverse_lengths(centred)) @ centred
    product = csr_matrix(rows[pairs[:, 0]].multiply(rows[pairs[:, 1]]))
    return np.asarray(product.sum(axis=1)).ravel()


def product_of_sums(centred: csr_matrix, pairs: np.ndarray) -> np.ndarray:
    """What META ID's code computes in its place, (Σ_u d_ui) (Σ_u d_uj) / (‖d_i‖ ‖d_j‖). (N, M), (P, 2) -> (P,)"""
    sums = np.asarray(centred.sum(axis=1)).ravel() * _inverse_lengths(centred)
    return np.asarray(sums[pairs[:, 0]] * sums[pairs[:, 1]])


def _inverse_lengths(rows: csr_matrix) -> np.ndarray:
    lengths = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
    inverse: np.ndarray = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return inverse


def random_pairs(n: int, n_pairs: int, seed: int) -> np.ndarray:
    """Pairs of different numbers below n, which is at least 2. (n_pairs, 2)"""
    random = np.random.default_rng(seed)
    first = random.integers(n, size=n_pairs)
    return np.stack([first, (first + random.integers(1, n, size=n_pairs)) % n], axis=1)
