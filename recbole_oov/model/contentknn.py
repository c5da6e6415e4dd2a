"""ContentKNN: the items most like what the user has, by their content; it learns nothing and knows new items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType
from torch import Tensor, nn

from recbole_oov.data.content import item_content
from recbole_oov.data.histories import seen_matrix

_BLOCK = 1 << 24
"""Similarities held at once, 64 MiB of them."""


class ContentKNN(GeneralRecommender):
    r"""Item-based nearest neighbours over content instead of co-occurrence.

    .. math:: \hat y_{ui} = \sum_{j \in N_k(i) \cap H_u} s_{ij}, \qquad
              s_{ij} = \frac{c_i^\top c_j}{\lVert c_i \rVert \lVert c_j \rVert + \lambda}

    with :math:`c` the items' content, :math:`H_u` the user's training items, and :math:`N_k(i)` the ``k`` items with a
    training row that are most similar to ``i``, without ``i`` itself. This is RecBole's ``ItemKNN`` with another
    similarity; a neighbour is only who is similar (:math:`s_{ij} > 0`). IV and OOV items are scored alike.

    A user without training items gets the mean of all users' scores.

    Reference: Lops, de Gemmis and Semeraro, Content-based Recommender Systems: State of the Art and Trends, in
    Recommender Systems Handbook, Springer 2011.
    """

    input_type = InputType.POINTWISE
    type = ModelType.TRADITIONAL
    recommends_for_oov_items = True
    recommends_new_items = True
    recommends_for_histories = True
    needs_content = True
    needs_text = False
    needs_base_model = False
    paper = "https://doi.org/10.1007/978-0-387-85820-3_3"

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        seen = seen_matrix(dataset).tocsr()
        seen.sum_duplicates()
        counts = np.asarray(seen.sum(axis=0)).ravel()
        trained = torch.from_numpy(np.flatnonzero(counts)).to(self.device)
        content = item_content(config, dataset).to(self.device)
        self.k: int = config["k"]
        self.shrink: float = config["shrink"]
        offsets, items, similarities = similar_items(content, trained, k=self.k, shrink=self.shrink)
        # For items that are yet to come.
        self.register_buffer("content", content, persistent=False)
        # For every training item the items that have it for a neighbour: what a user's history is looked up in.
        self.register_buffer("offsets", offsets)
        self.register_buffer("items", items)
        self.register_buffer("similarities", similarities)
        self.register_buffer("history_offsets", torch.from_numpy(seen.indptr).long().to(self.device))
        self.register_buffer("history_items", torch.from_numpy(seen.indices).long().to(self.device))
        weight = torch.from_numpy(counts / max(1, (np.diff(seen.indptr) > 0).sum())).float().to(self.device)
        rows = torch.repeat_interleave(weight, offsets.diff())
        mean = torch.zeros(self.n_items, device=self.device).index_add_(0, items, similarities * rows)
        self.register_buffer("mean_scores", mean)
        self.no_parameter = nn.Parameter(torch.zeros(1))

    @classmethod
    def config_problems(cls, config: Mapping[str, Any]) -> list[str]:
        """What in a configuration cannot work, before any data is loaded."""
        problems = []
        if not isinstance(config["k"], int) or config["k"] < 1:
            problems.append(f"k: {config['k']!r} is not allowed; give a whole number of neighbours, at least 1")
        if config["shrink"] < 0:
            problems.append(f"shrink: {config['shrink']!r} is not allowed; give a number of at least 0")
        return problems

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """Nothing is learned: the loss is zero."""
        return self.no_parameter.sum() * 0.0

    def full_sort_predict(self, interaction: Interaction) -> Tensor:
        """(B, n_items)"""
        return self._scores(interaction[self.USER_ID])

    def predict(self, interaction: Interaction) -> Tensor:
        """(B,)"""
        users, row = torch.unique(interaction[self.USER_ID], return_inverse=True)
        item = interaction[self.ITEM_ID]
        if (item < 0).any():  # an index would count from the end
            raise IndexError(f"item id {int(item.min())} is not from 0 to {self.n_items - 1}")
        scores = torch.empty(len(row), device=row.device)
        block = max(1, _BLOCK // self.n_items)
        for start in range(0, len(users), block):
            here = (row >= start) & (row < start + block)
            scores[here] = self._scores(users[start : start + block])[row[here] - start, item[here]]
        return scores

    def _scores(self, users: Tensor) -> Tensor:
        """The sum over each user's history of the similarities to it. (B, n_items)"""
        place, items, _ = _rows(self.history_offsets, self.history_items, users)
        scores = self._sums(place, items, len(users))
        scores[self._without_history(users)] = self.mean_scores
        return scores

    def _sums(self, place: Tensor, items: Tensor, n_rows: int) -> Tensor:
        """The sum over items of the similarities to each, added up in the rows ``place``. (H,), (H,) -> (B, n_items)"""
        entry, candidates, index = _rows(self.offsets, self.items, items)
        scores = torch.zeros(n_rows * self.n_items, device=items.device)
        scores.index_add_(0, place[entry] * self.n_items + candidates, self.similarities[index])
        return scores.view(n_rows, self.n_items)

    def _without_history(self, users: Tensor) -> Tensor:
        without: Tensor = self.history_offsets[users] == self.history_offsets[users + 1]
        return without

    def score_histories(self, place: Tensor, items: Tensor, n_rows: int) -> Tensor:
        """Scores for users who are in no data set, by what they have.

        Args:
            place: Which user has each item, from 0. (H,)
            items: Each item once a user; those without a training row count for nothing. (H,)
            n_rows: B, how many users there are.

        Returns:
            (B, n_items)
        """
        return self._sums(place, items, n_rows)

    def score_new_items(self, users: Tensor, content: Tensor) -> Tensor:
        """Scores of items that are in no data set. (B,), (N, content_dim) -> (B, N)"""
        counts = torch.bincount(self.history_items, minlength=self.n_items)
        trained = counts.nonzero().squeeze(1)
        together = torch.cat([self.content, content.to(self.content)])
        ids = torch.arange(self.n_items, len(together), device=content.device)
        columns, rows, values = nearest(together, ids, trained, k=self.k, shrink=self.shrink)
        similar = torch.zeros(self.n_items, len(content), device=content.device)
        similar[columns, rows - self.n_items] = values
        place, items, _ = _rows(self.history_offsets, self.history_items, users)
        scores = torch.zeros(len(users), len(content), device=users.device).index_add_(0, place, similar[items])
        n_with = (self.history_offsets.diff() > 0).sum().clamp(min=1)
        scores[self._without_history(users)] = (counts / n_with) @ similar
        return scores


def similar_items(content: Tensor, trained: Tensor, *, k: int, shrink: float) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` nearest training items of every item, turned round.

    Items are compared block by block, so that no n × n matrix is ever there.

    Args:
        content: Row 0 is the padding item's. (n_items, dim)
        trained: Ids of the items that can be neighbours, ascending. (T,)
        k: Neighbours an item has at most.
        shrink: Added to the product of the norms.

    Returns:
        ``items[offsets[j]:offsets[j + 1]]`` are the items that have j for a neighbour, ascending; and how similar they
        are, above 0. (n_items + 1,) int64, (E,) int64, (E,) float32
    """
    n_items = len(content)
    every = torch.arange(1, n_items, device=content.device)
    neighbour, item, value = nearest(content, every, trained, k=k, shrink=shrink)
    order = torch.argsort(neighbour * n_items + item)
    counts = torch.bincount(neighbour, minlength=n_items)
    return F.pad(counts.cumsum(0), (1, 0)), item[order], value[order]


def nearest(content: Tensor, items: Tensor, trained: Tensor, *, k: int, shrink: float) -> tuple[Tensor, Tensor, Tensor]:
    """The ``k`` nearest training items of some items.

    Args:
        content: (n_items, dim)
        items: Whose neighbours. (M,)
        trained, k, shrink: As of :func:`similar_items`.

    Returns:
        Neighbours, the item that each is near to, and how similar they are, above 0. (E,), (E,), (E,)
    """
    norms, neighbours = content.norm(dim=1), content[trained]
    length = min(k, len(trained))
    found = []
    for ids in items.split(max(1, _BLOCK // max(1, len(trained)))):
        similar = content[ids] @ neighbours.T
        similar /= norms[ids, None] * norms[trained] + shrink + 1e-12
        similar.masked_fill_(ids[:, None] == trained, -torch.inf)
        values, places = similar.topk(length)
        row, column = (values > 0).nonzero(as_tuple=True)
        found.append((trained[places[row, column]], ids[row], values[row, column]))
    neighbour, item, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    return neighbour, item, value


def _rows(offsets: Tensor, values: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Some rows of a ragged array, one after another: which of ``rows`` each entry is in, the entries, their places."""
    starts = offsets[rows]
    lengths = offsets[rows + 1] - starts
    row = torch.repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    index = torch.arange(len(row), device=row.device) - before[row] + starts[row]
    return row, values[index], index
