"""Search spaces: which values of which options a search may choose from.

A space is a mapping of options to values, in a benchmark file or in a file of RecBole's ``hyper.test`` form; or a list
of settings, which are tried as they stand. A dot in an option's name leads into an option that is a mapping itself:
``base_config.learning_rate``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_oov.config.reading import parse_value, shown
from recbole_oov.errors import ConfigError

__all__ = ["Choice", "Dimensions", "Listed", "Range", "Space", "merged", "probes", "read_space"]

_SHARED = (
    "epochs",
    "stopping_step",
    "eval_step",
    "valid_metric",
    "valid_metric_bigger",
    "metrics",
    "topk",
    "eval_args",
)
_TOLERANCE = 1e-8
"""Of a step: how far beside it a number that was written in decimals may lie, as in optuna."""
_NOT_TUNED = (*_SHARED, "seed", "model", "dataset", "data_path", "gpu_id", "use_gpu", "checkpoint_dir")


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    def as_plain(self) -> Any:
        """The form in which it identifies a search."""
        return list(self.values)

    def ends(self) -> tuple[Any, Any]:
        """The first and the last value."""
        return self.values[0], self.values[-1]

    def holds(self, value: Any) -> bool:
        """Whether a search may choose this value."""
        return value in self.values


@dataclass(frozen=True)
class Range:
    """A number between two, both included.

    Attributes:
        low, high: Whole numbers, then all drawn values are, or others.
        log: Draw the logarithm evenly.
        step: Draw ``low``, ``low + step``, …
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are drawn."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    def as_plain(self) -> Any:
        """The form in which it identifies a search."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}

    def ends(self) -> tuple[Any, Any]:
        """The lowest and the highest value."""
        return self.low, self.high

    def holds(self, value: Any) -> bool:
        """Whether a search may choose this value: one between two steps it may not, nor one above the last step."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        inside = number and self.low <= value <= self.high and not (self.whole and isinstance(value, float))
        if not inside or self.step is None:
            return inside
        steps, last = ((end - self.low) / self.step for end in (value, self.high))
        return abs(steps - round(steps)) < _TOLERANCE and round(steps) <= math.floor(last + _TOLERANCE)


@dataclass(frozen=True)
class Listed:
    """Settings that are tried as they stand, in their order."""

    settings: tuple[dict[str, Any], ...]


Dimensions = dict[str, Choice | Range]

Space = Dimensions | Listed


def probes(space: Space) -> list[dict[str, Any]]:
    """Settings that show whether a model takes what a space holds: its two ends, or all that are listed."""
    if isinstance(space, Listed):
        return list(space.settings)
    return [{option: dimension.ends()[end] for option, dimension in space.items()} for end in (0, 1)]


def read_space(given: object, where: str, folder: Path) -> Space:
    """A space out of a benchmark file.

    Args:
        given: A mapping of options to lists of choices or to ``{low, high, log, step}``; a list of settings, each a
            mapping of options to values; or the path of a file in the form of RecBole's ``hyper.test``.
        where: What to call it in an error.
        folder: Where a relative path begins; the working directory is tried after it.

    Raises:
        ConfigError: It cannot be used; all problems are listed.
    """
    if isinstance(given, str):
        path = next((path for path in (folder / given, Path(given)) if path.is_file()), None)
        if path is None:
            raise ConfigError(f"{where}: there is no file {shown(given)}; give a mapping of options or a file's path")
        given = _read_hyper_test(path)
    if isinstance(given, list) and given:
        return _listed(given, where)
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(
            f"{where}: {shown(given)} is no search space; name options, as in {{learning_rate: [0.001, 0.005]}}, or "
            f"leave the row out, which is then not tuned"
        )
    problems: list[str] = []
    space: Dimensions = {}
    for option, values in given.items():
        try:
            space[str(option)] = _dimension(str(option), values, f"{where}.{option}")
        except ConfigError as error:
            problems += error.errors
    if problems:
        raise ConfigError(problems)
    return space


def _listed(given: list[object], where: str) -> Listed:
    problems: list[str] = []
    settings: list[dict[str, Any]] = []
    for number, one in enumerate(given, 1):
        if not isinstance(one, Mapping) or not one:
            problems.append(f"{where}: setting {number} is {shown(one)}; it must name options, as {{hidden_size: 128}}")
            continue
        for option in one:
            problems += _no_setting(str(option), f"{where}, setting {number}")
        settings.append({str(option): _parsed(value) for option, value in one.items()})
        if settings.index(settings[-1]) < len(settings) - 1:
            problems.append(f"{where}: setting {number} is there twice; each is tried once")
    if problems:
        raise ConfigError(problems)
    return Listed(tuple(settings))


def _no_setting(option: str, where: str) -> list[str]:
    if option not in _NOT_TUNED:
        return []
    why = "is the same for every model of a part" if option in _SHARED else "is no setting of a model"
    return [f"{where}: {option} {why}; take it out of the space"]


def _dimension(option: str, given: object, where: str) -> Choice | Range:
    if problems := _no_setting(option, where):
        raise ConfigError(problems)
    if isinstance(given, Choice | Range):
        return given
    if isinstance(given, list):
        if not given:
            raise ConfigError(f"{where}: there is nothing to choose from; list at least one value")
        return Choice(tuple(_parsed(value) for value in given))
    if not isinstance(given, Mapping) or not {"low", "high"} <= set(given) <= {"low", "high", "log", "step"}:
        raise ConfigError(
            f"{where}: {shown(given)} is not allowed; give a list of choices, or {{low: 0.0001, high: 0.01, log: True}}"
        )
    return _range({key: _parsed(value) for key, value in given.items()}, where)


def _range(given: Mapping[str, Any], where: str) -> Range:
    low, high, log, step = given["low"], given["high"], given.get("log", False), given.get("step")
    for key, value in (("low", low), ("high", high), ("step", step if step is not None else 1)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ConfigError(f"{where}: {key} is {shown(value)}; it must be a number")
    if not isinstance(log, bool):
        raise ConfigError(f"{where}: log is {shown(log)}; it must be True or False")
    if low >= high:
        raise ConfigError(f"{where}: low {low} is not below high {high}")
    if step is not None and step <= 0:
        raise ConfigError(f"{where}: step is {step}; it must be above 0")
    if log and low <= 0:
        raise ConfigError(f"{where}: low is {low}; with log: True it must be above 0")
    if log and step is not None:
        raise ConfigError(f"{where}: log and step do not go together; leave one of them out")
    return Range(low, high, log, step)


def _parsed(value: Any) -> Any:
    """YAML 1.1 takes ``1e-3`` for text, and ``hyper.test`` files quote lists."""
    return parse_value(value) if isinstance(value, str) else value


def merged(
    options: Mapping[str, Any], settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Options with settings put in; ``base_config.learning_rate`` changes one value of ``base_config``.

    Args:
        options: By name.
        settings: By name, with dots.
        defaults: Where ``options`` has no such mapping, the one to change a value of.
    """
    result = copy.deepcopy(dict(options))
    for option, value in settings.items():
        *outer, last = option.split(".")
        if outer and outer[0] not in result and isinstance((defaults or {}).get(outer[0]), Mapping):
            result[outer[0]] = copy.deepcopy((defaults or {})[outer[0]])
        target = result
        for name in outer:
            inner = target.get(name)
            target[name] = target = dict(inner) if isinstance(inner, Mapping) else {}
        target[last] = value
    return result


# ---- RecBole's files ----


def _read_hyper_test(path: Path) -> Dimensions:
    """A space in the form of RecBole's ``hyper.test``: ``option kind values`` a line. Nothing in it is evaluated."""
    space: Dimensions = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        where = f"{path}, line {number}"
        if len(words) < 3:
            raise ConfigError(f"{where}: {shown(line)} is not of the form: option kind values")
        option, kind, text = words[0], words[1], " ".join(words[2:])
        if option in space:
            raise ConfigError(f"{where}: {option} is there twice; keep one")
        space[option] = _hyper_choice(text, where) if kind == "choice" else _hyper_range(kind, text, where)
    return space


def _hyper_choice(text: str, where: str) -> Choice:
    values = parse_value(text)
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: {shown(text)} is no list of choices, as in [0.01, 0.001]")
    return Choice(tuple(_parsed(value) for value in values))


def _hyper_range(kind: str, text: str, where: str) -> Range:
    """``uniform low,high``, ``quniform low,high,step`` or ``loguniform low,high`` of natural logarithms."""
    numbers = [_parsed(word.strip()) for word in text.split(",")]
    count = {"uniform": 2, "loguniform": 2, "quniform": 3}.get(kind)
    if count is None:
        raise ConfigError(f"{where}: there is no kind {shown(kind)}; known are choice, uniform, quniform, loguniform")
    if len(numbers) != count or not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
        raise ConfigError(f"{where}: {kind} takes {count} numbers with commas between them, not {shown(text)}")
    if kind == "quniform":
        return _range({"low": numbers[0], "high": numbers[1], "step": numbers[2]}, where)
    low, high = float(numbers[0]), float(numbers[1])
    if kind == "loguniform":
        return _range({"low": math.exp(low), "high": math.exp(high), "log": True}, where)
    return _range({"low": low, "high": high}, where)
