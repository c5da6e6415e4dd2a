"""One cell of a sweep: training by RecBole's loop, then the test part, measured in one of two ways (``measure``).

- ``ranks``: leave-one-out; the rank of each user's item among all items, with the history left in and left out;
- ``users``: any split; the metrics of every user, as the run's own evaluation computed them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import shutil
import subprocess
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import recbole_oov
from recbole_oov import registry
from recbole_oov.config.keys import yaml_keys
from recbole_oov.evaluation.ranks import target_ranks
from recbole_oov.report.cells import Cell, carved
from recbole_oov.report.share import with_shared_base
from recbole_oov.report.user_values import in_order_of_users, pack_ranks, users_of_row, values_in_order
from recbole_oov.trainer.unfinished import PROGRESS

__all__ = ["finished_row", "row_of", "run_cell"]

_VERSIONS = ("recbole", "torch", "numpy", "transformers")


Curve = list[tuple[int, float, float]]
"""Of each validation its epoch, its score, and the seconds since the beginning."""


def finished_row(cell: Cell, spec: Mapping[str, Any], placed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Run a cell and return its row; after an error the row says why, and nothing is raised.

    Args:
        cell: What to run.
        spec: The benchmark file.
        placed: Options that say where to run and decide no number, as ``gpu_id``.
    """
    output = Path(spec["output"])
    checkpoints = output / "saved" / cell.key
    said: dict[str, Any] = {}
    try:
        ready = carved(replace(cell, options={**cell.options, **(placed or {})}), output)
        if spec.get("share_base"):
            ready, said = with_shared_base(ready, output)
        said |= {"command": spec["command"]} if "command" in spec else {}
        said |= run_cell(ready, checkpoints)
    except Exception as error:  # the sweep goes on
        said = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    shutil.rmtree(checkpoints, ignore_errors=True)
    return row_of(cell, said)


def row_of(cell: Cell, said: Mapping[str, Any]) -> dict[str, Any]:
    """A line of ``results.jsonl``."""
    row: dict[str, Any] = {"key": cell.key, "name": cell.name, "model": cell.model, "dataset": cell.dataset, **said}
    row |= {"part": cell.part} if cell.part else {}
    row |= {"tuned": cell.tuned} if cell.tuned is not None else {}
    row |= {"carve": cell.carve} if cell.carve is not None else {}
    return {**row, "options": cell.options}


def run_cell(cell: Cell, checkpoints: Path) -> dict[str, Any]:
    """Train one model with RecBole's loop and measure it on the test part.

    A cell that was cut off goes on from its last epoch, where its trainer can; times are of all parts.

    Args:
        cell: What to run.
        checkpoints: A folder of the cell's own, since RecBole's file names tell only seconds apart.
    """
    from recbole_oov import runner

    began = datetime.now(UTC).isoformat(timespec="seconds")
    started, cpu_started = time.perf_counter(), time.process_time()
    options = {"show_progress": False, "state": "WARNING", "checkpoint_dir": str(checkpoints), **cell.options}
    if any(checkpoints.glob(f"*{PROGRESS}")):
        options["resume"] = True
    _forget_peak()
    experiment = runner.prepare(cell.model, cell.dataset, config_dict=options, argv=[])
    spent = _Spent(checkpoints)
    if experiment.trainer.continue_from is not None:
        spent.read()
    started, cpu_started = started - spent.seconds, cpu_started - spent.cpu_seconds
    trainer, config_hash = experiment.trainer, _config_hash(experiment)
    before, cpu_before = time.perf_counter() - spent.training, time.process_time() - spent.cpu_training
    curves: list[Curve] = []

    def validated(epoch: int, score: float) -> None:
        if spent.curve:  # of the part before, up to the state that was continued from
            curves.append([point for point in spent.curve if point[0] < epoch])
            spent.curve = []
        latest = curves[-1][-1][0] if curves and curves[-1] else -1
        if not curves or epoch <= latest:  # trained anew, as by a search that trains two samplers
            curves.append([])
        since = time.perf_counter() - (started if cell.measure == "ranks" else before)
        curves[-1].append((epoch, float(score), since))
        now, cpu_now = time.perf_counter(), time.process_time()
        spent.write((now - started, cpu_now - cpu_started, now - before, cpu_now - cpu_before), curves[-1])

    best, _ = trainer.fit(
        experiment.train_data,
        experiment.valid_data,
        saved=True,
        show_progress=False,
        callback_fn=validated,
    )
    trained, cpu_trained = time.perf_counter(), time.process_time()
    trainer.evaluate(experiment.test_data, load_best_model=True, show_progress=False)
    measured = _ranks(experiment, cell) if cell.measure == "ranks" else _users(experiment)
    tasks = {} if cell.refit else runner.task_results(experiment, show_progress=False)
    search = getattr(trainer, "search_report", None)
    curve = curves[search.kept if search is not None else -1] if curves else []
    epochs = len(trainer.train_loss_dict)
    to_best = max(1, epochs - trainer.cur_step * max(1, trainer.eval_step))
    if cell.refit:
        measured = {**_refit(cell, options, to_best, search), "before_refit": measured["test_result"]}
    return {
        "seed": cell.options["seed"],
        "started": began,
        "best_valid": float(best),
        "valid_scores": [(epoch, round(score, 6)) for epoch, score, _ in curve],
        "epochs": epochs,
        "epochs_to_best": to_best,
        "train_seconds": round(trained - (started if cell.measure == "ranks" else before), 1),
        **_to_best(curve, bigger=bool(experiment.config["valid_metric_bigger"])),
        "train_cpu_seconds": round(cpu_trained - cpu_before, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu_started, 1),
        **_peak_memory(experiment.config["device"]),
        "parameters": sum(parameter.numel() for parameter in experiment.model.parameters()),
        **_throughput(trainer),
        **({"search": search.as_dict()} if search is not None else {}),
        **({"stages": [_stage(stage) for stage in trainer.stages]} if hasattr(trainer, "stages") else {}),
        **_diagnostics(experiment),
        **({"tasks": tasks} if tasks else {}),
        **measured,
        "config": config_hash,
        "commit": _commit(),
        "versions": {
            "recbole_oov": recbole_oov.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS},
        },
        "hardware": _hardware(experiment.config["device"]),
    }


class _Spent:
    """What a cell has cost until its latest validation, beside the state that it is continued from.

    Args:
        folder: The cell's checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "spent.json"
        self.seconds = self.cpu_seconds = self.training = self.cpu_training = 0.0
        self.curve: Curve = []

    def read(self) -> None:
        """What was written, of the part that is continued; nothing where that wrote none."""
        with suppress(OSError, ValueError):
            said = json.loads(self._file.read_text(encoding="utf-8"))
            self.seconds, self.cpu_seconds, self.training, self.cpu_training = map(float, said["spent"])
            self.curve = [(int(epoch), float(score), float(since)) for epoch, score, since in said["curve"]]

    def write(self, spent: tuple[float, float, float, float], curve: Curve) -> None:
        """Seconds and those of the CPU, of the cell and of its training; and its validations."""
        with suppress(OSError):  # a full disk costs what a cell says of its time, and not the cell
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(json.dumps({"spent": spent, "curve": curve}), encoding="utf-8")


def _to_best(curve: Curve, *, bigger: bool) -> dict[str, float]:
    """Seconds until the best validation, of equal ones the last, as RecBole has it; nothing without one."""
    if not curve:
        return {}
    best = (max if bigger else min)(score for _, score, _ in curve)
    return {"seconds_to_best": round(max(since for _, score, since in curve if score == best), 3)}


def _throughput(trainer: Any) -> dict[str, float]:
    """Tokens that a language model reads in a second of training, where there is one."""
    tokens, seconds = getattr(trainer, "tokens_read", 0), getattr(trainer, "reading_seconds", 0.0)
    return {"tokens_per_second": round(tokens / seconds, 1)} if tokens and seconds else {}


def _diagnostics(experiment: Any) -> dict[str, Any]:
    """What the model says of itself after training, where it does."""
    diagnose = getattr(experiment.model, "diagnostics", None)
    return {} if diagnose is None else {"diagnostics": diagnose(experiment.train_data._dataset)}


def _stage(stage: Any) -> dict[str, Any]:
    """What a stage of a training in several cost."""
    cost = {"seconds": round(stage.seconds, 1), "peak_memory_mib": stage.peak_memory >> 20}
    return {"name": stage.name, "model": stage.model, "epochs": stage.epochs, **cost}


def _config_hash(experiment: Any) -> str:
    """SHA-256 of all options that decide the numbers, defaults included."""
    options = {**experiment.trainer.options, "epochs": experiment.config["epochs"]}
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


@cache
def _commit() -> str:
    """The commit of the working copy that runs, ``-dirty`` after changes; the version of an installed package."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return str(recbole_oov.__version__)
    try:
        found = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return str(recbole_oov.__version__)
    return found.stdout.strip()


def _hardware(device: Any) -> str:
    name = f" ({torch.cuda.get_device_name(device)})" if str(device).startswith("cuda") else ""
    return f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {device}{name}"


def _forget_peak() -> None:
    """Begin to measure the peak of memory anew."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # not Linux, or not allowed: then it is the peak of the process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_memory(device: Any) -> dict[str, int]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        peak = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) // 1024
    if not str(device).startswith("cuda"):
        return {"peak_memory_mib": peak}
    return {"peak_memory_mib": peak, "peak_gpu_memory_mib": torch.cuda.max_memory_allocated(device) >> 20}


def _refit(cell: Cell, options: dict[str, Any], epochs: int, search: Any) -> dict[str, Any]:
    """Train once more, for as long as validation said, on all training rows as published; then measure.

    A search is not repeated: what it chose is trained.
    """
    from recbole_oov import runner

    model = cell.model
    options = {**options, "benchmark_filename": ["all", "valid", "test"], "epochs": epochs, "eval_step": 0}
    options["leak_guard"] = (
        "off"  # the validation rows are among the training rows on purpose, and nobody looks at them
    )
    if search is not None and search.chosen != "mixture":
        model = search.base_model
        own = yaml_keys(registry.properties_folder() / "model" / "AutoSample.yaml")
        options = {key: value for key, value in options.items() if key not in own}
        options["sampler"] = {"name": search.chosen, **search.options}
    experiment = runner.prepare(model, cell.dataset, config_dict=options, argv=[])
    trainer = experiment.trainer
    trainer.fit(experiment.train_data, experiment.valid_data, saved=False, show_progress=False)
    trainer.evaluate(experiment.test_data, load_best_model=False, show_progress=False)
    measured = _users(experiment)
    tasks = runner.task_results(experiment, show_progress=False)
    return {**measured, **({"tasks": tasks} if tasks else {})}


def _ranks(experiment: Any, cell: Cell) -> dict[str, Any]:
    """Leave-one-out: every user's rank, with and without the history in the ranking."""
    history = [experiment.train_data._dataset, experiment.valid_data._dataset]
    model, test, device = experiment.model, experiment.test_data, experiment.config["device"]
    users, items, unmasked = target_ranks(model, test, seed=cell.options["seed"], device=device)
    _, _, masked = target_ranks(model, test, mask=history, seed=cell.options["seed"], device=device)
    order, targets = in_order_of_users(experiment.dataset, users, items)
    return {"targets": targets, "ranks": pack_ranks(unmasked[order], masked[order])}


def _users(experiment: Any) -> dict[str, Any]:
    """Any split: every user's metrics, by group, users in the order of their tokens.

    A sequential model may be tested on several targets of a user: then it is their mean.
    """
    last, dataset, field = experiment.trainer.last_evaluation, experiment.dataset, experiment.model.USER_ID
    users = sorted(set(dataset.id2token(field, last.users["overall"])))
    once = all(group.n_users == len(group.users) for group in last.groups.values())
    of_groups, means = (last.users, {}) if once else last.by_user()
    orders = {group: np.argsort(dataset.id2token(field, of_group)) for group, of_group in of_groups.items()}
    rows = experiment.test_data._dataset.inter_feat
    tokens = [dataset.id2token(name, rows[name].numpy()) for name in (field, experiment.model.ITEM_ID)]
    pairs = sorted(f"{user}\t{item}" for user, item in zip(*tokens, strict=True))
    return {
        "targets": hashlib.sha256("\n".join(pairs).encode()).hexdigest(),
        "user_tokens": hashlib.sha256("\n".join(users).encode()).hexdigest(),
        "test_result": {name: float(value) for name, value in last.result.items()},
        **(users_of_row(last, orders) if once else values_in_order(means, orders)),
    }
