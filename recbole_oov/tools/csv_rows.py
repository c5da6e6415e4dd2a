"""Rows of a CSV file, each cell converted to what RecBole's atomic files hold; bad rows are listed with their line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path

from recbole_oov.config.reading import shown
from recbole_oov.data.atomic_table import MISSING
from recbole_oov.data.atomic_values import LARGEST, PADDING
from recbole_oov.errors import ConfigError, DataError

_EXAMPLES = 5
_LONGEST_CELL = 1 << 20
_SUBSECOND_FROM = 1e11  # as seconds it would be the year 5138, so that it is in milliseconds or finer
Convert = Callable[[str], str]


@dataclass(frozen=True)
class Column:
    """One column of a CSV file and what it becomes.

    Attributes:
        source: Its name in the CSV file.
        target: Its typed name in the atomic file, as ``user_id:token``.
        convert: The cell's text in the atomic file; raises ValueError with what is wrong and what to do.
    """

    source: str
    target: str
    convert: Convert


# ---- cells ----


def as_id(cell: str) -> str:
    """An id: any text, in one piece."""
    text = cell.strip()
    if not text:
        raise ValueError("is empty; fill it in, or remove the row")
    if any(character in text for character in '\t\n\r"\0'):
        raise ValueError(f"{shown(text)} holds a tab, a line break, a zero byte or a double quote; take it out")
    if text in MISSING:
        raise ValueError(f"{shown(text)} is read as a missing id by RecBole; rename it")
    if text == PADDING:
        raise ValueError(f"{shown(text)} is RecBole's own name of no user and no item; rename it")
    return text


def as_words(cell: str) -> str:
    """Text, with one blank between words; may be empty. A double quote would open a cell and becomes a single one."""
    return " ".join(cell.replace('"', "'").replace("\0", " ").split())


def as_number(cell: str) -> str:
    """A finite number."""
    text = cell.strip()
    number = _number(text)
    if number is None or not isfinite(number):
        raise ValueError(f"{shown(text)} is no number; write it as 3 or 3.5")
    if abs(number) > LARGEST:
        raise ValueError(f"{shown(text)} is more than RecBole's numbers can hold ({LARGEST:.2g}); write a smaller one")
    return text


def as_seconds(cell: str) -> str:
    """Seconds after 1970, from that or from a date in ISO 8601; a date without a zone is taken as UTC."""
    text = cell.strip()
    seconds = _number(text)
    if seconds is not None:
        if not isfinite(seconds) or seconds < 0:
            raise ValueError(f"{shown(text)} is no time; write seconds after 1970, or a date as 2024-01-31 12:00:00")
        if seconds >= _SUBSECOND_FROM:
            raise ValueError(f"{shown(text)} is too large for seconds after 1970; divide by 1000 if in milliseconds")
        return text
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{shown(text)} is no time; write seconds after 1970, or a date as 2024-01-31 12:00:00"
        ) from None
    return f"{(moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp():.3f}".removesuffix(".000")


def _number(text: str) -> float | None:
    """The number that a text is in an atomic file; Python also reads ``1_000`` and the digits of other scripts."""
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


# ---- rows ----


def rows(path: Path, columns: Sequence[Column], separator: str = ",", *, unique: bool = False) -> Iterator[list[str]]:
    """The converted rows of a CSV file.

    Args:
        path: UTF-8, with a header; cells may be quoted, and blank lines are skipped.
        columns: What to read.
        separator: Between cells.
        unique: Whether the first column may hold each value once.

    Yields:
        One converted row at a time.

    Raises:
        ConfigError: A column is not in the header.
        DataError: The file cannot be read, or has no good row; after the whole file was read, if a row is bad.
    """
    problems: list[str] = []
    n_bad = n_good = 0
    first_line: dict[str, int] = {}
    for line, cells in _cells(path, columns, separator):
        try:
            converted = _converted(cells, columns)
            if unique and (earlier := first_line.setdefault(converted[0], line)) != line:
                raise ValueError(f"{columns[0].source}: {converted[0]!r} is there already, in line {earlier}; keep one")
        except ValueError as error:
            n_bad += 1
            if len(problems) < _EXAMPLES:
                problems.append(f"{path}, line {line}: {error}")
            continue
        n_good += 1
        yield converted
    if n_bad > _EXAMPLES:
        problems.append(f"… and {n_bad - _EXAMPLES} more bad rows")
    if problems:
        raise DataError(
            problems[0] if n_bad == 1 else f"{n_bad} bad rows:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )
    if n_good == 0:
        raise DataError(f"{path}: there is a header but no row")


def _converted(cells: Sequence[str | None], columns: Sequence[Column]) -> list[str]:
    found = []
    for cell, column in zip(cells, columns, strict=True):
        if cell is None:
            raise ValueError("has fewer or more cells than the header; quote cells that hold the separator")
        try:
            found.append(column.convert(cell))
        except ValueError as error:
            raise ValueError(f"{column.source}: {error}") from None
    return found


def _cells(path: Path, columns: Sequence[Column], separator: str) -> Iterator[tuple[int, list[str | None]]]:
    """Line and wanted cells of each row; the cells are None where the row has another number than the header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(_LONGEST_CELL)
            reader = csv.reader(file, delimiter=separator, strict=True)
            header = [name.strip() for name in next(reader, [])]
            places = _places(path, header, columns)
            line = reader.line_num + 1
            for row in reader:
                if row:
                    fits = len(row) == len(header)
                    yield line, [row[place] if fits else None for place in places]
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; is a quote left open or unpaired?") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _places(path: Path, header: list[str], columns: Sequence[Column]) -> list[int]:
    if not header:
        raise DataError(f"{path}: is empty; its first line must name the columns")
    lacking = [column.source for column in columns if header.count(column.source) != 1]
    if lacking:
        hint = "; is the separator another one (--separator=;)?" if len(header) == 1 else ""
        raise ConfigError(
            f"from-csv: {path} has no column, or more than one, called {', '.join(map(repr, lacking))}; its columns "
            f"are {', '.join(header)}{hint}"
        )
    return [header.index(column.source) for column in columns]
