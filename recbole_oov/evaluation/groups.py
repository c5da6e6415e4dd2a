"""Overall, IV and OOV metrics from one pass over one score matrix.

RecBole collects what its metrics need from each batch and computes them at the end; both steps are extended here from
one group of items to several. The metrics themselves stay RecBole's.
"""

from __future__ import annotations

import copy
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from recbole.evaluator import Evaluator
from recbole.evaluator.collector import Collector, DataStruct
from torch import Tensor

from recbole_oov.evaluation.metrics import without_loops
from recbole_oov.evaluation.ties import fair_topk

OVERALL, IV, OOV, ALL_USERS = "overall", "iv", "oov", "overall_all_users"
GROUPS = (OVERALL, IV, OOV, ALL_USERS)
"""``overall`` ranks all items for the users who have a positive in both groups, as the published protocol does;
``overall_all_users`` for everyone; ``iv`` and ``oov`` rank the group's items for those with a positive in it."""


def prefixed(group: str, metric: str) -> str:
    """How a result calls a metric of a group: RecBole's name overall, ``oov_recall@10`` and so on otherwise."""
    return metric if group == OVERALL else f"{group}_{metric}"


def group_of(name: str) -> str:
    """The group that a metric's name in a result belongs to."""
    return next((group for group in (ALL_USERS, IV, OOV) if name.startswith(f"{group}_")), OVERALL)


@dataclass
class GroupCases:
    """What one group was measured on: one entry a case, that is a user, or a target of a sequential model.

    Attributes:
        struct: What RecBole's metrics read.
        users: Internal user ids. (C,)
        n_items: Items that were ranked.
        n_targets: Held-out interactions that were to be found.
    """

    struct: DataStruct
    users: np.ndarray
    n_items: int
    n_targets: int

    @property
    def n_users(self) -> int:
        """Different users."""
        return len(np.unique(self.users))


@dataclass
class Evaluation:
    """One evaluation with all that it was computed from.

    Attributes:
        groups: The cases of each group.
        metrics: RecBole's metric objects by name.
        result: Metric values by their names in RecBole's result.
    """

    groups: dict[str, GroupCases]
    metrics: Mapping[str, Any]
    result: dict[str, float] = field(default_factory=dict)

    @property
    def users(self) -> dict[str, np.ndarray]:
        """Internal user ids of each group's cases."""
        return {name: group.users for name, group in self.groups.items()}

    @cached_property
    def per_user(self) -> dict[str, dict[str, np.ndarray]]:
        """Unrounded values ``[group]["recall@10"]`` for each case of the group, for metrics that have one a user."""
        return {name: dict(self._values(group)) for name, group in self.groups.items()}

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

    def _values(self, group: GroupCases) -> Iterator[tuple[str, np.ndarray]]:
        for name, metric in self.metrics.items():
            if getattr(metric, "metric_need", None) != ["rec.topk"]:
                continue  # a value of the whole recommendation, not of a user
            hits, n_positives = metric.used_info(group.struct)
            wants_length = len(inspect.signature(metric.metric_info).parameters) > 1
            values = metric.metric_info(hits, n_positives) if wants_length else metric.metric_info(hits)
            for k in metric.topk:
                yield f"{name}@{k}", values[:, k - 1]


class GroupedCollector(Collector):
    """RecBole's collector for all items, and for IV and OOV items where the run has OOV items.

    Args:
        config: The configuration.
        oov_mask: True for OOV items, (n_items,); None for one group of all items.

    Attributes:
        batch_users: User of each row of the next batch, where the batch itself has several rows a user.
        n_items: Items of the data set, [PAD] included.
    """

    def __init__(self, config: Any, oov_mask: np.ndarray | None = None) -> None:
        super().__init__(config)
        self._oov_mask = None if oov_mask is None else torch.from_numpy(oov_mask).to(self.device)
        self._seed = int(config["seed"])
        self.begin(np.zeros(0, dtype=np.int64), 1)

    def begin(self, cases: np.ndarray, n_items: int) -> None:
        """Start an evaluation; whatever one that was broken off has left is forgotten.

        Args:
            cases: Numbers of the cases that are going to be collected, in their order. (C,)
            n_items: Items of the data set, [PAD] included.
        """
        self.batch_users, self.n_items = None, n_items
        self._parts: dict[str, dict[str, list[Tensor]]] = {}
        self._users: list[Tensor] = []
        self._numbers: list[Tensor] = []
        self._order, self._n_cases = torch.from_numpy(cases), 0

    def eval_batch_collect(
        self, scores_tensor: Tensor, interaction: Any, positive_u: Tensor | None, positive_i: Tensor | None
    ) -> None:
        """Take from a batch what the metrics need.

        Args:
            scores_tensor: Masked scores of all items, (B, n_items); or one score a row, (R,), for labelled data.
            interaction: The batch.
            positive_u: Row of each positive. (P,)
            positive_i: Item of each positive. (P,)
        """
        if scores_tensor.dim() == 1 or positive_u is None:
            self._collect_values(scores_tensor, interaction)
            return
        assert positive_i is not None
        users = interaction[self.config["USER_ID_FIELD"]] if self.batch_users is None else self.batch_users
        self._users.append(users.cpu())
        cases = self._next_cases(len(scores_tensor)).to(scores_tensor.device)
        positives = _Positives(scores_tensor, positive_u, positive_i)

        k = max(self.topk)
        best: dict[str, tuple[Tensor, Tensor]] = {}
        for group, items in self._items_of_group(scores_tensor).items():
            part = scores_tensor if group == OVERALL else scores_tensor.index_select(1, items)
            if group != OVERALL or self._oov_mask is None:
                width = min(k, part.shape[1])
                best[group] = fair_topk(part, width, cases, items, self._seed)
            else:
                # The best of all items are among the best of either group.
                values, ids = (torch.cat([best[IV][n], best[OOV][n]], dim=1) for n in (0, 1))
                best[group] = fair_topk(values, min(k, ids.shape[1]), cases, ids, self._seed)
            own = positives if group == OVERALL else positives.among(items)
            self._collect_ranking(group, part, own, positives.hits(best[group][1]), best[group][1])

    def _next_cases(self, n: int) -> Tensor:
        """The numbers of the next ``n`` cases; where none were announced, they are counted."""
        start, self._n_cases = self._n_cases, self._n_cases + n
        cases = self._order[start : start + n]
        if len(cases) < n:
            cases = torch.arange(start, start + n)
        self._numbers.append(cases)
        return cases

    def _items_of_group(self, scores: Tensor) -> dict[str, Tensor]:
        """The item ids of each group, all items last."""
        everything = torch.arange(scores.shape[1], device=scores.device)
        if self._oov_mask is None:
            return {OVERALL: everything}
        is_oov = self._oov_mask.to(scores.device)
        return {IV: everything[~is_oov & (everything > 0)], OOV: everything[is_oov], OVERALL: everything}

    def _collect_ranking(self, group: str, scores: Tensor, own: _Positives, hits: Tensor, best: Tensor) -> None:
        self._keep(group, "targets", own.counts)
        if self.register.need("rec.items"):
            self._keep(group, "rec.items", _padded(best, max(self.topk)))
        if self.register.need("rec.topk"):
            self._keep(group, "rec.topk", torch.cat([_padded(hits.int(), max(self.topk)), own.counts.int()], dim=1))
        if self.register.need("rec.meanrank"):
            n_candidates = (scores > -torch.inf).sum(dim=1, keepdim=True)
            self._keep(group, "rec.meanrank", torch.cat([_mean_ranks(scores, own), n_candidates, own.counts], dim=1))

    def _collect_values(self, scores: Tensor, interaction: Any) -> None:
        """Labelled data: one score a row, grouped by the row's item."""
        items = interaction[self.config["ITEM_ID_FIELD"]].to(scores.device)
        label = interaction[self.config["LABEL_FIELD"]].to(scores.device)
        users = interaction[self.config["USER_ID_FIELD"]]
        self._users.append(users.cpu())
        is_oov = None if self._oov_mask is None else self._oov_mask.to(scores.device)[items]
        rows = {OVERALL: torch.ones_like(label, dtype=torch.bool)}
        if is_oov is not None:
            rows |= {IV: ~is_oov, OOV: is_oov}
        for group, belongs in rows.items():
            self._keep(group, "targets", belongs.long()[:, None])
            # As columns: RecBole squeezes the last axis, and one row alone would become no row.
            self._keep(group, "rec.score", scores.reshape(-1, 1))
            self._keep(group, "data.label", label.reshape(-1, 1))

    def _keep(self, group: str, name: str, values: Tensor) -> None:
        self._parts.setdefault(group, {}).setdefault(name, []).append(values.detach().cpu())

    def get_data_struct(self) -> Any:
        """All groups of the evaluation that has ended, for :class:`GroupedEvaluator`; the next one starts empty."""
        static = super().get_data_struct()
        if not self._parts and self.config["single_spec"]:
            return static  # a trainer that collects in its own way, as those of decision trees
        parts = {group: {name: torch.cat(own) for name, own in kept.items()} for group, kept in self._parts.items()}
        users = torch.cat(self._users).numpy() if self._users else np.zeros(0, dtype=np.int64)
        if not self.config["single_spec"]:
            users, parts = _from_all_processes(users, torch.cat(self._numbers) if self._numbers else None, parts)
        self.begin(np.zeros(0, dtype=np.int64), self.n_items)
        n_targets = {group: part["targets"][:, 0].numpy() for group, part in parts.items()}
        chosen = {group: count > 0 for group, count in n_targets.items()}
        groups = {}
        if OOV in parts:
            in_both = np.isin(users, users[chosen[IV]]) & np.isin(users, users[chosen[OOV]])
            if "rec.score" in parts[OVERALL]:
                in_both = chosen[OVERALL]  # labelled rows are compared, not ranked: there is no group to be present in
            order = {OVERALL: in_both & chosen[OVERALL], IV: chosen[IV], OOV: chosen[OOV], ALL_USERS: chosen[OVERALL]}
        else:
            order = {OVERALL: np.ones(len(users), dtype=bool)}
        for group, rows in order.items():
            source = OVERALL if group == ALL_USERS else group
            groups[group] = self._cases(source, parts[source], rows, users, static, n_targets[source])
        return groups

    def _cases(
        self,
        group: str,
        part: dict[str, Tensor],
        rows: np.ndarray,
        users: np.ndarray,
        static: DataStruct,
        n_targets: np.ndarray,
    ) -> GroupCases:
        struct = DataStruct()
        for name, value in static._data_dict.items():
            struct.set(name, value)
        index = torch.from_numpy(rows)
        for name, values in part.items():
            struct.set(name, values[index])
        n_items = self._n_items(group)
        if group != OVERALL and "data.num_items" in struct:
            struct.set("data.num_items", n_items + 1)  # RecBole counts [PAD] as an item
        return GroupCases(struct, users[rows], n_items, int(n_targets[rows].sum()))

    def _n_items(self, group: str) -> int:
        if self._oov_mask is None:
            return self.n_items - 1
        n_oov = int(self._oov_mask.sum())
        return {IV: len(self._oov_mask) - 1 - n_oov, OOV: n_oov}.get(group, len(self._oov_mask) - 1)


def _from_all_processes(
    users: np.ndarray, cases: Tensor | None, parts: dict[str, dict[str, Tensor]]
) -> tuple[np.ndarray, dict[str, dict[str, Tensor]]]:
    """What all processes of a run collected, each case once, in the cases' order."""
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, (users, cases, parts))
    gathered = [own for own in gathered if own[2]]  # with few cases, some process may have none
    users = np.concatenate([own for own, _, _ in gathered])
    merged = {
        group: {name: torch.cat([own[group][name] for _, _, own in gathered]) for name in kept}
        for group, kept in gathered[0][2].items()
    }
    if any(own is None for _, own, _ in gathered):
        return users, merged  # labelled rows have no numbers
    order = np.unique(torch.cat([own for _, own, _ in gathered]).numpy(), return_index=True)[1]
    return users[order], {group: {name: v[order] for name, v in kept.items()} for group, kept in merged.items()}


def _padded(values: Tensor, width: int) -> Tensor:
    """``values`` (B, M) with columns of zeros up to ``width``: places that no item is left for."""
    return torch.nn.functional.pad(values, (0, width - values.shape[1]))


class _Positives:
    """The positives of a batch of scores, as places: a table of all (row, item) would cost more than the ranking.

    Args:
        scores: (B, M)
        rows: Row of each positive; a pair that comes twice counts once. (P,)
        columns: Its column. (P,)
    """

    def __init__(self, scores: Tensor, rows: Tensor, columns: Tensor) -> None:
        self.shape = scores.shape
        self.keys = torch.unique(rows.to(scores.device) * scores.shape[1] + columns.to(scores.device))  # sorted
        self.rows, self.columns = self.keys // self.shape[1], self.keys % self.shape[1]

    @property
    def counts(self) -> Tensor:
        """Positives of each row. (B, 1)"""
        return torch.bincount(self.rows, minlength=self.shape[0])[:, None]

    def hits(self, columns: Tensor) -> Tensor:
        """Whether some columns of each row are positives. (B, k) -> (B, k) bool"""
        wanted = torch.arange(self.shape[0], device=columns.device)[:, None] * self.shape[1] + columns
        if not len(self.keys):
            return torch.zeros_like(wanted, dtype=torch.bool)
        found: Tensor = self.keys[torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)]
        return found == wanted

    def among(self, items: Tensor) -> _Positives:
        """Those in some columns, ascending, which are counted anew. (M',)"""
        place = torch.full((self.shape[1],), -1, device=items.device)
        place[items] = torch.arange(len(items), device=items.device)
        columns = place[self.columns]
        kept = columns >= 0
        part = copy.copy(self)
        part.shape = torch.Size((self.shape[0], len(items)))
        part.rows, part.columns = self.rows[kept], columns[kept]
        part.keys = part.rows * len(items) + part.columns
        return part


def _mean_ranks(scores: Tensor, positives: _Positives) -> Tensor:
    """Sum of the positives' ranks, 1 for the best, ties at their mean. (B, 1) float64"""
    rows, columns = positives.rows, positives.columns  # row by row
    n_positives = positives.counts[:, 0]
    first = n_positives.cumsum(0) - n_positives
    place = torch.arange(len(rows), device=scores.device) - first[rows]
    own = scores.new_zeros(len(scores), max(1, int(n_positives.max())))
    own[rows, place] = scores[rows, columns]
    ascending = scores.sort(dim=1).values
    below, upto = (torch.searchsorted(ascending, own, right=right)[rows, place] for right in (False, True))
    ranks = scores.shape[1] - (below + upto - 1).double() / 2
    return torch.zeros(len(scores), dtype=torch.double, device=scores.device).index_add(0, rows, ranks)[:, None]


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
        one = super().evaluate
        values = {name: one(group.struct) for name, group in dataobject.items() if len(group.users)}
        names = list(next(iter(values.values()), {}))
        result: dict[str, float] = OrderedDict()
        for group in dataobject:
            own = values.get(group, dict.fromkeys(names, np.nan))
            result.update({prefixed(group, name): value for name, value in own.items()})
        self.last = Evaluation(dataobject, self.metric_class, result)
        return result
