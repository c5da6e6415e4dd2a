"""Tables as LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Iterator

from recbole_oov.report.summary import Estimate, Line, Table
from recbole_oov.report.words import GROUPS, cost, interval, metric_label, number, slug

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "−": "$-$",
    "×": r"$\times$",
    **{character: f"\\{character}" for character in "&%$#_"},
}


_WITH_INTERVALS = 4
"""Up to so many columns fit on a page with their intervals, which are in the CSV in any case."""


def escape(text: str) -> str:
    """Text that stays text; line breaks become spaces."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def _first(name: str) -> str:
    """A name at the beginning of a row: the command that ends the row before would take ``*`` and ``[`` as its own."""
    text = escape(name)
    return f"{{}}{text}" if text.startswith(("*", "[")) else text


def latex(tables: list[Table]) -> str:
    """The tables of a benchmark, one floating table a part; needs booktabs, and graphicx for wide ones."""
    head = r"% In the preamble: \usepackage[T1]{fontenc}, \usepackage{booktabs} and \usepackage{graphicx}"
    return "\n".join([head, *("\n".join(_table(table)) for table in tables)])


def _table(table: Table) -> Iterator[str]:
    columns = table.columns
    costs = [name for name in ("epochs to best", "epochs", "train s") if name in table.costs][-2:]
    problems = any(line.problem for line in table.lines)
    yield r"\begin{table}"
    yield r"  \centering\small\setlength{\tabcolsep}{4pt}"
    yield f"  \\caption{{{_caption(table)}}}"
    yield f"  \\label{{tab:{slug(table.title)}}}"
    wide = len(columns) > _WITH_INTERVALS
    if wide:
        yield r"  \resizebox{\linewidth}{!}{%"
    yield f"  \\begin{{tabular}}{{lr{'c' * len(columns)}{'r' * len(costs)}}}"
    yield r"    \toprule"
    if len(table.views) > 1:
        yield from _groups(table, len(costs))
    heads = ["Model", "Seeds", *(metric_label(metric) for _, metric in columns), *costs]
    yield f"    {' & '.join(map(escape, heads))} \\\\"
    yield r"    \midrule"
    for line in table.lines:
        values = [_value(line.estimates.get(column)) for column in columns]
        text = [_first(line.name), escape(line.seeds_text), *values, *(escape(cost(line.cost(name))) for name in costs)]
        yield f"    {' & '.join(text)} \\\\"
        if len(columns) <= _WITH_INTERVALS and any(interval(estimate) for estimate in line.estimates.values()):
            below = [rf"\scriptsize {interval(e)}" if (e := line.estimates.get(c)) else "" for c in columns]
            yield f"    {' & '.join(['', '', *below, *('' for _ in costs)])} \\\\"
    yield r"    \bottomrule"
    yield r"  \end{tabular}" + ("}" if wide else "")
    if problems:
        said = [f"{escape(line.name)}: {escape(line.problem)}" for line in table.lines if line.problem]
        yield r"  \par\smallskip\parbox{\linewidth}{\scriptsize Unfinished. " + "; ".join(said) + ".}"
    yield r"\end{table}"


def _caption(table: Table) -> str:
    below = ""
    if len(table.columns) <= _WITH_INTERVALS:
        below = r" and, below them, 95\,\% bootstrap intervals over users"
    said = [
        f"{escape(table.title)}, test. Means over seeds{below}; "
        r"\textbf{best}, \underline{runner-up}."
    ]
    if any(_marked(line) for line in table.lines):
        said.append(
            f"$^{{+}}$ better and $^{{-}}$ worse than {escape(table.reference)} at $p < 0.05$, paired Wilcoxon tests "
            "over users, two-sided, Holm's correction over the table."
        )
    return " ".join(said + [escape(note) for note in table.notes])


def _marked(line: Line) -> bool:
    return any(estimate.test is not None for estimate in line.estimates.values())


def _groups(table: Table, n_costs: int) -> Iterator[str]:
    cells, rules, at = ["", ""], [], 3
    for view in table.views:
        width = sum(own == view for own, _ in table.columns)
        cells.append(f"\\multicolumn{{{width}}}{{c}}{{{escape(GROUPS.get(view, view))}}}")
        rules.append(f"\\cmidrule(lr){{{at}-{at + width - 1}}}")
        at += width
    yield f"    {' & '.join(cells + [''] * n_costs)} \\\\"
    yield f"    {' '.join(rules)}"


def _value(estimate: Estimate | None) -> str:
    if estimate is None:
        return "--"
    text = number(estimate.value)
    text = {1: f"\\textbf{{{text}}}", 2: f"\\underline{{{text}}}"}.get(estimate.place, text)
    if estimate.test is not None and estimate.test.significant:
        text += "$^{+}$" if estimate.test.better else "$^{-}$"
    return text
