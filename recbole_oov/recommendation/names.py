"""Between the ids of the data set's files and RecBole's internal ones; titles."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recbole_oov.data.text import item_texts, text_fields
from recbole_oov.errors import ConfigError


class Names:
    """The ids and titles of a data set.

    Args:
        dataset: The training part of the data set.

    Attributes:
        titles: By internal id; None where items have no text.
    """

    def __init__(self, dataset: Any) -> None:
        self._fields = {"user": dataset.uid_field, "item": dataset.iid_field}
        self._dataset = dataset
        self._tokens: dict[str, Sequence[Any]] = {
            kind: dataset.field2id_token[field] for kind, field in self._fields.items()
        }
        field = title_field(dataset)
        self.titles = item_texts(dataset, [field]) if field is not None else None

    def user(self, internal: int) -> str:
        """A user's id in the files."""
        return str(self._tokens["user"][internal])

    def item(self, internal: int) -> str:
        """An item's id in the files."""
        return str(self._tokens["item"][internal])

    def title(self, internal: int) -> str | None:
        """An item's title."""
        return self.titles[internal] if self.titles is not None else None

    def knows_item(self, token: object) -> bool:
        """Whether an item of this id is in the data set."""
        return str(token) in self._dataset.field2token_id[self._fields["item"]] and str(token) != "[PAD]"

    def ids(self, kind: str, tokens: Sequence[object]) -> Tensor:
        """Internal ids. (N,)

        Args:
            kind: ``user`` or ``item``.
            tokens: Ids in the files.

        Raises:
            ConfigError: One is not in the data set; names it and those that are most like it.
        """
        known = self._dataset.field2token_id[self._fields[kind]]
        found = []
        for token in map(str, tokens):
            if token not in known or token == "[PAD]":
                raise ConfigError(self._unknown(kind, token))
            found.append(int(known[token]))
        return torch.tensor(found, dtype=torch.long)

    def _unknown(self, kind: str, token: str) -> str:
        every = [str(name) for name in self._tokens[kind][1:]]
        near = difflib.get_close_matches(token, every, n=3, cutoff=0.5) or every[:3]
        return (
            f"{kind}: {token!r} is not among the {len(every)} {kind}s of {self._dataset.dataset_name}; the nearest ids "
            f"are {', '.join(near)}"
        )


def title_field(dataset: Any) -> str | None:
    """The field that titles are in: the first of words with ``title`` or ``name`` in its name, else the first."""
    fields = text_fields(dataset)
    named = [field for field in fields if "title" in field.lower() or "name" in field.lower()]
    return next(iter([*named, *fields]), None)
