"""What the values of one atomic file may be: numbers that RecBole can hold, and ids that name one thing each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_oov.data.atomic_table import AtomicTable, Block
from recbole_oov.errors import DataError

EXAMPLES = 5
"""How many lines or ids a message names."""
PADDING = "[PAD]"
LARGEST = float(np.finfo(np.float32).max)
"""The largest number that RecBole can hold."""


@dataclass
class Numbers:
    """The numbers in the loaded columns of one file, and how many of them are missing.

    Attributes:
        table: The file.
        loaded: Names of its columns that RecBole loads.
        time: RecBole's ``TIME_FIELD``, which may not be missing.
    """

    table: AtomicTable
    loaded: Iterable[str]
    time: str | None
    _missing: Counter[str] = field(default_factory=Counter)
    _rows: int = 0

    def add(self, block: Block) -> None:
        """Take in one block of rows.

        Raises:
            DataError: A number is infinite or larger than RecBole's single precision, or a time is missing.
        """
        self._rows += len(block.lines)
        for name in self.loaded:
            kind = self.table.columns[name].type
            if kind == FeatureType.FLOAT.value:
                self._add_column(name, block.frame[name].to_numpy(), block.lines)
            elif kind == FeatureType.FLOAT_SEQ.value:
                self._check_lists(name, block)

    def _add_column(self, name: str, values: np.ndarray, lines: np.ndarray) -> None:
        bad = ~(np.abs(values) <= LARGEST) if name == self.time else np.abs(values) > LARGEST
        if bad.any():
            value, line = values[bad.argmax()], int(lines[bad.argmax()])
            raise DataError(f"{self.table.path}, line {line}: column {name} is {_named(value)}")
        self._missing[name] += int(np.isnan(values).sum())

    def _check_lists(self, name: str, block: Block) -> None:
        for text, line in zip(block.frame[name], block.lines, strict=True):
            for part in text.split(self.table.seq_separator) if isinstance(text, str) else ():
                if part and not abs(float(part)) <= LARGEST:
                    value = "a missing number" if "nan" in part.lower() else "a number that is infinite or too large"
                    raise DataError(
                        f"{self.table.path}, line {line}: column {name} holds {part!r}, {value}; write finite numbers"
                    )

    def doubts(self, read: Collection[str]) -> list[str]:
        """Missing numbers in the columns ``read`` of interactions, which training reads."""
        return [
            f"{self.table.path}: {name} is missing in {missing} of {self._rows} rows; RecBole would put the mean of "
            f"all rows there, held-out ones included, and the model reads it; fill it in, or leave it out with "
            f"unload_col: {{inter: [{name}]}}"
            for name, missing in self._missing.items()
            if missing and name in read
        ]

    def notes(self, but: Collection[str] = ()) -> list[str]:
        """What RecBole puts in place of missing numbers; ``but`` are columns that are spoken of elsewhere.

        Raises:
            DataError: A column has no number at all, so that RecBole would compute with NaN.
        """
        found = []
        for name, missing in self._missing.items():
            if missing and missing == self._rows:
                raise DataError(
                    f"{self.table.path}: column {name} is empty in all {missing} rows; fill it in, or leave it out "
                    f"(unload_col)"
                )
            if missing and name not in but:
                found.append(
                    f"{self.table.path}: {name} is missing in {missing} of {self._rows} rows; RecBole puts the mean of "
                    f"the others there"
                )
        return found


def _named(value: float) -> str:
    if np.isnan(value):
        return "missing (or nan); write a finite number, or remove the row"
    if np.isinf(value):
        return "infinite; write a finite number, or remove the row"
    return f"{value:g}, more than RecBole's numbers can hold ({LARGEST:.2g}); write a smaller number, or remove the row"


def check_padding(texts: np.ndarray, path: object, column: str) -> None:
    """Raise a DataError where one of the distinct ids is RecBole's name of the padding."""
    if (texts == PADDING).any():
        raise DataError(f"{path}: {column} holds the id {PADDING!r}, which is RecBole's own name of no item; rename it")


def blank_ids(texts: np.ndarray, path: object, column: str) -> str | None:
    """A note on distinct ids that begin or end with a blank."""
    found = [text for text in texts if text != text.strip()]
    if not found:
        return None
    shown = ", ".join(map(repr, found[:EXAMPLES])) + (", …" if len(found) > EXAMPLES else "")
    return (
        f"{path}: {len(found)} ids in {column} begin or end with a blank ({shown}), which makes them other ids than "
        f"without it"
    )


@dataclass
class FeatureIds:
    """The ids of a ``.user`` or ``.item`` file, which must name one row each.

    Attributes:
        table: The file.
        column: The column of ids.
    """

    table: AtomicTable
    column: str
    _hashes: list[np.ndarray] = field(default_factory=list)
    _lines: list[np.ndarray] = field(default_factory=list)
    _kept: list[np.ndarray] = field(default_factory=list)
    _no_id: list[int] = field(default_factory=list)

    def add(self, block: Block, hashes: np.ndarray, missing: np.ndarray, kept: np.ndarray) -> None:
        """Take in one block: hashes of its ids, which of them are missing, and which rows ``val_interval`` leaves."""
        self._hashes.append(hashes[~missing])
        self._lines.append(block.lines[~missing])
        self._kept.append(kept[~missing])
        self._no_id += block.lines[missing].tolist()

    def known(self) -> np.ndarray:
        """Hashes of the ids whose rows RecBole keeps."""
        hashes: np.ndarray = np.concatenate(self._hashes)
        kept: np.ndarray = hashes[np.concatenate(self._kept)]
        return kept

    def check(self) -> list[str]:
        """Doubts about the ids.

        Raises:
            DataError: An id has two rows, after which RecBole would give the features of one item to another.
        """
        hashes, lines = np.concatenate(self._hashes), np.concatenate(self._lines)
        repeated = pd.Series(hashes).duplicated().to_numpy()
        if repeated.any():
            second = int(repeated.argmax())
            first = int((hashes == hashes[second]).argmax())
            more = f" ({int(repeated.sum())} such rows)" if repeated.sum() > 1 else ""
            raise DataError(
                f"{self.table.path}, line {lines[second]}: the {self.column} of line {lines[first]} is there "
                f"again{more}, "
                f"and RecBole would give the features of one id to another; keep one row for each id"
            )
        if not self._no_id:
            return []
        return [
            f"{self.table.path}, {named_lines(self._no_id)}: {self.column} is missing; fill it in or remove the row"
        ]


def named_lines(lines: list[int]) -> str:
    """Line numbers for a message, the first few of them."""
    if len(lines) == 1:
        return f"line {lines[0]}"
    more = f" and {len(lines) - EXAMPLES} more" if len(lines) > EXAMPLES else ""
    return f"lines {', '.join(map(str, lines[:EXAMPLES]))}{more}"
