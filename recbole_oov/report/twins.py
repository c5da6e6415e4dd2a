"""Cells of different parts that are one and the same run: parts that differ by content alone have them.

A model that reads no content gives the same numbers whatever the content is; it is trained once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recbole_oov import registry
from recbole_oov.errors import RecBoleOOVError
from recbole_oov.report.cells import Cell, digest

__all__ = ["one_of_each", "rows_of_twins"]


def rows_of_twins(
    cells: Iterable[Cell], everything: Iterable[Cell], rows: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of cells that have not run, but whose run has.

    Args:
        cells: Those that have not run.
        everything: All cells of all parts.
        rows: The rows so far.

    Returns:
        Rows with the cells' own keys, parts and options; ``same_as`` is the key of the row that has all the rest, which
        :func:`~recbole_oov.report.results.read_results` puts in.
    """
    finished = {row["key"]: row for row in rows if "error" not in row}
    by_run = {_run(cell): finished[cell.key] for cell in everything if cell.key in finished}
    found = []
    for cell in cells:
        run = _run(cell)
        if run is not None and (row := by_run.get(run)) is not None:
            own = {"part": cell.part, "tuned": cell.tuned, "options": cell.options}
            found.append({"key": cell.key, "same_as": row.get("same_as", row["key"]), "name": cell.name, **own})
    return found


def one_of_each(cells: Iterable[Cell]) -> list[Cell]:
    """The cells without those whose run another one, which stands before them, is.

    Args:
        cells: Those that have not run.
    """
    seen: set[str] = set()
    found = []
    for cell in cells:
        run = _run(cell)
        if run is None or run not in seen:
            found.append(cell)
        if run is not None:
            seen.add(run)
    return found


def _run(cell: Cell) -> str | None:
    """Stands for what is trained and measured; None where content may have a say in it.

    Content also says which columns are loaded, unless the file does.
    """
    try:
        model: Any = registry.get_model(cell.model)
    except RecBoleOOVError:
        return None
    reads = getattr(model, "needs_content", False) or getattr(model, "needs_text", False)
    ours = cell.model in registry.plugin_model_names()  # some of them read content where an option says so
    if reads or ours or "load_col" not in cell.options:
        return None
    options = {key: value for key, value in cell.options.items() if key != "content"}
    return digest([cell.model, cell.dataset, options, cell.measure, cell.carve])
