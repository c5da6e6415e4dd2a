"""Tables as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

from recbole_oov.report.summary import SCORES, Line, Table
from recbole_oov.report.words import cost_of, interval, metric_label, number, p_value

COSTS = ("epochs", "epochs to best", "train s", "train CPU s", "search CPU s", *SCORES)
UNFINISHED = "unfinished"
"""The last column, where a seed is missing or has failed."""
Grid = tuple[list[str], list[list[str]]]


def escape(text: str) -> str:
    """Text that stays text in a cell of a Markdown table."""
    # An underscore between letters is no emphasis.
    return re.sub(r"[\\`*{}\[\]<>|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


def markdown(tables: list[Table]) -> str:
    """The tables of a benchmark."""
    return "\n".join("\n".join(_part(table)) for table in tables)


def grids(table: Table) -> Iterator[tuple[str, Grid]]:
    """A heading (empty for none) and a grid of plain text each: one a group of items, one for both kinds of ranking."""
    if "masked" in table.views:
        yield "", _grid(table, table.views, "history")
        return
    for view in table.views or [""]:
        yield (view if len(table.views) > 1 else ""), _grid(table, [view], "")


def _grid(table: Table, views: list[str], name_of_view: str) -> Grid:
    metrics = [metric for metric in table.metrics if any((view, metric) in table.columns for view in views)]
    costs = [name for name in COSTS if name in table.costs]
    if "train CPU s" in costs and "train s" in costs:
        costs.remove("train s")
    if "epochs to best" in costs:
        costs.remove("epochs")
    main = table.main[1]
    tested = any((e := line.estimates.get((view, main))) and e.test for line in table.lines for view in views)
    head = ["model", "seeds", *([name_of_view] if name_of_view else []), *map(metric_label, metrics), *costs]
    head += [f"p ({main}) against {table.reference}"] if tested else []
    problems = any(line.problem for line in table.lines)
    head += [UNFINISHED] if problems else []
    lines = []
    for line in table.lines:
        for view in views:
            row = [line.name, line.seeds_text, *([view] if name_of_view else [])]
            row += [_value(line, view, metric) for metric in metrics]
            row += [cost_of(line, name) for name in costs]
            test = line.estimates[view, main].test if (view, main) in line.estimates else None
            row += [p_value(test) if test else ""] if tested else []
            row += [line.problem] if problems else []
            lines.append(row)
    return head, lines


def _value(line: Line, view: str, metric: str) -> str:
    estimate = line.estimates.get((view, metric))
    return "" if estimate is None else f"{number(estimate.value)} {interval(estimate)}".rstrip()


def _part(table: Table) -> Iterator[str]:
    if table.name:
        yield f"## {escape(table.name)}\n"
    for heading, (head, lines) in grids(table):
        if heading:
            yield f"{'###' if table.name else '##'} {heading}\n"
        yield "| " + " | ".join(map(escape, head)) + " |"
        yield "|" + "---|" * len(head)
        for line in lines:
            # Brackets of an interval are no link: nothing follows them.
            yield "| " + " | ".join([escape(line[0]), *(_cell(text) for text in line[1:])]) + " |"
        yield ""
    for note in table.notes:
        yield f"{escape(note)}\n"


def _cell(text: str) -> str:
    return text if text[:1].isdigit() else escape(text)
