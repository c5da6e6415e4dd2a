"""RecBole's MRR, NDCG and MAP, all users at once: the same numbers bit for bit, without a loop over users."""

from __future__ import annotations

from typing import Any

import numpy as np
from recbole.evaluator.metrics import MAP, MRR, NDCG


class _MRR(MRR):
    def metric_info(self, pos_index: np.ndarray) -> np.ndarray:
        first = pos_index.argmax(axis=1)[:, None]
        found = np.take_along_axis(pos_index, first, axis=1) > 0
        return np.where(found & (np.arange(pos_index.shape[1]) >= first), 1 / (first + 1), 0.0)


class _NDCG(NDCG):
    def metric_info(self, pos_index: np.ndarray, pos_len: np.ndarray) -> np.ndarray:
        n = pos_index.shape[1]
        gain = 1.0 / np.log2(np.arange(1, n + 1, dtype=np.float64) + 1)
        dcg = np.cumsum(np.where(pos_index, gain, 0), axis=1)
        return np.asarray(dcg / np.cumsum(gain)[_places(pos_len, n) - 1])


class _MAP(MAP):
    def metric_info(self, pos_index: np.ndarray, pos_len: np.ndarray) -> np.ndarray:
        n = pos_index.shape[1]
        precision = pos_index.cumsum(axis=1) / np.arange(1, n + 1)
        return np.asarray(np.cumsum(precision * pos_index.astype(np.float64), axis=1) / _places(pos_len, n))


def _places(n_positives: np.ndarray, n: int) -> np.ndarray:
    """How many of the first k places positives could take: min(k, number of positives), k for users without. (B, n)"""
    places = np.arange(1, n + 1)
    return np.where(n_positives[:, None] > 0, np.minimum(places, n_positives[:, None]), n)


_FAST: dict[type, type] = {MRR: _MRR, NDCG: _NDCG, MAP: _MAP}


def without_loops(metrics: dict[str, Any], config: Any) -> dict[str, Any]:
    """The metric objects by name, RecBole's three replaced; others, registered ones too, as they are."""
    return {name: _FAST[type(metric)](config) if type(metric) in _FAST else metric for name, metric in metrics.items()}
