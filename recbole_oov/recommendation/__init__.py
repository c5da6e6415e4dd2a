"""Recommendations out of a checkpoint: for users, for histories and for new items, in the data set's own ids."""

from __future__ import annotations

from recbole_oov.recommendation.api import Recommender, recommend
from recbole_oov.recommendation.explanation import Explanation, Influence
from recbole_oov.recommendation.result import ImaginedUser, Recommendations, RecommendedItem, RecommendedUser

__all__ = [
    "Explanation",
    "ImaginedUser",
    "Influence",
    "Recommendations",
    "RecommendedItem",
    "RecommendedUser",
    "Recommender",
    "recommend",
]
