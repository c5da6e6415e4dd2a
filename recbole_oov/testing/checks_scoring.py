"""Checks of scores: their shape, that two ways to the same score agree, that scoring is pure."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_oov.testing.check import CheckFailed, NotApplicable, check, require
from recbole_oov.testing.subject import Subject, batch_columns, picked, repeated
from recbole_oov.testing.tensors import (
    batch_copy,
    centred,
    different,
    largest_difference,
    same_scores,
    state_of,
)


@check("scoring", after=["trains"])
def predict_gives_a_score_a_row(subject: Subject) -> None:
    """``predict`` gives one floating-point number for each row, also for a single row."""
    for n in (len(subject.rows), 1):
        rows, items = pairs_of(subject, n)
        scores = subject.score_pairs(subject.trained.model, rows, items)
        require(scores.shape == (n,), f"the shape is {tuple(scores.shape)} for {n} rows")
        require(scores.is_floating_point(), f"the numbers are {scores.dtype}")


@check("scoring", after=["trains"])
def full_sort_scores_every_item(subject: Subject) -> None:
    """``full_sort_predict`` gives a floating-point number for each row and item, the padding item among them."""
    for n in (len(subject.rows), 1):
        scores = subject.full_sort(subject.trained.model, subject.rows[:n])
        require(
            scores.numel() == n * subject.n_items, f"{scores.numel()} scores for {n} rows of {subject.n_items} items"
        )
        require(scores.is_floating_point(), f"the numbers are {scores.dtype}")


@check("scoring", after=["predict_gives_a_score_a_row", "full_sort_scores_every_item"])
def scores_are_finite(subject: Subject) -> None:
    """No score of a real item is NaN or infinite: NaN would be ranked first."""
    bad = int((~subject.scores[:, 1:].isfinite()).sum())
    require(bad == 0, f"{bad} of {subject.scores[:, 1:].numel()} are not")


@check("scoring", after=["scores_are_finite"])
def scoring_repeats(subject: Subject) -> None:
    """In evaluation mode nothing is random: scoring twice gives the same scores."""
    again = [subject.score_all(subject.trained.model, subject.rows) for _ in range(2)]
    require(torch.equal(*again), largest_difference(*again))


@check("scoring", after=["scores_are_finite"])
def scoring_draws_no_random_numbers(subject: Subject) -> None:
    """Scoring leaves the global random number generators alone, so that evaluating does not change the training."""
    torch.manual_seed(0)
    before = _generators()
    subject.score_all(subject.trained.model, subject.rows)
    subject.score_pairs(subject.trained.model, *pairs_of(subject))
    after = _generators()
    drawn = [n for n, a, b in zip(("torch", "numpy", "random"), before, after, strict=True) if not _equal(a, b)]
    require(not drawn, f"numbers were drawn from {', '.join(drawn)}")


@check(
    "scoring",
    after=[
        "predict_ignores_batch_size",
        "full_sort_ignores_batch_size",
        "scores_ignore_batch_order",
        "full_sort_ignores_the_target",
        "item_without_text_scores_are_finite",
    ],
)
def predict_agrees_with_full_sort(subject: Subject) -> None:
    """``predict`` of a user and an item is what ``full_sort_predict`` gives the item."""
    rows, items = pairs_of(subject)
    everything = subject.full_sort(subject.trained.model, rows).view(len(rows), -1)
    require_same(subject.score_pairs(subject.trained.model, rows, items), everything[torch.arange(len(rows)), items])


@check("scoring", after=["scores_are_finite"])
def items_are_told_apart(subject: Subject) -> None:
    """A user's scores are not all the same."""
    constant = int((subject.scores[:, 1:].std(dim=1) == 0).sum())
    require(constant == 0, f"{constant} of {len(subject.scores)} users have one score for all items")


@check("scoring", after=["items_are_told_apart"])
def users_are_told_apart(subject: Subject) -> None:
    """Users with different histories get their items in different orders; ``personalised = False`` says they do not."""
    if not subject.flag("personalised", True):
        raise NotApplicable("personalised = False on the class")
    scores = centred(subject.scores)
    require(not same_scores(scores, scores[:1].expand_as(scores)), "all users get the same order of items")


@check("scoring", after=["scoring_repeats"])
def predict_ignores_batch_size(subject: Subject) -> None:
    """A row has the same ``predict`` alone as among others."""
    rows, items = pairs_of(subject)
    together = subject.score_pairs(subject.trained.model, rows, items)
    some = range(0, len(rows), 8)
    alone = [subject.score_pairs(subject.trained.model, rows[i : i + 1], items[i : i + 1]) for i in some]
    require_same(torch.cat(alone), together[list(some)])


@check("scoring", after=["scoring_repeats"])
def full_sort_ignores_batch_size(subject: Subject) -> None:
    """A user has the same scores alone as among others."""
    together, some = subject.full_sort(subject.trained.model, subject.rows), range(0, len(subject.rows), 8)
    alone = [subject.full_sort(subject.trained.model, subject.rows[i : i + 1]).view(1, -1) for i in some]
    require_same(torch.cat(alone), together.view(len(subject.rows), -1)[list(some)])


@check("scoring", after=["scoring_repeats"])
def scores_ignore_batch_order(subject: Subject) -> None:
    """A user's scores do not depend on the place in the batch."""
    order = torch.arange(len(subject.rows)).flip(0)
    require_same(subject.score_all(subject.trained.model, picked(subject.rows, order)), subject.scores[order])


@check("scoring", after=["scoring_repeats"], families=["sequential"])
def full_sort_ignores_the_target(subject: Subject) -> None:
    """RecBole hands over the held-out item with the history; the scores must not depend on it."""
    rows, field = subject.rows, subject.train_set.iid_field
    other = Interaction({**batch_columns(rows), field: rows[field].flip(0) % (subject.n_items - 1) + 1})
    require_same(subject.score_all(subject.trained.model, other), subject.scores)


@check("scoring", after=["scoring_repeats"])
def padding_item_does_not_count(subject: Subject) -> None:
    """Changing the embedding of the padding item leaves the real items' order and distances as they are.

    A row that is frozen at zero (``padding_idx=0``) may count: it is a constant. One that is random or learned may not.
    """
    model = subject.copy()
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == subject.n_items]
    tables = [table for table in tables if table.padding_idx != 0 or bool(table.weight[0].any())]
    if not tables:
        raise NotApplicable("no embedding table has a row for the padding item that is not frozen at zero")
    with torch.no_grad():
        for table in tables:
            table.weight[0] = table.weight[1:].max() * 3 + 1
    before, after = centred(subject.scores), centred(subject.score_all(model, subject.rows))
    require(same_scores(before, after), f"the scores move: {largest_difference(before, after)}")


@check("scoring", after=["scores_are_finite"], families=["general", "sequential", "knowledge"])
def padding_item_is_never_recommended(subject: Subject) -> None:
    """In the scores that the trainer ranks, the padding item is the last of all."""
    trainer, loader = subject.trained.trainer, subject.experiment.test_data
    trainer.evaluate(loader, load_best_model=False)
    with torch.no_grad():
        _, scores, _, _ = trainer._full_sort_batch_eval(next(iter(loader)))
    require(bool((scores[:, 0] == -torch.inf).all()), f"its score is {float(scores[:, 0].max()):.3g}")


@check("scoring", after=["scoring_repeats"], families=["sequential"])
def padding_width_does_not_count(subject: Subject) -> None:
    """A history has the same scores in a narrower batch, with fewer padding items behind it.

    A network that takes one width alone (a convolution over all places) may raise; it must not score otherwise.
    """
    rows = picked(subject.rows, torch.arange(len(subject.rows))[_short(subject)])
    lists, lengths = subject.history_fields()
    width = int(rows[lengths].max())
    columns = batch_columns(rows)
    narrow = Interaction({**columns, **{name: columns[name][:, :width] for name in lists}})
    before = subject.score_all(subject.trained.model, rows)
    try:
        after = subject.score_all(subject.trained.model, narrow)
    except Exception as error:
        raise NotApplicable(f"it takes histories of one width alone ({type(error).__name__})") from error
    require_same(after, before)


@check("scoring", after=["scores_are_finite"])
def scoring_builds_no_graph(subject: Subject) -> None:
    """Under ``torch.no_grad`` scores hold no graph, which would keep every batch of an evaluation in memory."""
    rows, items = pairs_of(subject)
    scores = [subject.score_pairs(subject.trained.model, rows, items)]
    if subject.has_full_sort:
        scores.append(subject.full_sort(subject.trained.model, rows))
    require(not any(score.requires_grad for score in scores), "they require a gradient")


@check("scoring", after=["scores_are_finite"])
def scoring_changes_no_state(subject: Subject) -> None:
    """Scoring changes no parameter, no buffer, and neither the mode nor what is trained."""
    model = subject.trained.model

    def facts() -> list[tuple[str, bool]]:
        modes = [(name, module.training) for name, module in model.named_modules()]
        return modes + [(name, parameter.requires_grad) for name, parameter in model.named_parameters()]

    before, before_facts = state_of(model), facts()
    subject.score_pairs(model, *pairs_of(subject))
    subject.score_all(model, subject.rows)
    changed = different(before, state_of(model))
    require(not changed, f"changed: {', '.join(changed)}")
    other = [
        name or "the model"
        for (name, _), new, old in zip(before_facts, facts(), before_facts, strict=True)
        if new != old
    ]
    require(not other, f"training or requires_grad of {', '.join(other)} changed")


@check("scoring", after=["scores_are_finite"])
def scoring_keeps_its_batch(subject: Subject) -> None:
    """``predict`` and ``full_sort_predict`` change no column of their batch."""
    rows, items = pairs_of(subject)
    calls: list[tuple[Callable[[Any], Tensor], Any]] = [
        (subject.trained.model.predict, subject.with_items(rows, items))
    ]
    if subject.has_full_sort:
        calls.append((subject.trained.model.full_sort_predict, copy.deepcopy(subject.rows)))
    for call, batch in calls:
        before = batch_copy(batch)
        with torch.no_grad():
            call(batch)
        changed = different(before, batch_copy(batch))
        require(not changed, f"{call.__name__} changed {', '.join(changed)}")


def pairs_of(subject: Subject, n: int = 0) -> tuple[Any, Tensor]:
    """Rows with an item each, so that every item comes up; the first ``n`` where given."""
    rows = repeated(subject.rows, 2)
    items = torch.arange(len(rows)) % (subject.n_items - 1) + 1
    return (rows[:n], items[:n]) if n else (rows, items)


def _generators() -> tuple[Any, ...]:
    """The states of the global random number generators."""
    state = np.random.get_state(legacy=False)["state"]  # noqa: NPY002 - RecBole's samplers draw from this one
    return torch.get_rng_state(), [state["pos"], *state["key"].tolist()], random.getstate()


def _short(subject: Subject) -> Tensor:
    lengths = subject.rows[subject.history_fields()[1]]
    short: Tensor = lengths < lengths.max()
    return short


def require_same(one: Tensor, other: Tensor) -> None:
    """Fail where scores differ by more than rounding."""
    if not same_scores(one, other):
        raise CheckFailed(largest_difference(one, other))


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
