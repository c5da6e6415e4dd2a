"""Overall, IV and OOV cases from one pass over one score matrix.

RecBole collects what its metrics need from each batch and computes them at the end; both steps are extended from one
group of items to several, the first here, the second in ``evaluator``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recbole.evaluator.collector import Collector, DataStruct
from torch import Tensor

from recbole_oov.evaluation.groups import ALL_USERS, IV, OOV, OVERALL, GroupCases
from recbole_oov.evaluation.item_blocks import ItemBlocks
from recbole_oov.evaluation.ties import best_values, fair_topk


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
        self, scores_tensor: Tensor | ItemBlocks, interaction: Any, positive_u: Tensor | None, positive_i: Tensor | None
    ) -> None:
        """Take from a batch what the metrics need.

        Args:
            scores_tensor: Masked scores of all items, (B, n_items) or in blocks of items; or one score a row, (R,), for
                labelled data.
            interaction: The batch.
            positive_u: Row of each positive. (P,)
            positive_i: Item of each positive. (P,)
        """
        if isinstance(scores_tensor, Tensor) and (scores_tensor.dim() == 1 or positive_u is None):
            self._collect_values(scores_tensor, interaction)
            return
        assert positive_u is not None and positive_i is not None
        users = interaction[self.config["USER_ID_FIELD"]] if self.batch_users is None else self.batch_users
        self._users.append(users.cpu())
        collect: Any = self._collect_matrix if isinstance(scores_tensor, Tensor) else self._collect_blocks
        collect(scores_tensor, positive_u, positive_i)

    def _collect_matrix(self, scores: Tensor, rows: Tensor, columns: Tensor) -> None:
        cases = self._next_cases(len(scores)).to(scores.device)
        positives = _Positives(scores.shape, rows.to(cases.device), columns.to(cases.device))
        items = self._items_of_group(scores)
        best, by_item = self._best_values(scores, items)
        is_oov = None if self._oov_mask is None else self._oov_mask.to(positives.columns.device)[positives.columns]
        counts = positives.counts(is_oov)
        hits = positives.hits_by_value(
            scores, {group: best[group][:, : self._places(own)] for group, own in items.items()}, is_oov
        )
        if self.register.need("rec.items"):
            by_item = torch.ones_like(by_item)
        chosen: dict[str, tuple[Tensor, Tensor]] = {}
        if by_item.any():
            tied = by_item.nonzero()[:, 0]
            chosen = self._best_items(scores[tied], cases[tied], items)
            for group, (values, ids) in chosen.items():
                hits[group][tied] = positives.hits(tied, ids) & values.isfinite()
        for group, own in items.items():
            self._collect_ranking(group, counts[group], hits[group], chosen[group][1] if group in chosen else None)
            if self.register.need("rec.meanrank"):
                self._collect_mean_ranks(group, scores, positives, own)

    def _collect_blocks(self, blocks: ItemBlocks, rows: Tensor, columns: Tensor) -> None:
        """The best items of each group among the blocks so far, and a block more, until there is none left."""
        best: dict[str, tuple[Tensor, Tensor]] = {}
        cases = self._next_cases(blocks.n_rows).to(rows.device)
        is_oov = None if self._oov_mask is None else self._oov_mask.to(rows.device)
        for ids, scores in blocks:
            cases = cases.to(scores.device)
            columns_of = {} if is_oov is None else {IV: ~is_oov[ids] & (ids > 0), OOV: is_oov[ids]}
            for group in columns_of or [OVERALL]:
                part, items = (scores[:, columns_of[group]], ids[columns_of[group]]) if columns_of else (scores, ids)
                found = fair_topk(part, min(max(self.topk), len(items)), cases, items, self._seed)
                best[group] = self._best_of(best[group], found, cases) if group in best else found
        if is_oov is not None:
            best[OVERALL] = self._best_of(best[IV], best[OOV], cases)
        positives = _Positives((blocks.n_rows, blocks.n_items), rows.to(cases.device), columns.to(cases.device))
        counts = positives.counts(None if is_oov is None else is_oov[positives.columns])
        every = torch.arange(blocks.n_rows, device=cases.device)
        for group, (values, items) in best.items():
            self._collect_ranking(group, counts[group], positives.hits(every, items) & values.isfinite(), items)

    def _best_of(
        self, some: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], cases: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The best of two lists of scores and items. (B, .)"""
        values, items = (torch.cat(pair, dim=1) for pair in zip(some, others, strict=True))
        return fair_topk(values, min(max(self.topk), values.shape[1]), cases, items, self._seed)

    def _places(self, items: Tensor) -> int:
        return int(min(max(self.topk), len(items)))

    def _best_values(self, scores: Tensor, items: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The best scores of each group, best first, and in which rows two of them are equal.

        Values tell which places positives take as long as no two are equal. One more than a group has places shows
        whether the last is. IV items are told apart among the best of all items, twice as many, as those that are not
        among the best OOV items: a selection of their own would cost as much as that of all items.

        Returns:
            (B, k or more) for each group, and (B,) bool.
        """
        width = max(self.topk) + 1
        if self._oov_mask is None:
            (best,) = best_values(scores, (width, None))
            return {OVERALL: best}, _tied(best)
        best, oov = best_values(scores, (2 * width + 1, None), (width + 1, items[OOV]))
        place = torch.searchsorted(-best, -oov)
        iv = best.scatter(1, place.clamp(max=best.shape[1] - 1), -torch.inf)[:, :-1]  # the last column is for the rest
        best = best[:, :-1]
        (iv,) = best_values(iv, (min(width, len(items[IV])), None))
        # More OOV items there than places, and some may not have been known as such; or too few are left that are IV.
        n_oov = (place < best.shape[1]).sum(dim=1)
        short = (n_oov > min(width, best.shape[1] - iv.shape[1])).nonzero()[:, 0]
        if len(short):
            (iv[short],) = best_values(scores[short], (iv.shape[1], items[IV]))
        tied = _tied(best) | _tied(oov)
        tied[short] |= _tied(iv[short])
        return {IV: iv, OOV: oov, OVERALL: best}, tied

    def _best_items(self, scores: Tensor, cases: Tensor, items: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """The best scores of each group and their items, best first, ties by lot. (B, k) each"""
        best: dict[str, tuple[Tensor, Tensor]] = {}
        for group, own in items.items():
            k = self._places(own)
            if group != OVERALL:
                best[group] = fair_topk(scores.index_select(1, own), k, cases, own, self._seed)
            elif self._oov_mask is None:
                best[group] = fair_topk(scores, k, cases, own, self._seed)
            else:  # the best of all items are among the best of either group
                best[group] = self._best_of(best[IV], best[OOV], cases)
        return best

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

    def _collect_ranking(self, group: str, counts: Tensor, hits: Tensor, best: Tensor | None) -> None:
        self._keep(group, "targets", counts)
        if self.register.need("rec.items"):
            assert best is not None
            self._keep(group, "rec.items", _padded(best, max(self.topk)))
        if self.register.need("rec.topk"):
            self._keep(group, "rec.topk", torch.cat([_padded(hits.int(), max(self.topk)), counts.int()], dim=1))

    def _collect_mean_ranks(self, group: str, scores: Tensor, positives: _Positives, items: Tensor) -> None:
        if group != OVERALL:
            scores, positives = scores.index_select(1, items), positives.among(items)
        n_candidates = (scores > -torch.inf).sum(dim=1, keepdim=True)
        self._keep(
            group,
            "rec.meanrank",
            torch.cat([_mean_ranks(scores, positives), n_candidates, positives.counts()[OVERALL]], dim=1),
        )

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
        """All groups of the evaluation that has ended, for the evaluator; the next one starts empty."""
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
        if ALL_USERS in groups:
            groups[OVERALL].among = order[OVERALL][order[ALL_USERS]]
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


def _tied(values: Tensor) -> Tensor:
    """Which rows of descending values have two equal ones, unless they mark what is not to be ranked. (B,) bool"""
    return ((values[:, 1:] == values[:, :-1]) & values[:, 1:].isfinite()).any(dim=1)


def _last(values: Tensor) -> Tensor:
    """The last column; infinity where there is none. (B,)"""
    return values[:, -1] if values.shape[1] else values.new_full((len(values),), torch.inf)


class _Positives:
    """The positives of a batch of scores, as places: a table of all (row, item) would cost more than the ranking.

    Args:
        shape: B and M.
        rows: Row of each positive; a pair that comes twice counts once. (P,)
        columns: Its column. (P,)
    """

    def __init__(self, shape: Sequence[int], rows: Tensor, columns: Tensor) -> None:
        self.shape = shape
        self.keys = torch.unique(rows * shape[1] + columns)  # sorted
        self.rows, self.columns = self.keys // shape[1], self.keys % shape[1]

    def counts(self, is_oov: Tensor | None = None) -> dict[str, Tensor]:
        """How many positives of each group each row has; ``is_oov`` says which are OOV items, (P,). (B, 1) each"""
        if is_oov is None:
            return {OVERALL: torch.bincount(self.rows, minlength=self.shape[0])[:, None]}
        of_both = torch.bincount(2 * self.rows + is_oov, minlength=2 * self.shape[0]).view(-1, 2)
        return {IV: of_both[:, :1], OOV: of_both[:, 1:], OVERALL: of_both.sum(dim=1, keepdim=True)}

    def hits(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Whether some columns of some rows are positives. (R,), (R, k) -> (R, k) bool"""
        wanted = rows[:, None] * self.shape[1] + columns
        if not len(self.keys):
            return torch.zeros_like(wanted, dtype=torch.bool)
        found: Tensor = self.keys[torch.searchsorted(self.keys, wanted).clamp(max=len(self.keys) - 1)]
        return found == wanted

    def hits_by_value(self, scores: Tensor, best: dict[str, Tensor], is_oov: Tensor | None) -> dict[str, Tensor]:
        """Which of each group's best places positives take, as long as no two scores there are equal. (B, k) bool each

        Args:
            scores: (B, M)
            best: The best of each group in each row, descending. (B, k) each
            is_oov: Which positives are OOV items; None for one group of all items. (P,)
        """
        if is_oov is None:
            least = _last(best[OVERALL])[self.rows]
        else:  # who is among the best of all items is among the best of a group
            least = torch.stack([_last(best[IV]), _last(best[OOV])], dim=1).view(-1)[2 * self.rows + is_oov]
        values = scores.reshape(-1)[self.keys]
        near = ((values >= least) & values.isfinite()).nonzero()[:, 0]
        rows, values = self.rows[near], values[near][:, None]
        hits = {}
        for group, own in best.items():
            place = (own[rows] > values).sum(dim=1)
            takes = place < own.shape[1]
            if group != OVERALL and is_oov is not None:
                takes &= is_oov[near] == (group == OOV)
            hits[group] = torch.zeros(own.shape, dtype=torch.bool, device=own.device)
            hits[group][rows[takes], place[takes]] = True
        return hits

    def among(self, items: Tensor) -> _Positives:
        """Those in some columns, ascending, which are counted anew. (M',)"""
        place = torch.full((self.shape[1],), -1, device=items.device)
        place[items] = torch.arange(len(items), device=items.device)
        columns = place[self.columns]
        kept = columns >= 0
        part = copy.copy(self)
        part.shape = (self.shape[0], len(items))
        part.rows, part.columns = self.rows[kept], columns[kept]
        part.keys = part.rows * len(items) + part.columns
        return part


def _mean_ranks(scores: Tensor, positives: _Positives) -> Tensor:
    """Sum of the positives' ranks, 1 for the best, ties at their mean. (B, 1) float64"""
    rows, columns = positives.rows, positives.columns  # row by row
    n_positives = positives.counts()[OVERALL][:, 0]
    first = n_positives.cumsum(0) - n_positives
    place = torch.arange(len(rows), device=scores.device) - first[rows]
    own = scores.new_zeros(len(scores), max(1, int(n_positives.max())))
    own[rows, place] = scores[rows, columns]
    ascending = scores.sort(dim=1).values
    below, upto = (torch.searchsorted(ascending, own, right=right)[rows, place] for right in (False, True))
    ranks = scores.shape[1] - (below + upto - 1).double() / 2
    return torch.zeros(len(scores), dtype=torch.double, device=scores.device).index_add(0, rows, ranks)[:, None]
