"""``recbole_oov.recommend``: a checkpoint, and whom or what to recommend for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.data.histories import seen_matrix
from recbole_oov.data.oov_split import oov_mask
from recbole_oov.errors import ConfigError
from recbole_oov.evaluation.ties import fair_topk
from recbole_oov.recommendation.answers import answers as answers_to
from recbole_oov.recommendation.answers import check_can_answer
from recbole_oov.recommendation.explanation import Explanation, check_can_explain, explanations
from recbole_oov.recommendation.names import Names
from recbole_oov.recommendation.new_items import NewItems, check_can_score, read_new_items, score_new_items
from recbole_oov.recommendation.result import (
    GROUPS,
    Group,
    ImaginedUser,
    Recommendations,
    RecommendedItem,
    RecommendedUser,
)
from recbole_oov.recommendation.scoring import Scores

_SCORES_AT_ONCE = 1 << 24
"""Scores held at once, 64 MiB of them."""


class Recommender:
    """A trained model with its data, ready to recommend as often as it is asked.

    Args:
        config: The model's configuration.
        model: The trained model.
        train_dataset: The training part of its data set.
    """

    def __init__(self, config: Any, model: Any, train_dataset: Any) -> None:
        self.config, self.model, self.dataset = config, model, train_dataset
        self.names = Names(train_dataset)
        self._scores = Scores(model, train_dataset)
        self._oov = torch.from_numpy(oov_mask(train_dataset))
        self._seen = seen_matrix(train_dataset).tocsr()

    @classmethod
    def load(cls, checkpoint: str | Path, *, data_path: str | Path | None = None) -> Recommender:
        """Out of a checkpoint; arguments and errors as of :func:`recbole_oov.load`."""
        from recbole_oov.runner import load

        config, model, _, train_data, _, _ = load(checkpoint, data_path=data_path, log=False)
        return cls(config, model, train_data._dataset)

    def recommend(
        self,
        *,
        user: object | None = None,
        users: Sequence[object] | None = None,
        history: Sequence[object] | None = None,
        histories: Sequence[Sequence[object]] | None = None,
        new_items: Sequence[Mapping[str, Any]] | None = None,
        k: int = 10,
        groups: Group | None = None,
        scores: bool = False,
        keep_seen: bool = False,
        explain: bool = False,
        answers: Sequence[str] = (),
    ) -> Recommendations:
        """Arguments, result and errors as of :func:`recommend`."""
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ConfigError(f"k: {k!r} is not allowed; give a whole number of at least 1")
        users = _one_or_many("user", user, users)
        histories = _one_or_many("history", history, histories)
        _check_question(users, histories, new_items)
        if keep_seen and getattr(self.model, "excludes_history", False):
            raise ConfigError(
                "keep_seen: the model was trained with history_items: excluded and recommends no item of the history"
            )
        if explain:
            check_can_explain(self.model, new_items)
        if answers:
            check_can_answer(self.model, answers, users, new_items)
        group, notes = self._group(groups)
        # What a model makes of all items is made once, for all users and all that is explained.
        with getattr(self.model, "keeping_vectors", nullcontext)():
            if new_items is not None:
                check_can_score(self.model)
                new = read_new_items(self.config, self.dataset, self.names, new_items)
                imagined = self._imagined(new)
                if users is None:
                    return self._users_for(new, k, group, imagined, notes, scores=scores, keep_seen=keep_seen)
                return self._for_users(users, k, group, notes, new, imagined, scores=scores, keep_seen=keep_seen)
            if users is not None:
                found = self._for_users(users, k, group, notes, None, (), scores=scores, keep_seen=keep_seen)
            else:
                assert histories is not None
                found = self._for_histories(histories, k, group, notes, scores=scores, keep_seen=keep_seen)
            if explain:
                found = replace(found, explanations=self._why(found, users, histories))
            return replace(found, rows=self._with_answers(found, answers)) if answers else found

    # ---- lists of items ----

    def _for_users(
        self,
        users: Sequence[object],
        k: int,
        group: Group,
        notes: list[str],
        new: NewItems | None,
        imagined: tuple[ImaginedUser, ...],
        *,
        scores: bool,
        keep_seen: bool,
    ) -> Recommendations:
        ids = self.names.ids("user", users)
        for at in (self._seen[ids.numpy()].getnnz(axis=1) == 0).nonzero()[0]:
            notes.append(f"user {self.names.user(int(ids[at]))} has no training row, so that little is known of them")
        rows: list[RecommendedItem] = []
        for block in ids.split(max(1, _SCORES_AT_ONCE // self.dataset.item_num)):
            values = self._candidates(self._scores.of_users(block), self._seen_by(block, keep_seen), group)
            if new is not None:
                with_new = score_new_items(self.model, block, new.content)
                values = torch.cat(
                    [values, with_new if group != "iv" else torch.full_like(with_new, -torch.inf)], dim=1
                )
            cases = [self.names.user(int(user)) for user in block]
            rows += self._lists(values, cases, block, k, group, new, scores=scores)
        return self._result(rows, [*notes, *(new.notes if new else [])], imagined)

    def _for_histories(
        self,
        histories: Sequence[Sequence[object]],
        k: int,
        group: Group,
        notes: list[str],
        *,
        scores: bool,
        keep_seen: bool,
    ) -> Recommendations:
        for history in histories:
            if isinstance(history, str) or not hasattr(history, "__len__"):
                raise ConfigError(
                    f"histories: {history!r} is one item, not a history; give a list of item ids for each, as in "
                    f"[[{history!r}]]"
                )
        if any(len(history) == 0 for history in histories):
            raise ConfigError("history: a history is empty; give at least one item")
        ids = [self.names.ids("item", history) for history in histories]
        unknown = sorted({self.names.item(int(item)) for items in ids for item in items[self._oov[items]]})
        if unknown and not getattr(self.model, "needs_content", False):
            notes.append(f"no training row has {', '.join(unknown[:5])}, of which the model has learned nothing")
        longest = self._scores.longest_history
        for at, items in enumerate(ids, start=1):
            if longest is not None and len(items) > longest:
                notes.append(f"of history {at} the newest {longest} of {len(items)} items are read")
        values = self._scores.of_histories(ids)
        seen = [items if not keep_seen else items[:0] for items in ids]
        values = self._candidates(values, seen, group)
        cases = [f"history {at}" for at in range(1, len(ids) + 1)]
        numbers = self.dataset.user_num + torch.arange(len(ids))
        return self._result(self._lists(values, cases, numbers, k, group, None, scores=scores), notes, ())

    def _why(
        self, found: Recommendations, users: Sequence[object] | None, histories: Sequence[Sequence[object]] | None
    ) -> tuple[Explanation, ...]:
        if users is not None:
            ids = self.names.ids("user", users)
            of_users = Interaction({self.dataset.uid_field: ids})
            rows = self._scores.rows_after_users(ids) if self._scores.sequential else of_users
        else:
            assert histories is not None
            rows = self._scores.rows_after_histories([self.names.ids("item", history) for history in histories])
        lists: list[tuple[str, list[tuple[int, Tensor]]]] = []
        for row in found:
            assert isinstance(row, RecommendedItem)
            if row.rank == 1:
                lists.append((row.case, []))
            lists[-1][1].append((row.rank, self.names.ids("item", [row.item])[0]))
        return explanations(
            self.model, self.names, ((case, rows[at : at + 1], items) for at, (case, items) in enumerate(lists))
        )

    def _with_answers(self, found: Recommendations, tasks: Sequence[str]) -> tuple[RecommendedItem, ...]:
        rows = [row for row in found if isinstance(row, RecommendedItem)]
        users = self.names.ids("user", [row.case for row in rows]).numpy()
        items = self.names.ids("item", [row.item for row in rows]).numpy()
        self.model.eval()
        said = answers_to(self.model, tasks, users, items)
        return tuple(replace(row, answers=answer) for row, answer in zip(rows, said, strict=True))

    def _seen_by(self, users: Tensor, keep_seen: bool) -> list[Tensor]:
        rows = self._seen[users.numpy()]
        if keep_seen:
            return [torch.empty(0, dtype=torch.long)] * len(users)
        return [torch.from_numpy(rows[at].indices).long() for at in range(len(users))]

    def _candidates(self, scores: Tensor, seen: Sequence[Tensor], group: Group) -> Tensor:
        """Scores in which what is not to be recommended is -inf. (B, n_items)"""
        scores[scores <= torch.finfo(scores.dtype).min] = -torch.inf  # what beam search did not find
        scores[:, 0] = -torch.inf
        if group != "overall":
            scores[:, ~self._oov if group == "oov" else self._oov] = -torch.inf
        for row, items in enumerate(seen):
            scores[row, items] = -torch.inf
        return scores

    def _lists(
        self,
        values: Tensor,
        cases: Sequence[str],
        numbers: Tensor,
        k: int,
        group: Group,
        new: NewItems | None,
        *,
        scores: bool,
    ) -> list[RecommendedItem]:
        left = values.isfinite().sum(dim=1)
        if int(left.min()) < k:
            at = int(left.argmin())
            raise ConfigError(
                f"k: {k} is more than the {int(left[at])} items ({group}) that {cases[at]} can be recommended; give a "
                f"smaller k{_beams(self.model)}"
            )
        best, items = fair_topk(values, k, numbers, torch.arange(values.shape[1]))
        return [
            self._item_row(case, rank, int(item), float(score) if scores else None, new)
            for case, row, row_scores in zip(cases, items, best, strict=True)
            for rank, (item, score) in enumerate(zip(row, row_scores, strict=True), start=1)
        ]

    def _item_row(self, case: str, rank: int, item: int, score: float | None, new: NewItems | None) -> RecommendedItem:
        at = item - self.dataset.item_num
        if new is not None and at >= 0:
            return RecommendedItem(case, rank, new.names[at], new.titles[at], "new", score)
        group = "oov" if self._oov[item] else "iv"
        return RecommendedItem(case, rank, self.names.item(item), self.names.title(item), group, score)

    # ---- lists of users ----

    def _users_for(
        self,
        new: NewItems,
        k: int,
        group: Group,
        imagined: tuple[ImaginedUser, ...],
        notes: list[str],
        *,
        scores: bool,
        keep_seen: bool,
    ) -> Recommendations:
        known = torch.from_numpy(np.flatnonzero(self._seen.getnnz(axis=1))).long()
        if k > len(known):
            raise ConfigError(f"k: {k} is more than the {len(known)} users with a training row; give a smaller k")
        of_new = score_new_items(self.model, known, new.content)
        best, users = fair_topk(of_new.T.contiguous(), k, self.dataset.item_num + torch.arange(len(new.names)), known)
        ranks, of = self._ranks(users, best, group, keep_seen)
        rows = [
            RecommendedUser(
                name,
                at + 1,
                self.names.user(int(users[item, at])),
                int(ranks[item, at]),
                int(of[item, at]),
                float(best[item, at]) if scores else None,
            )
            for item, name in enumerate(new.names)
            for at in range(k)
        ]
        return self._result(rows, [*notes, *new.notes], imagined)

    def _ranks(self, users: Tensor, scores: Tensor, group: Group, keep_seen: bool) -> tuple[Tensor, Tensor]:
        """Where scores stand among those of each user's candidates, from 1, and among how many. (N, k) each"""
        ranks, of = torch.zeros_like(users), torch.zeros_like(users)
        for block in torch.unique(users).split(max(1, _SCORES_AT_ONCE // self.dataset.item_num)):
            values = self._candidates(self._scores.of_users(block), self._seen_by(block, keep_seen), group)
            for user, row in zip(block, values, strict=True):
                here = users == user
                mine = scores[here][:, None]
                ranks[here] = 1 + (row > mine).sum(dim=1) + (row == mine).sum(dim=1) // 2
                of[here] = 1 + int(row.isfinite().sum())
        return ranks, of

    def _imagined(self, new: NewItems) -> tuple[ImaginedUser, ...]:
        imagine = getattr(self.model, "imagine", None)
        if imagine is None:
            return ()
        found = imagine(new.content)
        return tuple(
            ImaginedUser(
                name,
                step + 1,
                self.names.user(int(found.users[at, step])),
                float(found.chosen[at, step]),
                float(found.stop[at, step]),
            )
            for at, name in enumerate(new.names)
            for step in range(int(found.lengths[at]))
        )

    # ---- both ----

    def _group(self, given: Group | None) -> tuple[Group, list[str]]:
        """The group to recommend from, and what to say about it."""
        name, n_oov = type(self.model).__name__, int(self._oov.sum())
        able = bool(getattr(self.model, "recommends_for_oov_items", False))
        if given is None:
            if able or not n_oov:
                return "overall", []
            return "iv", [f"{n_oov} items without a training row are left out: {name} has learned nothing about them"]
        if given not in GROUPS:
            raise ConfigError(f"groups: {given!r} is not known; give {', '.join(GROUPS)}")
        if given == "oov" and not able:
            raise ConfigError(f"groups: {name} has learned nothing about items without a training row; give iv")
        if given == "overall" and n_oov and not able:
            return given, [f"{name} has learned nothing about the {n_oov} items without a training row"]
        return given, []

    def _result(
        self, rows: Sequence[RecommendedItem | RecommendedUser], notes: list[str], imagined: tuple[ImaginedUser, ...]
    ) -> Recommendations:
        return Recommendations(type(self.model).__name__, tuple(rows), tuple(notes), imagined)


def recommend(
    checkpoint: str | Path,
    *,
    user: object | None = None,
    users: Sequence[object] | None = None,
    history: Sequence[object] | None = None,
    histories: Sequence[Sequence[object]] | None = None,
    new_items: Sequence[Mapping[str, Any]] | None = None,
    k: int = 10,
    groups: Group | None = None,
    scores: bool = False,
    keep_seen: bool = False,
    explain: bool = False,
    answers: Sequence[str] = (),
    data_path: str | Path | None = None,
) -> Recommendations:
    """Recommend items to users or histories, and new items to users. Ids are those of the data set's files.

    To ask one model more than once, keep ``Recommender.load(checkpoint)``.

    Args:
        checkpoint: What a run saved, ``saved/NAME.json``.
        user, users: Users of the data set: each gets a list of items.
        history, histories: Items that an unseen user has, oldest first: as many lists of items.
        new_items: Items that are not in the data set, by their content, as in ``[{"title": "Amber tide"}]``: each gets
            a list of users with training rows, by score. With ``user`` or ``users`` they stand among the other items in
            those users' lists.
        k: Length of each list.
        groups: Candidates: ``overall``, ``iv`` (items with a training row) or ``oov``. None for all that the model has
            learned something about.
        scores: Give the model's scores.
        keep_seen: Recommend also what the user has in training, or in the history.
        explain: Say what of the history moved the score of each item, and what its tokens' log-probabilities are; of
            OOVLLMRec.
        answers: Tasks that the model has learned (``tasks`` of OOVLLMRec), as in ``["rating", "explanation"]``: what it
            says of each item for the user.
        data_path: The folder of data sets, where it is not the one that the model was trained with.

    Returns:
        Rows that print as a table; see :class:`~recbole_oov.recommendation.Recommendations`.

    Raises:
        CheckpointError: The checkpoint cannot be read.
        ConfigError: The model cannot do what is asked, an id is not known, or k is too large.
        DataError: The data are not there, or a new item lacks the content that the model reads.
    """
    return Recommender.load(checkpoint, data_path=data_path).recommend(
        user=user,
        users=users,
        history=history,
        histories=histories,
        new_items=new_items,
        k=k,
        groups=groups,
        scores=scores,
        keep_seen=keep_seen,
        explain=explain,
        answers=answers,
    )


def _one_or_many(name: str, one: Any | None, many: Sequence[Any] | None) -> Sequence[Any] | None:
    if one is not None and many is not None:
        raise ConfigError(f"{name}: one and many are given; give all of them in one list")
    if one is not None:
        if name == "history" and isinstance(one, str):
            raise ConfigError(f"history: {one!r} is one text; give a list of item ids, as in [{one!r}]")
        return [one]
    if many is not None and (isinstance(many, str) or len(many) == 0):
        raise ConfigError(f"{name}: {many!r} is not allowed; give a list that is not empty")
    return many


def _beams(model: Any) -> str:
    """What else can be done about a short list, where beams make it."""
    if getattr(model, "decoding", None) != "beam":
        return ""
    return f", or train with decoding: exact or more than n_beams: {model.n_beams}"


def _check_question(users: object, histories: object, new_items: object) -> None:
    if users is None and histories is None and new_items is None:
        raise ConfigError("recommend: give a user, a history or new_items")
    if histories is not None and (users is not None or new_items is not None):
        raise ConfigError("recommend: a history stands alone; ask for users and for new_items without one")
