"""Tasks of a sweep, one after another in this process or several side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from recbole_oov.errors import RecBoleOOVError
from recbole_oov.processes import usable_cores
from recbole_oov.report import measure, tuning
from recbole_oov.report.cells import Cell
from recbole_oov.report.progress import Progress
from recbole_oov.report.results import append_row
from recbole_oov.report.tuning import Search

__all__ = ["Task", "run_tasks"]

Tell = Callable[[str, Any], None]


@dataclass(frozen=True)
class Task:
    """A cell to run, or a row's settings to search for."""

    label: str
    what: Cell | Search

    @property
    def key(self) -> str:
        """Names it among the tasks of a sweep."""
        return self.what.key


def run_tasks(tasks: Sequence[Task], spec: Mapping[str, Any], jobs: int, progress: Progress) -> None:
    """Run tasks; a task that fails is a row that says why, and the others go on.

    Args:
        tasks: In their order.
        spec: The benchmark file.
        jobs: How many at a time. More than one run in new processes, on the GPUs in turn, or each with its share of
            the CPU's threads.
        progress: Is told what happens.
    """
    progress.expect(len(tasks))
    if jobs > 1:
        _Pool(spec, jobs, progress).run(tasks)
        return
    for task in tasks:
        progress.begin(task.key, task.label)
        _work(task, spec, lambda kind, row, key=task.key: _show(progress, key, kind, row))  # type: ignore[misc]


def _show(progress: Progress, key: str, kind: str, row: Any) -> None:
    if kind == "trial":
        progress.trial(key, row)
    else:
        progress.end(key, row)


def _work(task: Task, spec: Mapping[str, Any], tell: Tell, placed: Mapping[str, Any] | None = None) -> None:
    """Run a task in this process; ``placed`` are options that say where it runs and decide no number."""
    if isinstance(task.what, Search):
        tuning.run_search(task.what, spec, lambda row: tell("trial", row), placed)
        tell("end", None)
        return
    row = measure.finished_row(task.what, spec, placed)
    append_row(Path(spec["output"]) / "results.jsonl", row)
    tell("end", row)


# ---- processes ----


@dataclass
class _Running:
    task: Task
    process: Any
    slot: int


class _Pool:
    """A process for each task, so that one which is killed, for want of memory, takes no other with it."""

    def __init__(self, spec: Mapping[str, Any], jobs: int, progress: Progress) -> None:
        self._spec, self._progress = spec, progress
        self._free = deque(range(jobs))
        self._threads = max(1, min(torch.get_num_threads(), usable_cores() // jobs))
        self._gpus = torch.cuda.device_count()
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[Connection, _Running] = {}

    def run(self, tasks: Sequence[Task]) -> None:
        left = deque(tasks)
        try:
            while left or self._running:
                while left and self._free:
                    task = left.popleft()
                    self._progress.begin(task.key, task.label)
                    self._start(task)
                for connection in wait(list(self._running)):
                    self._receive(connection)  # type: ignore[arg-type]
        finally:
            for running in self._running.values():
                running.process.terminate()

    def _start(self, task: Task) -> None:
        slot = self._free.popleft()
        ours, theirs = self._context.Pipe()
        placed = {"gpu_id": str(slot % self._gpus)} if self._gpus and not _has_place(task) else {}
        arguments = (task, dict(self._spec), theirs, self._threads, placed)
        process = self._context.Process(target=_child, args=arguments)
        process.start()
        theirs.close()  # ours then ends when the process does
        self._running[ours] = _Running(task, process, slot)

    def _receive(self, connection: Connection) -> None:
        running = self._running[connection]
        try:
            kind, row = connection.recv()
        except (EOFError, OSError):  # OSError: it ended in the middle of a message
            kind, row = "lost", None
        if kind == "trial":
            self._progress.trial(running.task.key, row)
            return
        running.process.join()
        connection.close()
        del self._running[connection]
        self._free.append(running.slot)
        if kind == "end":
            self._progress.end(running.task.key, row)
        else:
            self._lost(running)

    def _lost(self, running: _Running) -> None:
        """A process ended without a word: its cell, or the trial it was at, is a row that says so."""
        code = running.process.exitcode
        how = f"signal {-code}; memory may have run out" if code < 0 else f"exit status {code}"
        error, what = f"{RecBoleOOVError.__name__}: the process ended with {how}", running.task.what
        if isinstance(what, Cell):
            row = measure.row_of(what, {"error": error})
            append_row(Path(self._spec["output"]) / "results.jsonl", row)
            self._progress.end(running.task.key, row)
            return
        self._progress.trial(running.task.key, tuning.lost_trial(what, self._spec, error))
        self._start(running.task)


def _has_place(task: Task) -> bool:
    cell = task.what.cell if isinstance(task.what, Search) else task.what
    return bool({"gpu_id", "use_gpu"} & set(cell.options))


def _child(task: Task, spec: Mapping[str, Any], connection: Connection, threads: int, placed: dict[str, Any]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"recbole\.")  # as the command line does
    _work(task, spec, lambda kind, row: connection.send((kind, row)), placed)
    connection.close()


def _end_with(parent: Any) -> None:
    """A sweep that is killed leaves no process behind that trains on."""
    parent.join()
    os._exit(1)
