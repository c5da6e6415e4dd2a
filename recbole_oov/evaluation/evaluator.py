"""Metrics of each group from what the collector kept. The metrics themselves stay RecBole's."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import DataStruct

from recbole_oov.evaluation.groups import ALL_USERS, GroupCases, prefixed
from recbole_oov.evaluation.metrics import METRICS_OF_HITS, without_loops


@dataclass
class Evaluation:
    """One evaluation with all that it was computed from.

    Attributes:
        groups: The cases of each group.
        metrics: RecBole's metric objects by name.
        patterns: What RecBole's metrics of hits say of the cases.
        result: Metric values by their names in RecBole's result.
    """

    groups: dict[str, GroupCases]
    metrics: Mapping[str, Any]
    patterns: HitPatterns | None = None
    result: dict[str, float] = field(default_factory=dict)

    @property
    def users(self) -> dict[str, np.ndarray]:
        """Internal user ids of each group's cases."""
        return {name: group.users for name, group in self.groups.items()}

    @cached_property
    def per_user(self) -> dict[str, dict[str, np.ndarray]]:
        """Unrounded values ``[group]["recall@10"]`` for each case of the group, for metrics that have one a user."""
        return {name: dict(self._values(name, group)) for name, group in self.groups.items()}

    def by_user(self) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
        """Each group's users, ascending, and their values; of a user with several cases the mean."""
        users, means = {}, {}
        for name, of_group in self.per_user.items():
            users[name], place, n = np.unique(self.users[name], return_inverse=True, return_counts=True)
            means[name] = {metric: np.bincount(place, weights=own) / n for metric, own in of_group.items()}
        return users, means

    def counts(self) -> dict[str, dict[str, int]]:
        """Users, items and targets behind each group."""
        return {
            name: {"users": group.n_users, "items": group.n_items, "targets": group.n_targets}
            for name, group in self.groups.items()
        }

    def _values(self, group: str, cases: GroupCases) -> Iterator[tuple[str, np.ndarray]]:
        for name, metric in self.metrics.items():
            if not _of_users(metric):
                continue
            if self.patterns is not None and name in self.patterns.values:
                values = self.patterns.of_cases(name, group)
            else:
                values = _values_of_cases(metric, cases.struct)
            for k in metric.topk:
                yield f"{name}@{k}", values[:, k - 1]


def _of_users(metric: Any) -> bool:
    return getattr(metric, "metric_need", None) == ["rec.topk"]


class HitPatterns:
    """Metrics of hits, computed once for all cases that have hits at the same places and as many positives.

    There are far fewer of these than cases, and most cases have no hit at all.

    Args:
        groups: The groups, at least one, each with ``rec.topk``.
        metrics: RecBole's metrics of hits by name.

    Attributes:
        values: By metric, its value for each pattern at 1 to K. (P, K)
    """

    def __init__(self, groups: Mapping[str, GroupCases], metrics: Mapping[str, Any]) -> None:
        apart = {name: group for name, group in groups.items() if group.among is None}
        cases = torch.cat([group.struct.get("rec.topk") for group in apart.values()])
        patterns, first = _distinct(cases.numpy())
        parts = np.split(patterns, np.cumsum([len(group.users) for group in apart.values()])[:-1])
        self._patterns = dict(zip(apart, parts, strict=True))
        for name, group in groups.items():
            if group.among is not None:
                self._patterns[name] = self._patterns[ALL_USERS][group.among]
        struct = DataStruct()
        struct.set("rec.topk", cases[torch.from_numpy(first)])
        self.values = {name: _values_of_cases(metric, struct) for name, metric in metrics.items()}

    def of_cases(self, metric: str, group: str) -> np.ndarray:
        """The metric of each case of a group. (C, K)"""
        values: np.ndarray = self.values[metric][self._patterns[group]]
        return values

    def means(self, group: str) -> dict[str, np.ndarray]:
        """Each metric's mean over a group's cases. (1, K)"""
        counts = np.bincount(self._patterns[group])
        there = counts.nonzero()[0]
        shares = counts[there] / counts.sum()
        return {name: (shares @ own[there])[None] for name, own in self.values.items()}


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the distinct rows each is, and where each of those comes first. Rows: K hits, a count. (C, K + 1)"""
    k, largest = rows.shape[1] - 1, int(rows[:, -1].max(initial=0))
    if k + largest.bit_length() > 53:  # a row is a number that float64 does not hold exactly
        return np.arange(len(rows)), np.arange(len(rows))
    numbers = rows.astype(np.float64) @ np.exp2([*range(k), k])
    distinct, _ = pd.factorize(numbers)
    first = np.empty(int(distinct.max(initial=-1)) + 1, dtype=np.int64)
    first[distinct[::-1]] = np.arange(len(rows))[::-1]
    return distinct, first


def _values_of_cases(metric: Any, struct: DataStruct) -> np.ndarray:
    """What a metric of hits says of each case, at 1 to K. (C, K)"""
    hits, n_positives = metric.used_info(struct)
    wants_length = len(inspect.signature(metric.metric_info).parameters) > 1
    values: np.ndarray = metric.metric_info(hits, n_positives) if wants_length else metric.metric_info(hits)
    return values


class GroupedEvaluator(Evaluator):
    """RecBole's evaluator, group by group.

    Attributes:
        last: The latest evaluation.
    """

    last: Evaluation | None = None

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.metric_class: dict[str, Any] = without_loops(vars(self)["metric_class"], config)

    def evaluate(self, dataobject: Any) -> dict[str, float]:
        """All metrics of all groups, under RecBole's names for ``overall`` and prefixed ones for other groups.

        Args:
            dataobject: What the collector returned.

        Returns:
            The values by name; NaN for a group without a case.
        """
        if not isinstance(dataobject, dict):
            return super().evaluate(dataobject)  # type: ignore[no-any-return]
        of_hits = {name: metric for name, metric in self.metric_class.items() if type(metric) in METRICS_OF_HITS}
        patterns = HitPatterns(dataobject, of_hits) if of_hits else None
        results = {
            name: self._result(group, {} if patterns is None else patterns.means(name))
            for name, group in dataobject.items()
            if len(group.users)
        }
        names = list(next(iter(results.values()), {}))
        result: dict[str, float] = OrderedDict()
        for group in dataobject:
            own = results.get(group, dict.fromkeys(names, np.nan))
            result.update({prefixed(group, name): float(value) for name, value in own.items()})
        self.last = Evaluation(dataobject, self.metric_class, patterns, result)
        return result

    def _result(self, group: GroupCases, means: dict[str, np.ndarray]) -> dict[str, float]:
        result: dict[str, float] = OrderedDict()
        for name, metric in self.metric_class.items():
            mean = means.get(name)
            result.update(metric.calculate_metric(group.struct) if mean is None else metric.topk_result(name, mean))
        return result
