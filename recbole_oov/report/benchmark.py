"""Benchmark sweeps: parts × models × seeds, one line of results a cell, resumable.

A cell is one model with one seed on one data set. A finished cell is one line of ``results.jsonl``; a sweep that was
killed continues with the cells that are not there. Every cell of a part is measured by the same code on the same
held-out rows, in one of two ways (``measure``):

- ``ranks``: leave-one-out; the rank of each user's item among all items, with the history left in and left out;
- ``users``: any split; the metrics of every user, as the run's own evaluation computed them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import resource
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from recbole_oov import registry
from recbole_oov.config.keys import yaml_keys
from recbole_oov.evaluation.ranks import metrics_of_ranks, target_ranks
from recbole_oov.report.spec import carved, parts_of, read_spec
from recbole_oov.report.tables import write_tables
from recbole_oov.report.user_values import pack

__all__ = ["Cell", "benchmark", "cells_of", "read_results", "read_spec", "run_cell"]


@dataclass(frozen=True)
class Cell:
    """One model with one seed on one data set."""

    name: str
    model: str
    dataset: str
    options: dict[str, Any]
    part: str = ""
    measure: str = "ranks"
    refit: bool = False

    @property
    def key(self) -> str:
        """Identifies the cell by what decides its result."""
        decides: list[Any] = [self.name, self.model, self.dataset, self.options]
        if self.measure != "ranks":
            # Where the data lies decides nothing.
            options = {key: value for key, value in self.options.items() if key != "data_path"}
            decides = [*decides[:3], options, self.measure, self.part]
        text = json.dumps(decides, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def benchmark(file: str, overrides: Mapping[str, Any]) -> Path:
    """Run the missing cells of a benchmark file and write its tables.

    Several processes may work on one folder at a time, each on seeds or parts of its own.

    Args:
        file: A YAML file; see ``properties/benchmark/ml-100k.yaml`` and ``negative-sampling.yaml``.
        overrides: ``output``, ``seeds``, ``only`` (names of parts) or options for all models, stronger than the file.

    Returns:
        The folder with ``results.jsonl`` and ``table.md``.

    Raises:
        ConfigError: The file cannot be used.
    """
    spec = read_spec(file, overrides)
    output = Path(spec["output"])
    output.mkdir(parents=True, exist_ok=True)
    results = output / "results.jsonl"
    done = {row["key"] for row in read_results(results) if "error" not in row}
    cells = list(cells_of(spec))
    console = Console()
    for number, cell in enumerate(cells, 1):
        label = (
            f"[{number}/{len(cells)}] {f'{cell.part}: ' if cell.part else ''}{cell.name}, seed {cell.options['seed']}"
        )
        if cell.key in done:
            console.print(f"{label}: done before", highlight=False)
            continue
        console.print(f"{label} …", highlight=False)
        checkpoints = output / "saved" / cell.key
        try:
            row = run_cell(carved(cell, spec), checkpoints)
        except Exception as error:  # the sweep goes on; the row says why
            row = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        shutil.rmtree(checkpoints, ignore_errors=True)
        row = {"key": cell.key, "name": cell.name, "model": cell.model, "dataset": cell.dataset, **row}
        row |= {"part": cell.part} if cell.part else {}
        _append(results, {**row, "options": cell.options})
        console.print(f"{label}: {row.get('error') or _short(row, spec['k'])}", highlight=False)
    # Other processes may have done other seeds and parts: the tables are of all that is in the folder.
    write_tables(spec, list(cells_of({**spec, "only": None})), read_results(results), output, console)
    return output


def cells_of(spec: Mapping[str, Any]) -> Iterator[Cell]:
    """All cells, one seed of every model before the next seed, so that an unfinished sweep is a fair one."""
    parts = parts_of(spec)
    for at in range(max((len(part.seeds) for part in parts), default=0)):
        for part in parts:
            for name, entry in part.models.items() if at < len(part.seeds) else ():
                own = {key: value for key, value in entry.items() if key != "model"}
                options = {**part.common, **own, "seed": part.seeds[at]}
                yield Cell(name, entry["model"], part.dataset, options, part.name, part.measure)


def run_cell(cell: Cell, checkpoints: Path) -> dict[str, Any]:
    """Train one model with RecBole's loop and measure it on the test part.

    Args:
        cell: What to run.
        checkpoints: A folder of the cell's own, since RecBole's file names tell only seconds apart.
    """
    from recbole_oov import runner

    started, cpu_started = time.perf_counter(), time.process_time()
    options = {"show_progress": False, "state": "WARNING", "checkpoint_dir": str(checkpoints), **cell.options}
    experiment = runner.prepare(cell.model, cell.dataset, config_dict=options, argv=[])
    trainer = experiment.trainer
    before, cpu_before = time.perf_counter(), time.process_time()
    best, _ = trainer.fit(experiment.train_data, experiment.valid_data, saved=True, show_progress=False)
    trained, cpu_trained = time.perf_counter(), time.process_time()
    trainer.evaluate(experiment.test_data, load_best_model=True, show_progress=False)
    measured = _ranks(experiment, cell) if cell.measure == "ranks" else _users(experiment)
    search = getattr(trainer, "search_report", None)
    epochs = len(trainer.train_loss_dict)
    to_best = max(1, epochs - trainer.cur_step * max(1, trainer.eval_step))
    if cell.refit:
        measured = {**_refit(cell, options, to_best, search), "before_refit": measured["test_result"]}
    return {
        "seed": cell.options["seed"],
        "best_valid": float(best),
        "epochs": epochs,
        "epochs_to_best": to_best,
        "train_seconds": round(trained - (started if cell.measure == "ranks" else before), 1),
        "train_cpu_seconds": round(cpu_trained - cpu_before, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu_started, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "parameters": sum(parameter.numel() for parameter in experiment.model.parameters()),
        **({"search": search.as_dict()} if search is not None else {}),
        **measured,
        "versions": {name: version(name) for name in ("recbole", "torch", "numpy", "transformers")},
        "hardware": (
            f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
            f"{experiment.config['device']}"
        ),
    }


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
    return _users(experiment)


def _ranks(experiment: Any, cell: Cell) -> dict[str, Any]:
    """Leave-one-out: every user's rank, with and without the history in the ranking."""
    history = [experiment.train_data._dataset, experiment.valid_data._dataset]
    model, test, device = experiment.model, experiment.test_data, experiment.config["device"]
    users, items, unmasked = target_ranks(model, test, seed=cell.options["seed"], device=device)
    _, _, masked = target_ranks(model, test, mask=history, seed=cell.options["seed"], device=device)
    # Internal ids depend on which columns a model loads; tokens do not.
    order = np.argsort(experiment.dataset.id2token(model.USER_ID, users))
    targets = "\n".join(experiment.dataset.id2token(model.ITEM_ID, items)[order])
    return {
        "targets": hashlib.sha256(targets.encode()).hexdigest(),
        "ranks": unmasked[order].tolist(),
        "ranks_masked": masked[order].tolist(),
    }


def _users(experiment: Any) -> dict[str, Any]:
    """Any split: every user's metrics, by group, users in the order of their tokens."""
    last, dataset, field = experiment.trainer.last_evaluation, experiment.dataset, experiment.model.USER_ID
    values: dict[str, dict[str, str]] = {}
    users = sorted(dataset.id2token(field, last.users["overall"]))
    for group, metrics in last.per_user.items():
        order = np.argsort(dataset.id2token(field, last.users[group]))
        values[group] = {name: pack(per_user[order]) for name, per_user in metrics.items()}
    rows = experiment.test_data._dataset.inter_feat
    tokens = [dataset.id2token(name, rows[name].numpy()) for name in (field, experiment.model.ITEM_ID)]
    pairs = sorted(f"{user}\t{item}" for user, item in zip(*tokens, strict=True))
    return {
        "targets": hashlib.sha256("\n".join(pairs).encode()).hexdigest(),
        "user_tokens": hashlib.sha256("\n".join(users).encode()).hexdigest(),
        "test_result": {name: float(value) for name, value in last.result.items()},
        "users": values,
    }


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows so far; a last line that a kill cut short is left out."""
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                getLogger(__name__).warning("%s: an unfinished line is left out", path)
    return rows


def _short(row: Mapping[str, Any], k: int) -> str:
    cost = f"{row['epochs']} epochs, {row['seconds']} s"
    if "test_result" in row:
        return f"{', '.join(f'{name} {value:.4f}' for name, value in row['test_result'].items())}; {cost}"
    ndcg = [metrics_of_ranks(np.array(row[field]), k)[f"ndcg@{k}"].mean() for field in ("ranks", "ranks_masked")]
    return f"NDCG@{k} {ndcg[0]:.4f} unmasked, {ndcg[1]:.4f} masked; {cost}"


def _append(path: Path, row: Mapping[str, Any]) -> None:
    """One whole line, whoever else writes to the file."""
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cut_short = path.stat().st_size > 0 and not _ends_in_newline(path)
        file.write(("\n" if cut_short else "") + json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
