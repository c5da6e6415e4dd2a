"""The report of results that are there, without running anything: ``run_recbole_oov.py report``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_oov.errors import ConfigError
from recbole_oov.report.benchmark import cells_of
from recbole_oov.report.cells import Cell
from recbole_oov.report.progress import screen
from recbole_oov.report.results import read_results, writing_to
from recbole_oov.report.spec import benchmark_file, read_spec
from recbole_oov.report.strata import strata
from recbole_oov.report.summary import Rows
from recbole_oov.report.tables import write_report, write_strata

_OF_FOLDER = ("reference", "k", "title")


def report(target: str, overrides: Mapping[str, Any]) -> Path:
    """Write the tables, the page and the plots again.

    Args:
        target: A benchmark file, or a folder with ``results.jsonl``. The file knows the order of the models, the
            reference and which cells are missing; of a folder alone, every model is expected to have every seed.
        overrides: ``reference`` and, for a benchmark of ranks, ``k``; of a benchmark file also its own keys, as
            ``output``, and ``by`` for tables of groups of test users in place of the report
            (:mod:`recbole_oov.report.strata`).

    Returns:
        The folder that was written into.

    Raises:
        ConfigError: There are no results, an option is none, or the rows cannot be compared.
        DataError: The data that ``by`` reads cannot be used.
    """
    if not benchmark_file(target).exists():
        raise ConfigError(f"report: there is no file or folder {target}; name a benchmark file or a folder of results")
    by = overrides.get("by")
    if Path(target).is_dir():
        if by is not None:
            raise ConfigError(
                "report: by needs a benchmark file, which says how the data are split; name it, not a folder"
            )
        unknown = sorted(set(overrides) - set(_OF_FOLDER))
        if unknown:
            raise ConfigError(f"report: {unknown[0]} is no option for a folder; there are {', '.join(_OF_FOLDER)}")
        output, rows = Path(target), _rows(Path(target))
        measure = "users" if any("users" in row or "hits" in row for row in rows) else "ranks"
        spec: dict[str, Any] = {"measure": measure, "k": 10, **overrides}
        cells = _cells(rows, measure)
    else:
        spec = read_spec(target, {key: value for key, value in overrides.items() if key != "by"})
        output = Path(spec["output"])
        rows = _rows(output)
        cells = list(cells_of({**spec, "only": None} if by is None else spec))
    if not isinstance(spec["k"], int) or spec["k"] < 1:
        raise ConfigError(f"report: k={spec['k']!r} is not a whole number from 1 on")
    with writing_to(output, "the results themselves are as they were"):
        if by is None:
            write_report(spec, cells, rows, output, screen())
        else:
            write_strata(by, strata(by, cells, rows, spec["k"]), output, screen(), spec["k"])
    return output


def _rows(folder: Path) -> Rows:
    rows = read_results(folder / "results.jsonl")
    if not rows:
        raise ConfigError(
            f"report: {folder / 'results.jsonl'} is not there or empty; run the benchmark first, or name its folder "
            f"with --output"
        )
    return rows


def _cells(rows: Rows, measure: str) -> list[Cell]:
    """One cell a model of a part and seed of the part, in the order in which the models come first."""
    latest = {(row.get("part", ""), row["name"]): row for row in rows}
    cells = []
    for (part, name), row in latest.items():
        own = [other["options"]["seed"] for other in rows if other.get("part", "") == part]
        for seed in dict.fromkeys(own):
            options = {**row["options"], "seed": seed}
            cells.append(Cell(name, row["model"], row["dataset"], options, part, measure, carve=row.get("carve")))
    return cells


def command(argv: list[str]) -> None:
    """``report FILE_or_FOLDER [--KEY=VALUE …]``."""
    from recbole_oov.config import parse_command_line

    if not argv or argv[0].startswith("-"):
        raise ConfigError("report: name a benchmark file or a folder of results, as in: report docs/results/ml-100k")
    report(argv[0], parse_command_line(argv[1:]))
