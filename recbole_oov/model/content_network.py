"""Networks on item content, which the methods for new items share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Scale(nn.Module):
    """Divides by one number, so that numbers of any unit enter a network with a mean square of 1.

    One number, not one a column: cosines stay what they are, and columns of noise are not blown up.

    Args:
        examples: Rows to measure, those of IV items or of users. (N, dim)
    """

    size: Tensor

    def __init__(self, examples: Tensor) -> None:
        super().__init__()
        self.register_buffer("size", examples.new_ones(()))
        self.measure(examples)

    def measure(self, examples: Tensor) -> None:
        """Take the number from other rows. (N, dim)"""
        self.size.copy_(examples.detach().square().mean().sqrt().clamp_min(1e-12))

    def forward(self, rows: Tensor) -> Tensor:
        """(N, dim) -> (N, dim)"""
        return rows / self.size


def measure_input(network: nn.Sequential, examples: Tensor) -> None:
    """Let a network that begins with :class:`Scale` take its number from other rows. (N, dim)"""
    first = network[0]
    assert isinstance(first, Scale)
    first.measure(examples)


def mlp(
    n_in: int, hidden: Sequence[int], n_out: int, activation: type[nn.Module] = nn.ReLU, dropout: float = 0.0
) -> nn.Sequential:
    """Linear layers with an activation between them: ``n_in``, the sizes of ``hidden``, ``n_out``.

    With ``dropout`` each hidden unit is dropped with that probability in training.
    """
    sizes = [n_in, *hidden]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], n_out))


def content_network(
    content: Tensor, hidden: Sequence[int], n_out: int, activation: type[nn.Module] = nn.ReLU, dropout: float = 0.0
) -> nn.Sequential:
    """A network on content as it is, scaled first.

    Args:
        content: That of IV items. (n_iv, content_dim)
        hidden: Sizes of the hidden layers.
        n_out: Width of what comes out.
        activation: Between the layers.
        dropout: Probability in training that a hidden unit is dropped.
    """
    return nn.Sequential(Scale(content), mlp(content.shape[1], hidden, n_out, activation, dropout))


_BLOCK = 2**24
"""Similarities that are there at a time."""


@torch.no_grad()
def content_neighbours(content: Tensor, known: Tensor, k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The items that are nearest in content, and what each counts for.

    Args:
        content: Of the items in question. (N, dim)
        known: Of the items that can be neighbours. (T, dim)
        k: Neighbours an item has at most.
        own: Which of the T an item is itself, and therefore no neighbour of. (N,); None for items of none of them

    Returns:
        Places among the T, and weights: squared cosines, 0 where the cosine is not above 0, with sum 1 (or 0 where no
        cosine is). (N, K), (N, K), K = min(k, T - 1) with ``own``, else min(k, T)
    """
    among = F.normalize(known, dim=1)
    length = min(k, len(known) - (own is not None))
    places, weights = [], []
    rows = torch.arange(len(content), device=content.device)
    for part in rows.split(max(1, _BLOCK // max(1, len(known)))):
        cosines = F.normalize(content[part], dim=1) @ among.T
        if own is not None:
            cosines.scatter_(1, own[part, None], -torch.inf)
        found = cosines.topk(length, dim=1)
        weight = found.values.clamp_min(0).square()
        places.append(found.indices)
        weights.append(weight / weight.sum(dim=1, keepdim=True).clamp_min(1e-12))
    if not places:
        return rows.new_zeros(0, length), content.new_zeros(0, length)
    return torch.cat(places), torch.cat(weights)


def size_problems(config: Mapping[str, Any], *keys: str) -> list[str]:
    """Problems with options that list the sizes of hidden layers."""
    return [
        f"{key}: {config[key]!r} is not allowed; give the sizes of the hidden layers, as in [150], or [] for none"
        for key in keys
        if not isinstance(config[key], list | tuple)
        or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in config[key])
    ]


def share_problems(config: Mapping[str, Any], *keys: str) -> list[str]:
    """Problems with options that are a share, from 0 to 1."""
    return [
        f"{key}: {config[key]!r} is not allowed; give a number from 0 to 1" for key in keys if not 0 <= config[key] <= 1
    ]


def positive_problems(config: Mapping[str, Any], *keys: str) -> list[str]:
    """Problems with options that must be above 0."""
    return [f"{key}: {config[key]!r} is not allowed; give a number above 0" for key in keys if not config[key] > 0]
