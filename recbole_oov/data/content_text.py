"""Words of items and vectors from them: TF-IDF with a truncated SVD. What is fitted sees IV items alone."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger
from typing import Any

import numpy as np
from recbole.utils import FeatureType
from scipy.sparse import csr_matrix

from recbole_oov.data.text import text_fields
from recbole_oov.errors import ConfigError, DataError

WRITTEN_BY_USERS = frozenset(["tag", "tags", "review", "reviews", "comment", "comments"])
"""Fields left out unless asked for: the users whose behaviour is predicted wrote them, with the item before them."""

_SEED = 0
"""Of the randomised SVD. Content is a fact about the items: it does not change with a run's seed."""


def default_fields(dataset: Any) -> list[str]:
    """The item fields that content is made of where none are named, in the file's order.

    All ``token_seq`` fields, and those ``token`` fields that read as words (such as a title or a brand) rather than
    as numbers or as ids of their own; never the item's id, nor what users wrote (:data:`WRITTEN_BY_USERS`).
    """
    words = text_fields(dataset)
    chosen = []
    for field in text_fields(dataset, single_tokens=True):
        if field.lower() in WRITTEN_BY_USERS:
            getLogger(__name__).info(
                "content: the field %s is left out, because users wrote it; name it in content fields to use it", field
            )
        elif field in words or _reads_as_words(dataset, field):
            chosen.append(field)
    return chosen


def _reads_as_words(dataset: Any, field: str) -> bool:
    assert dataset.field2type[field] == FeatureType.TOKEN
    values = [str(value) for value in dataset.field2id_token[field][1:]]
    with_letters = sum(any(map(str.isalpha, value)) for value in values)
    phrases = sum(len(value.split()) > 1 for value in values)
    shared = len(values) < dataset.item_num / 2
    return with_letters > len(values) / 2 and (phrases > len(values) / 2 or shared)


def tfidf_vectors(texts: Sequence[str], iv: np.ndarray, *, dim: int, min_df: int) -> np.ndarray:
    """Latent semantic indexing: TF-IDF weights, of which a truncated SVD keeps ``dim`` directions.

    ``(1 + ln tf) · idf`` per word, rows of length 1, then the projection on the first right singular vectors of the IV
    items' matrix (Deerwester et al. 1990, Indexing by Latent Semantic Analysis), again of length 1. Vocabulary,
    document frequencies and singular vectors come from IV items alone. The order of items does not matter.

    Args:
        texts: By internal item id. (n_items,)
        iv: Which items are in the vocabulary. (n_items,) bool
        dim: Width of the result; less where the IV items have fewer words or are fewer themselves.
        min_df: IV items that must have a word for it to count.

    Returns:
        (n_items, at most dim) float64; a row is zero where the text has no word of the vocabulary.

    Raises:
        ConfigError: No IV item has text, or no word is in ``min_df`` of them.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    # One-letter words count: they are titles (M, Z) and languages (C, R).
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=min_df, token_pattern=r"(?u)\b\w+\b")
    fitted_on = sorted(text for text, is_iv in zip(texts, iv, strict=True) if is_iv and text)
    if not fitted_on:
        raise ConfigError(
            "content fields: no item with training rows has any text, so that there is nothing to learn words from; "
            "choose other fields, or give vectors with content: {from: file, path: …}"
        )
    try:
        weights = vectorizer.fit_transform(fitted_on)
    except ValueError:
        raise ConfigError(
            f"content min_df: no word is in the text of {min_df} of the {len(fitted_on)} IV items with text; lower "
            f"min_df, or choose other fields"
        ) from None
    return normalised(_reduced(weights, vectorizer.transform(texts), dim))


def reduced(vectors: np.ndarray, iv: np.ndarray, names: Sequence[str], dim: int) -> np.ndarray:
    """Dense vectors projected on the ``dim`` first right singular vectors of the IV items' matrix.

    Args:
        vectors: (n_items, width)
        iv: Which items to fit on. (n_items,) bool
        names: Something to order the items by that does not depend on their ids. (n_items,)
        dim: Width of the result.
    """
    if dim >= vectors.shape[1]:
        return vectors
    order = sorted(np.flatnonzero(iv).tolist(), key=lambda item: names[item])
    return _reduced(vectors[order], vectors, dim)


def whitened(vectors: np.ndarray, iv: np.ndarray, names: Sequence[str], dim: int | None) -> np.ndarray:
    """Vectors in which no direction is larger than another among IV items, of length 1.

    Those of sentence encoders lie in a narrow cone, so that all items look alike; their principal components, each
    divided by its standard deviation, do not (Zhang et al., "Are ID Embeddings Necessary? Whitening Pre-trained Text
    Embeddings for Effective Sequential Recommendation", ICDE 2024).

    Args:
        vectors: (n_items, width)
        iv: Which items to fit on. (n_items,) bool
        names: Something to order the items by that does not depend on their ids. (n_items,)
        dim: How many components to keep; None for all.

    Raises:
        DataError: All IV items have the same vector, or there is but one.
    """
    from sklearn.decomposition import PCA

    order = sorted(np.flatnonzero(iv).tolist(), key=lambda item: names[item])
    fitted_on = vectors[order]
    if len(order) < 2 or not np.ptp(fitted_on, axis=0).any():
        raise DataError(
            f"content: whiten: True needs items that differ, and the {len(order)} IV items with content do not; give "
            f"whiten: False"
        )
    possible = min(len(order) - 1, vectors.shape[1])
    pca = PCA(min(dim or possible, possible), svd_solver="full").fit(fitted_on)
    # A direction in which no two items differ is none, and rounding must not be blown up to one.
    real = pca.explained_variance_ > 1e-9 * pca.explained_variance_[0]
    if dim is not None and real.sum() < dim:
        getLogger(__name__).warning(
            "content: %d dimensions instead of %d, in no more do the %d IV items differ", real.sum(), dim, len(order)
        )
    return normalised(pca.transform(vectors)[:, real] / np.sqrt(pca.explained_variance_[real]))


def _reduced(fitted_on: csr_matrix | np.ndarray, matrix: csr_matrix | np.ndarray, dim: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD

    possible = min(dim, *fitted_on.shape)
    if possible < dim:
        getLogger(__name__).warning(
            "content: %d dimensions instead of %d, as the IV items have %d texts and %d features",
            possible,
            dim,
            *fitted_on.shape,
        )
    svd = TruncatedSVD(possible, n_iter=7, random_state=_SEED).fit(fitted_on)
    projected: np.ndarray = svd.transform(matrix)
    return projected


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; rows that are zero but for rounding become zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norms > 1e-7, vectors / np.maximum(norms, 1e-7), 0.0)
