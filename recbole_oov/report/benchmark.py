"""Benchmark sweeps: parts × models × seeds, one line of results a cell, resumable.

A cell is one model with one seed on one data set. A finished cell is one line of ``results.jsonl``; a sweep that was
killed continues with the cells that are not there. Every cell of a part is measured by the same code on the same
held-out rows (:mod:`recbole_oov.report.measure`). With ``tune``, the rows' settings are searched for first
(:mod:`recbole_oov.report.tuning`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_oov.config import OOVConfig
from recbole_oov.data.oov_split import oov_options
from recbole_oov.errors import ConfigError, RecBoleOOVError
from recbole_oov.report.cells import Cell, as_given, check_apart, is_sequential
from recbole_oov.report.jobs import Task, run_tasks
from recbole_oov.report.measure import run_cell
from recbole_oov.report.progress import Progress, screen
from recbole_oov.report.results import append_row, read_results, writing_to
from recbole_oov.report.spec import parts_of, read_spec
from recbole_oov.report.tables import write_report
from recbole_oov.report.tuning import apply_tuning, check_searches, is_finished, searches_of
from recbole_oov.report.twins import one_of_each, rows_of_twins

__all__ = ["Cell", "benchmark", "cells_of", "read_results", "read_spec", "run_cell"]


def benchmark(file: str, overrides: Mapping[str, Any]) -> Path:
    """Run the missing cells of a benchmark file and write its report.

    Several processes may work on one folder at a time, each on seeds or parts of its own.

    Args:
        file: A YAML file; its keys: ``docs/benchmark.md``.
        overrides: ``output``, ``seeds``, ``only`` (names of parts), ``jobs``, ``tune`` or options for all models,
            stronger than the file.

    Returns:
        The folder with ``results.jsonl``, the tables, the page and the plots.

    Raises:
        ConfigError: The file cannot be used.
    """
    spec = read_spec(file, overrides)
    output = Path(spec["output"])
    _check_options(spec)
    _check_kinds(spec)
    console = screen()
    with writing_to(output, "make room or choose another output; finished cells are kept"):
        output.mkdir(parents=True, exist_ok=True)
        with Progress(console, spec["k"]) as progress:
            _search(spec, progress)
            _run_cells(spec, progress)
        # Other processes may have done other seeds and parts: the tables are of all that is in the folder.
        rows = read_results(output / "results.jsonl")
        write_report(spec, cells_of({**spec, "only": None}), rows, output, console)
    return output


def failed_cells(file: str, overrides: Mapping[str, Any]) -> list[str]:
    """Of the cells that a call asks for those that never worked, each with the reason of the last time.

    Arguments as of :func:`benchmark`.
    """
    spec = read_spec(file, overrides)
    rows = read_results(Path(spec["output"]) / "results.jsonl")
    # A row that worked comes last: a process may end, and be counted as failed, after it has written its row.
    latest = {row["key"]: row for row in sorted(rows, key=lambda row: "error" not in row)}
    asked = [(cell, latest.get(cell.key, {})) for cell in cells_of(spec)]
    return [f"{cell.label}, seed {cell.options['seed']}: {row['error']}" for cell, row in asked if "error" in row]


def cells_of(spec: Mapping[str, Any]) -> list[Cell]:
    """All cells, each with the settings that the search chose for its row, once it has ended.

    One seed of every model comes before the next seed, so that an unfinished sweep is a fair one.
    """
    cells = apply_tuning(spec, list(as_given(spec)))
    check_apart(cells)
    return cells


def _check_options(spec: Mapping[str, Any]) -> None:
    """Refuse to begin a benchmark of which no row could run, as with a misspelt option for all models."""
    if read_results(Path(spec["output"]) / "results.jsonl") or any(part.carve for part in parts_of(spec)):
        return  # it has begun, or the files of a split are still to be made
    problems: list[str] = []
    for cell in {(cell.part, cell.name): cell for cell in as_given(spec)}.values():
        quiet = {"show_progress": False, "state": "WARNING"}
        try:
            OOVConfig(cell.model, cell.dataset, config_dict={**cell.options, **quiet}, argv=[])
        except ConfigError as error:
            problems += error.errors
        except RecBoleOOVError as error:
            problems.append(str(error))
        else:
            return
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


def _check_kinds(spec: Mapping[str, Any]) -> None:
    """Refuse sequential models beside others under the OOV protocol, which keeps other rows for the test of each.

    Of other splits it depends on the data whether both kinds are tested on the same rows.

    Raises:
        ConfigError: A part has both.
    """
    problems = []
    rows = {(cell.part, cell.name): cell for cell in as_given(spec)}.values()
    for part in dict.fromkeys(cell.part for cell in rows):
        own = [cell for cell in rows if cell.part == part]
        sequential = [cell for cell in own if is_sequential(cell.model)]
        others = [cell for cell in own if cell not in sequential]
        if not sequential or not others:
            continue
        decided_by = ("eval_args", "oov_split")
        distinct = {repr([cell.model, *map(cell.options.get, decided_by)]): cell for cell in own}.values()
        if any(_splits_by_items(cell) for cell in distinct):
            where = f"parts.{part}: " if part else ""
            problems.append(
                f"benchmark: {where}{sequential[0].name} is sequential, {others[0].name} is not; with the split OOV "
                f"they are tested on different held-out rows, which no table can compare. Give each kind a part of its "
                f"own, with its rows as models"
            )
    if problems:
        raise ConfigError(problems)


def _splits_by_items(cell: Cell) -> bool:
    options = {**cell.options, "show_progress": False, "state": "WARNING"}
    try:
        return oov_options(OOVConfig(cell.model, cell.dataset, config_dict=options, argv=[])) is not None
    except RecBoleOOVError:
        return False  # the cell will fail and say why


def _search(spec: Mapping[str, Any], progress: Progress) -> None:
    searches = [search for search in searches_of(spec) if not is_finished(search, spec)]
    check_searches(searches)
    tasks = [Task(f"[{n}/{len(searches)}] {s.cell.label}, tuning", s) for n, s in enumerate(searches, 1)]
    run_tasks(tasks, spec, spec["jobs"], progress)


def _run_cells(spec: Mapping[str, Any], progress: Progress) -> None:
    file = Path(spec["output"]) / "results.jsonl"
    cells, tried = cells_of(spec), set[str]()
    labels = {
        cell.key: f"[{number}/{len(cells)}] {cell.label}, seed {cell.options['seed']}"
        for number, cell in enumerate(cells, 1)
    }
    finished = {row["key"] for row in read_results(file) if "error" not in row}
    for cell in cells:
        if cell.key in finished:
            progress.say(f"{labels[cell.key]}: done before")
    while True:
        rows = read_results(file)
        finished = {row["key"] for row in rows if "error" not in row}
        missing = [cell for cell in cells if cell.key not in finished | tried]
        taken_over = rows_of_twins(missing, cells_of({**spec, "only": None}), rows)
        for row in taken_over:
            append_row(file, row)
            progress.say(f"{labels[row['key']]}: the same run as one of another part")
        taken = {row["key"] for row in taken_over}
        now = one_of_each([cell for cell in missing if cell.key not in taken])
        if not now:
            return
        tried |= {cell.key for cell in now}
        run_tasks([Task(labels[cell.key], cell) for cell in now], spec, spec["jobs"], progress)
