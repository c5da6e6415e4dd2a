"""Benchmark files: one data set with its models, or several parts that share models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from recbole_oov.errors import ConfigError
from recbole_oov.report.carve import carve_validation

_OF_PART = {"dataset", "seeds", "common", "models", "base", "carve", "options"}
_KEYS = {"dataset", "output", "seeds", "common", "models", "k", "measure", "parts", "only", "reference"}
_BASE = "$base"
"""Stands for the part's ``base`` in the models that parts share."""


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


def read_spec(file: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a benchmark file, checked. Raises ConfigError."""
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"benchmark: there is no file {file}")
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"benchmark: {file} is not YAML: {error}") from error
    if not isinstance(spec, dict) or not {"models", "seeds"} <= set(spec) or not {"dataset", "parts"} & set(spec):
        raise ConfigError(f"benchmark: {file} needs the keys dataset, models and seeds, or parts instead of dataset")
    if set(spec) - _KEYS:
        raise ConfigError(f"benchmark: {file}: unknown key {sorted(set(spec) - _KEYS)[0]!r}; known are {sorted(_KEYS)}")
    if spec.get("measure", "ranks") not in ("ranks", "users"):
        raise ConfigError(f"benchmark: {file}: measure is {spec['measure']!r}; it must be ranks or users")
    for name, entry in spec["models"].items():
        if not isinstance(entry, dict) or "model" not in entry:
            raise ConfigError(f"benchmark: {file}: models.{name} needs the key 'model', the name of a model class")
    for name, part in (spec.get("parts") or {}).items():
        if not isinstance(part, dict) or "dataset" not in part or set(part) - _OF_PART:
            raise ConfigError(
                f"benchmark: {file}: parts.{name} needs a dataset, and may have "
                f"{', '.join(sorted(_OF_PART - {'dataset'}))}"
            )
    common = {key: value for key, value in overrides.items() if key not in _KEYS}
    seeds = overrides.get("seeds")
    spec |= {key: value for key, value in overrides.items() if key in _KEYS}
    only = spec.get("only")
    only = [name.strip() for name in only.split(",")] if isinstance(only, str) else only
    unknown = sorted(set(only or ()) - set(spec.get("parts") or {}))
    if unknown:
        raise ConfigError(
            f"benchmark: only: there is no part {unknown[0]!r}; there are {', '.join(spec.get('parts') or {})}"
        )
    # Overrides of seeds hold for every part.
    return {
        "output": f"results/{path.stem}",
        "k": 10,
        "measure": "ranks",
        **spec,
        "only": only,
        "given_seeds": seeds,
        "common": {**(spec.get("common") or {}), **common},
        "given": common,
    }


def parts_of(spec: Mapping[str, Any]) -> list[Part]:
    """The parts of a file; one without a name where it is about one data set."""
    if not spec.get("parts"):
        return [Part("", spec["dataset"], spec["seeds"], spec["common"], spec["models"], spec["measure"])]
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
        parts.append(Part(name, own["dataset"], seeds, common, models, spec["measure"], own.get("carve")))
    return parts


def carved(cell: Any, spec: Mapping[str, Any]) -> Any:
    """The cell on a published split whose validation part has been carved out of training, where its part says so.

    Validation then says for how many epochs to train, and the model that is tested is trained on all training rows.
    """
    carve = next((part.carve for part in parts_of({**spec, "only": None}) if part.name == cell.part), None)
    if carve is None:
        return cell
    target = Path(spec["output"]) / "data"
    carve_validation(Path(cell.options.get("data_path", "dataset/")) / cell.dataset, target, **carve)
    three = {"data_path": str(target), "benchmark_filename": ["train", "valid", "test"]}
    return replace(cell, options={**cell.options, **three}, refit=True)
