"""What the rows of a model's weights stand for, as a hash."""

from __future__ import annotations

from typing import Any

from recbole_oov.data.cache import fingerprint
from recbole_oov.data.oov_split import oov_mask

_VERSION = 1


def ids_fingerprint(train: Any) -> str:
    """A SHA-256 of users, items, their order, and which of the items have training rows.

    RecBole numbers ids by their first appearance, so that the same shop's next export has other numbers: weights that
    are put beside other ids recommend without an error, and wrongly.

    Args:
        train: The training part of a data set.
    """
    fields = {"users": train.uid_field, "items": train.iid_field}
    tokens = {kind: [str(token) for token in train.field2id_token[field]] for kind, field in fields.items()}
    return fingerprint(format=_VERSION, **tokens, oov=oov_mask(train))
