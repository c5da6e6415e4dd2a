"""Reading one atomic file in blocks, as RecBole will read it, and saying what is wrong with it by line and column."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_oov.errors import DataError

_read_csv: Any = pd.read_csv  # its overloads do not take a column's type from a variable

TYPES = tuple(kind.value for kind in FeatureType)
BLOCK = 1 << 24
"""Bytes read at once."""
LONGEST_LINE = 1 << 26
LONGEST_CELL = 131_072
"""What Python's csv reader, which RecBole's loading goes through, takes in one cell."""

_NUMBER = re.compile(
    r"\s*[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf|infinity|nan)\s*", re.IGNORECASE | re.ASCII
)
MISSING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"}
MISSING |= {"N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}
"""Texts that pandas reads as a missing value."""
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "ZIP",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}
"""What compressed files begin with."""


@dataclass(frozen=True)
class Column:
    """One column of an atomic file, as its header ``name:type`` says."""

    name: str
    type: str
    position: int


@dataclass(frozen=True)
class Block:
    """Some rows of a file: their loaded columns, and the line in the file of each."""

    frame: pd.DataFrame
    lines: np.ndarray
    longest: int
    """Characters in the longest line, and its number."""
    longest_line: int


@dataclass
class AtomicTable:
    """One atomic file.

    Args:
        path: The file.
        separator: RecBole's ``field_separator``.
        seq_separator: RecBole's ``seq_separator``.
        encoding: RecBole's ``encoding``; None for UTF-8.
    """

    path: Path
    separator: str = "\t"
    seq_separator: str = " "
    encoding: str | None = None
    columns: dict[str, Column] = field(init=False)

    def __post_init__(self) -> None:
        self.columns = {column.name: column for column in self._read_header()}

    def _fail(self, what: str, line: int | None = None) -> DataError:
        return DataError(f"{self.path}{'' if line is None else f', line {line}'}: {what}")

    # ---- the header ----

    def _read_header(self) -> list[Column]:
        try:
            first = next(self._texts(), None)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        if first is None or not first[0].strip():
            raise self._fail(
                "the file is empty; its first line must be a header such as user_id:token<TAB>item_id:token"
            )
        header = first[0].split("\n", 1)[0]
        if header.startswith("\ufeff"):
            mark = "the file starts with a byte order mark, which RecBole takes for part of the first column's name"
            raise self._fail(f"{mark}; save it as UTF-8 without BOM, or set encoding: utf-8-sig", 1)
        columns = [self._column(cell, position, header) for position, cell in enumerate(header.split(self.separator))]
        names = [column.name for column in columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise self._fail(f"the column {twice[0]!r} is there twice; rename or remove one", 1)
        return columns

    def _column(self, cell: str, position: int, header: str) -> Column:
        name, colon, kind = cell.partition(":")
        if not colon and ":" not in header:
            raise self._fail(
                f"the first line is no header: {_short(header)} has no name:type, such as user_id:token", 1
            )
        if cell != cell.strip():
            raise self._fail(
                f"the header cell {_short(cell)} (column {position + 1}) begins or ends with a blank, which "
                f"RecBole would "
                f"take for a part of it; remove the blank",
                1,
            )
        others = [mark for mark in ("\t", ",", ";", "|", " ") if mark != self.separator and mark in cell]
        if others and (kind not in TYPES):
            raise self._fail(
                f"the header cell {_short(cell)} is not name:type; columns are separated by {self.separator!r}, "
                f"so if this file uses {others[0]!r}, set field_separator",
                1,
            )
        if not name.strip() or kind not in TYPES:
            raise self._fail(
                f"the header cell {_short(cell)} (column {position + 1}) is not name:type with a type out of "
                f"{', '.join(TYPES)}",
                1,
            )
        return Column(name, kind, position)

    # ---- the rows ----

    def blocks(self, loaded: Sequence[str]) -> Iterator[Block]:
        """The rows, checked: their number of cells, their encoding, and the numbers in the loaded columns.

        Args:
            loaded: Names of the columns that RecBole loads.

        Raises:
            DataError: At the first row that RecBole could not read, or would read wrongly.
        """
        chosen = [self.columns[name] for name in loaded]
        for text, first_line in self._texts():
            rows = text.split("\n")
            lines = np.arange(first_line, first_line + len(rows))
            if first_line == 1:
                rows, lines = rows[1:], lines[1:]
            blank = [not row.strip() and self.separator not in row for row in rows]
            if any(blank):  # RecBole's reader passes over blank lines
                full = [i for i, row in enumerate(rows) if not blank[i]]
                rows, lines = [rows[i] for i in full], lines[full]
            if rows:
                yield self._block(rows, lines, chosen)

    def _block(self, rows: list[str], lines: np.ndarray, chosen: Sequence[Column]) -> Block:
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        longest = int(lengths.argmax())
        if lengths[longest] > LONGEST_CELL:
            self._check_cell_lengths(rows, lines, lengths)
        text = "\n".join(rows)
        self._check_widths(rows, lines, quoted='"' in text)
        if not chosen:
            return Block(pd.DataFrame(index=range(len(rows))), lines, int(lengths[longest]), int(lines[longest]))
        frame = self._parse(text, rows, lines, chosen)
        for column in chosen:
            if column.type == FeatureType.FLOAT_SEQ.value:
                self._check_number_lists(frame[column.name], lines)
        return Block(frame, lines, int(lengths[longest]), int(lines[longest]))

    def _check_cell_lengths(self, rows: list[str], lines: np.ndarray, lengths: np.ndarray) -> None:
        for i in np.flatnonzero(lengths > LONGEST_CELL):
            cells = rows[i].split(self.separator)
            for name, cell in zip(self.columns, cells, strict=False):
                if len(cell) > LONGEST_CELL:
                    raise self._fail(
                        f"column {name} holds {len(cell)} characters; RecBole reads at most {LONGEST_CELL}. "
                        f"Is a quotation mark or a line end missing?",
                        int(lines[i]),
                    )

    def _check_widths(self, rows: list[str], lines: np.ndarray, *, quoted: bool) -> None:
        separator, width = self.separator, len(self.columns)
        widths = np.fromiter(map(methodcaller("count", separator), rows), np.int64, len(rows)) + 1
        if quoted and len(separator) == 1:
            for i in (i for i, row in enumerate(rows) if '"' in row):
                widths[i] = self._quoted_width(rows[i], int(lines[i]))
        wrong = np.flatnonzero(widths != width)
        if len(wrong):
            i = int(wrong[0])
            more = f" ({len(wrong)} such lines so far)" if len(wrong) > 1 else ""
            fault = "the line is cut short" if widths[i] < width else "a separator too many"
            raise self._fail(
                f"{widths[i]} {'cell' if widths[i] == 1 else 'cells'} where the header has {width} columns: {fault}: "
                f"{_short(rows[i])}{more}; write one cell for each column, empty where nothing is known",
                int(lines[i]),
            )

    def _quoted_width(self, row: str, line: int) -> int:
        """The number of cells in a row with quotation marks, which quote a cell where they open it."""
        try:
            read = list(csv.reader([row + "\n", "end"], delimiter=self.separator))
            if len(read) == 2:
                list(csv.reader([row], delimiter=self.separator, strict=True))  # as strict as RecBole's
        except csv.Error as error:
            raise self._fail(
                f"a cell begins with a quotation mark and goes on after the next one ({error}), which RecBole cannot "
                f"read: {_short(row)}; remove the marks, or double each and put the cell between two more",
                line,
            ) from None
        if len(read) != 2:
            raise self._fail(
                f"a quotation mark opens a cell and is not closed, so that RecBole would read the next lines as part "
                f"of it: {_short(row)}; remove it or double it",
                line,
            )
        return len(read[0])

    def _parse(self, text: str, rows: list[str], lines: np.ndarray, chosen: Sequence[Column]) -> pd.DataFrame:
        # Ids are read as categories: the reader then makes one string for each id rather than for each row.
        kinds = {FeatureType.FLOAT.value: np.float64, FeatureType.TOKEN.value: "category"}
        dtypes: dict[int, Any] = {column.position: kinds.get(column.type, str) for column in chosen}
        single = len(self.separator) == 1
        try:
            frame: pd.DataFrame = _read_csv(
                io.StringIO(text),
                sep=self.separator if single else re.escape(self.separator),
                header=None,
                names=range(len(self.columns)),
                usecols=sorted(dtypes),
                dtype=dtypes,
                engine="c" if single else "python",
                skip_blank_lines=False,
                **({"low_memory": False} if single else {}),
            )
        except (ValueError, TypeError, OverflowError, csv.Error, pd.errors.ParserError) as error:
            self._find_bad_number(rows, lines, chosen)
            raise self._fail(f"cannot be read: {error}", int(lines[0])) from None
        if len(frame) != len(rows):
            raise self._fail("holds a control character that ends a line; remove it", int(lines[0]))
        frame.columns = pd.Index([column.name for column in sorted(chosen, key=lambda column: column.position)])
        return frame

    def _find_bad_number(self, rows: list[str], lines: np.ndarray, chosen: Sequence[Column]) -> None:
        floats = [column for column in chosen if column.type == FeatureType.FLOAT.value]
        for row, line in zip(rows, lines, strict=True):
            cells = (
                next(csv.reader([row], delimiter=self.separator))
                if len(self.separator) == 1
                else row.split(self.separator)
            )
            for column in floats:
                cell = cells[column.position]
                if cell not in MISSING and not _is_number(cell):
                    raise self._fail(
                        f"column {column.name} is of type float, but holds {_short(cell)}; write a number, or leave "
                        f"the cell empty",
                        int(line),
                    )

    def _check_number_lists(self, cells: pd.Series, lines: np.ndarray) -> None:
        texts = cells.fillna("")
        for text, line in zip(texts, lines, strict=True):
            for part in text.split(self.seq_separator):
                if part and not _is_number(part):
                    raise self._fail(
                        f"column {cells.name} is of type float_seq, but holds {_short(part)}; write numbers separated "
                        f"by {self.seq_separator!r}",
                        int(line),
                    )

    # ---- text ----

    def _texts(self) -> Iterator[tuple[str, int]]:
        """The file's text in blocks of whole lines, each with its first line's number; all line ends made one kind."""
        line = 1
        for block in self._byte_blocks():
            try:
                text = block.decode(self.encoding or "utf-8")
            except (UnicodeDecodeError, LookupError) as error:
                raise self._not_text(block, line, error) from None
            if "\0" in text:
                at = line + text[: text.index("\0")].count("\n")
                raise self._fail("holds a zero byte, so it is no text file; is it compressed, or UTF-16?", at)
            if "\r" in text:
                text = text.replace("\r\n", "\n").replace("\r", "\n")
            yield text.removesuffix("\n"), line
            line += text.count("\n") + (not text.endswith("\n"))

    def _byte_blocks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            if self.encoding is not None and not _keeps_line_ends(self.encoding):
                yield file.read()
                return
            parts: list[bytes] = []
            while block := file.read(BLOCK):
                cut = block.rfind(b"\n") + 1
                if cut == 0:
                    parts.append(block)
                    if sum(map(len, parts)) > LONGEST_LINE:
                        raise self._fail(f"holds a line of more than {LONGEST_LINE} bytes; is it an atomic file?")
                    continue
                yield b"".join([*parts, block[:cut]])
                parts = [block[cut:]] if cut < len(block) else []
            if parts:
                yield b"".join(parts)

    def _not_text(self, block: bytes, line: int, error: Exception) -> DataError:
        if not isinstance(error, UnicodeDecodeError):
            return DataError(f"encoding: {self.encoding!r} is not a text encoding that Python knows; try utf-8")
        before = block[: error.start]
        column = error.start - before.rfind(b"\n")
        packed = [name for mark, name in _PACKED.items() if line == 1 and block.startswith(mark)]
        if packed:
            return self._fail(f"is a {packed[0]} file, not text; unpack it")
        wanted = self.encoding or "UTF-8"
        return self._fail(
            f"is not {wanted}: 0x{block[error.start]:02x} at byte {column} of the line; save the file as UTF-8, or set "
            f"encoding",
            line + before.count(b"\n"),
        )


def _keeps_line_ends(encoding: str) -> bool:
    try:
        return "\n".encode(encoding) == b"\n"
    except LookupError:
        return True  # reported when the first block is decoded


def _is_number(text: str) -> bool:
    """Whether pandas reads ``text`` as a number; ``1e400`` is none, as no float is that large."""
    return _NUMBER.fullmatch(text) is not None and ("n" in text.lower() or math.isfinite(float(text)))


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else repr(text[:59]) + "…"
