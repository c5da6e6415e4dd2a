"""What a sweep shows while it runs: a live table in a terminal, lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from recbole_oov.evaluation.ranks import metrics_of_ranks
from recbole_oov.report.user_values import ranks_of_row

__all__ = ["Progress", "outcome", "screen"]

_FINISHED_SHOWN = 12
_WIDTH_OF_FILES = 160


@dataclass
class _Line:
    label: str
    state: str = "runs"
    begun: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    valid: str = ""
    test: str = ""


def screen() -> Console:
    """What to print to; in a file, which has no width of its own, tables may be as wide as they are."""
    plain = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_WIDTH_OF_FILES if plain else None)


class Progress:
    """Shows which tasks run, and what came of them.

    Args:
        console: Where to; lines if it is not a terminal.
        k: The cut-off of metrics that are computed from ranks.
    """

    def __init__(self, console: Console, k: int) -> None:
        self._console, self._k = console, k
        self._running: dict[str, _Line] = {}
        self._finished: list[_Line] = []
        self._waiting = 0
        self._live = Live(console=console, get_renderable=self._table, refresh_per_second=2, transient=True)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def expect(self, count: int) -> None:
        """So many tasks are still to begin."""
        self._waiting = count

    def say(self, text: str) -> None:
        """A line, above the table."""
        self._console.print(text, highlight=False, markup=False)

    def begin(self, key: str, label: str) -> None:
        """A task has begun."""
        self._running[key] = _Line(label)
        self._waiting = max(0, self._waiting - 1)
        if not self._console.is_terminal:
            self.say(f"{label} …")

    def trial(self, key: str, row: Mapping[str, Any]) -> None:
        """A search has finished a trial."""
        line = self._running[key]
        score = row.get("valid_score")
        line.state = f"trial {row['trial']}"
        line.valid = "" if score is None else f"{score:.4f}"
        said = row.get("error") or f"{row['valid_metric']} {score:.4f}, {row['seconds']} s"
        self.say(f"{line.label}, trial {row['trial']}: {said}; {row['settings'] or 'as given'}")

    def end(self, key: str, row: Mapping[str, Any] | None) -> None:
        """A task has ended; with the row of a cell, or without one after a search."""
        line = self._running.pop(key)
        line.seconds = time.monotonic() - line.begun
        line.state = "searched" if row is None else "failed" if "error" in row else "done"
        if row is not None:
            line.valid = f"{row['best_valid']:.4f}" if "best_valid" in row else ""
            line.test = outcome(row, self._k)
            if not self._console.is_terminal or "error" in row:
                self.say(f"{line.label}: {line.test}")
        self._finished.append(line)

    def _table(self) -> Table:
        """What runs on top, then what has finished last: a terminal that is too low cuts the oldest off."""
        test = Column("test", no_wrap=True, overflow="ellipsis")
        table = Table("cell", "state", "seconds", "validation", test, caption=f"{self._waiting} to come")
        for line in (*self._running.values(), *reversed(self._finished[-_FINISHED_SHOWN:])):
            seconds = line.seconds if line.seconds is not None else time.monotonic() - line.begun
            # As Text: in a str rich looks for markup, and a path in brackets is none that it knows.
            table.add_row(*map(Text, (line.label, line.state, f"{seconds:.0f}", line.valid, line.test)))
        return table


def outcome(row: Mapping[str, Any], k: int) -> str:
    """What came of a cell, on one line."""
    if "error" in row:
        return str(row["error"])
    cost = f"{row['epochs']} epochs, {row['seconds']} s"
    if "test_result" in row:
        return f"{', '.join(f'{name} {value:.4f}' for name, value in row['test_result'].items())}; {cost}"
    ranks = [ranks_of_row(row, masked=masked) for masked in (False, True)]
    ndcg = [metrics_of_ranks(of_users, k)[f"ndcg@{k}"].mean() for of_users in ranks]
    return f"NDCG@{k} {ndcg[0]:.4f} unmasked, {ndcg[1]:.4f} masked; {cost}"
