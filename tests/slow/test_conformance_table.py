"""The table of RecBole's models in the docs is what the checks say."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_oov.testing.baselines import BASELINES, REASONS, REASONS_OF_CHECKS
from recbole_oov.testing.check import CHECKS, FAMILIES
from recbole_oov.testing.conformance_table import reports, rows_of

PAGE = (Path(__file__).parents[2] / "docs" / "conformance-table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("model", BASELINES)
def test_the_page_has_what_a_model_fails(model: str) -> None:
    (report,) = reports([model])
    assert "\n".join(rows_of(report)) in PAGE


def test_reasons_are_given_for_models_and_checks_that_exist() -> None:
    assert {check for _, check in REASONS} | set(REASONS_OF_CHECKS) <= set(CHECKS)
    assert {name for name, _ in REASONS} <= set(BASELINES) | set(FAMILIES)
