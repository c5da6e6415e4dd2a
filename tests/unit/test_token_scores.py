"""Memorisation and diversity scores against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from recbole_oov.lm.token_scores import (
    adjusted_cosine,
    centred_ratings,
    diversity_score,
    memorisation_score,
    product_of_sums,
    random_pairs,
    token_scores,
)

RATINGS = csr_matrix(np.array([[5, 1, 0, 3], [4, 2, 0, 0], [0, 0, 2, 4]], dtype=float))
"""Three users, four items, 0 is no rating. User means: 3, 3, 3."""


def test_ratings_are_centred_by_their_users_mean_and_missing_ones_stay_missing() -> None:
    assert centred_ratings(RATINGS).toarray().tolist() == [[2, -2, 0, 0], [1, -1, 0, 0], [0, 0, -1, 1]]


def test_implicit_feedback_is_left_as_it_is() -> None:
    ones = csr_matrix(np.array([[1.0, 1, 0], [0, 1, 1]]))
    assert (centred_ratings(ones) != ones).nnz == 0


def test_the_true_adjusted_cosine_needs_users_who_rated_both_and_the_codes_does_not() -> None:
    by_item = csr_matrix(centred_ratings(RATINGS).T)
    pairs = np.array([[0, 1], [0, 2], [2, 3]])
    # d_0 = (2, 1, 0), d_1 = -d_0, d_2 = (0, 0, -1); d_3 = (0, 0, 1): its other rating is the user's mean.
    np.testing.assert_allclose(adjusted_cosine(by_item, pairs), [-1, 0, -1])
    np.testing.assert_allclose(product_of_sums(by_item, pairs), [-9 / 5, -3 / 5**0.5, -1])


def test_the_user_half_of_the_codes_score_is_nothing_but_rounding() -> None:
    random = np.random.default_rng(0)
    ratings = csr_matrix(random.integers(1, 6, size=(30, 40)) * (random.random((30, 40)) < 0.3).astype(float))
    pairs = random_pairs(30, 500, 0)
    assert np.abs(product_of_sums(centred_ratings(ratings), pairs)).max() < 1e-12
    assert np.abs(adjusted_cosine(centred_ratings(ratings), pairs)).max() > 0.1


def test_diversity_is_the_symmetric_divergence_of_the_softmax() -> None:
    p, q = np.array([0.5, 0.5]), np.array([0.8, 0.2])
    by_hand = 0.5 * ((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum())
    assert diversity_score(torch.tensor(np.log([p, q]))) == pytest.approx(by_hand)
    assert diversity_score(torch.ones(5, 3)) == 0
    assert diversity_score(4 * torch.eye(6)) > diversity_score(torch.eye(6)) > 0


def test_memorisation_by_hand() -> None:
    """Two pairs of items, alike within, unlike across; e says so, the opposite, or nothing."""
    centred = csr_matrix(np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]]))
    agrees = torch.tensor([[1.0, 0], [1, 0], [-1, 0], [-1, 0]])
    # Standardised and projected e: cosine 1 within and -1 across, where the scaled similarity is 1 and 0.
    pairs = random_pairs(4, 10_000, 0)
    across = (pairs[:, 0] // 2 != pairs[:, 1] // 2).mean()
    assert memorisation_score(agrees, centred, adjusted_cosine) == pytest.approx(1 - across)
    crossed = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]])
    assert memorisation_score(crossed, centred, adjusted_cosine) < memorisation_score(agrees, centred, adjusted_cosine)
    assert np.isfinite(memorisation_score(torch.ones(4, 2), centred, adjusted_cosine))


def test_pairs_are_of_different_rows_and_follow_the_seed() -> None:
    pairs = random_pairs(7, 2000, 3)
    assert (pairs[:, 0] != pairs[:, 1]).all() and set(pairs.ravel()) == set(range(7))
    assert (pairs == random_pairs(7, 2000, 3)).all() and (pairs != random_pairs(7, 2000, 4)).any()


def test_identifiers_that_copy_the_interactions_remember_more_than_random_ones() -> None:
    random = np.random.default_rng(1)
    taste = random.random((40, 1)) < 0.5
    kind = random.random((1, 30)) < 0.5
    ratings = csr_matrix(np.where(random.random((40, 30)) < 0.6, np.where(taste == kind, 5.0, 1.0), 0.0))
    table = centred_ratings(ratings)
    informed = token_scores(torch.from_numpy(table.T.toarray()), torch.from_numpy(table.toarray()), ratings)
    noise = torch.randn(70, 30, generator=torch.Generator().manual_seed(0))
    blind = token_scores(noise[:30], noise[30:], ratings)
    assert informed.memorisation_items > blind.memorisation_items + 0.1
    assert informed.memorisation_users > blind.memorisation_users + 0.05
    assert set(informed.as_dict()) == {"diversity", "memorisation", "memorisation_items", "memorisation_users"}
