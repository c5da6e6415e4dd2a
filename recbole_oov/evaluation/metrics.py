"""RecBole's metrics of hits, all users at once: the same numbers bit for bit, without a loop over users."""

from __future__ import annotations

from typing import Any

import numpy as np
from recbole.evaluator.metrics import MAP, MRR, NDCG, Hit, Precision, Recall


class _Hit(Hit):
    def metric_info(self, pos_index: np.ndarray) -> np.ndarray:
        return (_summed(pos_index, np.int64) > 0).astype(int)


class _Recall(Recall):
    def metric_info(self, pos_index: np.ndarray, pos_len: np.ndarray) -> np.ndarray:
        return np.asarray(_summed(pos_index, np.int64) / pos_len.reshape(-1, 1))


class _Precision(Precision):
    def metric_info(self, pos_index: np.ndarray) -> np.ndarray:
        return _summed(pos_index, np.int64) / np.arange(1, pos_index.shape[1] + 1)


class _MRR(MRR):
    def metric_info(self, pos_index: np.ndarray) -> np.ndarray:
        first = pos_index.argmax(axis=1)[:, None]
        found = np.take_along_axis(pos_index, first, axis=1) > 0
        return np.where(found & (np.arange(pos_index.shape[1]) >= first), 1 / (first + 1), 0.0)


class _NDCG(NDCG):
    def metric_info(self, pos_index: np.ndarray, pos_len: np.ndarray) -> np.ndarray:
        n = pos_index.shape[1]
        gain = 1.0 / np.log2(np.arange(1, n + 1, dtype=np.float64) + 1)
        dcg = _summed(np.where(pos_index, gain, 0), np.float64)
        return np.asarray(dcg / np.cumsum(gain)[_places(pos_len, n) - 1])


class _MAP(MAP):
    def metric_info(self, pos_index: np.ndarray, pos_len: np.ndarray) -> np.ndarray:
        n = pos_index.shape[1]
        precision = _summed(pos_index, np.int64) / np.arange(1, n + 1)
        return np.asarray(_summed(precision * pos_index.astype(np.float64), np.float64) / _places(pos_len, n))


def _summed(values: np.ndarray, dtype: Any) -> np.ndarray:
    """The cumulative sum over places, a place for all users at a time: ``cumsum`` goes user by user. (B, n)"""
    sums = np.empty(values.shape, dtype=dtype, order="F")
    sums[:, 0] = values[:, 0]
    for place in range(1, values.shape[1]):
        np.add(sums[:, place - 1], values[:, place], out=sums[:, place])
    return sums


def _places(n_positives: np.ndarray, n: int) -> np.ndarray:
    """How many of the first k places positives could take: min(k, number of positives), k for users without. (B, n)"""
    places = np.arange(1, n + 1)
    return np.where(n_positives[:, None] > 0, np.minimum(places, n_positives[:, None]), n)


_FAST: dict[type, type] = {Hit: _Hit, Recall: _Recall, Precision: _Precision, MRR: _MRR, NDCG: _NDCG, MAP: _MAP}
METRICS_OF_HITS = frozenset(_FAST.values())
"""Those whose value for a case depends on which of its places are hits, and on its number of positives."""


def values_of_hits(name: str, hits: np.ndarray, n_positives: np.ndarray) -> np.ndarray:
    """RecBole's metric of a name, in small letters, at 1 to K for each case; float64.

    Args:
        name: One of :data:`METRICS_OF_HITS` as RecBole calls it.
        hits: Which places are hits. (C, K)
        n_positives: How many items there were to be found. (C,)
    """
    stock = next(stock for stock in _FAST if stock.__name__.lower() == name)
    metric = _FAST[stock]({"metric_decimal_place": 4, "topk": [hits.shape[1]]})
    given = (hits,) if stock in (Hit, Precision, MRR) else (hits, n_positives)
    return np.asarray(metric.metric_info(*given), dtype=np.float64)


def without_loops(metrics: dict[str, Any], config: Any) -> dict[str, Any]:
    """The metric objects by name, RecBole's replaced; others, registered ones too, as they are."""
    return {name: _FAST[type(metric)](config) if type(metric) in _FAST else metric for name, metric in metrics.items()}
