"""How RecBole's modules are mended: the table of fixes, and the hook that applies each when its module is imported."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any

Put = Callable[[Any, str, Any], None]
"""``put(owner, name, value)``: ``setattr`` that remembers what was there, so that a test can take a fix out."""

_MISSING = object()


@dataclass(frozen=True)
class Fix:
    """One thing that RecBole 1.2.1 gets wrong, and its cure.

    Attributes:
        name: How the fix is called in :func:`apply` and in ``docs/compat.md``.
        symptom: What a user sees without it.
        since: The library and version that brought it; ``RecBole`` where no pin of another library helps.
        module: RecBole's module that is mended when it is imported; ``None`` for at once.
        changes_numbers: Whether metrics differ from stock RecBole's, because those are wrong.
        around: Context manager around the import of ``module``.
    """

    name: str
    symptom: str
    since: str
    module: str | None
    changes_numbers: bool
    around: Callable[[Any, Put], AbstractContextManager[None]]

    @property
    def why(self) -> str:
        """What is broken and how it is mended, in full."""
        return inspect.getdoc(self.around) or ""


_fixes: dict[str, Fix] = {}
_applied: set[str] = set()
_undo_log: list[tuple[str, Any, str, Any]] = []


def fix(
    module: str | None, *, symptom: str, since: str, changes_numbers: bool = False
) -> Callable[[Callable[[Any, Put], Any]], Callable[[Any, Put], Any]]:
    """Enter a function into the table of fixes: ``fix(module, put)``.

    A plain function runs after the module's import; a generator function runs around it, its ``yield`` being
    the import.
    """

    def enter(function: Callable[[Any, Put], Any]) -> Callable[[Any, Put], Any]:
        if inspect.isgeneratorfunction(function):
            around = contextmanager(function)
        else:

            @contextmanager
            @wraps(function)
            def around(target: Any, put: Put) -> Iterator[None]:
                yield
                function(target, put)

        _fixes[function.__name__] = Fix(function.__name__, symptom, since, module, changes_numbers, around)
        return function

    return enter


def fixes() -> tuple[Fix, ...]:
    """All fixes, in the order in which they are applied."""
    return tuple(_fixes.values())


def install(*, skip: Collection[str] = ()) -> None:
    """Apply the fixes, each at once or when its module is imported. What is applied already stays as it is.

    Args:
        skip: Names of fixes to leave out.

    Raises:
        ValueError: ``skip`` names a fix that does not exist.
    """
    unknown = sorted(set(skip) - set(_fixes))
    if unknown:
        raise ValueError(f"skip: there is no fix called {', '.join(unknown)}; fixes() lists them")
    if not any(isinstance(finder, _Mender) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Mender())
    for entry in fixes():
        if entry.name in _applied or entry.name in skip:
            continue
        _applied.add(entry.name)
        if entry.module is None or entry.module in sys.modules:
            with entry.around(sys.modules.get(entry.module or ""), _put_for(entry.name)):
                pass


def _put_for(name: str) -> Put:
    def put(owner: Any, attribute: str, value: Any) -> None:
        _undo_log.append((name, owner, attribute, vars(owner).get(attribute, _MISSING)))
        setattr(owner, attribute, value)

    return put


@contextmanager
def left_out(name: str) -> Iterator[None]:
    """Take one fix out for a while: how the tests show that it is still needed."""
    entries = [entry for entry in _undo_log if entry[0] == name]
    mended = [(owner, attribute, vars(owner).get(attribute, _MISSING)) for _, owner, attribute, _ in entries]
    _applied.discard(name)
    for _, owner, attribute, stock in reversed(entries):
        _set(owner, attribute, stock)
    try:
        yield
    finally:
        for owner, attribute, value in mended:
            _set(owner, attribute, value)
        _applied.add(name)


def _set(owner: Any, attribute: str, value: Any) -> None:
    if value is _MISSING:
        delattr(owner, attribute)
    else:
        setattr(owner, attribute, value)


class _Mender(importlib.abc.MetaPathFinder):
    """Finds RecBole's modules as usual, and mends those which a fix names as they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        due = [entry for entry in fixes() if entry.module == fullname and entry.name in _applied]
        if not due:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _MendingLoader(spec.loader, due)
        return spec


class _MendingLoader(importlib.abc.Loader):
    """Loads a module through the loader it would have had, inside the context managers of its fixes."""

    def __init__(self, loader: Any, due: list[Fix]) -> None:
        self._loader = loader
        self._due = due

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        with ExitStack() as stack:
            for entry in self._due:
                stack.enter_context(entry.around(module, _put_for(entry.name)))
            self._loader.exec_module(module)
        if module.__spec__ is not None:  # from here on the module is as if it had been loaded without us
            module.__spec__.loader = module.__loader__ = self._loader


class Overlay(ModuleType):
    """A module as one of RecBole's files sees it: some names are replaced, all others are the module's own."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        super().__init__(module.__name__, module.__doc__)
        self.__dict__.update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)
