"""Which tokens name users and items, as a configuration asks: clusters of walks, of content, or nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from logging import getLogger
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.data import create_dataset
from torch import Tensor

from recbole_oov.data.content import item_content
from recbole_oov.data.histories import Histories
from recbole_oov.lm.residual import places_among_equals, residual_codes
from recbole_oov.lm.semantic import semantic
from recbole_oov.lm.vocabulary import OOVVocabulary, WalkSettings, clustered, shuffled

_CHOICES = {
    "oov_tokens": ("clustered", "semantic", "random"),
    "clustering": ("joint", "separate"),
    "walk_edges": ("train", "all"),
    "item_vectors": (None, "walks", "content", "both"),
}
_COUNTS = ("n_clusters", "walks_per_node", "walk_length", "walk_window", "walk_dim", "walk_epochs")
_TIGER_CODES = 2
"""Codebooks after the first, and before the token that tells items of equal codes apart."""


def identifier_problems(config: Mapping[str, Any]) -> list[str]:
    """What cannot work in the options that identifiers are made by, of any model that has some of them."""
    problems = []
    for key, allowed in _CHOICES.items():
        if key in config and config[key] not in allowed:
            choices = ", ".join("~" if choice is None else choice for choice in allowed)
            problems.append(f"{key}: {config[key]!r} is not one of {choices}")
    for key in _COUNTS:
        if not _is_whole(config[key], 1):
            problems.append(f"{key}: {config[key]!r} is not allowed; give a whole number, at least 1")
    codes = config.get("residual_codes")
    if codes is not None and not _is_whole(codes, 0):
        problems.append(f"residual_codes: {codes!r} is not allowed; give a whole number, 0 for none, or ~")
    if config["walk_edges"] == "all" and config["leak_guard"] == "error":
        problems.append(
            "walk_edges: all names users and items by validation and test interactions too, so that the results would "
            "mean nothing; give train, or leak_guard: off to measure how much that leak is worth"
        )
    if config.get("oov_tokens") == "semantic":
        problems += [
            f"oov_tokens: semantic makes tokens of content, and {key}: {config[key]} is about walks; give {default}"
            for key, default in (("clustering", "joint"), ("walk_edges", "train"))
            if config[key] != default
        ]
        if config.get("item_vectors") in ("walks", "both"):
            problems.append("item_vectors: oov_tokens: semantic walks nowhere; give content")
    return problems


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def walk_vocabulary(config: Any, dataset: Any, histories: Histories) -> OOVVocabulary:
    """The clusters of users and items by their walks.

    Args:
        config: The options.
        dataset: The training part.
        histories: The training histories.
    """
    if config["walk_edges"] == "all":
        getLogger().warning(
            "walk_edges: all: users and items are named by validation and test interactions too; metrics of this run "
            "are leaked, and good for nothing but to size the leak"
        )
        histories = every_interaction(config)
    return clustered(
        histories,
        n_clusters=config["n_clusters"],
        walk=WalkSettings.of(config),
        seed=config["seed"],
        separate=config["clustering"] == "separate",
        show_progress=bool(config["show_progress"]),
    )


def every_interaction(config: Any) -> Histories:
    """The histories of the whole data set, validation and test included. Nothing that is to be tested may read this."""
    return Histories.of_interactions(create_dataset(config))


def make_vocabulary(config: Any, dataset: Any, histories: Histories) -> OOVVocabulary:
    """The tokens of all users and items that a configuration asks for.

    Args:
        config: The options.
        dataset: The training part.
        histories: The training histories.
    """
    content = None
    if config["oov_tokens"] == "semantic" or config["item_vectors"] in ("content", "both"):
        content = item_content(config, dataset)
    if config["oov_tokens"] == "semantic":
        assert content is not None
        vocabulary, default = (
            semantic(histories, content, n_clusters=config["n_clusters"], seed=config["seed"]),
            _TIGER_CODES,
        )
    else:
        vocabulary, default = walk_vocabulary(config, dataset, histories), 0
    levels = default if config["residual_codes"] is None else config["residual_codes"]
    if levels:
        codes = residual_codes(vocabulary, n_codes=config["n_clusters"], levels=levels, seed=config["seed"])
        vocabulary = replace(vocabulary, item_codes=codes)
    if content is not None and config["oov_tokens"] != "semantic":
        vectors = _of_trained(content, histories)
        vocabulary = replace(vocabulary, item_vectors=_joined(vocabulary.item_vectors, vectors, config["item_vectors"]))
    return shuffled(vocabulary, histories, seed=config["seed"]) if config["oov_tokens"] == "random" else vocabulary


def _of_trained(content: Tensor, histories: Histories) -> Tensor:
    """Unit content vectors of items with training interactions, zero for all others. (n_items, content_dim)"""
    vectors, items = torch.zeros_like(content), torch.from_numpy(np.unique(histories.items))
    vectors[items] = torch.nn.functional.normalize(content[items], dim=1)
    return vectors


def _joined(walks: Tensor, content: Tensor, which: str) -> Tensor:
    return torch.cat([walks, content], dim=1) if which == "both" else content


class FineTokens(NamedTuple):
    """Which fine tokens name users and items, counted from 0.

    Attributes:
        items: The last token of every item. (n_items,)
        users: That of every user. (n_users,)
        codes: The residual codes of items, each codebook's tokens its own; None where there are none. (n_items, L)
        total: How many fine tokens there are.
    """

    items: Tensor
    users: Tensor
    codes: Tensor | None
    total: int


def fine_tokens(vocabulary: OOVVocabulary, *, own: bool) -> FineTokens:
    """The tokens after the cluster.

    Args:
        vocabulary: Says ranks and codes.
        own: Whether the last token is each user's and item's own, and not one that is shared over clusters.
    """
    n_items, n_users = len(vocabulary.item_rank), len(vocabulary.user_rank)
    if own:
        items, users = torch.arange(n_items), n_items + torch.arange(n_users)
    else:
        codes = vocabulary.item_codes
        items = vocabulary.item_rank if codes is None else places_among_equals(vocabulary)
        users = vocabulary.user_rank
    count = int(torch.cat([items, users]).max()) + 1
    if vocabulary.item_codes is None:
        return FineTokens(items, users, None, count)
    sizes = vocabulary.item_codes.max(dim=0).values + 1
    return FineTokens(items, users, vocabulary.item_codes + count + sizes.cumsum(0) - sizes, count + int(sizes.sum()))
