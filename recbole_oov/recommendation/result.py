"""What :func:`recbole_oov.recommend` returns: rows that print as a table and convert to pandas and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd
from tabulate import tabulate

from recbole_oov.recommendation.explanation import Explanation

Group = Literal["overall", "iv", "oov"]
GROUPS: tuple[Group, ...] = ("overall", "iv", "oov")


@dataclass(frozen=True)
class RecommendedItem:
    """One place in a list of items.

    Attributes:
        case: Whose list: the user's id, or ``history 1`` for the first history.
        rank: Its place, from 1.
        item: The item's id in the data set, or the name of a new item.
        title: Its title; None where the items have no text.
        group: ``iv`` with a training row, ``oov`` without, ``new`` for an item that is not in the data set.
        score: The model's, in no unit; None unless it was asked for.
        answers: By task what the model says of the item for the user, a number or a text; None unless asked for.
    """

    case: str
    rank: int
    item: str
    title: str | None
    group: str
    score: float | None = None
    answers: dict[str, float | str] | None = None


@dataclass(frozen=True)
class RecommendedUser:
    """One place in the list of users whom a new item is for.

    Attributes:
        item: The new item's name.
        rank: The user's place, from 1, by the item's score for the user.
        user: The user's id in the data set.
        item_rank: Where the item stands for this user among the candidates, from 1; between those that it ties with.
        of: How many items it is ranked among, itself included.
        score: The model's; None unless it was asked for.
    """

    item: str
    rank: int
    user: str
    item_rank: int
    of: int
    score: float | None = None


@dataclass(frozen=True)
class ImaginedUser:
    """One step of the sequence that USIM imagined for a new item.

    Attributes:
        item: The new item's name.
        step: From 1.
        user: The user's id in the data set.
        probability: Of this user among all, given that imagination goes on.
        stop: Probability to stop before this step.
    """

    item: str
    step: int
    user: str
    probability: float
    stop: float


Row = RecommendedItem | RecommendedUser


@dataclass(frozen=True)
class Recommendations:
    """Lists of items or of users, one after another; each is in order.

    Attributes:
        model: The model's name.
        rows: All of one kind.
        notes: What a reader should know, in sentences.
        imagined: What was imagined for new items, by models that do so.
        explanations: Why each item was scored as it was, where that was asked for; in the order of the rows.
    """

    model: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    imagined: tuple[ImaginedUser, ...] = ()
    explanations: tuple[Explanation, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def to_frame(self) -> pd.DataFrame:
        """A row for each row; columns that are empty throughout are left out."""
        rows = [asdict(row) for row in self.rows]
        answers = [row.pop("answers", None) or {} for row in rows]
        taken = set(rows[0]) if rows else set()  # a task may be called as a column is
        frame = pd.DataFrame(
            [
                {**row, **{f"{task} (answer)" if task in taken else task: said for task, said in answer.items()}}
                for row, answer in zip(rows, answers, strict=True)
            ]
        )
        return frame.dropna(axis="columns", how="all")

    def to_dict(self) -> dict[str, Any]:
        """Plain values: ``model``, ``recommendations``, ``notes``, and ``imagined`` and ``explanations`` if any."""
        found: dict[str, Any] = {"model": self.model, "recommendations": [_plain(row) for row in self.rows]}
        if self.imagined:
            found["imagined"] = [asdict(step) for step in self.imagined]
        if self.explanations:
            found["explanations"] = [asdict(explanation) for explanation in self.explanations]
        return {**found, "notes": list(self.notes)}

    def to_json(self, indent: int | None = None) -> str:
        """:meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def __str__(self) -> str:
        parts = [_table(self.to_frame())]
        if self.imagined:
            parts.append("imagined users\n" + _table(pd.DataFrame([asdict(step) for step in self.imagined])))
        if self.explanations:
            parts.append("why\n" + _table(pd.DataFrame([one.table_row() for one in self.explanations])))
        return "\n\n".join([*parts, *(f"note: {note}" for note in self.notes)])


def _plain(row: Row) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if value is not None}


def _table(frame: pd.DataFrame) -> str:
    # Ids stay text: 007 is no number.
    texts: str = tabulate(
        frame.values.tolist(),
        headers=[str(name).replace("_", " ") for name in frame.columns],
        disable_numparse=[at for at, name in enumerate(frame.columns) if frame[name].dtype == object],
        floatfmt=".4g",
    )
    return texts
