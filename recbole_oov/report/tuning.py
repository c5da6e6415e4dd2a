"""Equal tuning: every row of a part gets the same number of trials, and the validation part alone chooses.

Trial 0 is the row's options as given. What the following trials try is listed, or drawn by optuna from the row's search
space; trial ``n`` is then a function of the seed, the space and the trials before it, so that a search that was killed
continues as if it had not been. Each trial is one line of ``trials.jsonl``. The test part is sealed meanwhile.
"""

from __future__ import annotations

import copy
import hashlib
import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole_oov.config import OOVConfig
from recbole_oov.errors import ConfigError, RecBoleOOVError
from recbole_oov.report.cells import Cell, as_given, carved, digest
from recbole_oov.report.results import append_row, locked, read_results
from recbole_oov.report.sealed import sealed
from recbole_oov.report.share import with_shared_base
from recbole_oov.report.space import Choice, Dimensions, Listed, Range, Space, merged, probes
from recbole_oov.report.spec import Tune, parts_of

__all__ = ["Search", "apply_tuning", "check_searches", "is_finished", "lost_trial", "run_search", "searches_of"]

_REDRAWS = 20
_AT_RANDOM = 5
"""Trials before the first that TPE bases on the others."""
_OUTCOME = ("valid_score", "valid_metric", "bigger_is_better", "valid_result", "epochs", "error")
_QUIET = {"show_progress": False, "state": "WARNING"}


@dataclass(frozen=True)
class Search:
    """The search of one row of a part.

    Attributes:
        cell: The row with the options as given and the search's seed.
        tune: How it is tuned.
        space: What it may choose.
    """

    cell: Cell
    tune: Tune
    space: Space

    @property
    def key(self) -> str:
        """Identifies the search, and with a number one of its trials; more trials continue the same search.

        Of listed settings each stands for itself: a search whose list has changed has those that are still in it.
        """
        if isinstance(self.space, Listed):
            return digest([self.cell.key, "listed", self.tune.seed])
        space = {option: dimension.as_plain() for option, dimension in self.space.items()}
        return digest([self.cell.key, space, self.tune.seed, self.tune.sampler])


def searches_of(spec: Mapping[str, Any]) -> Iterator[Search]:
    """The searches that the cells of a benchmark file need, those in the part of ``tuned_from`` included."""
    source = {part.name: part.tuned_from or part.name for part in parts_of(spec)}
    needed = {(source[cell.part], cell.name) for cell in as_given(spec)}
    everything = {**spec, "only": None}
    tunes = {part.name: part.tune for part in parts_of(everything)}
    for cell in as_given(everything):
        tune = tunes[cell.part]
        if tune is None or (cell.part, cell.name) not in needed:
            continue
        needed.remove((cell.part, cell.name))  # one search for the cells of all seeds
        space = tune.spaces.get(cell.name, tune.spaces.get(cell.model))
        if space is not None:
            yield Search(replace(cell, options={**cell.options, "seed": tune.seed}), tune, space)


def apply_tuning(spec: Mapping[str, Any], cells: list[Cell]) -> list[Cell]:
    """The cells with what was chosen for their rows; as they are where nothing was, or not yet.

    Args:
        spec: The benchmark file.
        cells: Some of its cells, with the options as given.
    """
    parts = {part.name: part for part in parts_of({**spec, "only": None})}
    if not any(part.tune for part in parts.values()):
        return cells
    rows = read_results(Path(spec["output"]) / "trials.jsonl")
    searches = {(search.cell.part, search.cell.name): search for search in searches_of(spec)}
    chosen = {row: _chosen(search, rows) for row, search in searches.items()}
    result = []
    for cell in cells:
        source = parts[cell.part].tuned_from or cell.part
        best = chosen.get((source, cell.name))
        if best is None:
            why = "the search has not ended" if (source, cell.name) in searches else "no space"
            tuned = {"trials": 0, "why": why} if parts[source].tune else None
            result.append(replace(cell, tuned=tuned))
        else:
            options = merged(cell.options, best["settings"], best.get("defaults"))
            own = {key: value for key, value in best.items() if key != "defaults"}
            result.append(replace(cell, options=options, tuned={**own, "part": source}))
    return result


def _chosen(search: Search, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What a search chose; None before it has ended. Of equal trials the first, of none that worked trial 0."""
    trials = _trials(search, rows)[: search.tune.trials]
    if len(trials) < search.tune.trials:
        return None
    worked = [trial for trial in trials if "error" not in trial]
    best = max(worked, key=_goodness, default=trials[0])
    return {
        "trials": len(trials),
        "failed": len(trials) - len(worked),
        "chosen": best["trial"],
        "settings": best["settings"],
        "defaults": best["defaults"],
        "valid_score": best.get("valid_score"),
        "valid_score_as_given": trials[0].get("valid_score"),
        "valid_metric": best.get("valid_metric"),
        "seconds": round(sum(trial["seconds"] for trial in trials), 1),
        "cpu_seconds": round(sum(trial["cpu_seconds"] for trial in trials), 1),
    }


def _goodness(trial: Mapping[str, Any]) -> float:
    score = float(trial["valid_score"])
    return score if trial["bigger_is_better"] else -score


def _trials(search: Search, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The finished trials of a search, in their order, up to the first that is missing."""
    mine = [row for row in rows if row["search"] == search.key]
    if isinstance(search.space, Listed):
        listed = [{}, *search.space.settings]
        mine = [{**row, "trial": listed.index(row["settings"])} for row in mine if row["settings"] in listed]
    own = {row["trial"]: row for row in mine}
    trials: list[dict[str, Any]] = []
    while len(trials) in own:
        trials.append(own[len(trials)])
    return trials


# ---- before anything runs ----


def check_searches(searches: list[Search]) -> None:
    """Refuse searches that cannot work or are not fair, before any of them costs time.

    Raises:
        ConfigError: optuna is missing; a space is over an option that its model has not, or a value that it does
            not take; two rows of a part stop early by different rules. All problems are listed.
    """
    if not all(isinstance(search.space, Listed) for search in searches):
        _optuna()
    problems: list[str] = []
    patience: dict[str, tuple[int, str]] = {}
    for search in searches:
        cell, config = search.cell, _config_of(search.cell, search.cell.options)
        if config is None:
            continue  # the trials will fail and say why
        where = f"benchmark: tune.spaces.{cell.name}"
        for settings in probes(search.space):
            try:
                OOVConfig(
                    cell.model, cell.dataset, config_dict={**merged(cell.options, settings, config), **_QUIET}, argv=[]
                )
            except ConfigError as error:
                problems += [f"{where}: {problem}" for problem in error.errors]
                break
        step, other = patience.setdefault(cell.part, (config["stopping_step"], cell.name))
        if step != config["stopping_step"]:
            problems.append(
                f"{where}: stopping_step is {config['stopping_step']}, and {step} for {other}; every tuned row of a "
                f"part stops by the same rule: set it once, in common"
            )
    if problems:
        raise ConfigError(problems)


def _config_of(cell: Cell, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """All options of a row, defaults included; None where they are not in order."""
    try:
        config = OOVConfig(cell.model, cell.dataset, config_dict={**options, **_QUIET}, argv=[])
    except RecBoleOOVError:
        return None
    return dict(config.final_config_dict)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "benchmark: tune needs optuna, which is not installed; pip install 'recbole-oov[tune]', or --tune=False"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


# ---- the search ----


def is_finished(search: Search, spec: Mapping[str, Any]) -> bool:
    """Whether all its trials are there."""
    return len(_trials(search, read_results(Path(spec["output"]) / "trials.jsonl"))) >= search.tune.trials


def run_search(
    search: Search,
    spec: Mapping[str, Any],
    told: Callable[[dict[str, Any]], None],
    placed: Mapping[str, Any] | None = None,
) -> None:
    """Run the trials of a search that are missing; another process with the same search waits until it has ended.

    Args:
        search: Whose.
        spec: The benchmark file.
        told: Gets each finished trial.
        placed: Options that say where to run and decide no number, as ``gpu_id``.
    """
    output = Path(spec["output"])
    path = output / "trials.jsonl"
    cell = carved(search.cell, output)
    cell = replace(cell, options={**cell.options, **(placed or {})})
    config = _config_of(cell, cell.options) or {}
    with locked(output / "locks" / search.key):
        while len(trials := _trials(search, read_results(path))) < search.tune.trials:
            row = _next_trial(search, cell, trials, config, output, share=bool(spec.get("share_base")))
            append_row(path, row)
            told(row)


def _next_trial(
    search: Search, cell: Cell, trials: list[dict[str, Any]], config: dict[str, Any], output: Path, *, share: bool
) -> dict[str, Any]:
    settings, same_as = _proposed(search, trials, config)
    row = _head(search, len(trials), settings, config)
    if same_as is not None:  # the space is used up: the same training would give the same score
        known = {key: same_as[key] for key in _OUTCOME if key in same_as}
        return {**row, **known, "same_as": same_as["trial"], "seconds": 0.0, "cpu_seconds": 0.0}
    started, cpu_started = time.perf_counter(), time.process_time()
    checkpoints = output / "saved" / f"trial-{search.key}"
    try:
        trial = replace(cell, options=merged(cell.options, settings, config))
        trial, base = with_shared_base(trial, output) if share else (trial, {})
        row |= {**base, **run_trial(trial, checkpoints)}
    except Exception as error:  # a trial that fails is one of the budget; the row says why
        row |= {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    shutil.rmtree(checkpoints, ignore_errors=True)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    return {**row, "seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}


def _head(search: Search, number: int, settings: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial is, before anything came of it."""
    cell = search.cell
    # Of base_config and the like, what a setting with a dot changes one value of.
    outer = {option.partition(".")[0] for option in settings if "." in option}
    return {
        "key": f"{search.key}-{digest(settings) if isinstance(search.space, Listed) else number}",
        "search": search.key,
        "part": cell.part,
        "name": cell.name,
        "model": cell.model,
        "dataset": cell.dataset,
        "seed": search.tune.seed,
        "trial": number,
        "settings": settings,
        "defaults": {name: config[name] for name in sorted(outer) if name in config},
    }


def lost_trial(search: Search, spec: Mapping[str, Any], error: str) -> dict[str, Any]:
    """Write a failed trial for a process that ended while it was at it; returns the row."""
    output = Path(spec["output"])
    path = output / "trials.jsonl"
    cell = carved(search.cell, output)
    config = _config_of(cell, cell.options) or {}
    trials = _trials(search, read_results(path))
    settings, _ = _proposed(search, trials, config)
    row = {**_head(search, len(trials), settings, config), "error": error, "seconds": 0.0, "cpu_seconds": 0.0}
    append_row(path, row)
    return row


def run_trial(cell: Cell, checkpoints: Path) -> dict[str, Any]:
    """Train with one setting and return its validation score; the test part is sealed.

    Raises:
        RecBoleOOVError: There is no validation score, or it is not finite.
    """
    from recbole_oov import runner

    # A trial that was killed is run again: no state to resume from, in which the sealed rows would be looked at.
    options = {**_QUIET, "checkpoint_dir": str(checkpoints), **cell.options, "resume_step": 0}
    experiment = sealed(runner.prepare(cell.model, cell.dataset, config_dict=options, argv=[]))
    trainer = experiment.trainer
    best, result = trainer.fit(experiment.train_data, experiment.valid_data, saved=True, show_progress=False)
    if not math.isfinite(best):
        raise RecBoleOOVError(f"the validation score is {best}; a search needs a validation part and a finite score")
    return {
        "valid_score": float(best),
        "valid_metric": str(experiment.config["valid_metric"]).lower(),
        "bigger_is_better": bool(experiment.config["valid_metric_bigger"]),
        "valid_result": {name: float(value) for name, value in (result or {}).items()},
        "epochs": len(trainer.train_loss_dict),
    }


def _at(config: Mapping[str, Any], option: str) -> Any:
    """The value of an option with dots; None where there is none."""
    value: Any = config
    for name in option.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _proposed(
    search: Search, trials: list[dict[str, Any]], config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The settings of the next trial, and an earlier one with the same, where there is one."""
    if not trials:
        return {}, None
    if isinstance(search.space, Listed):
        return copy.deepcopy(search.space.settings[len(trials) - 1]), None
    return _drawn(search, search.space, trials, {option: _at(config, option) for option in search.space})


def _drawn(
    search: Search, space: Dimensions, trials: list[dict[str, Any]], given: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The next settings, and the trial that had the same where the space holds nothing new."""
    tried = [{**given, **trial["settings"]} for trial in trials]
    for attempt in range(_REDRAWS):
        settings = _ask(search, space, trials, given, attempt)
        if settings not in tried:
            return settings, None
    return settings, trials[tried.index(settings)]


def _ask(
    search: Search, space: Dimensions, trials: list[dict[str, Any]], given: dict[str, Any], attempt: int
) -> dict[str, Any]:
    """Settings from optuna, out of a study that is built from the trials anew."""
    optuna = _optuna()
    text = f"{search.tune.seed}/{len(trials)}/{attempt}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    if search.tune.sampler == "tpe" and attempt == 0:
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_AT_RANDOM)
    else:
        sampler = optuna.samplers.RandomSampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {option: _distribution(optuna, dimension) for option, dimension in space.items()}
    for trial in trials:
        values = {**given, **trial["settings"]}
        if "error" in trial or not all(space[option].holds(value) for option, value in values.items()):
            continue  # optuna knows no trial outside the space, such as defaults that are not among the choices
        params = {option: _coded(space[option], value) for option, value in values.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=_goodness(trial)))
    asked = study.ask(distributions).params
    return {option: _decoded(space[option], asked[option]) for option in space}


def _distribution(optuna: Any, dimension: Choice | Range) -> Any:
    of = optuna.distributions
    if isinstance(dimension, Choice):
        # By place, since choices may be lists or mappings.
        return of.CategoricalDistribution(range(len(dimension.values)))
    if dimension.whole:
        return of.IntDistribution(dimension.low, dimension.high, log=dimension.log, step=int(dimension.step or 1))
    return of.FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _coded(dimension: Choice | Range, value: Any) -> Any:
    return dimension.values.index(value) if isinstance(dimension, Choice) else value


def _decoded(dimension: Choice | Range, value: Any) -> Any:
    return copy.deepcopy(dimension.values[value]) if isinstance(dimension, Choice) else value
