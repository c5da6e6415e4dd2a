"""The frozen weights of a large backbone, each process keeping a part of them: torch's ``fully_shard`` (FSDP 2).

What is trained beside them (adapters, OOV tokens, the content map) is small and stays whole in every process, under
``DistributedDataParallel``, so that optimizer, clipping and checkpoints see ordinary tensors.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from recbole_oov.errors import ConfigError


def shard_frozen(language_model: nn.Module, device: torch.device) -> list[str]:
    """Keep a part of each frozen weight of the transformer's layers in each process; a layer is whole while it is used.

    Every process of the group has to call the model equally often from then on.

    Args:
        language_model: A model of transformers', with adapters in it.
        device: Where the process computes.

    Returns:
        Names of what is kept in parts.

    Raises:
        ConfigError: torch is too old, or the model has no list of layers.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise ConfigError(f"shard_backbone: needs torch 2.7 or newer, and this is {torch.__version__}")
    layers = list(_layers(language_model))
    if not layers:
        raise ConfigError(f"shard_backbone: {type(language_model).__name__} has no list of layers to keep parts of")
    # A group of its own: its messages may come among those of gradients in another order in each process.
    mesh = DeviceMesh.from_group(torch.distributed.new_group(), device.type)
    for layer in layers:
        trained = {weights for weights in layer.parameters() if weights.requires_grad}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
    return [name for name, weights in language_model.named_parameters() if is_sharded(weights)]


def is_sharded(weights: Any) -> bool:
    """Whether this process has a part of a parameter alone."""
    from torch.distributed.tensor import DTensor

    return isinstance(weights, DTensor)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of the outermost lists of modules: a transformer's layers, of an encoder and of a decoder."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)
