"""Checks of what a model has learned: the known answer, OOV items by their content, nothing from held-out rows."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_oov.testing.answers import hit_rate, labelled_auc, oov_auc
from recbole_oov.testing.check import check, require
from recbole_oov.testing.subject import Subject
from recbole_oov.testing.tensors import different, state_of
from recbole_oov.testing.tiny import write_tiny

SEQUENTIAL_FLOOR = 0.3
"""Recall@1 on ``circles``: 1 is possible; one of 19 by chance, one of 9 for who knows the user's circle alone, one of 2
for who knows an item's neighbours, but not the direction."""

GENERAL_FLOOR = 0.5
"""Recall@3 of two held-out items on ``blocks``: 1 is possible; 3 of 21 by chance, and no more by popularity."""

AUC_FLOOR = 0.75
"""AUC on ``labelled``: 1 is possible, .5 is chance; who knows the items' popularity alone has about .9 of it."""

OOV_FLOOR = 0.75
"""Share of other blocks' OOV items that score lower than the own block's: 1 is possible, .5 is chance."""


@check("learning", after=["one_step_changes_parameters", "users_are_told_apart", "scoring_repeats"])
def known_answer_is_found(subject: Subject) -> None:
    """After training, the metric on data whose answer is known is far above chance and popularity."""
    if subject.family == "context":
        value, floor, metric = labelled_auc(subject), AUC_FLOOR, "AUC"
    else:
        value, metric = hit_rate(subject)
        floor = SEQUENTIAL_FLOOR if subject.family == "sequential" else GENERAL_FLOOR
    require(value >= floor, f"{metric} is {value:.3f}, and should be at least {floor}")


@check("oov", after=["known_answer_is_found"], families=["general"], flag="recommends_for_oov_items")
def oov_items_rank_above_chance(subject: Subject) -> None:
    """Among items without a training row, those whose title says the user's block come before the others."""
    share = oov_auc(subject)
    require(share >= OOV_FLOOR, f"{share:.3f} of the others score lower; it should be at least {OOV_FLOOR}")


@check("oov", after=["training_repeats"])
def validation_rows_change_nothing(subject: Subject) -> None:
    """Exchanging who has which validation item leaves every trained weight and every score as it is, bit for bit."""
    _require_same_training(subject, "valid")


@check("oov", after=["training_repeats"])
def test_rows_change_nothing(subject: Subject) -> None:
    """Exchanging who has which test item leaves every trained weight and every score as it is, bit for bit."""
    _require_same_training(subject, "test")


def _require_same_training(subject: Subject, exchanged: str) -> None:
    """Train twice, with and without ``exchanged`` rows exchanged, and compare."""
    one = subject.part("trained as it is", lambda: _short(subject, ""))
    other = _short(subject, exchanged)
    names = different(one[0], other[0])
    require(not names, f"weights that differ: {', '.join(names[:5])}")
    require(torch.equal(one[1].nan_to_num(), other[1].nan_to_num()), "the scores differ")


def _short(subject: Subject, exchanged: str) -> tuple[dict[str, Tensor], Tensor]:
    """State and scores of a model after a short training, with some rows exchanged."""
    tiny = write_tiny(subject.folder / f"exchanged-{exchanged}", subject.family, exchanged=exchanged)
    config = subject.new_config(tiny)
    train, valid, _ = subject.new_data(config)
    model, trainer = subject.build(config=config, data=train._dataset)
    subject.fit(trainer, epochs=2, data=(train, valid))
    return state_of(model), subject.score_all(model, subject.rows)
