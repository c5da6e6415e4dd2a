"""Python values as JSON, with the tensors in them aside, and back. Only kinds that are listed here can come back.

JSON has text, numbers, lists and mappings with text as keys; those stay as they are. Anything else is a mapping with
the key ``$``, which names its kind.
"""

from __future__ import annotations

import contextlib
import enum
import math
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_oov.checkpoints.error import CheckpointError
from recbole_oov.checkpoints.tensors import TensorTable, dtype_name, dtype_named, restore

TAG = "$"
_LEFT_OUT = object()
_KINDS_OF_DICT: dict[type, str] = {dict: "dict", OrderedDict: "ordered_dict", Counter: "counter"}
_KINDS_OF_LIST: dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset", torch.Size: "size"}


class Encoder:
    """Turns one state into JSON and tensors.

    Attributes:
        table: The tensors found.
        left_out: Where there were objects of a kind that cannot be stored, and their classes; they are left out.
    """

    def __init__(self) -> None:
        self.table = TensorTable()
        self.left_out: list[str] = []

    def encode(self, value: Any, path: str = "") -> Any:
        """``value`` as JSON.

        Args:
            value: Plain values, tensors, numpy's arrays, scipy's sparse matrices, enumerations of RecBole's, its
                Config, and containers of them.
            path: Where in the whole it stands, for names and messages.

        Raises:
            CheckpointError: It holds a tensor or an array that cannot be stored.
        """
        encoded = self._encode(value, path)
        return {TAG: "missing"} if encoded is _LEFT_OUT else encoded

    def _encode(self, value: Any, path: str) -> Any:
        if isinstance(value, np.generic) and not isinstance(value, np.void):
            value = value.item()
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, enum.Enum):
            return self._enum(value, path)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else {TAG: "float", "value": repr(float(value))}
        if type(value).__module__.startswith("scipy.sparse.") and hasattr(value, "tocoo"):
            return self._matrix(value, path)
        if isinstance(value, dict):
            return self._dict(value, path)
        if isinstance(value, list | tuple | set | frozenset | range):
            items = [self.encode(item, f"{path}.{at}") for at, item in enumerate(value)]
            kind = next((name for base, name in _KINDS_OF_LIST.items() if type(value) is base), None)
            kind = "tuple" if kind is None and isinstance(value, tuple) else kind
            return items if kind is None else {TAG: kind, "items": items}
        if isinstance(value, Tensor):
            return self.table.add(value, path)
        if isinstance(value, np.ndarray):
            return self._array(value, path)
        return self._other(value, path)

    def _dict(self, value: dict[Any, Any], path: str) -> Any:
        items = [(key, self._encode(item, f"{path}.{key}" if path else str(key))) for key, item in value.items()]
        items = [(key, item) for key, item in items if item is not _LEFT_OUT]
        kind = _KINDS_OF_DICT.get(type(value), "dict")
        texts = all(type(key) is str for key, _ in items)
        if kind == "dict" and texts and TAG not in value:
            return dict(items)
        encoded: dict[str, Any] = {TAG: kind}
        if texts:
            encoded["values"] = dict(items)
        else:
            encoded["items"] = [[self.encode(key, path), item] for key, item in items]
        metadata = getattr(value, "_metadata", None)  # the versions of the layers, in what state_dict() returns
        if metadata is not None:
            encoded["metadata"] = self.encode(metadata, path)
        return encoded

    def _enum(self, value: enum.Enum, path: str) -> Any:
        if type(value).__module__ != "recbole.utils.enum_type":
            return self._leave_out(value, path)
        return {TAG: "enum", "class": type(value).__name__, "name": value.name}

    def _array(self, array: np.ndarray[Any, Any], path: str) -> Any:
        encoded = {TAG: "array", "dtype": array.dtype.newbyteorder("=").str}
        if isinstance(array, np.matrix):
            encoded["matrix"] = True
        if array.dtype.kind in "OSU":
            items = [self.encode(item, path) for item in array.ravel().tolist()]
            return {**encoded, "shape": list(array.shape), "items": items}
        numbers = np.require(np.asarray(array), dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])
        try:
            # ascontiguousarray makes a 0-d array 1-d, reshape undoes it
            content = torch.from_numpy(numbers.view("i8") if array.dtype.kind in "mM" else numbers)
        except TypeError as error:
            raise CheckpointError(f"{path} is an array of {array.dtype}, which cannot be stored: {error}") from error
        return {**encoded, "numbers": self.table.add(content.reshape(array.shape), path)}

    def _other(self, value: Any, path: str) -> Any:
        if isinstance(value, bytes | bytearray):
            return {TAG: "bytes", "hex": bytes(value).hex()}
        if isinstance(value, complex):
            return {TAG: "complex", "parts": [self.encode(value.real), self.encode(value.imag)]}
        if isinstance(value, str | int):  # of a class derived from it
            return str(value) if isinstance(value, str) else int(value)
        if isinstance(value, os.PathLike):
            return os.fspath(value)
        if isinstance(value, torch.device):
            return {TAG: "device", "name": str(value)}
        if isinstance(value, torch.dtype):
            return {TAG: "dtype", "name": dtype_name(value)}
        if (config := _config_class(type(value))) is not None:
            return {TAG: "config", "class": config.__name__, "values": self.encode(value.__getstate__(), path)}
        return self._leave_out(value, path)

    def _matrix(self, matrix: Any, path: str) -> Any:
        from recbole_oov.compat.checkpoints import sparse_parts

        kind, shape, *parts = sparse_parts(matrix)
        arrays = [self.encode(np.asarray(part), f"{path}.{at}") for at, part in enumerate(parts)]
        return {TAG: "matrix", "class": kind, "shape": list(shape), "parts": arrays}

    def _leave_out(self, value: Any, path: str) -> Any:
        self.left_out.append(f"{path} ({type(value).__module__}.{type(value).__qualname__})")
        return _LEFT_OUT


def _config_class(kind: type) -> type | None:
    """The Config that a class is derived from, which a checkpoint can name; None for any other class."""
    for base in kind.__mro__:
        if (base.__module__, base.__name__) in (
            ("recbole_oov.config.oov_config", "OOVConfig"),
            ("recbole.config.configurator", "Config"),
        ):
            return base
    return None


class Decoder:
    """Turns JSON and tensors back into values.

    Args:
        tensors: The tensors by name.
        map_location: The device for all tensors; None for the one that each was on, where there is such a device.
    """

    def __init__(self, tensors: Mapping[str, Tensor], map_location: torch.device | None = None) -> None:
        self._tensors, self._map_location = tensors, map_location
        self._restored: dict[str, Tensor] = {}

    def decode(self, tree: Any) -> Any:
        """The value that :meth:`Encoder.encode` turned into ``tree``.

        Raises:
            CheckpointError: ``tree`` holds something that no encoder writes.
        """
        if isinstance(tree, list):
            return [self.decode(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        if TAG not in tree:
            return {key: self.decode(item) for key, item in tree.items()}
        reader = _READERS.get(tree[TAG]) if isinstance(tree[TAG], str) else None
        if reader is None:
            raise CheckpointError(f"a value is of the unknown kind {tree[TAG]!r}")
        try:
            return reader(self, tree)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"a value of the kind {tree[TAG]!r} is not what it should be: {error}") from error

    def _tensor(self, tree: dict[str, Any]) -> Tensor:
        key = repr(sorted(tree.items()))  # the same description is the same tensor: tied weights stay tied
        if key not in self._restored:
            self._restored[key] = restore(tree, self._tensors, self._map_location)
        return self._restored[key]

    def _dict(self, tree: dict[str, Any]) -> Any:
        if "values" in tree:
            pairs = list(tree["values"].items())
        else:
            pairs = [(self.decode(key), item) for key, item in tree["items"]]
        kind = {name: base for base, name in _KINDS_OF_DICT.items()}[tree[TAG]]
        result = kind({key: self.decode(item) for key, item in pairs})
        if "metadata" in tree:
            result._metadata = self.decode(tree["metadata"])
        return result

    def _list(self, tree: dict[str, Any]) -> Any:
        kind = {name: base for base, name in _KINDS_OF_LIST.items()}[tree[TAG]]
        return kind([self.decode(item) for item in tree["items"]])

    def _array(self, tree: dict[str, Any]) -> np.ndarray[Any, Any]:
        dtype = np.dtype(tree["dtype"])
        array: np.ndarray[Any, Any]
        if "items" in tree:
            array = np.empty(len(tree["items"]), dtype=dtype)
            for at, item in enumerate(tree["items"]):
                array[at] = self.decode(item)
            array = array.reshape(tree["shape"])
        else:
            content = restore(tree["numbers"], self._tensors, torch.device("cpu")).numpy()
            array = content.view(dtype) if dtype.kind in "mM" else content.astype(dtype, copy=False)
        return np.asmatrix(array) if tree.get("matrix") else array

    def _matrix(self, tree: dict[str, Any]) -> Any:
        from recbole_oov.compat.checkpoints import restore_sparse

        first, second = tree["shape"]
        return restore_sparse(tree["class"], (first, second), *(self.decode(part) for part in tree["parts"]))

    def _enum(self, tree: dict[str, Any]) -> Any:
        from recbole.utils import enum_type

        kind = vars(enum_type).get(tree["class"])
        if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
            raise CheckpointError(f"a value is of the unknown enumeration {tree['class']!r}")
        return kind[tree["name"]]

    def _config(self, tree: dict[str, Any]) -> Any:
        from recbole.config import Config

        from recbole_oov.config import OOVConfig

        kind = {"Config": Config, "OOVConfig": OOVConfig}[tree["class"]]
        config = object.__new__(kind)
        config.__setstate__(self.decode(tree["values"]))
        return config


def _device(_: Decoder, tree: dict[str, Any]) -> torch.device:
    with contextlib.suppress(RuntimeError):
        return torch.device(tree["name"])
    return torch.device("cpu")


_Reader = Callable[[Decoder, dict[str, Any]], Any]
_READERS: dict[str, _Reader] = {
    "tensor": Decoder._tensor,
    "sparse_tensor": Decoder._tensor,
    "array": Decoder._array,
    "matrix": Decoder._matrix,
    "enum": Decoder._enum,
    "config": Decoder._config,
    "missing": lambda _, tree: None,
    "float": lambda _, tree: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[tree["value"]],
    "complex": lambda self, tree: complex(*(self.decode(part) for part in tree["parts"])),
    "bytes": lambda _, tree: bytes.fromhex(tree["hex"]),
    "dtype": lambda _, tree: dtype_named(tree["name"]),
    "device": _device,
    **dict.fromkeys(_KINDS_OF_DICT.values(), Decoder._dict),
    **dict.fromkeys(_KINDS_OF_LIST.values(), Decoder._list),
}
