"""Cells side by side, killed sweeps, processes that die."""

from __future__ import annotations

import io
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sweeps import circles_spec, write_spec

from recbole_oov.errors import ConfigError
from recbole_oov.report import jobs
from recbole_oov.report.benchmark import benchmark, cells_of, read_results, read_spec
from recbole_oov.report.cells import Cell
from recbole_oov.report.progress import Progress
from recbole_oov.report.tuning import searches_of

ROOT = Path(__file__).parents[2]


def small(circles: Any, **changes: Any) -> dict[str, Any]:
    models = {"BPR": {"model": "BPR"}, "broken": {"model": "BPR", "embedding_size": -1}, "Pop": {"model": "Pop"}}
    return circles_spec(circles, **{"models": models, "tune": False, **changes})


def numbers(output: Path) -> list[Any]:
    rows = read_results(output / "results.jsonl")
    return sorted((row["key"], row.get("test_result"), row.get("best_valid"), row.get("users")) for row in rows)


def test_two_at_a_time_give_what_one_at_a_time_gives(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        models = {"BPR": {"model": "BPR"}, "broken": {"model": "BPR", "embedding_size": -1}}
        outputs.append(benchmark(write_spec(folder, small(circles, models=models)), {"jobs": count}))
    one, two = map(numbers, outputs)
    assert one == two and len(one) == 2
    for output in outputs:
        (failed,) = [row for row in read_results(output / "results.jsonl") if "error" in row]
        assert failed["name"] == "broken" and "embedding_size" in failed["error"] and failed["traceback"]


def test_a_killed_sweep_goes_on_and_repeats_nothing(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL once in the search, once in the cells; what was written by then is not done again."""
    monkeypatch.chdir(tmp_path)
    spec = circles_spec(circles, seeds=[1, 2, 3, 4])
    file = write_spec(tmp_path, spec)
    killed_at = [("trials.jsonl", 1), ("results.jsonl", 1)]
    for name, count in killed_at:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run_recbole_oov.py"), "benchmark", file],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            until = time.monotonic() + 300
            while len(read_results(tmp_path / "out" / name)) < count:
                assert process.poll() is None and time.monotonic() < until, f"{name} is not written"
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    output = benchmark(file, {})
    trials, rows = (read_results(output / name) for name, _ in killed_at)
    assert [trial["trial"] for trial in trials] == [0, 1, 2]
    keys = [row["key"] for row in rows]
    assert len(set(keys)) == len(keys) == 8 and set(keys) == {cell.key for cell in cells_of(read_spec(file, {}))}
    assert not [row for row in rows if "error" in row]


class _Process:
    """Stands for a process: its work is done at once, or it ends without a word."""

    def __init__(self, target: Any, args: Any, fails: list[str]) -> None:
        self.task, self.connection, self.exitcode = args[0], args[2], 0
        self.fails, self.spec = fails, args[1]

    def start(self) -> None:
        if self.fails:
            self.exitcode = int(self.fails.pop())
        else:
            jobs._work(self.task, self.spec, lambda kind, row: self.connection.send((kind, row)))

    def join(self) -> None: ...

    def terminate(self) -> None: ...


def test_a_process_that_is_killed_is_a_failed_row_or_a_failed_trial(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = read_spec(write_spec(tmp_path, circles_spec(circles, models={"BPR": {"model": "BPR"}})), {})
    (tmp_path / "out").mkdir()
    (search,), (cell,) = searches_of(spec), cells_of(spec)
    trial = {"valid_score": 0.5, "valid_metric": "ndcg@5", "bigger_is_better": True, "epochs": 1}
    monkeypatch.setattr("recbole_oov.report.tuning.run_trial", lambda *_: trial)
    text = io.StringIO()
    with Progress(Console(file=text), 5) as progress:
        pool = jobs._Pool(spec, 2, progress)
        fails = ["-9", "1"]  # of the first two trials, the last first
        monkeypatch.setattr(pool._context, "Process", lambda target, args: _Process(target, args, fails), raising=False)
        pool.run([jobs.Task("search", search)])
        fails.append("-9")
        pool.run([jobs.Task("cell", cell)])
    trials, (row,) = read_results(tmp_path / "out/trials.jsonl"), read_results(tmp_path / "out/results.jsonl")
    assert [("error" in trial) for trial in trials] == [True, True, False]
    assert trials[0]["error"].endswith("the process ended with exit status 1")
    assert row["name"] == "BPR" and "ended with signal 9; memory may have run out" in row["error"]
    assert "cell: RecBoleOOVError: the process ended with signal 9" in text.getvalue()


def test_a_process_that_is_killed_in_the_middle_of_a_message_is_a_failed_row(
    tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Process(_Process):
        def __init__(self, target: Any, args: Any) -> None:
            super().__init__(target, args, [])
            self.exitcode = -9

        def start(self) -> None:
            os.write(self.connection.fileno(), struct.pack("!i", 1000) + b"the beginning")

    spec = read_spec(write_spec(tmp_path, small(circles, models={"Pop": {"model": "Pop"}})), {})
    (tmp_path / "out").mkdir()
    with Progress(Console(file=io.StringIO()), 5) as progress:
        pool = jobs._Pool(spec, 2, progress)
        monkeypatch.setattr(pool._context, "Process", lambda target, args: Process(target, args), raising=False)
        pool.run([jobs.Task("cell", cell) for cell in cells_of(spec)])
    (row,) = read_results(tmp_path / "out/results.jsonl")
    assert "ended with signal 9" in row["error"]


def test_a_terminal_gets_a_table(tmp_path: Path) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    row = {"best_valid": 0.25, "test_result": {"ndcg@5": 0.125}, "epochs": 3, "seconds": 1.0}
    with Progress(console, 5) as progress:
        progress.expect(3)
        progress.begin("a", "first cell")
        progress.begin("b", "second cell")
        progress.end("a", row)
        console.print(progress._table())
    shown = text.getvalue()
    for word in ("first cell", "done", "0.2500", "ndcg@5 0.1250", "second cell", "runs", "1 to come"):
        assert word in shown


def test_brackets_in_names_and_errors_are_shown_as_they_are() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    with Progress(console, 5) as progress:
        progress.begin("a", "BPR [/a], [bold]seed 1")
        progress.end("a", {"error": "OSError: none of [/data/x, /data/y]"})
        console.print(progress._table())
    table = text.getvalue().rpartition("┏")[2]
    assert "BPR [/a], [bold]seed 1" in table and "none of [/data/x, /data/y]" in table


@pytest.mark.parametrize(
    ("given", "message"),
    [({"jobs": 0}, "jobs is 0"), ({"jobs": "two"}, "jobs is 'two'"), ({"share_base": "yes"}, "share_base is 'yes'")],
)
def test_bad_numbers_of_jobs_are_refused(given: Any, message: str, tmp_path: Path, circles: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        read_spec(write_spec(tmp_path, small(circles, **given)), {})


def test_the_gpus_are_taken_in_turn(tmp_path: Path, circles: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[Any] = []

    class Process(_Process):
        def __init__(self, target: Any, args: Any) -> None:
            super().__init__(target, args, [])
            placed.append(args[4])

        def start(self) -> None:
            self.connection.send(("end", {"error": "not here"}))

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    spec = read_spec(write_spec(tmp_path, small(circles, seeds=[1])), {})
    cells: list[Cell] = cells_of(spec)
    with Progress(Console(file=io.StringIO()), 5) as progress:
        pool = jobs._Pool(spec, 3, progress)
        monkeypatch.setattr(pool._context, "Process", lambda target, args: Process(target, args), raising=False)
        pool.run([jobs.Task(cell.name, cell) for cell in cells])
    assert placed == [{"gpu_id": "0"}, {"gpu_id": "1"}, {"gpu_id": "0"}]
    assert "gpu_id" not in cells[0].options, "where a cell runs is no part of its key"
