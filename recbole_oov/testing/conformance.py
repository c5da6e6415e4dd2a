"""Run any RecBole model through all conformance checks; see ``docs/conformance.md``."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from recbole_oov.errors import ConfigError, RecBoleOOVError
from recbole_oov.testing import (  # noqa: F401  (importing a module of checks declares them)
    checks_answers,
    checks_construction,
    checks_learning,
    checks_robustness,
    checks_scoring,
    checks_state,
)
from recbole_oov.testing.check import CHECKS, GROUPS, Check, CheckFailed, NotApplicable, NotJudged
from recbole_oov.testing.subject import Subject, family_of

PASSED, FAILED, SKIPPED, NOTHING_ASKED, NOT_JUDGED = "passed", "failed", "skipped", "nothing asked", "not judged"


@dataclass(frozen=True)
class Result:
    """What came of one check.

    Attributes:
        check: The check.
        status: ``passed``, ``failed``, ``skipped`` (by the caller), ``nothing asked`` of this model, or ``not judged``
            because an earlier check failed.
        message: What was seen, or the reason; empty where it passed.
        error: What was raised, where it failed.
    """

    check: Check
    status: str
    message: str = ""
    error: BaseException | None = None


@dataclass(frozen=True)
class Report:
    """The results of all checks of one model."""

    model: str
    results: tuple[Result, ...]

    def of(self, status: str) -> list[Result]:
        """The results with this status."""
        return [result for result in self.results if result.status == status]

    @property
    def failures(self) -> list[Result]:
        """The checks that failed."""
        return self.of(FAILED)

    def __str__(self) -> str:
        counts = [(len(self.of(status)), status) for status in (PASSED, FAILED, SKIPPED, NOTHING_ASKED, NOT_JUDGED)]
        lines = [f"{self.model}: " + ", ".join(f"{count} {status}" for count, status in counts if count)]
        for result in self.failures:
            lines += [f"  {result.check.name}: {result.message}", f"    asks: {result.check.asks}"]
            lines += [f"    at {_place(result.error)}"] if not isinstance(result.error, CheckFailed) else []
        reasons: dict[str, list[str]] = {}
        for result in self.of(NOT_JUDGED):
            reasons.setdefault(result.message, []).append(result.check.name)
        for reason, names in reasons.items():
            lines.append(f"  not judged, since {reason}: {', '.join(names[:4])}{_more(len(names) - 4)}")
        return "\n".join(lines)


class ConformanceError(RecBoleOOVError, AssertionError):
    """A model fails some checks. ``report`` has them all."""

    def __init__(self, report: Report) -> None:
        self.report = report
        super().__init__(str(report))


def all_checks() -> list[Check]:
    """All checks, in the order in which they run."""
    return sorted(CHECKS.values(), key=lambda check: GROUPS.index(check.group))


def checks_for(model_class: type, *, skip: Collection[str] = ()) -> list[Check]:
    """The checks that ask something of a model class, for ``pytest.mark.parametrize``.

    Args:
        model_class: A recommender class.
        skip: Names of checks to leave out.

    Raises:
        ConfigError: ``skip`` names a check that does not exist; the class is no recommender.
    """
    _known(skip)
    family = family_of(model_class)
    return [check for check in all_checks() if check.name not in skip and check.applies_to(model_class, family)]


def check_recommender(
    model_class: type,
    *,
    options: Mapping[str, Any] | None = None,
    skip: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    seed: int = 2020,
) -> Report:
    """Run a model class through the checks.

    Args:
        model_class: A subclass of one of RecBole's recommender classes. It is registered under its name.
        options: Options by name, as for :func:`recbole_oov.run`: those that make it small, and its own.
        skip: Checks to leave out, each with the reason.
        only: The checks to run, where not all; those that they come after are run as well.
        seed: Of everything.

    Returns:
        The report, where nothing failed.

    Raises:
        ConformanceError: Some checks failed. The message is the whole report.
        ConfigError: ``skip`` or ``only`` names a check that does not exist; the class is no recommender.
    """
    report = examine(Subject(model_class, options, seed), skip=skip, only=only)
    if report.failures:
        raise ConformanceError(report)
    return report


def examine(subject: Subject, *, skip: Mapping[str, str] | None = None, only: Collection[str] | None = None) -> Report:
    """As :func:`check_recommender`, but returns the report in any case."""
    skip = dict(skip or {})
    _known([*skip, *(only or ())])
    results = []
    for check in all_checks():
        if only is not None and check.name not in only:
            continue
        if check.name in skip:
            results.append(Result(check, SKIPPED, skip[check.name]))
        else:
            results.append(_result(check, subject))
    return Report(subject.name, tuple(results))


def _result(check: Check, subject: Subject) -> Result:
    try:
        check(subject)
    except NotJudged as error:
        return Result(check, NOT_JUDGED, str(error), error)
    except NotApplicable as error:
        return Result(check, NOTHING_ASKED, str(error), error)
    except CheckFailed as error:
        return Result(check, FAILED, str(error), error)
    except Exception as error:
        return Result(check, FAILED, f"{type(error).__name__}: {error}", error)
    return Result(check, PASSED)


def _known(names: Collection[str]) -> None:
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        raise ConfigError(f"conformance: there is no check called {', '.join(unknown)}; there are {', '.join(CHECKS)}")


def _more(n: int) -> str:
    return f" and {n} more" if n > 0 else ""


def _place(error: BaseException | None) -> str:
    """File and line of the innermost frame of an error."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
