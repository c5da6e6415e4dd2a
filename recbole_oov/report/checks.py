"""What can be wrong in a benchmark file, or in what a command line changes of it, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from recbole_oov.config.reading import shown
from recbole_oov.report.carve import DEFAULT_CARVE

_LARGEST_SEED = 2**32 - 1
_OF_PART = {"dataset", "seeds", "common", "models", "base", "carve", "options", "tune", "tuned_from"}


def problems_of(spec: Mapping[str, Any]) -> list[str]:
    """All problems of a file's values, each naming the key and the remedy.

    Args:
        spec: The file with what the command line changes; the keys that it must have are there.
    """
    problems = [*_kinds(spec), *_seeds("seeds", spec["seeds"])]
    problems += _models("models", spec["models"])
    if isinstance(spec.get("parts") or {}, Mapping):
        problems += _names("parts", spec.get("parts") or {})
        for name, part in (spec.get("parts") or {}).items():
            problems += _part(f"parts.{name}", part, spec["models"], _rows(spec))
            if isinstance(part, Mapping) and part.get("carve") is not None and spec.get("measure") != "users":
                problems.append(
                    f"parts.{name}.carve is about a published split, in which users have several held-out items, and "
                    f"measure: ranks about one each; give measure: users"
                )
    if not problems and spec.get("reference"):
        names = _rows(spec)
        if spec["reference"] not in names:
            problems.append(f"reference is {shown(spec['reference'])}; it must be one of the rows: {', '.join(names)}")
    return problems


def names_of(only: str | list[Any]) -> list[str]:
    """The parts that ``only`` names."""
    names = only.split(",") if isinstance(only, str) else only
    return [str(name).strip() for name in names]


def _kinds(spec: Mapping[str, Any]) -> Iterator[str]:
    parts = spec.get("parts")
    if parts is not None and not isinstance(parts, Mapping):
        yield f"parts is {shown(parts)}; it must be a mapping of names to parts"
    for key in ("dataset", "output"):
        value = spec.get(key)
        if (value is not None and not isinstance(value, str)) or value == "":
            what = "the name of a data set" if key == "dataset" else "a folder"
            yield f"{key} is {shown(value)}; it must be {what}, in quotes where it looks like something else"
    common = spec.get("common")
    if common is not None and not isinstance(common, Mapping):
        yield f"common is {shown(common)}; it must be a mapping of options"
    if spec.get("measure", "ranks") not in ("ranks", "users"):
        yield f"measure is {shown(spec['measure'])}; it must be ranks or users"
    k = spec.get("k", 10)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        yield f"k is {shown(k)}; it must be a whole number from 1 on"
    only = spec.get("only")
    if only is not None and not isinstance(only, str | list):
        yield f"only is {shown(only)}; name parts, with commas between them"
    elif only is not None and isinstance(parts or {}, Mapping):
        for name in [name for name in names_of(only) if name not in (parts or {})][:1]:
            there = f"there are {', '.join(map(str, parts))}" if parts else "the file has no parts: leave it out"
            yield f"only: there is no part {shown(name)}; {there}"
    if not isinstance(spec.get("share_base", False), bool):
        yield f"share_base is {shown(spec['share_base'])}; it must be True or False"
    jobs = spec.get("jobs", 1)
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        yield f"jobs is {shown(jobs)}; give a whole number of cells at a time, at least 1"


def _seeds(where: str, seeds: object) -> list[str]:
    whole = isinstance(seeds, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not isinstance(seeds, list) or not seeds or not whole or not all(0 <= s <= _LARGEST_SEED for s in seeds):
        return [f"{where} is {shown(seeds)}; it must be a list of whole numbers from 0 on, as in [2020, 2021]"]
    if len(set(seeds)) < len(seeds):
        return [f"{where} is {shown(seeds)}, in which a seed is there twice; keep one"]
    return []


def _models(where: str, models: object) -> list[str]:
    if not isinstance(models, Mapping) or not models:
        return [f"{where} is {shown(models)}; it must be a mapping of rows, as in {{BPR: {{model: BPR}}}}"]
    lacking = [name for name, entry in models.items() if not isinstance(entry, Mapping) or "model" not in entry]
    return _names(where, models) + [
        f"{where}.{name} needs the key 'model', the name of a model class" for name in lacking
    ]


def _names(where: str, named: Mapping[Any, Any]) -> list[str]:
    """YAML reads ``64`` and ``2014-01-01`` as a number and a date, and ``yes`` as True."""
    others = [name for name in named if not isinstance(name, str)]
    return [f"{where}: the name {shown(name)} is not text; put it in quotes" for name in others]


def _part(where: str, part: object, shared: object, rows: list[str]) -> list[str]:
    if not isinstance(part, Mapping) or "dataset" not in part or set(part) - _OF_PART:
        return [f"{where} needs a dataset, and may have {', '.join(sorted(_OF_PART - {'dataset'}))}"]
    problems = [*_seeds(f"{where}.seeds", part["seeds"])] if part.get("seeds") is not None else []
    for key in ("common", "options"):
        if part.get(key) is not None and not isinstance(part[key], Mapping):
            problems.append(f"{where}.{key} is {shown(part[key])}; it must be a mapping")
    problems += _carve(f"{where}.carve", part.get("carve"))
    options = part.get("options")
    for name, changes in options.items() if isinstance(options, Mapping) else ():
        # A row that this part leaves out may have some: parts share what they say of rows.
        if name not in rows:
            problems.append(f"{where}.options: there is no row {shown(name)}; there are {', '.join(rows)}")
        if not isinstance(changes, Mapping):
            problems.append(f"{where}.options.{name} is {shown(changes)}; it must be a mapping of options")
    models = part.get("models")
    if isinstance(models, list):
        unknown = [name for name in models if not isinstance(shared, Mapping) or name not in shared]
        problems += [f"{where}.models: there is no row {shown(name)} in models" for name in unknown]
    elif models is not None:
        problems += _models(f"{where}.models", models)
    return problems


def _carve(where: str, carve: object) -> list[str]:
    if carve is None:
        return []
    if not isinstance(carve, Mapping) or set(carve) - {"share", "seed"}:
        return [f"{where} is {shown(carve)}; it must be a mapping of share and seed, as in {{share: 0.1, seed: 2020}}"]
    problems = []
    share, seed = ({**DEFAULT_CARVE, **carve}[key] for key in ("share", "seed"))
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        problems.append(f"{where}.share is {shown(share)}; it must be a number between 0 and 1")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        problems.append(f"{where}.seed is {shown(seed)}; it must be a whole number from 0 on")
    return problems


def _rows(spec: Mapping[str, Any]) -> list[str]:
    """The names of all rows, those that a part has of its own included."""
    parts = [part for part in (spec.get("parts") or {}).values() if isinstance(part, Mapping)]
    tables = [spec["models"], *(part.get("models") for part in parts)]
    names = [name for models in tables if isinstance(models, Mapping) for name in models]
    return list(dict.fromkeys(map(str, names)))
