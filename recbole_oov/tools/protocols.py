"""What each protocol would leave of a data set: rows of every part, IV and OOV items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from recbole.data.dataset import Dataset

from recbole_oov.data.oov_split import WAYS, OOVOptions, plan
from recbole_oov.errors import DataError

RATIOS = (0.8, 0.1, 0.1)
_SEED = 2020


@dataclass(frozen=True)
class Left:
    """What a protocol leaves.

    Attributes:
        protocol: Its name.
        train: Training rows.
        valid_iv: Validation rows that ask for an item with training rows.
        valid_oov: Validation rows that ask for one without.
        test_iv: The same of the test.
        test_oov: The same of the test.
        iv_items: Items with a training row.
        oov_items: Items without one, those kept out and those that happen to have none.
        test_users: Users with a test row.
        notes: What was moved or left out, or why the protocol cannot be used; all numbers are 0 then.
    """

    protocol: str
    train: int = 0
    valid_iv: int = 0
    valid_oov: int = 0
    test_iv: int = 0
    test_oov: int = 0
    iv_items: int = 0
    oov_items: int = 0
    test_users: int = 0
    notes: tuple[str, ...] = ()


Parts = tuple[np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]
"""Row numbers of training, validation and test, and notes."""


def what_is_left(users: np.ndarray, items: np.ndarray, times: np.ndarray | None) -> list[Left]:
    """What every protocol would leave of a table of interactions.

    Args:
        users: User ids. (N,)
        items: Item ids. (N,)
        times: Timestamps, or None. (N,)

    Returns:
        One entry a protocol: OOV items by lot, by time and by popularity, leave-one-out in time order, 8:1:1 at random.
    """
    protocols: dict[str, Callable[[], Parts]] = {
        f"--oov_split={way}": lambda way=way: _oov(users, items, times, way)  # type: ignore[misc]
        for way in WAYS
    }
    protocols["leave one out, in time order"] = lambda: leave_one_out(users, times)
    protocols["8:1:1 of each user, at random"] = lambda: by_ratio(users)
    found = []
    for name, parts in protocols.items():
        try:
            found.append(_left(name, users, items, *parts()))
        except DataError as error:
            found.append(Left(name, notes=(str(error),)))
    return found


def _oov(users: np.ndarray, items: np.ndarray, times: np.ndarray | None, way: str) -> Parts:
    in_time = way == "time"  # by itself the option sets one moment for everybody, before which training lies
    rows, notes = plan(users, items, times, OOVOptions(by=way), in_order=in_time, per_user=not in_time)
    valid, test = (np.concatenate([rows[f"{kind}_{part}"] for kind in ("iv", "oov")]) for part in ("valid", "test"))
    return rows["train"], valid, test, tuple(notes)


def leave_one_out(users: np.ndarray, times: np.ndarray | None) -> Parts:
    """RecBole's ``LS: valid_and_test``: each user's last row is for the test, the one before for validation.

    Of users with two rows one is for the test and none for validation; those with one row are trained on alone.

    Raises:
        DataError: There are no times.
    """
    if times is None:
        raise DataError("needs the time of each interaction; set TIME_FIELD and load it (load_col)")
    order = np.argsort(times, kind="stable")
    groups = _by_user(users, order)
    train, valid, test = (
        np.array(part, dtype=np.int64) for part in Dataset._split_index_by_leave_one_out(None, groups, 2)
    )
    short = sum(len(group) < 3 for group in groups)
    notes = (f"{short} users have fewer than the three interactions it needs; a run refuses them",) if short else ()
    return train, valid, test, notes


def by_ratio(users: np.ndarray) -> Parts:
    """RecBole's default, 8:1:1 of each user's rows in random order: one draw of it."""
    order = np.random.default_rng(_SEED).permutation(len(users))
    parts: list[list[np.ndarray]] = [[], [], []]
    for group in _by_user(users, order):
        for part, rows in zip(parts, np.split(group, Dataset._calcu_split_ids(None, len(group), RATIOS)), strict=True):
            part.append(rows)
    train, valid, test = (np.concatenate(part) for part in parts)
    return train, valid, test, ("one draw: another seed has other items without training rows",)


def _by_user(users: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    """The rows of each user, in the given order."""
    grouped = order[np.argsort(users[order], kind="stable")]
    return np.split(grouped, np.cumsum(np.unique(users, return_counts=True)[1])[:-1])


def _left(
    name: str,
    users: np.ndarray,
    items: np.ndarray,
    train: np.ndarray,
    valid: np.ndarray,
    test: np.ndarray,
    notes: tuple[str, ...],
) -> Left:
    known = np.unique(items[train])
    valid_oov, test_oov = (int((~np.isin(items[part], known)).sum()) for part in (valid, test))
    return Left(
        protocol=name,
        train=len(train),
        valid_iv=len(valid) - valid_oov,
        valid_oov=valid_oov,
        test_iv=len(test) - test_oov,
        test_oov=test_oov,
        iv_items=len(known),
        oov_items=len(np.unique(items)) - len(known),
        test_users=len(np.unique(users[test])),
        notes=notes,
    )
