"""What the vectors of OOV tokens are before anything is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("auto", "text", "mean", "random")


@dataclass(frozen=True)
class TokenTexts:
    """Texts that OOV tokens stand for, as ordinary tokens.

    Attributes:
        words: Ids of ordinary tokens, one row a text, padded. (N, W)
        real: Which of them are no padding. (N, W) bool
        texts: Of each pair of a text and an OOV token, the text. (P,)
        tokens: The OOV token, from 0. (P,)
    """

    words: Tensor
    real: Tensor
    texts: Tensor
    tokens: Tensor

    @property
    def empty(self) -> bool:
        """Whether no text says anything."""
        return not bool(self.real.any())


def texts_of(
    encoded: Mapping[int, list[int]], item_cluster: Tensor, n_clusters: int, own_tokens: Tensor | None
) -> TokenTexts:
    """What each OOV token stands for: a cluster's for its items' texts, an item's own fine token for its text.

    Args:
        encoded: Ordinary tokens of items' texts, by item.
        item_cluster: Cluster of every item. (n_items,)
        n_clusters: K: so many OOV tokens stand before the fine ones.
        own_tokens: Every item's fine token, from 0, where it is its own; None where it is shared. (n_items,)
    """
    items = torch.tensor(list(encoded), dtype=torch.long)
    rows = [torch.tensor(ids, dtype=torch.long) for ids in encoded.values()]
    words = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) if rows else items.new_zeros(0, 1)
    lengths = torch.tensor([len(ids) for ids in rows], dtype=torch.long)
    texts, tokens = torch.arange(len(items)), item_cluster[items]
    if own_tokens is not None:
        texts, tokens = texts.repeat(2), torch.cat([tokens, n_clusters + own_tokens[items]])
    return TokenTexts(words, torch.arange(words.shape[1]) < lengths[:, None], texts, tokens)


def initial_rows(kind: str, table: Tensor, n_oov: int, said: TokenTexts) -> Tensor:
    """Rows of OOV tokens by those of ordinary ones.

    Args:
        kind: ``mean``: the mean of all ordinary tokens. ``text``: the mean over the texts that a token stands for of
            the mean over their tokens; the mean of all where there is none. ``random``: normal, with the ordinary
            tokens' standard deviation (from torch's global generator).
        table: Rows of ordinary tokens. (n_words, d)
        n_oov: V.
        said: What tokens stand for.

    Returns:
        (V, d) float32
    """
    table = table.detach().float()
    if kind == "random":
        return torch.randn(n_oov, table.shape[1]) * table.std()
    rows = table.mean(dim=0).repeat(n_oov, 1)
    if kind == "mean" or said.empty:
        return rows
    weights = said.real / said.real.sum(dim=1, keepdim=True).clamp_min(1)
    texts = torch.nn.functional.embedding_bag(said.words, table, per_sample_weights=weights.to(table), mode="sum")
    speaks = said.real.any(dim=1)[said.texts]
    of_pairs, tokens = texts[said.texts[speaks]], said.tokens[speaks]
    counts = torch.bincount(tokens, minlength=n_oov)
    sums = torch.zeros_like(rows).index_add(0, tokens, of_pairs)
    return torch.where(counts[:, None] > 0, sums / counts.clamp_min(1)[:, None], rows)
