"""What is kept of an ``.inter`` file while it is read: hashes of its rows, for what only shows over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from recbole.utils import FeatureType

from recbole_oov.config.rules import intervals
from recbole_oov.data.atomic_table import AtomicTable, Block
from recbole_oov.data.atomic_values import EXAMPLES, blank_ids, check_padding, named_lines
from recbole_oov.errors import DataError

MAX_DUPLICATES = 0.01
"""Share of rows that may repeat an earlier one (same user, item and time) before it is a problem."""
LONGEST_ID = 1_000


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
        self.times: list[np.ndarray] = []
        self.legal: list[np.ndarray] = []
        self.seen: dict[str, list[Ids]] = {"user": [], "item": []}
        self.no_id: list[int] = []
        self.no_user: list[int] = []
        self.no_rating: list[int] = []
        self.before_time: list[int] = []
        self.n_rows = 0
        self.long: tuple[int, int] | None = None

    def add(self, block: Block) -> None:
        """Take in one block of rows."""
        user, item, rating = self.user, self.item, self.rating
        frame = block.frame
        timed = self.time in frame and frame[self.time].dtype == np.float64
        self.n_rows += len(block.lines)
        if block.longest > LONGEST_ID and self.long is None:
            self.long = self._long_id(block)
        if rating in frame:
            self.no_rating += block.lines[frame[rating].isna().to_numpy()].tolist()
        if timed:
            self.before_time += block.lines[frame[self.time].to_numpy() < 0].tolist()
        if not user:
            return
        users, items = Ids.of(frame[user]), Ids.of(frame[item])
        for ids, name in ((users, user), (items, item)):
            check_padding(ids.texts, self.table.path, name)
        missing = users.missing | items.missing
        self.no_id += block.lines[missing].tolist()
        self.no_user += block.lines[users.missing].tolist()
        if timed:
            self.times.append(frame[self.time].to_numpy()[~missing])
        self.users.append(users.hashes[~missing])
        self.items.append(items.hashes[~missing])
        self.legal.append(in_val_interval(frame, self.table, self.config)[~missing])
        self.seen["user"].append(users)
        self.seen["item"].append(items)

    def _long_id(self, block: Block) -> tuple[int, int] | None:
        for name in (self.user, self.item):
            if name in block.frame:
                lengths = block.frame[name].str.len().to_numpy()
                if np.nanmax(lengths) > LONGEST_ID:
                    worst = int(np.nanargmax(lengths))
                    return int(block.lines[worst]), int(lengths[worst])
        return None

    def doubts(self) -> list[str]:
        """The softer problems of this file's rows.

        Raises:
            DataError: Some rows have no user and others no item: RecBole would remove other rows than those.
        """
        path, found = self.table.path, []
        if 0 < len(self.no_user) < len(self.no_id):
            # RecBole takes labels for positions when it removes the second kind (dataset.py, _filter_nan_user_or_item).
            raise DataError(
                f"{path}, {named_lines(self.no_id)}: the user or item id is missing, the user's in "
                f"{len(self.no_user)} of "
                f"them, and RecBole would remove other rows instead of some; fill the ids in or remove the rows"
            )
        if self.no_id:
            found.append(
                f"{path}, {named_lines(self.no_id)}: the user or item id is missing: the cell is empty, or "
                f"holds NA, None, "
                f"null or another word that RecBole reads as that; fill it in or remove the row"
            )
        if self.no_rating:
            where = f"{path}, {named_lines(self.no_rating)}"
            found.append(
                f"{where}: {self.rating} is missing, and RecBole would put the mean of all in its place; fill it in or "
                f"remove the row"
            )
        if self.long is not None:
            found.append(f"{path}, line {self.long[0]}: an id of {self.long[1]} characters; is a separator missing?")
        if self.before_time:
            found.append(
                f"{path}, {named_lines(self.before_time)}: {self.time} is negative, and RecBole would take the "
                f"row for the "
                f"oldest; write the time in seconds after 1970, or remove the row"
            )
        repeated = self._repeated()
        if repeated > MAX_DUPLICATES * self.n_rows:
            found.append(
                f"{self._repeats(repeated)}; a random split would put copies into training and test: set rm_dup_inter: "
                f"first"
            )
        return found

    def notes(self) -> list[str]:
        """What is as RecBole takes it, but may not be as the user thinks."""
        path, repeated = self.table.path, self._repeated()
        found = []
        if 0 < repeated <= MAX_DUPLICATES * self.n_rows:
            found.append(f"{self._repeats(repeated)}; rm_dup_inter: first would remove them")
        for side, column in (("user", self.user), ("item", self.item)):
            texts = {text for ids in self.seen[side] for text in ids.texts if text != text.strip()}
            note = blank_ids(np.array(sorted(texts), dtype=object), path, column)
            found += [note] if note else []
        return found

    def _repeats(self, repeated: int) -> str:
        return f"{self.table.path}: {repeated} of {self.n_rows} rows repeat an earlier one, same user, item and time"

    def _repeated(self) -> int:
        if not self.times or self.config["rm_dup_inter"] is not None:
            return 0
        rows = _mixed(_mixed(*self._pairs()), pd.util.hash_array(np.concatenate(self.times), categorize=False))
        return len(rows) - len(pd.unique(rows))

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        users, items = (np.concatenate([*side, np.empty(0, np.uint64)]) for side in (self.users, self.items))
        return users, items

    def kept_rows(self, known: Mapping[str, np.ndarray]) -> Kept:
        """The rows that RecBole's filters leave, in its order: ids, repeats, values, known users and items.

        Args:
            known: Hashes of the ids in the ``.user`` and the ``.item`` file, where RecBole asks for them.
        """
        users, items = self._pairs()
        left_out = {"whose user or item id is missing": len(self.no_id)} if self.no_id else {}
        rows, keep = np.arange(len(users)), self.config["rm_dup_inter"]
        if keep is not None:
            if self.times:
                rows = np.concatenate(self.times).argsort(kind="quicksort")  # as pandas sorts, which is not stable
            rows = rows[~pd.Series(_mixed(users, items)[rows]).duplicated(keep=keep).to_numpy()]
            left_out[f"that repeat a user and item (rm_dup_inter: {keep})"] = len(users) - len(rows)
        legal = np.concatenate([*self.legal, np.empty(0, dtype=bool)])[rows]
        left_out["outside val_interval"] = int((~legal).sum())
        rows = rows[legal]
        unknown = np.zeros(len(rows), dtype=bool)
        for side, ids in (("user", users), ("item", items)):
            if side in known:
                lost = ~np.isin(ids[rows], known[side]) & ~unknown
                if lost.any():
                    names = self.names_of(pd.unique(ids[rows][lost])[:EXAMPLES], side)
                    column = self.user if side == "user" else self.item
                    left_out[f"whose {column} is not in the .{side} file, such as {', '.join(names)}"] = int(lost.sum())
                unknown |= lost
        rows = rows[~unknown]
        return Kept(users[rows], items[rows], {reason: count for reason, count in left_out.items() if count})

    def names_of(self, hashes: Iterable[Any], side: str = "user") -> list[str]:
        """The users' or items' ids behind some hashes."""
        found = {value: name for ids in self.seen[side] for value, name in ids.names_of(np.asarray(hashes)).items()}
        return [found[value] for value in hashes]


@dataclass(frozen=True)
class Kept:
    """Users and items of the rows that RecBole keeps, as hashes; and how many it leaves out for which reason."""

    users: np.ndarray
    items: np.ndarray
    left_out: dict[str, int]


def in_val_interval(frame: pd.DataFrame, table: AtomicTable, config: Any) -> np.ndarray:
    """Which rows of a file ``val_interval`` leaves. (N,) bool"""
    kept = np.ones(len(frame), dtype=bool)
    for name, bounds in (config["val_interval"] or {}).items():
        if name not in frame:
            continue
        if table.columns[name].type == FeatureType.FLOAT.value:
            kept &= _in_intervals(frame[name].to_numpy(), bounds)
        elif isinstance(bounds, list | tuple):
            kept &= frame[name].isin([str(value) for value in bounds]).to_numpy()
    return kept


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
