"""What the interactions of a split say in some of their columns: what prompts ask for, and what they may read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from recbole.utils import FeatureType

from recbole_oov.data.interaction_texts import TEXT_ROW, interaction_text
from recbole_oov.errors import DataError

Column = np.ndarray | list[str]
"""Numbers (N,), or N texts."""


@dataclass(frozen=True)
class Answers:
    """Interactions, and what they say.

    Attributes:
        users: Internal ids. (N,)
        items: Internal ids. (N,)
        columns: By name numbers (N,) or texts.
    """

    users: np.ndarray
    items: np.ndarray
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.users)

    def texts(self, column: str) -> list[str]:
        """A column as words: numbers as they are usually written, 4 and 3.5."""
        values = self.columns[column]
        return values if isinstance(values, list) else [written(value) for value in values]

    def rows(self, kept: np.ndarray) -> Answers:
        """Some of them. (N,) bool, or indices"""
        at = np.arange(len(self))[kept]
        columns = {
            name: [values[row] for row in at] if isinstance(values, list) else values[at]
            for name, values in self.columns.items()
        }
        return Answers(self.users[at], self.items[at], columns)

    def that_say(self, column: str) -> Answers:
        """Those that have something in a column: a text that is not empty, a number that is one."""
        values = self.columns[column]
        if isinstance(values, list):
            return self.rows(np.array([bool(text) for text in values], dtype=bool))
        return self.rows(np.isfinite(values))


def written(value: float) -> str:
    """A number in words, as prompts read and ask for it; nothing where there is none."""
    return f"{value:.6g}" if math.isfinite(value) else ""


def answers_of(dataset: Any, columns: Sequence[str], *, with_first: bool = False) -> Answers:
    """The interactions of a split: its rows; in a sequential data set their targets.

    Args:
        dataset: The data set behind a loader, after RecBole's augmentation and split.
        columns: Columns of the interactions, numbers or words.
        with_first: For the training split: as well users' first interactions, which in a sequential data set are the
            target of no row.

    Raises:
        DataError: A column is not loaded, or holds neither numbers nor words.
    """
    rows, suffix = dataset.inter_feat, dataset.config["LIST_SUFFIX"]
    of_texts = getattr(dataset, "interaction_texts", {})
    for name in columns:
        if name not in of_texts and dataset.field2type.get(name) != FeatureType.FLOAT:
            raise DataError(
                f"{dataset.dataset_name}.inter: prompts ask for the column {name!r}, which must be loaded and of type "
                f"float (numbers) or token_seq (words); it is {dataset.field2type.get(name, 'not there')}"
            )
    users, first = rows[dataset.uid_field].numpy(), np.zeros(0, dtype=np.int64)
    if with_first and hasattr(dataset, "item_list_length_field"):
        oldest = np.lexsort((rows[dataset.item_list_length_field].numpy(), users))
        first = oldest[np.unique(users[oldest], return_index=True)[1]]

    def values(name: str) -> np.ndarray:
        own = rows[name].numpy()
        return np.concatenate([own, rows[name + suffix].numpy()[first, 0]]) if len(first) else own

    said: dict[str, Column] = {}
    for name in columns:
        said[name] = (
            interaction_text(dataset, name, values(TEXT_ROW)) if name in of_texts else values(name).astype(float)
        )
    return Answers(np.concatenate([users, users[first]]), values(dataset.iid_field), said)
