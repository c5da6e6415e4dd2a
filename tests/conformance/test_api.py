"""How others use the checks: one call, or a test for each check; and what they read when a check fails."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import OPTIONS, CannotBeCopied, Constant, HoldsALambda, SequentialToy, Toy, TwoScales

from recbole_oov.errors import ConfigError
from recbole_oov.testing import (
    CheckFailed,
    ConformanceError,
    NotApplicable,
    Subject,
    all_checks,
    check_recommender,
    checks_for,
)
from recbole_oov.testing.conformance import examine
from recbole_oov.testing.conformance_table import list_of_checks

pytestmark = pytest.mark.usefixtures("forget")


def by_name(model: type) -> dict[str, object]:
    return {check.name: check for check in checks_for(model)}


def test_all_failures_come_in_one_readable_error() -> None:
    class Both(TwoScales, HoldsALambda):
        pass

    names = ["predict_agrees_with_full_sort", "pickle_keeps_the_scores"]
    with pytest.raises(ConformanceError) as error:
        check_recommender(Both, options=OPTIONS, only=names)
    assert [result.check.name for result in error.value.report.failures] == names
    text = str(error.value)
    assert "Both: 2 failed" in text
    assert "predict_agrees_with_full_sort: the largest difference is " in text
    assert "asks: ``predict`` of a user and an item is what" in text
    assert "toys.py" not in text.split("pickle_keeps")[0]
    assert "at " in text.split("pickle_keeps")[1], "an error of the model's comes with its place"


def test_a_check_is_skipped_with_its_reason() -> None:
    report = check_recommender(
        TwoScales,
        options=OPTIONS,
        only=["predict_agrees_with_full_sort"],
        skip={"predict_agrees_with_full_sort": "two scales on purpose"},
    )
    (result,) = report.results
    assert (result.status, result.message) == ("skipped", "two scales on purpose")
    assert "predict_agrees_with_full_sort" not in [
        c.name for c in checks_for(Toy, skip=["predict_agrees_with_full_sort"])
    ]


def test_a_misspelt_check_is_refused() -> None:
    for ask in ({"skip": {"losses_fall": "why not"}}, {"only": ["losses_fall"]}):
        with pytest.raises(ConfigError, match="no check called losses_fall; there are .*loss_falls"):
            check_recommender(Toy, **ask)
    with pytest.raises(ConfigError, match="losses_fall"):
        checks_for(Toy, skip=["losses_fall"])


def test_a_class_that_is_no_recommender_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no general, sequential, context- or knowledge-aware model"):
        check_recommender(dict)


def test_checks_are_those_of_the_family_and_the_flags() -> None:
    general, sequential = by_name(Toy), by_name(SequentialToy)
    assert "padding_width_does_not_count" in sequential.keys() - general.keys()
    assert "oov_items_rank_above_chance" in general.keys() - sequential.keys()
    assert len({check.name for check in all_checks()}) == len(all_checks())
    assert all(check.asks.endswith(".") for check in all_checks())


def test_what_depends_on_a_failed_check_is_not_judged() -> None:
    subject = Subject(Constant, OPTIONS)
    report = examine(subject, only=["users_are_told_apart", "items_are_told_apart"])
    assert [result.status for result in report.results] == ["failed", "not judged"]
    assert "not judged, since items_are_told_apart fails: users_are_told_apart" in str(report)
    with pytest.raises(NotApplicable, match="items_are_told_apart fails"):
        by_name(Constant)["users_are_told_apart"](subject)  # type: ignore[operator]
    with pytest.raises(CheckFailed, match="have one score for all items"):
        by_name(Constant)["items_are_told_apart"](subject)  # type: ignore[operator]


def test_a_model_that_cannot_be_copied_is_judged_without_a_copy() -> None:
    report = examine(Subject(CannotBeCopied, OPTIONS))
    assert "padding_item_does_not_count" in [result.check.name for result in report.of("not judged")]


def test_checking_leaves_the_process_as_it_was() -> None:
    def facts() -> tuple[object, ...]:
        root = logging.getLogger()
        numpy_state = np.random.get_state()  # noqa: NPY002
        return (
            os.getcwd(),
            root.level,
            tuple(root.handlers),
            root.manager.disable,
            random.getstate(),
            torch.get_rng_state().tolist(),
            numpy_state[1].tolist(),  # type: ignore[index]
        )

    before = facts()
    subject = Subject(Toy, OPTIONS)
    examine(subject, only=["training_repeats", "checkpoint_keeps_the_scores"])
    assert facts() == before
    folder = subject.folder
    assert folder.is_dir()
    del subject
    assert not folder.exists()


def test_the_docs_list_every_check() -> None:
    page = (Path(__file__).parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert page.split("## The checks\n")[1].strip() == list_of_checks().strip()
