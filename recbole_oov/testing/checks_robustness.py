"""Checks of what is unusual: ids that nobody knows, users and items about which little is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.testing.check import check, require
from recbole_oov.testing.checks_scoring import pairs_of
from recbole_oov.testing.subject import Subject, batch_columns
from recbole_oov.testing.tiny import MAX_LENGTH


@check("robustness", after=["scoring_repeats"])
def unknown_user_is_refused(subject: Subject) -> None:
    """A user id beyond the last one raises an error, instead of scores from somewhere else in memory.

    A model that never reads the user's id passes.
    """
    _refuse_user(subject, int(subject.train_set.user_num))


@check("robustness", after=["scoring_repeats"])
def negative_user_is_refused(subject: Subject) -> None:
    """The user id -1, which many tools give the unknown, raises an error, instead of the last user's scores."""
    _refuse_user(subject, -1)


@check("robustness", after=["scoring_repeats"])
def unknown_item_is_refused(subject: Subject) -> None:
    """An item id beyond the last one raises an error: as a candidate, and in a history."""
    _refuse_item(subject, subject.n_items)


@check("robustness", after=["scoring_repeats"])
def negative_item_is_refused(subject: Subject) -> None:
    """The item id -1 raises an error, instead of the last item's scores: as a candidate, and in a history."""
    _refuse_item(subject, -1)


@check("robustness", after=["history_of_one_item_scores_are_finite", "scores_are_finite"])
def new_user_scores_are_finite(subject: Subject) -> None:
    """A user without a training row has finite scores; a sequential model is given a history of one item."""
    scores = subject.score_all(subject.trained.model, subject.new_user())
    bad = int((~scores[:, 1:].isfinite()).sum())
    require(bad == 0, f"{bad} scores are not finite")


@check("robustness", after=["scores_are_finite"], families=["sequential"])
def history_of_one_item_scores_are_finite(subject: Subject) -> None:
    """A history of one item, the shortest that RecBole makes, has finite scores."""
    scores = subject.score_all(subject.trained.model, subject.cut(subject.rows, 1))
    require(bool(scores[:, 1:].isfinite().all()), "some are not finite")


@check("robustness", after=["scores_are_finite"], families=["sequential"])
def full_history_scores_are_finite(subject: Subject) -> None:
    """A history that fills ``MAX_ITEM_LIST_LENGTH``, with one item many times in it, has finite scores."""
    lists, lengths = subject.history_fields()
    columns = batch_columns(subject.rows)
    full = {lengths: torch.full_like(columns[lengths], MAX_LENGTH)}
    full |= {name: columns[name][:, :1].expand(-1, MAX_LENGTH).contiguous() for name in lists}
    scores = subject.score_all(subject.trained.model, Interaction({**columns, **full}))
    require(bool(scores[:, 1:].isfinite().all()), "some are not finite")


@check("robustness", after=["scores_are_finite"])
def new_item_scores_are_finite(subject: Subject) -> None:
    """An item without a training row, of which the title alone is known, has a finite ``predict`` for every user."""
    _finite_item(subject, "o0")


@check("robustness", after=["new_item_scores_are_finite"])
def item_without_text_scores_are_finite(subject: Subject) -> None:
    """An item without a training row and without a title has a finite ``predict`` for every user."""
    _finite_item(subject, "bare")


def _finite_item(subject: Subject, token: str) -> None:
    dataset = subject.train_set
    items = torch.full((len(subject.rows),), int(dataset.token2id(dataset.iid_field, token)))
    bad = int((~subject.score_pairs(subject.trained.model, subject.rows, items).isfinite()).sum())
    require(bad == 0, f"{bad} of {len(items)} are not")


def _refuse_user(subject: Subject, user: int) -> None:
    rows, items = pairs_of(subject, 2)
    field = subject.train_set.uid_field
    first, last = (int(subject.rows[field][at]) for at in (0, -1))
    wrong, other = ({field: torch.tensor([first, second])} for second in (user, last))
    _refuse(subject, rows, items, wrong, other, f"user id {user}; there are {subject.train_set.user_num} users")


def _refuse_item(subject: Subject, item: int) -> None:
    rows, items = pairs_of(subject, 2)
    pairs = batch_columns(subject.with_items(rows, items))
    wrong = Interaction({**pairs, subject.train_set.iid_field: torch.tensor([int(items[0]), item])})
    try:
        with torch.no_grad():
            scores = subject.trained.model.predict(wrong)
    except Exception:
        scores = None
    require(scores is None, f"predict gives scores for item id {item}; there are {subject.n_items} items")
    if subject.family == "sequential":
        lists, lengths = subject.history_fields()
        newest = int(rows[lengths][1]) - 1  # which every model reads that reads any
        histories = []
        for newest_item in (item, int(rows[lists[0]][1, newest]) % (subject.n_items - 1) + 1):
            history = rows[lists[0]].clone()
            history[1, newest] = newest_item
            histories.append({lists[0]: history})
        _refuse(subject, rows, items, histories[0], histories[1], f"item id {item} in a history")


def _refuse(
    subject: Subject, rows: Any, items: Tensor, wrong: dict[str, Tensor], other: dict[str, Tensor], what: str
) -> None:
    """Fail where a model scores rows with columns ``wrong``; it may if scores never depend on what is ``other``."""
    model = subject.trained.model
    calls: dict[str, Callable[[Any], Tensor]] = {"predict": lambda rows: subject.score_pairs(model, rows, items)}
    if subject.has_full_sort:
        calls["full_sort_predict"] = lambda rows: subject.full_sort(model, rows)
    for name, call in calls.items():
        try:
            scores = call(Interaction({**batch_columns(rows), **wrong}))
        except Exception:
            continue
        unread = all(torch.equal(scores, call(Interaction({**batch_columns(rows), **known}))) for known in ({}, other))
        require(unread, f"{name} gives scores for {what}")
