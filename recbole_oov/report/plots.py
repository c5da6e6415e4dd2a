"""The drawings as SVG and PNG files, by matplotlib."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from recbole_oov.report.drawings import points, shortened, validation_metric
from recbole_oov.report.scales import logarithmic
from recbole_oov.report.statistics import smaller_is_better
from recbole_oov.report.summary import Table
from recbole_oov.report.words import column_label, slug

_INK, _ACCENT, _RULE = "#666a72", "#1d5fa8", "#e3e0d8"
_NO_FRAME: Any = {"axes.spines.top": False, "axes.spines.right": False}


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
    with mpl.rc_context({"svg.hashsalt": "recbole_oov", "font.size": 9, "text.usetex": False, **_NO_FRAME}):
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
    """A panel a view, the models in the order of the first."""
    columns = [column for column in table.drawn if any(column in line.estimates for line in table.lines)]
    lines = [line for line in table.lines if any(column in line.estimates for column in columns)]
    if not lines:
        return False
    sign = -1 if smaller_is_better(table.main[1]) else 1
    lines.sort(key=lambda line: sign * line.estimates[columns[0]].value if columns[0] in line.estimates else 0.0)
    figure.set_size_inches(2.6 + 2.4 * len(columns), 0.9 + 0.27 * len(lines))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, column in zip(panels, columns, strict=True):
        for place, line in enumerate(lines):
            estimate = line.estimates.get(column)
            if estimate is None:
                continue
            colour = _ACCENT if estimate.place == 1 else _INK
            if estimate.low is not None:
                axes.hlines(place, estimate.low, estimate.high, color=colour)
            axes.plot([estimate.value], [place], "o", color=colour)
        axes.set_xlabel(column_label(table, column))
        axes.grid(axis="x", color=_RULE)
        axes.set_axisbelow(True)
        axes.margins(y=0.5 / max(1, len(lines) - 1))
    panels[0].set_yticks(range(len(lines)), [_plain(line.name) for line in lines])
    return True


def _cost(table: Table, figure: Any) -> bool:
    columns = [column for column in table.weighed if len(points(table, column)) > 1]
    if not columns:
        return False
    figure.set_size_inches(1.2 + 4.8 * len(columns), 4.0)
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
        models = points(table, column)
        for point in models:
            colour = _ACCENT if point.front else _INK
            axes.vlines(point.cost, point.low, point.high, color=colour, linewidth=1)
            axes.plot([point.cost], [point.value], "o", color=colour)
            axes.annotate(_plain(point.name), (point.cost, point.value), (5, 3), textcoords="offset points", fontsize=8)
        costs = [point.cost for point in models]
        if max(costs) > 8 * min(costs):
            scale = logarithmic(costs, 0, 1)
            axes.set_xscale("log")
            axes.set_xticks(scale.ticks, [f"{tick:,g}" for tick in scale.ticks])
            axes.set_xticks([], minor=True)
        axes.set(xlabel="seconds of training", ylabel=column_label(table, column))
        axes.margins(x=0.16)
    return True


def _curves(table: Table, figure: Any) -> bool:
    lines = [(validation_metric(line), line) for line in table.lines]
    runs = [(m, line.name, row["valid_scores"]) for m, line in lines for row in line.rows if row.get("valid_scores")]
    if not runs:
        return False
    metrics = list(dict.fromkeys(metric for metric, _, _ in runs))
    names = list(dict.fromkeys(name for _, name, _ in runs))
    figure.set_size_inches(1.2 + 4.8 * len(metrics), 4.0)
    # Scores of two metrics are no two curves of one drawing.
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        labelled = set()
        for name, scored in ((name, scored) for own, name, scored in runs if own == metric):
            style = {"color": f"C{names.index(name) % 10}", "marker": "o" if len(scored) == 1 else ""}
            label = "_" if name in labelled else _plain(name)
            axes.plot(*zip(*scored, strict=True), linewidth=1, markersize=3, alpha=0.8, label=label, **style)
            labelled.add(name)
        axes.set(xlabel="epoch", ylabel=f"{metric}, validation")
        axes.legend(fontsize=7, ncols=2, frameon=False)
    return True
