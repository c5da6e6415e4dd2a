"""Item text out of RecBole's item features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from recbole.utils import FeatureType

from recbole_oov.errors import ConfigError


def text_fields(dataset: Any, *, single_tokens: bool = False) -> list[str]:
    """The fields of ``.item`` that hold words: its ``token_seq`` columns, in the file's order.

    Args:
        dataset: A RecBole data set.
        single_tokens: ``token`` columns too, but for the item's id.
    """
    if dataset.item_feat is None:
        return []
    kinds = (FeatureType.TOKEN_SEQ, FeatureType.TOKEN) if single_tokens else (FeatureType.TOKEN_SEQ,)
    columns = [field for field in dataset.item_feat.columns if field != dataset.iid_field]
    return [field for field in columns if dataset.field2type[field] in kinds]


def item_texts(
    dataset: Any, fields: Sequence[str] | None, *, single_tokens: bool = False, option: str = "item_text_fields"
) -> list[str]:
    """The text of every item, by internal id; the padding item's and that of an item without text is empty.

    Args:
        dataset: A RecBole data set whose ``.item`` file was loaded.
        fields: Fields to join, in order; None for all that hold words, an empty list for none.
        single_tokens: Whether ``token`` columns may be among them.
        option: What the user calls the fields, for the message.

    Raises:
        ConfigError: A field is not there or does not hold words.
    """
    known = text_fields(dataset, single_tokens=single_tokens)
    chosen = known if fields is None else list(fields)
    for field in chosen:
        if field not in known:
            raise ConfigError(
                f"{option}: {field!r} is not a loaded text field of the items; there are {known or 'none'} (load_col "
                f"must name a field of type token_seq{' or token' if single_tokens else ''} under 'item')"
            )
    parts = [_decode(dataset, field) for field in chosen]
    return [" ".join(filter(None, words)) for words in zip(*parts, strict=True)] if parts else [""] * dataset.item_num


def missing_text_problem(dataset: Any, texts: Sequence[str]) -> str | None:
    """What to tell a user some of whose items have no text, where text is needed; None if all have."""
    lacking = [item for item in range(1, len(texts)) if not texts[item]]
    if not lacking:
        return None
    examples = ", ".join(str(dataset.field2id_token[dataset.iid_field][item]) for item in lacking[:5])
    return (
        f"{dataset.dataset_name}.item: {len(lacking)} of {len(texts) - 1} items have no text "
        f"({dataset.iid_field} {examples}{', …' if len(lacking) > 5 else ''}); add their text, choose prompts and "
        f"tasks without item text (--prompts=sequential), or let them be known by their tokens alone "
        f"(--data_checks=warn)"
    )


def _decode(dataset: Any, field: str) -> list[str]:
    tokens = dataset.field2id_token[field]
    ids = np.asarray(dataset.item_feat[field])
    return [" ".join(str(tokens[i]) for i in np.atleast_1d(row) if i > 0) for row in ids]
