"""Comparing and finding tensors: of models, of batches, of data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

TOLERANCE = 1e-4
"""How far equal scores may lie apart, relative to the largest: single precision has a relative error of 6e-8 for each
operation, and summing a few hundred terms in another order (other batch sizes take other kernels) moves the sixth
digit. A real difference on the tiny data sets moves the first."""


def same_scores(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of scores are the same but for rounding; infinite ones must be the same."""
    if one.shape != other.shape:
        return False
    scale = max(1.0, float(one[one.isfinite()].abs().max())) if one.isfinite().any() else 1.0
    return torch.allclose(one.double(), other.double(), rtol=0.0, atol=TOLERANCE * scale, equal_nan=True)


def largest_difference(one: Tensor, other: Tensor) -> str:
    """The largest difference in words, for messages."""
    if one.shape != other.shape:
        return f"shapes {tuple(one.shape)} and {tuple(other.shape)}"
    gap = (one.double() - other.double()).abs()
    return f"the largest difference is {float(gap.nan_to_num(torch.inf).max()):.3g}"


def centred(scores: Tensor) -> Tensor:
    """Scores of the real items, less each user's mean: what a ranking depends on. (B, n_items - 1)"""
    real = scores[:, 1:].double()
    return real - real.mean(dim=1, keepdim=True)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name, also of buffers that checkpoints leave out."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in named}


def different(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of tensors that are not bit for bit the same."""
    return [name for name in sorted(one.keys() | other.keys()) if not _identical(one.get(name), other.get(name))]


def _identical(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return False
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    one, other = (tensor.to_dense() if tensor.is_sparse else tensor for tensor in (one, other))
    return torch.equal(one.nan_to_num(), other.nan_to_num()) if one.is_floating_point() else torch.equal(one, other)


def batch_copy(interaction: Any) -> dict[str, Tensor]:
    """Copies of a batch's columns by name."""
    return {name: tensor.clone() for name, tensor in interaction.interaction.items()}


def fingerprint(dataset: Any) -> dict[str, str]:
    """A hash of every column of a data set, by ``table.column``."""
    found = {}
    for table in ("inter_feat", "user_feat", "item_feat"):
        features: Any = getattr(dataset, table, None)
        for column in [] if features is None else list(features.columns):
            values = features[column]
            content = values.numpy() if isinstance(values, Tensor) else values.to_numpy()
            data = (
                repr(content.tolist()).encode() if content.dtype == object else np.ascontiguousarray(content).tobytes()
            )
            found[f"{table}.{column}"] = hashlib.sha256(data).hexdigest()
    return found


def plain_tensors(model: nn.Module) -> dict[int, tuple[str, Tensor]]:
    """Tensors that a model holds outside its parameters and buffers, with their names, by address of their memory.

    They are looked for in attributes of all modules, in lists and dictionaries, and in plain objects of the package
    of the model's class.
    """
    owned = {_address(tensor) for tensor in [*model.parameters(), *model.buffers()] if tensor.numel()}
    found: dict[int, tuple[str, Tensor]] = {}
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                for place, tensor in _tensors_in(value, f"{prefix}.{name}".lstrip("."), depth=3):
                    if tensor.numel() and _address(tensor) not in owned:
                        found[_address(tensor)] = (place, tensor)
    return found


def plain_parts(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters and modules that lie in a model's lists and dictionaries, by name."""
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for key, entry in entries:
                if isinstance(entry, nn.Module | nn.Parameter):
                    yield f"{prefix}.{name}[{key!r}]".lstrip("."), entry


def _tensors_in(value: Any, place: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield place, value
    elif isinstance(value, nn.Module) or depth == 0:
        return
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _tensors_in(entry, f"{place}[{key!r}]", depth - 1)
    elif isinstance(value, list | tuple):
        for key, entry in enumerate(value[:100]):
            yield from _tensors_in(entry, f"{place}[{key}]", depth - 1)
    elif hasattr(value, "__dict__") and type(value).__module__.partition(".")[0] not in ("recbole", "torch", "logging"):
        for key, entry in vars(value).items():
            yield from _tensors_in(entry, f"{place}.{key}", depth - 1)


def _address(tensor: Tensor) -> int:
    """Where a tensor's numbers are; a sparse one's are in several places, so that it is known by itself alone."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)


class Watch(TorchFunctionMode):
    """Notes which of some tensors torch computes with as they are; one that is first moved with ``.to`` does not count.

    Args:
        tensors: Names and tensors by address, as of :func:`plain_tensors`.
    """

    def __init__(self, tensors: dict[int, tuple[str, Tensor]]) -> None:
        super().__init__()
        self.tensors = tensors
        self.used: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ("to", "cpu", "cuda", "type_as"):
            moved = func(*args, **kwargs)
            return moved.clone() if moved is args[0] else moved
        if not name.startswith("__get") or name == "__getitem__":
            self._note(args)
            self._note(tuple(kwargs.values()))
        return func(*args, **kwargs)

    def _note(self, values: Any) -> None:
        for value in values:
            if isinstance(value, list | tuple):
                self._note(value)
            elif isinstance(value, Tensor):
                entry = self.tensors.get(_address(value))
                if entry is not None:
                    self.used.add(entry[0])
