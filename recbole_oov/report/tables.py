"""The report of a sweep in every format, made from the same summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as ScreenTable

from recbole_oov.data.cache import write_atomically
from recbole_oov.report.comma_separated import comma_separated
from recbole_oov.report.html import page
from recbole_oov.report.latex import latex
from recbole_oov.report.markdown import UNFINISHED, grids, markdown
from recbole_oov.report.plots import save_plots
from recbole_oov.report.strata import Stratum, strata_csv, strata_grid, strata_markdown
from recbole_oov.report.summary import Rows, Table, summarise
from recbole_oov.report.words import metric_label


def write_report(spec: Mapping[str, Any], cells: list[Any], rows: Rows, output: Path, console: Console) -> list[Table]:
    """Write the tables, the page and the plots, and say where they are; arguments and errors as of write_tables."""
    tables = write_tables(spec, cells, rows, output, console)
    for line in (
        save_plots(tables, output / "plots"),
        f"tables: {output / 'table'}.md, .tex and .csv",
        f"report: {output / 'report.html'}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return tables


def write_tables(spec: Mapping[str, Any], cells: list[Any], rows: Rows, output: Path, console: Console) -> list[Table]:
    """Print the tables, and write ``table.md``, ``table.tex``, ``table.csv`` and ``report.html``.

    Args:
        spec: What ``read_spec`` returned.
        cells: The cells of all parts.
        rows: What ``read_results`` returned.
        output: The folder to write into.
        console: To print to.

    Returns:
        One table a part that has run.

    Raises:
        ConfigError: Two rows of a part were not measured on the same held-out rows, or there is no such reference.
    """
    tables = summarise(spec, cells, rows, output / "results.jsonl")
    for table in tables:
        show(table, console)
    written = {
        "table.md": markdown(tables),
        "table.tex": latex(tables),
        "table.csv": comma_separated(tables),
        "report.html": page(tables, spec.get("title") or output.resolve().name),
    }
    for name, text in written.items():
        _write(output / name, text)
    return tables


def write_strata(by: str, found: Sequence[Stratum], output: Path, console: Console, k: int) -> None:
    """Print NDCG of groups of test users, and write ``by-….md`` and ``by-….csv``, which has all metrics.

    Args:
        by: What they are told by.
        found: What ``strata`` returned.
        output: The folder to write into.
        console: To print to.
        k: Of the metrics.
    """
    metric = f"ndcg@{k}"
    for part in dict.fromkeys(one.part for one in found):
        head, lines = strata_grid([one for one in found if one.part == part], metric)
        screen = ScreenTable(
            *map(escape, head), title=escape(f"{part or found[0].dataset}, test, {metric_label(metric)}")
        )
        for line in lines:
            screen.add_row(*map(escape, line))
        console.print(screen)
    _write(output / f"by-{by}.md", strata_markdown(by, found, metric))
    _write(output / f"by-{by}.csv", strata_csv(found))
    console.print(f"tables: {output / f'by-{by}'}.md and .csv", markup=False, highlight=False, soft_wrap=True)


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda part: Path(part).write_text(text, encoding="utf-8"))


def show(table: Table, console: Console) -> None:
    """Print one table."""
    for heading, (head, lines) in grids(table):
        title = f"{table.title}{f', {heading}' if heading else ''}, test, mean over seeds [95 % interval over users]"
        shown = len(head) - (head[-1] == UNFINISHED)  # a reason is too long for a column
        screen = ScreenTable(*map(escape, head[:shown]), title=escape(title))
        for cells in lines:
            screen.add_row(*map(escape, cells[:shown]))
        console.print(screen)
    for line in table.lines:
        if line.problem:
            console.print(f"{line.name}: {line.problem}", markup=False, highlight=False)
    for note in table.notes:
        console.print(note, markup=False, highlight=False)
