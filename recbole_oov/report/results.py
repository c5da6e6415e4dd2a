"""Files of rows, one line of JSON each, that survive a kill and may be written by several processes."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_oov.errors import DataError

__all__ = ["append_row", "locked", "read_results", "writing_to"]


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows so far; a line that a kill or a full disk cut short is left out.

    A row with ``same_as`` has the rest of what it holds from the row of that key; without such a row, which someone may
    have taken out, it is left out. Trials, whose ``same_as`` is a number, hold all of their own.
    """
    rows = []
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
        # Not splitlines, which cuts at U+2028 and U+0085 as well: JSON has them within a text.
        for line in filter(None, text.split("\n")):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict) and "key" in row:
                rows.append(row)
            else:
                getLogger(__name__).warning("%s: an unfinished line is left out", path)
    sources = {row["key"]: row for row in rows if "same_as" not in row and "error" not in row}
    whole = []
    for row in rows:
        if not isinstance(row.get("same_as"), str):
            whole.append(row)
        elif row["same_as"] in sources:
            whole.append({**sources[row["same_as"]], **row})
        else:
            getLogger(__name__).warning("%s: the row that %s repeats is not there", path, row["key"])
    return whole


@contextmanager
def writing_to(folder: Path, remedy: str) -> Iterator[None]:
    """Say in one line why the folder of results could not be written.

    Raises:
        DataError: It could not.
    """
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: cannot be written ({error.strerror or error}); {remedy}") from error


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    """One whole line, whoever else writes to the file."""
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        cut_short = path.stat().st_size > 0 and not _ends_in_newline(path)
        file.write(("\n" if cut_short else "") + json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the lock of a process that is killed is gone with it.

    Args:
        path: A file for the lock, which is made and stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
