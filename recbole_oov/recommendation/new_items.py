"""Items that are in no data set: their content, their scores, and the users whom they are for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.utils import FeatureType
from torch import Tensor

from recbole_oov.config.content import TFIDF
from recbole_oov.data.content import ContentSettings, new_item_content, text_fields_of
from recbole_oov.errors import ConfigError, DataError, RecBoleOOVError
from recbole_oov.recommendation.names import Names, title_field

VECTOR = "vector"
_USERS_AT_ONCE = 1024


@dataclass(frozen=True)
class NewItems:
    """Items by their content.

    Attributes:
        names: Their ids where the caller gave some, else ``new 1``, ``new 2``, …
        titles: None for those without.
        content: (N, dim)
        notes: What is to be known about them.
    """

    names: list[str]
    titles: list[str | None]
    content: Tensor
    notes: list[str]


def read_new_items(config: Any, dataset: Any, names: Names, given: Sequence[Mapping[str, Any]]) -> NewItems:
    """Items as the caller describes them, one mapping each, by the names of the item columns of the data set.

    Args:
        config: Of the model.
        dataset: The training part of its data set.
        names: Of the data set.
        given: Text, a list of words or a number for each column; or, for a model whose content came from a file,
            ``vector``. An item may have an id of its own, in the column of ids.

    Raises:
        ConfigError: A column is not there, or an id is taken.
        DataError: An item has no content, or a vector of another width.
    """
    if not given:
        raise ConfigError("new_items: the list is empty; describe at least one item")
    settings = ContentSettings.of(config)
    from_file = settings.source == "file"
    used = [VECTOR] if from_file else text_fields_of(config, dataset)
    known = [dataset.iid_field, *used, *([] if dataset.item_feat is None else dataset.item_feat.columns)]
    for at, item in enumerate(given, start=1):
        _check_columns(item, at, known, used)
    taken = _names_of(dataset, names, given)
    title = title_field(dataset)
    titles = [_text(config, dataset, title, item.get(title)) or None if title else None for item in given]
    if from_file:
        return NewItems(taken, titles, new_item_content(config, dataset, _vectors(given, taken)), [])
    texts = [
        " ".join(filter(None, (_text(config, dataset, field, item.get(field)) for field in used))) for item in given
    ]
    notes = []
    for name, text, item in zip(taken, texts, given, strict=True):
        absent = [field for field in used if field not in item]
        if not text and settings.missing == "error":
            raise DataError(f"new_items: {name} has no text; give it some in {', '.join(used)}")
        if text and absent:
            notes.append(f"{name} has no {', '.join(absent)}, which the items that were learned from may have")
    if settings.encoder != TFIDF:
        return NewItems(taken, titles, new_item_content(config, dataset, texts), notes)
    # The last one has no word at all, and so what items get whose words are all unknown.
    *rows, wordless = new_item_content(config, dataset, [*texts, ""])
    for name, row in zip(taken, rows, strict=True):
        if torch.equal(row, wordless):
            notes.append(f"no word of {name} is in the training items' text, so that its place says nothing about it")
    return NewItems(taken, titles, torch.stack(rows), notes)


def check_can_score(model: Any) -> None:
    """Whether a model knows what to make of an item that it has only the content of.

    Raises:
        ConfigError: It does not.
    """
    if not getattr(model, "recommends_new_items", False):
        raise ConfigError(
            f"new_items: {type(model).__name__} cannot score an item by its content; train a model that can: "
            f"ContentKNN, DeepMusic, USIM or another one of the cold-start family"
        )


@torch.no_grad()
def score_new_items(model: Any, users: Tensor, content: Tensor) -> Tensor:
    """Scores of new items, which stand beside those of the other items; (B,), (N, dim) -> (B, N) on the CPU.

    Raises:
        ConfigError: The model cannot.
        RecBoleOOVError: A score is NaN or infinite.
    """
    check_can_score(model)
    content = content.to(model.device)
    parts = []
    for block in users.split(_USERS_AT_ONCE):
        try:
            parts.append(model.score_new_items(block.to(model.device), content).float().cpu())
        except NotImplementedError as error:
            raise ConfigError(
                f"new_items: {type(model).__name__} has no new_item_embeddings; add the method"
            ) from error
    scores = torch.cat(parts)
    if not torch.isfinite(scores).all():
        raise RecBoleOOVError(f"{type(model).__name__} scored new items NaN or infinite; train it again")
    return scores


def _check_columns(item: Any, at: int, known: Sequence[str], used: Sequence[str]) -> None:
    if not isinstance(item, Mapping) or not item:
        raise ConfigError(f"new_items: item {at} is {item!r}; describe it as in {{{used[0]!r}: …}}")
    for column, value in item.items():
        if isinstance(value, Mapping):
            raise ConfigError(f"new_items: item {at} has {value!r} as {column}; give text, a number or a list of words")
        if column not in known:
            near = difflib.get_close_matches(str(column), known, n=1)
            hint = f"; do you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"new_items: item {at} has {column!r}, which is no item column of the model's data{hint} (its content "
                f"is made of {', '.join(used)})"
            )


def _names_of(dataset: Any, names: Names, given: Sequence[Mapping[str, Any]]) -> list[str]:
    taken: list[str] = []
    for at, item in enumerate(given, start=1):
        name = str(item.get(dataset.iid_field, f"new {at}"))
        if names.knows_item(name):
            raise ConfigError(
                f"new_items: {name} is an item of {dataset.dataset_name} already; leave {dataset.iid_field} out, or "
                f"give it another one"
            )
        if name in taken:
            raise ConfigError(f"new_items: {name} is there twice; give each item an id of its own, or none")
        taken.append(name)
    return taken


def _text(config: Any, dataset: Any, field: str | None, value: Any) -> str:
    """The words of a value, as RecBole reads those of the file."""
    if value is None or field is None:
        return ""
    if dataset.field2type[field] != FeatureType.TOKEN_SEQ:
        return str(value)
    words = (
        [str(word) for word in value] if isinstance(value, list | tuple) else str(value).split(config["seq_separator"])
    )
    longest = (config["seq_len"] or {}).get(field)
    return " ".join([word for word in words if word][:longest])


def _vectors(given: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    vectors: list[np.ndarray] = []
    for item, name in zip(given, names, strict=True):
        value = item.get(VECTOR)
        if isinstance(value, str):
            value = value.split()
        try:
            vector = np.asarray(value, dtype=np.float32)
        except (TypeError, ValueError):
            vector = np.full(1, np.nan, dtype=np.float32)
        if vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
            raise DataError(
                f"new_items: {name} has no {VECTOR} of finite numbers, which the model's content is made of; give one"
            )
        if vectors and len(vectors[0]) != len(vector):
            raise DataError(
                f"new_items: the {VECTOR} of {name} has {len(vector)} numbers; that of {names[0]} has {len(vectors[0])}"
            )
        vectors.append(vector)
    return np.stack(vectors)
