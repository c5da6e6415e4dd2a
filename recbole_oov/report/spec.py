"""Benchmark files: one data set with its models, or several parts that share models."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from recbole_oov.config.reading import shown
from recbole_oov.config.rules import RULES
from recbole_oov.errors import ConfigError
from recbole_oov.registry import properties_folder
from recbole_oov.report.carve import DEFAULT_CARVE
from recbole_oov.report.checks import names_of, problems_of
from recbole_oov.report.space import Listed, Space, read_space

__all__ = ["Part", "Tune", "parts_of", "read_spec"]

_KEYS = {"dataset", "output", "seeds", "common", "models", "k", "measure", "parts", "only", "reference"}
_KEYS |= {"tune", "share_base", "jobs"}
_OF_TUNE = {"trials", "seed", "sampler", "spaces"}
_BASE = "$base"
"""Stands for the part's ``base`` in the models that parts share."""


@dataclass(frozen=True)
class Tune:
    """How the rows of a part are tuned.

    Attributes:
        trials: Settings tried for each row, the first of them the options as given.
        seed: Of the trials' training and of the drawing of settings.
        sampler: ``tpe`` or ``random``.
        spaces: By row; a row without one is not tuned.
    """

    trials: int
    seed: int
    sampler: str
    spaces: dict[str, Space]


@dataclass(frozen=True)
class Part:
    """One data set with its models and seeds."""

    name: str
    dataset: str
    seeds: list[int]
    common: dict[str, Any]
    models: dict[str, dict[str, Any]]
    measure: str
    carve: dict[str, Any] | None = None
    tune: Tune | None = None
    tuned_from: str | None = None


def read_spec(file: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a benchmark file, checked. Raises ConfigError."""
    path = benchmark_file(file)
    spec = _read(path)
    spec["folder"] = str(path.parent)
    # For whoever reads the results; where the file lies on this machine is nobody's business.
    given = Path(file)
    spec["command"] = f"python run_recbole_oov.py benchmark {given.name if given.is_absolute() else given.as_posix()}"
    common = {key: value for key, value in overrides.items() if key not in _KEYS}
    for key in common:
        near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.8)
        if near and key not in RULES:
            raise ConfigError(f"benchmark: --{key} is not an option; did you mean --{near[0]}?")
    seeds = overrides.get("seeds")
    given_tune = overrides.get("tune")
    if isinstance(given_tune, Mapping):
        own = spec.get("tune")
        overrides = {**overrides, "tune": {**(own if isinstance(own, Mapping) else {}), **given_tune}}
    spec |= {key: value for key, value in overrides.items() if key in _KEYS}
    if problems := problems_of(spec):
        raise ConfigError([f"benchmark: {file}: {problem}" for problem in problems])
    _check_sources(spec, file)
    only = spec.get("only")
    only = names_of(only) if only is not None else None
    # Overrides of seeds hold for every part, and so do those of the search.
    whole = {
        "output": f"results/{path.stem}",
        "k": 10,
        "measure": "ranks",
        "jobs": 1,
        **spec,
        "only": only,
        "given_seeds": seeds,
        "common": {**(spec.get("common") or {}), **common},
        "given": common,
        "given_tune": given_tune,
    }
    parts_of({**whole, "only": None})  # finds what is wrong with the searches
    return whole


def benchmark_file(file: str | Path) -> Path:
    """The file; where there is none of that name, the one that ships with the project (``properties/benchmark``)."""
    path = Path(file)
    shipped = properties_folder() / "benchmark" / path.name
    named = path.parent in (Path(), Path("properties/benchmark"))
    return shipped if named and not path.exists() and shipped.is_file() else path


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        ours = ", ".join(sorted(one.name for one in (properties_folder() / "benchmark").glob("*.yaml")))
        raise ConfigError(f"benchmark: there is no file {path}; those that ship with the project are {ours}")
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"benchmark: {path} is not YAML: {error}") from error
    except OSError as error:
        raise ConfigError(f"benchmark: {path} cannot be read ({error.strerror or error})") from error
    if not isinstance(spec, dict) or not {"models", "seeds"} <= set(spec) or not {"dataset", "parts"} & set(spec):
        raise ConfigError(f"benchmark: {path} needs the keys dataset, models and seeds, or parts instead of dataset")
    unknown = [key for key in spec if key not in _KEYS]
    if unknown:
        raise ConfigError(f"benchmark: {path}: unknown key {unknown[0]!r}; known are {sorted(_KEYS)}")
    return spec


def _check_sources(spec: Mapping[str, Any], file: str) -> None:
    parts = spec.get("parts") or {}
    for name, part in parts.items():
        source = part.get("tuned_from")
        if source is None:
            continue
        if source not in parts or source == name or parts[source].get("tuned_from") is not None:
            raise ConfigError(
                f"benchmark: {file}: parts.{name}: tuned_from is {shown(source)}; name a part that is tuned itself"
            )
        if "tune" in part:
            raise ConfigError(f"benchmark: {file}: parts.{name}: tune and tuned_from exclude each other; keep one")


def parts_of(spec: Mapping[str, Any]) -> list[Part]:
    """The parts of a file; one without a name where it is about one data set."""
    if not spec.get("parts"):
        tune = _tune_of(spec, spec.get("tune"), "tune")
        return [Part("", spec["dataset"], spec["seeds"], spec["common"], spec["models"], spec["measure"], tune=tune)]
    parts = []
    for name, own in spec["parts"].items():
        if spec.get("only") and name not in spec["only"]:
            continue
        models = own.get("models") or spec["models"]
        if isinstance(models, list):
            models = {model: spec["models"][model] for model in models}
        changes = own.get("options") or {}
        merged = {model: {**entry, **changes.get(model, {})} for model, entry in models.items()}
        models = {
            model: {key: own.get("base") if value == _BASE else value for key, value in entry.items()}
            for model, entry in merged.items()
        }
        common = {**spec["common"], **(own.get("common") or {}), **(spec.get("given") or {})}
        seeds = spec.get("given_seeds") or own.get("seeds") or spec["seeds"]
        tune = None if own.get("tuned_from") else _tune_of_part(spec, name, own)
        carve = {**DEFAULT_CARVE, **own["carve"]} if own.get("carve") is not None else None
        part = Part(name, own["dataset"], seeds, common, models, spec["measure"], carve, tune)
        parts.append(replace(part, tuned_from=own.get("tuned_from")))
    return parts


def _tune_of_part(spec: Mapping[str, Any], name: str, own: Mapping[str, Any]) -> Tune | None:
    """The file's search with what the part changes; a given one is stronger than both, its spaces apart."""
    whole = spec.get("tune")
    if "tune" not in own or whole is False:
        return _tune_of(spec, whole, "tune")
    change, given = own["tune"], spec.get("given_tune")
    if not isinstance(change, Mapping):
        return _tune_of(spec, change, f"parts.{name}.tune")
    whole = whole if isinstance(whole, Mapping) else {}
    spaces = {**(whole.get("spaces") or {}), **(change.get("spaces") or {})}
    both = {**whole, **change, **(given if isinstance(given, Mapping) else {}), "spaces": spaces}
    return _tune_of(spec, both, f"parts.{name}.tune")


def _tune_of(spec: Mapping[str, Any], given: object, where: str) -> Tune | None:
    if given is None or given is False:
        return None
    if not isinstance(given, Mapping) or "trials" not in given or not given.get("spaces"):
        raise ConfigError(
            f"benchmark: {where}: {shown(given)} is not allowed; it needs trials, a number, and spaces, search spaces "
            f"by model, as in {{trials: 8, spaces: {{BPR: {{learning_rate: [0.001, 0.005]}}}}}}"
        )
    if set(given) - _OF_TUNE:
        unknown = sorted(set(given) - _OF_TUNE)[0]
        raise ConfigError(f"benchmark: {where}: unknown key {unknown!r}; known are {', '.join(sorted(_OF_TUNE))}")
    numbers = {"trials": given["trials"], "seed": given.get("seed", 2020)}
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < (key == "trials"):
            least = "at least 1" if key == "trials" else "not below 0"
            raise ConfigError(f"benchmark: {where}: {key} is {shown(value)}; it must be a whole number, {least}")
    sampler = given.get("sampler", "tpe")
    if sampler not in ("tpe", "random"):
        raise ConfigError(f"benchmark: {where}: sampler is {shown(sampler)}; it must be tpe or random")
    rows = {*spec["models"], *(row for part in (spec.get("parts") or {}).values() for row in _own_rows(part))}
    names = rows | {str(entry.get("model")) for entry in spec["models"].values()}
    spaces, problems = {}, []
    for row, space in given["spaces"].items():
        try:
            if row not in names:
                raise ConfigError(f"{where}.spaces: there is no row or model {row!r}; there are {', '.join(names)}")
            spaces[row] = read_space(space, f"{where}.spaces.{row}", Path(spec["folder"]))
            problems += [f"benchmark: {problem}" for problem in _budget(spaces[row], numbers["trials"], where, row)]
        except ConfigError as error:
            problems += [f"benchmark: {problem}" for problem in error.errors]
    if problems:
        raise ConfigError(problems)
    return Tune(numbers["trials"], numbers["seed"], sampler, spaces)


def _budget(space: Space, trials: int, where: str, row: str) -> list[str]:
    if not isinstance(space, Listed) or len(space.settings) == trials - 1:
        return []
    return [
        f"{where}.spaces.{row}: {len(space.settings)} settings are listed, and trials is {trials}, the options as "
        f"given and {trials - 1} more; every row is tuned with as many"
    ]


def _own_rows(part: Mapping[str, Any]) -> list[str]:
    models = part.get("models")
    return list(models) if isinstance(models, Mapping) else []
