"""Every check can fail: for each there is a model with one fault that fails it, and no other check."""

from __future__ import annotations

import pytest
from toys import FAULTS, OPTIONS, TRAINERS, SequentialToy, Toy

from recbole_oov import registry
from recbole_oov.testing import Subject, all_checks, check_recommender
from recbole_oov.testing.conformance import examine

pytestmark = pytest.mark.usefixtures("forget")

WITHOUT_A_FAULT = {"cuda_gives_the_same_scores": "needs a GPU to fail"}


def subject_of(model: type) -> Subject:
    if model in TRAINERS:
        registry.register(model, trainer=TRAINERS[model])
    return Subject(model, OPTIONS)


def test_there_is_a_fault_for_every_check() -> None:
    assert len(all_checks()) >= 30
    assert sorted(FAULTS.values()) == sorted(c.name for c in all_checks() if c.name not in WITHOUT_A_FAULT)


@pytest.mark.parametrize("model", [Toy, SequentialToy])
def test_the_models_without_a_fault_pass(model: type) -> None:
    report = check_recommender(model, options=OPTIONS)
    assert not report.of("not judged")
    assert len(report.of("passed")) > 45


@pytest.mark.parametrize("model", FAULTS, ids=FAULTS.get)
def test_a_fault_fails_its_check(model: type) -> None:
    report = examine(subject_of(model), only=[FAULTS[model]])
    assert [result.check.name for result in report.failures] == [FAULTS[model]], report


@pytest.mark.slow
@pytest.mark.parametrize("model", FAULTS, ids=FAULTS.get)
def test_a_fault_fails_no_other_check(model: type) -> None:
    report = examine(subject_of(model))
    assert [result.check.name for result in report.failures] == [FAULTS[model]], report
