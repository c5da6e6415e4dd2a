"""All numbers of the tables as CSV: one row a part, model, group and metric."""

from __future__ import annotations

import csv
import io

from recbole_oov.report.summary import COSTS, Estimate, Line, Table
from recbole_oov.report.words import slug

COLUMNS = (
    *("part", "dataset", "model", "group", "metric", "mean", "low", "high", "seeds", "place"),
    *("reference", "difference", "better", "p", "p_holm"),
    *(slug(name).replace("-", "_") for name in COSTS),
    "unfinished",
)
"""``low`` and ``high``: 95 % bootstrap interval; ``p``: two-sided; ``unfinished``: why seeds are not there."""


def comma_separated(tables: list[Table]) -> str:
    """The tables of a benchmark; a model without a finished seed has one row without numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        for line in table.lines:
            columns = [column for column in table.columns if column in line.estimates] or [("", "")]
            for column in columns:
                writer.writerow(_row(table, line, column, line.estimates.get(column)))
            for (task, metric, who), value in line.tasks().items():
                by = metric if who == line.rows[0]["model"] else f"{metric} of {who}"
                writer.writerow(_row(table, line, (task, by), Estimate(value)))
    return text.getvalue()


def _row(table: Table, line: Line, column: tuple[str, str], estimate: Estimate | None) -> list[object]:
    numbers: list[object] = ["", "", ""]
    tested: list[object] = ["", "", "", "", ""]
    if estimate is not None:
        numbers = [estimate.value, _or_nothing(estimate.low), _or_nothing(estimate.high)]
    if estimate is not None and (test := estimate.test) is not None:
        tested = [_text(table.reference), test.difference, test.better, test.p_value, test.p_holm]
    names = [_text(name) for name in (table.name, table.dataset, line.name, *column)]
    place = estimate.place if estimate is not None and estimate.place else ""
    costs = [_or_nothing(line.cost(name)) for name in COSTS]
    return [_short(cell) for cell in (*names, *numbers, len(line.rows), place, *tested, *costs, _text(line.problem))]


def _short(cell: object) -> object:
    """Nine digits of a number: the last ones depend on how many threads summed it up."""
    return float(f"{cell:.9g}") if isinstance(cell, float) else cell


def _or_nothing(value: float | None) -> object:
    return "" if value is None else value


def _text(text: str) -> str:
    """A name that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
