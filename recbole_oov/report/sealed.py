"""A seal on held-out data: while settings are searched for, nobody reads the test part."""

from __future__ import annotations

from typing import Any

from recbole_oov.errors import RecBoleOOVError

__all__ = ["SealedTestError", "seal", "sealed"]

_WHAT = "the test part is sealed while settings are searched for; choose by the validation part alone"


class SealedTestError(RecBoleOOVError):
    """Somebody wanted to read the test part during a search."""


def _refuse(*_: Any) -> Any:
    raise SealedTestError(_WHAT)


def _refuse_attribute(target: Any, name: str) -> Any:
    if name == "__class__":  # isinstance asks for it, and it says nothing about the rows
        return type(target)
    raise SealedTestError(f"{_WHAT} (asked for {name})")


_SPECIAL = (
    *("bool", "len", "iter", "next", "getitem", "contains", "call", "enter", "setattr", "delattr", "repr", "str"),
    *("reduce_ex", "copy", "deepcopy", "array"),
)
"""Methods that Python looks up on the class, past ``__getattribute__``."""
_METHODS = {"__getattribute__": _refuse_attribute, **{f"__{name}__": _refuse for name in _SPECIAL}}


def seal(target: Any) -> None:
    """Seal an object in place, whoever else holds it: from now on every access to it raises."""
    kind = type(target)
    # A class that derives from the object's own, and from no other, has the layout that Python wants for the exchange.
    object.__setattr__(target, "__class__", type(f"Sealed{kind.__name__}", (kind,), dict(_METHODS)))


def sealed(experiment: Any) -> Any:
    """An experiment whose test loader, test rows and undivided data set raise :class:`SealedTestError` when read.

    The loader and the rows are sealed in place, so that it does not matter who else got hold of them.

    Args:
        experiment: What ``runner.prepare`` returned. It is changed.

    Returns:
        The experiment.
    """
    if experiment.test_data is not None:
        rows = experiment.test_data._dataset
        seal(experiment.test_data)
        seal(rows)
    experiment.dataset = type("Sealed", (), dict(_METHODS))()
    return experiment
