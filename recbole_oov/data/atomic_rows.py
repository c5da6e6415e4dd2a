"""What is kept of an ``.inter`` file while it is read: hashes of its rows, for what only shows over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_oov.config.rules import intervals
from recbole_oov.data.atomic_table import AtomicTable, Block

MAX_DUPLICATES = 0.01
"""Share of rows that may repeat an earlier one (same user, item and time) before it is a problem."""
LONGEST_ID = 1_000
EXAMPLES = 5
"""How many lines or users a message names."""


class Interactions:
    """The rows of one ``.inter`` file: hashes of each row's user, item and time, and the names behind them.

    Args:
        config: RecBole's or the plugin's configuration.
        table: The file.
    """

    def __init__(self, config: Any, table: AtomicTable) -> None:
        self.config, self.table = config, table
        self.user, self.item, self.time = (config[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME"))
        self.rating = config["RATING_FIELD"]
        self.users: list[np.ndarray] = []
        self.items: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []
        self.seen: list[Ids] = []
        self.no_id: list[int] = []
        self.no_rating: list[int] = []
        self.long: tuple[int, int] | None = None

    def add(self, block: Block) -> None:
        """Take in one block of rows."""
        user, item, time, rating = self.user, self.item, self.time, self.rating
        frame = block.frame
        if block.longest > LONGEST_ID and self.long is None:
            self.long = self._long_id(block)
        if rating in frame:
            self.no_rating += block.lines[frame[rating].isna().to_numpy()].tolist()
        if not user:
            return
        users, items = Ids.of(frame[user]), Ids.of(frame[item])
        missing = users.missing | items.missing
        self.no_id += block.lines[missing].tolist()
        if time in frame:
            times = pd.util.hash_array(frame[time].to_numpy(), categorize=False)
            self.rows.append(_mixed(_mixed(users.hashes, items.hashes), times)[~missing])
        keep = ~missing & self._in_val_interval(frame)
        self.users.append(users.hashes[keep])
        self.items.append(items.hashes[keep])
        self.seen.append(users)

    def _long_id(self, block: Block) -> tuple[int, int] | None:
        for name in (self.user, self.item):
            if name in block.frame:
                lengths = block.frame[name].str.len().to_numpy()
                if np.nanmax(lengths) > LONGEST_ID:
                    worst = int(np.nanargmax(lengths))
                    return int(block.lines[worst]), int(lengths[worst])
        return None

    def _in_val_interval(self, frame: pd.DataFrame) -> np.ndarray:
        kept = np.ones(len(frame), dtype=bool)
        for name, bounds in (self.config["val_interval"] or {}).items():
            if name not in frame:
                continue
            if self.table.columns[name].type == FeatureType.FLOAT.value:
                kept &= _in_intervals(frame[name].to_numpy(), bounds)
            elif isinstance(bounds, list | tuple):
                kept &= frame[name].isin([str(value) for value in bounds]).to_numpy()
        return kept

    def doubts(self) -> list[str]:
        """The softer problems of this file's rows."""
        path, found = self.table.path, []
        if self.no_id:
            found.append(f"{path}, {_lines(self.no_id)}: the user or item id is missing; fill it in or remove the row")
        if self.no_rating:
            where = f"{path}, {_lines(self.no_rating)}"
            found.append(
                f"{where}: {self.rating} is missing, and RecBole would put the mean of all in its place; fill it in or "
                f"remove the row"
            )
        if self.long is not None:
            found.append(f"{path}, line {self.long[0]}: an id of {self.long[1]} characters; is a separator missing?")
        rows = np.concatenate(self.rows) if self.rows else np.empty(0, np.uint64)
        repeated = len(rows) - len(pd.unique(rows))
        if repeated and self.config["rm_dup_inter"] is None:
            said = f"{path}: {repeated} of {len(rows)} rows repeat an earlier one, same user, item and time"
            if repeated > MAX_DUPLICATES * len(rows):
                found.append(f"{said}; a random split would put copies into training and test: set rm_dup_inter: first")
            else:
                getLogger(__name__).warning("%s; rm_dup_inter: first would remove them", said)
        return found

    def kept_rows(self, known: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of the rows that RecBole's filters by value and by known users and items leave."""
        users = np.concatenate([*self.users, np.empty(0, np.uint64)])
        items = np.concatenate([*self.items, np.empty(0, np.uint64)])
        kept = np.ones(len(users), dtype=bool)
        if "user" in known:
            kept &= np.isin(users, known["user"])
        if "item" in known:
            kept &= np.isin(items, known["item"])
        users, items = users[kept], items[kept]
        if self.config["rm_dup_inter"] is not None:
            first = ~pd.Series(_mixed(users, items)).duplicated().to_numpy()
            users, items = users[first], items[first]
        return users, items

    def names_of(self, hashes: Iterable[Any]) -> list[str]:
        """The users' ids behind some hashes."""
        found = {value: name for ids in self.seen for value, name in ids.names_of(np.asarray(hashes)).items()}
        return [found[value] for value in hashes]


@dataclass(frozen=True)
class Ids:
    """A column of ids (a pandas categorical) as hashes: of each row, and of each distinct id with its text."""

    hashes: np.ndarray
    missing: np.ndarray
    distinct: np.ndarray
    texts: np.ndarray

    @classmethod
    def of(cls, values: pd.Series) -> Ids:
        codes, texts = values.cat.codes.to_numpy(), values.cat.categories.to_numpy(dtype=object)
        distinct = pd.util.hash_array(texts, categorize=False)
        padded = np.append(distinct, np.uint64(0))  # code -1, a missing id, takes the last
        return cls(padded[codes], codes < 0, distinct, texts)

    def names_of(self, hashes: np.ndarray) -> dict[Any, str]:
        here = np.isin(self.distinct, hashes)
        return dict(zip(self.distinct[here], self.texts[here], strict=True))


def _mixed(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """One hash for two of them, row by row."""
    mixed: np.ndarray = left * np.uint64(0x9E3779B97F4A7C15) + right
    return mixed


def _in_intervals(values: np.ndarray, bounds: object) -> np.ndarray:
    kept = np.zeros(len(values), dtype=bool)
    for closed_low, low, high, closed_high in intervals(bounds) or [(True, -np.inf, np.inf, True)]:
        above = values >= low if closed_low else values > low
        kept |= above & (values <= high if closed_high else values < high)
    return kept


def within_bounds(users: np.ndarray, items: np.ndarray, user_bounds: object, item_bounds: object) -> np.ndarray:
    """Which rows RecBole's filter by number of interactions leaves: repeated until nothing changes."""
    kept = np.ones(len(users), dtype=bool)
    sides = [
        (pd.factorize(ids)[0], bounds)
        for ids, bounds in ((users, user_bounds), (items, item_bounds))
        if bounds is not None and not _in_intervals(np.array([1.0, np.inf]), bounds).all()
    ]
    if not sides:
        return kept
    while kept.any():
        counts = [np.bincount(codes[kept], minlength=len(codes)) for codes, _ in sides]
        legal = [_in_intervals(count, bounds)[codes] for count, (codes, bounds) in zip(counts, sides, strict=True)]
        left = kept & np.logical_and.reduce(legal)
        if (left == kept).all():
            break
        kept = left
    return kept


def _lines(lines: list[int]) -> str:
    if len(lines) == 1:
        return f"line {lines[0]}"
    more = f" and {len(lines) - EXAMPLES} more" if len(lines) > EXAMPLES else ""
    return f"lines {', '.join(map(str, lines[:EXAMPLES]))}{more}"
