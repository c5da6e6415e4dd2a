"""Items' texts as ordinary tokens: beside their OOV tokens in prompts, and as what these begin with."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger

import torch
from torch import Tensor

from recbole_oov.errors import DataError
from recbole_oov.lm.backbone_maker import BackboneMaker


def text_tokens(texts: Sequence[str], maker: BackboneMaker, width: int) -> tuple[Tensor, Tensor]:
    """Token ids of every item's text, cut to ``width``, and which of them are no padding. (n_items, width) each"""
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    real = torch.zeros(len(texts), width, dtype=torch.bool)
    n_cut = 0
    for item, encoded in enumerate(maker.encode_all(texts) if width else ()):
        n_cut += len(encoded) > width
        shown = encoded[:width]
        ids[item, : len(shown)] = torch.tensor(shown, dtype=torch.long)
        real[item, : len(shown)] = True
    if n_cut:
        getLogger(__name__).warning(
            "item_text_tokens: the texts of %d of %d items are longer than %d tokens, of which the first %d are shown",
            n_cut,
            len(texts) - 1,
            width,
            width,
        )
    return ids, real


def first_texts(
    texts: Sequence[str], trained: Sequence[int], maker: BackboneMaker, token_init: str
) -> dict[int, list[int]]:
    """Ordinary tokens of training items' texts by item, where OOV tokens may begin with them.

    Raises:
        DataError: They are asked for, and there are none.
    """
    if token_init in ("mean", "random") or (token_init == "auto" and maker.fingerprint is None):
        return {}
    with_text = [item for item in trained if texts[item]]
    if not with_text and token_init == "text":
        raise DataError(
            "token_init: text needs texts of items, and no training item has one; load them (load_col, "
            "item_text_fields), or give token_init: mean"
        )
    if 0 < len(with_text) < len(trained):
        getLogger(__name__).warning(
            "token_init: %d of %d training items have no text; their clusters' tokens begin with those of the others",
            len(trained) - len(with_text),
            len(trained),
        )
    return dict(zip(with_text, maker.encode_all([texts[item] for item in with_text]), strict=True))
