"""What tests of recommenders need, the plugin's and others': data whose answer is known, and conformance checks."""

from __future__ import annotations

from recbole_oov.testing.check import Check, CheckFailed, NotApplicable
from recbole_oov.testing.conformance import ConformanceError, Report, Result, all_checks, check_recommender, checks_for
from recbole_oov.testing.data import two_circles, write_atomic
from recbole_oov.testing.subject import Subject

__all__ = [
    "Check",
    "CheckFailed",
    "ConformanceError",
    "NotApplicable",
    "Report",
    "Result",
    "Subject",
    "all_checks",
    "check_recommender",
    "checks_for",
    "two_circles",
    "write_atomic",
]
