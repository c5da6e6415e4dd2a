"""The drawings as SVG and PNG files, by matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from recbole_oov.report.drawings import points, shortened
from recbole_oov.report.statistics import smaller_is_better
from recbole_oov.report.summary import Table
from recbole_oov.report.words import metric_label, slug

_INK, _ACCENT = "#666a72", "#1d5fa8"


def save_plots(tables: list[Table], folder: Path) -> str:
    """Draw every table's intervals, cost against quality and, where rows have them, learning curves.

    Args:
        tables: The parts of a benchmark.
        folder: Where ``NAME-intervals.svg``, ``NAME-cost.svg``, ``NAME-curves.svg`` and the same as PNG go.

    Returns:
        What to say of it: where they are, or which package they would need.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return 'no plots as SVG and PNG: they need matplotlib; pip install "recbole-oov[plot]"'
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    folder.mkdir(parents=True, exist_ok=True)
    # The same results give the same file.
    with mpl.rc_context(
        {"svg.hashsalt": "recbole_oov", "font.size": 9, "axes.spines.top": False, "text.usetex": False}
    ):
        for at, table in enumerate(tables):
            name = slug(table.title) + (f"-{at}" if slug(table.title) in map(_slug, tables[:at]) else "")
            for what, draw in (("intervals", _intervals), ("cost", _cost), ("curves", _curves)):
                figure = Figure(figsize=(6.0, 4.0), layout="constrained")
                if draw(table, figure):
                    figure.savefig(folder / f"{name}-{what}.svg", metadata={"Date": None})
                    figure.savefig(folder / f"{name}-{what}.png", dpi=150, metadata={"Software": None})
    return f"plots: {folder}"


def _slug(table: Table) -> str:
    return slug(table.title)


def _plain(text: str) -> str:
    """A name that matplotlib does not take for mathematics, nor for a line without a label."""
    return shortened(text, 24).replace("$", r"\$")


def _intervals(table: Table, figure: Any) -> bool:
    lines = [line for line in table.lines if table.main in line.estimates]
    sign = -1 if smaller_is_better(table.main[1]) else 1
    lines.sort(key=lambda line: sign * line.estimates[table.main].value)
    if not lines:
        return False
    axes = figure.subplots()
    figure.set_figheight(0.9 + 0.27 * len(lines))
    for place, line in enumerate(lines):
        estimate = line.estimates[table.main]
        colour = _ACCENT if estimate.place == 1 else _INK
        if estimate.low is not None:
            axes.hlines(place, estimate.low, estimate.high, color=colour)
        axes.plot([estimate.value], [place], "o", color=colour)
    axes.set_yticks(range(len(lines)), [_plain(line.name) for line in lines])
    axes.set_xlabel(f"{metric_label(table.main[1])}, 95 % intervals over users")
    return True


def _cost(table: Table, figure: Any) -> bool:
    models = points(table)
    if len(models) < 2:
        return False
    axes = figure.subplots()
    for point in models:
        colour = _ACCENT if point.front else _INK
        axes.vlines(point.cost, point.low, point.high, color=colour, linewidth=1)
        axes.plot([point.cost], [point.value], "o", color=colour)
        axes.annotate(_plain(point.name), (point.cost, point.value), (5, 3), textcoords="offset points", fontsize=8)
    if max(p.cost for p in models) > 8 * min(p.cost for p in models):
        axes.set_xscale("log")
    axes.set(xlabel="seconds of training", ylabel=metric_label(table.main[1]))
    axes.margins(x=0.12)
    return True


def _curves(table: Table, figure: Any) -> bool:
    runs = [(line.name, row["valid_scores"]) for line in table.lines for row in line.rows if row.get("valid_scores")]
    if not runs:
        return False
    axes = figure.subplots()
    names = list(dict.fromkeys(name for name, _ in runs))
    for at, (name, scored) in enumerate(runs):
        label = _plain(name) if name not in [other for other, _ in runs[:at]] else "_"
        colour = f"C{names.index(name) % 10}"
        axes.plot(*zip(*scored, strict=True), color=colour, linewidth=1, alpha=0.8, label=label)
    axes.set(xlabel="epoch", ylabel="validation score")
    axes.legend(fontsize=7, ncols=2, frameon=False)
    return True
