"""Tensors of any kind as entries of one safetensors file, and back, bit for bit."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_oov.checkpoints.error import CheckpointError

Described = dict[str, Any]

_SAFETENSORS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The kinds of numbers that every version of safetensors knows; others are stored as their bytes."""

_COMPRESSED = {
    torch.sparse_csr: ("crow_indices", "col_indices"),
    torch.sparse_csc: ("ccol_indices", "row_indices"),
    torch.sparse_bsr: ("crow_indices", "col_indices"),
    torch.sparse_bsc: ("ccol_indices", "row_indices"),
}
_LAYOUTS = {str(layout).removeprefix("torch."): layout for layout in _COMPRESSED}


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def dtype_named(name: Any) -> torch.dtype:
    """The type of numbers that :func:`dtype_name` named.

    Raises:
        CheckpointError: There is none of that name.
    """
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise CheckpointError(f"a tensor's numbers are of the unknown type {name!r}")
    return dtype


class TensorTable:
    """The tensors of one checkpoint by name. A tensor that occurs twice, as tied weights do, is stored once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def add(self, tensor: Tensor, path: str) -> Described:
        """Enter a tensor.

        Args:
            tensor: Any tensor: on any device, of any type and layout of torch's own, a view, a leaf or not.
            path: Where in the state it stands; its name in the file.

        Returns:
            What :func:`restore` needs, as JSON.

        Raises:
            CheckpointError: It has no numbers (device ``meta``), or is of a class or layout that is not known here.
        """
        if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(f"{path} is a {type(tensor).__name__} on {tensor.device}, which cannot be stored")
        described = self._strided(tensor, path) if tensor.layout == torch.strided else self._sparse(tensor, path)
        if tensor.device.type != "cpu":
            described["device"] = str(tensor.device)
        if isinstance(tensor, torch.nn.Parameter):
            described["parameter"] = True
        if tensor.requires_grad:
            described["requires_grad"] = True
        return described

    def _strided(self, tensor: Tensor, path: str) -> Described:
        plain = tensor.detach().resolve_conj().resolve_neg()
        described: Described = {"$": "tensor"}
        if not plain.is_contiguous() and _fills_its_memory(plain):
            described["stride"] = list(plain.stride())
        if plain.dtype not in _SAFETENSORS:
            described |= {"dtype": dtype_name(plain.dtype), "shape": list(plain.shape)}
        place = (plain.data_ptr(), plain.device, plain.dtype, tuple(plain.shape), plain.stride())
        name = self._names.get(place) if plain.data_ptr() else None
        if name is None:
            name = path
            while name in self.tensors or name == "__metadata__":
                name += "'"
            self.tensors[name] = plain  # also keeps its memory from being used for another one
            self._names[place] = name
        return {**described, "name": name}

    def _sparse(self, tensor: Tensor, path: str) -> Described:
        tensor = tensor.detach()
        described: Described = {"$": "sparse_tensor", "shape": list(tensor.shape)}
        if tensor.layout == torch.sparse_coo:
            described |= {"layout": "sparse_coo", "coalesced": tensor.is_coalesced()}
            parts = {"indices": tensor._indices(), "values": tensor._values()}
        elif tensor.layout in _COMPRESSED:
            described["layout"] = str(tensor.layout).removeprefix("torch.")
            compressed, plain = _COMPRESSED[tensor.layout]
            parts = {"compressed": getattr(tensor, compressed)(), "plain": getattr(tensor, plain)()}
            parts["values"] = tensor.values()
        else:
            raise CheckpointError(f"{path} is a tensor of the layout {tensor.layout}, which cannot be stored")
        return {**described, **{part: self._strided(content, f"{path}.{part}") for part, content in parts.items()}}

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The content of a safetensors file with all of the tensors, piece by piece."""
        # The largest numbers first, so that each tensor starts at a multiple of its numbers' size.
        names = sorted(self.tensors, key=lambda name: (-self.tensors[name].element_size(), name))
        header: dict[str, Any] = {}
        at = 0
        for name in names:
            tensor = self.tensors[name]
            end = at + tensor.numel() * tensor.element_size()
            known = tensor.dtype in _SAFETENSORS
            header[name] = {
                "dtype": _SAFETENSORS[tensor.dtype] if known else "U8",
                "shape": list(tensor.shape) if known else [end - at],
                "data_offsets": [at, end],
            }
            at = end
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        yield len(text).to_bytes(8, "little") + text
        for name in names:
            if self.tensors[name].numel():
                yield _bytes_of(self.tensors[name])


def _bytes_of(tensor: Tensor) -> memoryview:
    """A tensor's numbers in order, whatever its strides and wherever it is. Little-endian, as safetensors wants it."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    numbers = tensor.cpu().contiguous().reshape(-1)
    if numbers.stride() != (1,):  # a single number, of which torch does not care where the next one would be
        numbers = numbers.as_strided(numbers.shape, (1,))
    if sys.byteorder == "big":
        numbers = torch.from_numpy(numbers.numpy().byteswap())
    return memoryview(numbers.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _fills_its_memory(tensor: Tensor) -> bool:
    """Whether the tensor is a permutation of a contiguous one, so that its strides can be had again."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride != expected:
            return False
        expected *= size
    return tensor.numel() > 0


def read_tensors(path: Path, sha256: Any, size: Any) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, after its content was compared with what it must be.

    Args:
        path: The file.
        sha256: The SHA-256 of its content, in hexadecimal.
        size: Its size in bytes.

    Raises:
        CheckpointError: The content is another one.
        FileNotFoundError: There is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = path.read_bytes()
    if len(content) != size:
        raise CheckpointError(
            f"{path}: this checkpoint is damaged: the file has {len(content):,} bytes and was written with {size:,}; "
            f"use another one"
        )
    if hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(
            f"{path}: this checkpoint is damaged: the content of the file is not what was written, its SHA-256 "
            f"differs; use another one"
        )
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError, AssertionError, RuntimeError) as error:
        raise CheckpointError(f"{path}: this file is not in the format of safetensors: {error}") from error


def restore(described: Mapping[str, Any], tensors: Mapping[str, Tensor], map_location: torch.device | None) -> Tensor:
    """The tensor that :meth:`TensorTable.add` described.

    Args:
        described: What ``add`` returned.
        tensors: The tensors of the file.
        map_location: The device to put it on. None: where it was, or on the CPU if there is no such device here.

    Raises:
        CheckpointError: The description does not fit the file.
    """
    try:
        tensor = _numbers(described, tensors) if described["$"] == "tensor" else _sparse(described, tensors)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise CheckpointError(f"the tensor {described.get('name', '')!r} is not what it should be: {error}") from error
    tensor = tensor.to(map_location or available_device(described.get("device", "cpu")))
    grad = bool(described.get("requires_grad"))
    if described.get("parameter"):
        return torch.nn.Parameter(tensor, requires_grad=grad)
    return tensor.requires_grad_() if grad else tensor


def _numbers(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    tensor = tensors[described["name"]]
    if "dtype" in described:
        dtype, shape = dtype_named(described["dtype"]), list(described["shape"])
        if dtype.is_complex:
            real = tensor.view(dtype.to_real()).reshape([*shape, 2])
            tensor = torch.view_as_complex(real)
        else:
            tensor = tensor.view(dtype).reshape(shape)
    if "stride" in described:
        stride = list(described["stride"])
        with_strides = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype)
        if not _fills_its_memory(with_strides):
            raise ValueError(f"the strides {stride} do not fit the shape {list(tensor.shape)}")
        return with_strides.copy_(tensor)
    return tensor.clone()  # into memory of torch's own, aligned as any other tensor's


def _sparse(described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    shape, layout = list(described["shape"]), described["layout"]
    values = _numbers(described["values"], tensors)
    if layout == "sparse_coo":
        indices = _numbers(described["indices"], tensors)
        coo = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)
        return coo._coalesced_(bool(described["coalesced"]))
    compressed, plain = (_numbers(described[part], tensors) for part in ("compressed", "plain"))
    return torch.sparse_compressed_tensor(
        compressed, plain, values, shape, layout=_LAYOUTS[layout], check_invariants=True
    )


def available_device(name: Any) -> torch.device:
    """The device called ``name``, or the CPU where this machine has none such."""
    try:
        device = torch.device(name)
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            return torch.device("cpu")
        torch.empty(0, device=device)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError):
        return torch.device("cpu")
    return device
