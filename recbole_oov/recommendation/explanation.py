"""What moved the scores of recommended items, for models that can say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_oov.errors import ConfigError
from recbole_oov.recommendation.names import Names

_SHOWN = 3
"""Items of the history that the printed table names."""


@dataclass(frozen=True)
class Influence:
    """What one item of the history, or all items of a cluster, did to a score.

    Attributes:
        name: The item's id in the data set, or the cluster's token.
        title: Of the item; None where the items have no text.
        moved: The score, less the score without it: above 0 it speaks for the recommended item.
    """

    name: str
    title: str | None
    moved: float


@dataclass(frozen=True)
class Explanation:
    """Of one recommended item.

    Attributes:
        case: Whose list: as of :class:`~recbole_oov.recommendation.RecommendedItem`.
        rank: Its place in the list.
        item: Its id in the data set.
        cluster: Its first token.
        cluster_log_prob: Log-probability of that token after the history.
        token: Its second token.
        token_log_prob: Log-probability of that token after the first; both together are the score. Of items without
            training interactions, what is left of the score: it can be above 0.
        items: Of the history, what moved the score most first.
        clusters: Of the history, likewise.
    """

    case: str
    rank: int
    item: str
    cluster: str
    cluster_log_prob: float
    token: str
    token_log_prob: float
    items: tuple[Influence, ...]
    clusters: tuple[Influence, ...]

    def table_row(self) -> dict[str, Any]:
        """The columns of the printed table, the most influential items of the history alone."""
        most = [influence for influence in self.items if influence.moved][:_SHOWN]
        return {
            "case": self.case,
            "rank": self.rank,
            "item": self.item,
            "cluster": f"{self.cluster} {self.cluster_log_prob:+.2f}",
            "token": f"{self.token} {self.token_log_prob:+.2f}",
            "moved most by": ", ".join(f"{one.title or one.name} {one.moved:+.2f}" for one in most),
        }


def check_can_explain(model: Any, new_items: object) -> None:
    """Whether a model can say what moved its scores.

    Raises:
        ConfigError: It cannot, it reads no history, or items are asked about that are in no data set.
    """
    if not hasattr(model, "explain"):
        raise ConfigError(
            f"explain: {type(model).__name__} cannot say what of a history moved its scores; OOVLLMRec can"
        )
    if getattr(model, "rules_weight", 0.0):
        raise ConfigError(
            "explain: with rules_weight the scores are not the model's alone; ask a model that was trained without it"
        )
    if getattr(model, "rank_by", None) == "direct":
        raise ConfigError(
            "explain: with rank_by: direct no history moves the scores; ask a model with rank_by: sequential"
        )
    if new_items is not None:
        raise ConfigError("explain: items that are in no data set are not explained; leave new_items or explain out")


def explanations(
    model: Any, names: Names, cases: Iterable[tuple[str, Interaction, list[tuple[int, Tensor]]]]
) -> tuple[Explanation, ...]:
    """Explain lists of items.

    Args:
        model: With a method ``explain``, as of OOVLLMRec.
        names: Of the data set.
        cases: For each list whose it is, the row that the model reads (1,), and the ranks and item ids in it.
    """
    from recbole_oov.lm.vocabulary import cluster_token  # its libraries take as long to import as all of the plugin

    found: list[Explanation] = []
    for case, row, items in cases:
        ids = torch.stack([item for _, item in items])
        why = model.explain(row.to(model.device), ids.to(model.device))
        tokens = [model.item_tokens(int(item)) for item in ids]
        cluster_names = [cluster_token(int(cluster)) for cluster in why.clusters]
        history = [(names.item(int(item)), names.title(int(item))) for item in why.history]
        for at, (rank, item) in enumerate(items):
            by_item = [Influence(*one, float(moved)) for one, moved in zip(history, why.by_item[:, at], strict=True)]
            by_cluster = [
                Influence(name, None, float(moved))
                for name, moved in zip(cluster_names, why.by_cluster[:, at], strict=True)
            ]
            found.append(
                Explanation(
                    case,
                    rank,
                    names.item(int(item)),
                    tokens[at][0],
                    float(why.cluster_log_probs[at]),
                    tokens[at][1],
                    float(why.item_log_probs[at]),
                    _most_first(by_item),
                    _most_first(by_cluster),
                )
            )
    return tuple(found)


def _most_first(influences: list[Influence]) -> tuple[Influence, ...]:
    return tuple(sorted(influences, key=lambda one: -abs(one.moved)))
