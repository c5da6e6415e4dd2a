"""Networks on item content, which the methods for new items share."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

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


def mlp(n_in: int, hidden: Sequence[int], n_out: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers with an activation between them: ``n_in``, the sizes of ``hidden``, ``n_out``."""
    sizes = [n_in, *hidden]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], n_out))


def content_network(
    content: Tensor, hidden: Sequence[int], n_out: int, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """A network on content as it is, scaled first.

    Args:
        content: That of IV items. (n_iv, content_dim)
        hidden: Sizes of the hidden layers.
        n_out: Width of what comes out.
        activation: Between the layers.
    """
    return nn.Sequential(Scale(content), mlp(content.shape[1], hidden, n_out, activation))


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
