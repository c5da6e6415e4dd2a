"""Benchmark sweeps: models × seeds on one split, one line of results a cell, resumable.

A cell is one model with one seed. A finished cell is one line of ``results.jsonl``; a sweep that was killed
continues with the cells that are not there. Every cell is measured by the same code on the same held-out items:
the rank of each user's item among all items, with the history left in the ranking and with it left out.
"""

from __future__ import annotations

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
import yaml
from rich.console import Console
from rich.table import Table

from recbole_oov.errors import ConfigError
from recbole_oov.evaluation.intervals import bootstrap_interval
from recbole_oov.evaluation.ranks import metrics_of_ranks, target_ranks

_KEYS = {"dataset", "output", "seeds", "common", "models", "k"}


@dataclass(frozen=True)
class Cell:
    """One model with one seed."""

    name: str
    model: str
    dataset: str
    options: dict[str, Any]

    @property
    def key(self) -> str:
        """Identifies the cell by what decides its result."""
        text = json.dumps([self.name, self.model, self.dataset, self.options], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def benchmark(file: str, overrides: Mapping[str, Any]) -> Path:
    """Run the missing cells of a benchmark file and write the table.

    Args:
        file: A YAML file; see ``properties/benchmark/ml-100k.yaml``.
        overrides: ``output``, ``seeds`` or options for all models, stronger than the file.

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
        label = f"[{number}/{len(cells)}] {cell.name}, seed {cell.options['seed']}"
        if cell.key in done:
            console.print(f"{label}: done before")
            continue
        console.print(f"{label} …")
        try:
            row = run_cell(cell, output / "saved" / cell.key)
        except Exception as error:  # the sweep goes on; the row says why
            row = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        shutil.rmtree(output / "saved" / cell.key, ignore_errors=True)
        row = {"key": cell.key, "name": cell.name, "model": cell.model, "dataset": cell.dataset, **row}
        _append(results, {**row, "options": cell.options})
        console.print(f"{label}: {row.get('error') or _short(row, spec['k'])}")
    write_table(spec, read_results(results), output / "table.md", console)
    return output


def read_spec(file: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a benchmark file, checked. Raises ConfigError."""
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"benchmark: there is no file {file}")
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"benchmark: {file} is not YAML: {error}") from error
    if not isinstance(spec, dict) or not {"dataset", "models", "seeds"} <= set(spec):
        raise ConfigError(f"benchmark: {file} needs the keys dataset, models and seeds")
    if set(spec) - _KEYS:
        raise ConfigError(f"benchmark: {file}: unknown key {sorted(set(spec) - _KEYS)[0]!r}; known are {sorted(_KEYS)}")
    for name, entry in spec["models"].items():
        if not isinstance(entry, dict) or "model" not in entry:
            raise ConfigError(f"benchmark: {file}: models.{name} needs the key 'model', the name of a model class")
    common = {key: value for key, value in overrides.items() if key not in _KEYS}
    spec |= {key: value for key, value in overrides.items() if key in _KEYS}
    return {"output": f"results/{path.stem}", "k": 10, **spec, "common": {**(spec.get("common") or {}), **common}}


def cells_of(spec: Mapping[str, Any]) -> Iterator[Cell]:
    """All cells, one seed of every model before the next seed, so that an unfinished sweep is a fair one."""
    for seed in spec["seeds"]:
        for name, entry in spec["models"].items():
            own = {key: value for key, value in entry.items() if key != "model"}
            yield Cell(name, entry["model"], spec["dataset"], {**spec["common"], **own, "seed": seed})


def run_cell(cell: Cell, checkpoints: Path) -> dict[str, Any]:
    """Train one model with RecBole's loop and rank every user's test item.

    Args:
        cell: What to run.
        checkpoints: A folder of the cell's own, since RecBole's file names tell only seconds apart.
    """
    from recbole_oov import runner

    started = time.perf_counter()
    options = {"show_progress": False, "state": "WARNING", "checkpoint_dir": str(checkpoints), **cell.options}
    experiment = runner.prepare(cell.model, cell.dataset, config_dict=options, argv=[])
    best, _ = experiment.trainer.fit(experiment.train_data, experiment.valid_data, saved=True, show_progress=False)
    trained = time.perf_counter()
    experiment.trainer.evaluate(experiment.test_data, load_best_model=True, show_progress=False)
    history = [experiment.train_data._dataset, experiment.valid_data._dataset]
    model, test, device = experiment.model, experiment.test_data, experiment.config["device"]
    users, items, unmasked = target_ranks(model, test, seed=cell.options["seed"], device=device)
    _, _, masked = target_ranks(model, test, mask=history, seed=cell.options["seed"], device=device)
    # Internal ids depend on which columns a model loads; tokens do not.
    tokens = experiment.dataset.id2token(model.USER_ID, users)
    order = np.argsort(tokens)
    losses = experiment.trainer.train_loss_dict
    return {
        "seed": cell.options["seed"],
        "targets": hashlib.sha256(
            "\n".join(experiment.dataset.id2token(model.ITEM_ID, items)[order]).encode()
        ).hexdigest(),
        "best_valid": float(best),
        "epochs": len(losses),
        "train_seconds": round(trained - started, 1),
        "seconds": round(time.perf_counter() - started, 1),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "ranks": unmasked[order].tolist(),
        "ranks_masked": masked[order].tolist(),
        "versions": {name: version(name) for name in ("recbole", "torch", "numpy", "transformers")},
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {device}",
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


def write_table(spec: Mapping[str, Any], rows: list[dict[str, Any]], path: Path, console: Console) -> None:
    """Means over seeds with 95 % bootstrap intervals over users, as Markdown and on the screen.

    Raises:
        ConfigError: Two rows were not measured on the same held-out items.
    """
    keys = {cell.key for cell in cells_of(spec)}
    rows = [row for row in rows if row["key"] in keys and "error" not in row]
    if len({row["targets"] for row in rows}) > 1:
        raise ConfigError(f"{path}: the cells were not tested on the same held-out items; give all the same split")
    k = spec["k"]
    head = ["model", "seeds", "history", f"Recall@{k}", f"NDCG@{k}", f"MRR@{k}", "epochs", "seconds"]
    lines = []
    for name in spec["models"]:
        own = [row for row in rows if row["name"] == name]
        for kind, field in (("unmasked", "ranks"), ("masked", "ranks_masked")):
            if own:
                metrics = metrics_of_ranks(np.array([row[field] for row in own]), k)
                cells = [_with_interval(metrics[f"{metric}@{k}"]) for metric in ("recall", "ndcg", "mrr")]
                epochs, seconds = (np.mean([row[key] for row in own]) for key in ("epochs", "train_seconds"))
                lines.append([name, str(len(own)), kind, *cells, f"{epochs:.0f}", f"{seconds:.0f}"])
    table = Table(*head, title=f"{spec['dataset']}, test, mean over seeds [95 % interval over users]")
    for line in lines:
        table.add_row(*line)
    console.print(table)
    markdown = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    markdown += ["| " + " | ".join(line) + " |" for line in lines]
    path.write_text("\n".join(markdown) + "\n", encoding="utf-8")


def _with_interval(values: np.ndarray) -> str:
    low, high = bootstrap_interval(values)
    return f"{values.mean():.4f} [{low:.4f}, {high:.4f}]"


def _short(row: Mapping[str, Any], k: int) -> str:
    ndcg = [metrics_of_ranks(np.array(row[field]), k)[f"ndcg@{k}"].mean() for field in ("ranks", "ranks_masked")]
    return f"NDCG@{k} {ndcg[0]:.4f} unmasked, {ndcg[1]:.4f} masked; {row['epochs']} epochs, {row['seconds']} s"


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
