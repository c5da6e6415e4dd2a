"""What a conformance check is, how it is declared, and how it says that a model fails."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recbole_oov.testing.subject import Subject

FAMILIES = ("general", "sequential", "context", "knowledge")
"""The kinds of models that are checked; RecBole's traditional models count as general ones."""

GROUPS = ("construction", "learning", "scoring", "state", "robustness", "oov")
"""The kinds of checks, in the order in which they run."""


class CheckFailed(AssertionError):
    """A model does not have the property that a check asks for. The message says what was seen instead."""


class NotApplicable(unittest.SkipTest):
    """A check asks nothing of this model, and why. pytest and unittest count it as skipped."""


class NotJudged(NotApplicable):
    """A check says nothing before what the message names is mended."""


@dataclass(frozen=True)
class Check:
    """One property that a recommender must have. Calling it with a :class:`Subject` raises where it has not.

    Attributes:
        name: The name, by which it can be skipped.
        group: One of ``GROUPS``.
        asks: What it asks, in a sentence.
        function: The check itself.
        families: The families that it asks something of.
        after: Checks without which this one says nothing. Where one of them fails, this one is not judged.
        flag: A flag on the model's class without which there is nothing to check; empty for none.
    """

    name: str
    group: str
    asks: str
    function: Callable[[Subject], None] = field(repr=False)
    families: tuple[str, ...] = FAMILIES
    after: tuple[str, ...] = ()
    flag: str = ""

    @property
    def __name__(self) -> str:
        """The name; pytest makes it the test's id."""
        return self.name

    def applies_to(self, model_class: type, family: str) -> bool:
        """Whether it asks something of models of this class."""
        return family in self.families and (not self.flag or bool(getattr(model_class, self.flag, False)))

    def __call__(self, subject: Subject) -> None:
        """Check a model.

        Raises:
            CheckFailed: The model does not have the property.
            NotApplicable: The check asks nothing of it, or cannot be judged before another is mended.
            Exception: Whatever the model raised.
        """
        subject.run(self)


CHECKS: dict[str, Check] = {}
"""All checks by name. Importing a module of checks fills it."""


def check(
    group: str, *, families: Collection[str] = FAMILIES, after: Collection[str] = (), flag: str = ""
) -> Callable[[Callable[[Subject], None]], Check]:
    """Declare a function as a check of the same name; its docstring's first paragraph is what it asks."""

    def declare(function: Callable[[Subject], None]) -> Check:
        name, asks = function.__name__, " ".join((function.__doc__ or "").split("\n\n")[0].split())
        assert group in GROUPS and asks and name not in CHECKS, name
        CHECKS[name] = Check(name, group, asks, function, tuple(families), tuple(after), flag)
        return CHECKS[name]

    return declare


def require(condition: bool, message: str) -> None:
    """Fail the check with ``message`` where ``condition`` is false."""
    if not condition:
        raise CheckFailed(message)
