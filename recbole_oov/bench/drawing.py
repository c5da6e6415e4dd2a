"""The bench's pictures, by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_oov.errors import DataError

_INK, _ACCENT = "#666a72", "#1d5fa8"


def save_ratios(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw each suite's ratios, one point a repetition, their median as a bar, and what was asked for as a mark.

    Raises:
        DataError: The file cannot be written.
    """
    drawn = [(row, what) for row in rows if row.get("agrees") for what in row["bars"] if row["ratios"].get(what)]
    figure, axes = _axes(0.9 + 0.3 * len(drawn))
    for place, (row, what) in enumerate(reversed(drawn)):
        ratios = row["ratios"][what]
        axes.barh(place, row["median_ratios"][what], color=_ACCENT if row["met"][what] else _INK, alpha=0.45)
        axes.plot(ratios, [place] * len(ratios), ".", color=_ACCENT if row["met"][what] else _INK)
        axes.plot([row["bars"][what]], [place], "|", color="black", markersize=14)
    axes.set_yticks(range(len(drawn)), [f"{row['suite']}, {what}" for row, what in reversed(drawn)])
    axes.set_xscale("log")
    axes.axvline(1, color=_INK, linewidth=0.8)
    axes.set_xlabel("times as much as the plugin needs; the mark is what was asked for")
    _save(figure, path)


def save_growth(curves: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw seconds over sizes, both logarithmic, a line a curve.

    Raises:
        DataError: The file cannot be written.
    """
    figure, axes = _axes(4.0)
    for curve in curves:
        label = f"{curve['what']} over {curve['over']}: {curve['slope']:.2f}"
        axes.loglog(curve["sizes"], curve["seconds"], "o-", linewidth=1, markersize=3, label=label)
    axes.set(xlabel="size", ylabel="seconds")
    axes.legend(fontsize=6, frameon=False, bbox_to_anchor=(1.01, 1), loc="upper left")
    _save(figure, path)


def _axes(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=(8.0, height), layout="constrained")
    axes: Any = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    import matplotlib as mpl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with mpl.rc_context({"svg.hashsalt": "recbole_oov"}):  # the same results give the same file
            figure.savefig(path, **({"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 150}))
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error}); choose another plot") from error
