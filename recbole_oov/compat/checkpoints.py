"""Checkpoints that plain ``torch.load(file)`` reads, that is without running code out of the file.

Since torch 2.6 ``torch.load`` reads tensors and plain values, and refuses what RecBole saves: pickle protocol
4, numpy and scipy objects, and a Config that refers to classes by name. Telling torch to trust the file would
let anyone who shares a checkpoint run code on the reader's machine. Here the files change instead.
"""

from __future__ import annotations

import contextlib
import copy
import enum
import os
import pickle
import sys
import uuid
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import wraps
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_oov.compat.mending import Overlay, Put, fix
from recbole_oov.errors import RecBoleOOVError

_MISSING = object()


class CheckpointError(RecBoleOOVError, pickle.UnpicklingError):
    """A checkpoint cannot be read, or not without running code out of it. Says what it holds and what to do."""


def allow_in_checkpoints(*classes: Callable[..., Any]) -> None:
    """Let objects of these classes be read from checkpoints by plain ``torch.load``.

    Only for classes whose construction and ``__setstate__`` do nothing but keep data.
    """
    torch.serialization.add_safe_globals(list(classes))


@fix(
    "recbole.utils.enum_type",
    symptom="UnpicklingError: Weights only load failed ... Unsupported operand 149",
    since="torch 2.6",
)
def checkpoint_enums(enum_type: Any, put: Put) -> None:
    """RecBole's checkpoints hold its Config, and that holds members of ``ModelType`` and other enumerations."""
    allow_in_checkpoints(*(c for c in vars(enum_type).values() if isinstance(c, type) and issubclass(c, enum.Enum)))


@fix(
    "recbole.config.configurator",
    symptom="UnpicklingError: Weights only load failed ... Unsupported operand 149",
    since="torch 2.6",
)
def checkpoint_config(configurator: Any, put: Put) -> None:
    """A pickled Config refers to the model's class and to a YAML loader: names that make Python import and run code.

    Both are left out and found again by name when the Config is read. Its other values are turned into plain
    ones, where they are not. Reading a Config also sets the numpy aliases, which stock forgets: there,
    ``load_data_and_model`` in a fresh process yields a model that cannot be evaluated.
    """
    found_again = ("model_class", "yaml_loader")

    def __getstate__(self: Any) -> dict[str, Any]:
        return {name: _plain(value) for name, value in vars(self).items() if name not in found_again}

    def __setstate__(self: Any, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.compatibility_settings()
        self.yaml_loader = self._build_yaml_loader()
        with contextlib.suppress(ImportError, ValueError, AttributeError):  # a model of a plugin that is not here
            self.model_class = configurator.get_model(self.model)

    def __copy__(self: Any) -> Any:  # a copy in memory keeps the class itself, even one that no name leads to
        new = object.__new__(type(self))
        vars(new).update(vars(self))
        return new

    def __deepcopy__(self: Any, memo: dict[int, Any]) -> Any:
        memo[id(self)] = new = object.__new__(type(self))
        vars(new).update(copy.deepcopy(vars(self), memo))
        return new

    for method in (__getstate__, __setstate__, __copy__, __deepcopy__):
        put(configurator.Config, method.__name__, method)
    allow_in_checkpoints(configurator.Config, restore_array, restore_sparse)


@fix(
    "recbole.trainer.trainer",
    symptom="UnpicklingError: Weights only load failed; and a crash while saving costs the previous checkpoint",
    since="torch 2.6; the lost checkpoint: RecBole",
)
def checkpoint_files(trainer: Any, put: Put) -> None:
    """The trainers save with pickle protocol 4, which ``torch.load`` refuses, straight into the previous file.

    What they call ``torch.save`` becomes :func:`save_checkpoint`. What they call ``torch.load`` stays
    torch's own; only what it raises is put into words that help.
    """

    def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(f, str | os.PathLike):
            save_checkpoint(obj, f)
        else:
            torch.save(obj, f, *args, **kwargs)

    allow_in_checkpoints(restore_array, restore_sparse)
    put(trainer, "torch", Overlay(trainer.torch, save=save, load=_explaining(torch.load)))


@fix(
    "recbole.quick_start.quick_start",
    symptom="UnpicklingError: Weights only load failed ... Unsupported operand 149, with no word on what to do",
    since="torch 2.6",
)
def checkpoint_reasons(quick_start: Any, put: Put) -> None:
    """``load_data_and_model`` of a file that torch refuses says which file it is, why, and what to do instead."""
    put(quick_start, "load_data_and_model", _explaining(quick_start.load_data_and_model))


def save_checkpoint(state: Any, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint that plain ``torch.load`` reads, whole or not at all.

    The file is written beside its destination, flushed to the disk, and then renamed: a crash or a full disk
    leaves the previous checkpoint as it was. Numpy and scipy values are stored as tensors and come back as what
    they were; a layer among ``other_parameter`` is left out where ``state_dict`` has its weights already.

    Args:
        state: What to save, as for ``torch.save``.
        path: The file.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("xb") as file:
            torch.save(_plain(_without_layers(state)), file)
            file.flush()
            os.fsync(file.fileno())
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    if refused:
        getLogger(__name__).warning(
            "%s holds objects of %s, which torch.load will refuse to read back; keep plain values, arrays and tensors "
            "in the configuration and in other_parameter, or see recbole_oov.compat.allow_in_checkpoints",
            target,
            ", ".join(sorted(refused)),
        )


def load_checkpoint(path: str | os.PathLike[str], map_location: Any = None) -> Any:
    """Read a checkpoint with plain ``torch.load``, which runs no code out of it.

    Raises:
        CheckpointError: The file is damaged, was written by RecBole without this plugin, or holds code.
    """
    return _explaining(torch.load)(path, map_location=map_location)


def _explaining(load: Callable[..., Any]) -> Callable[..., Any]:
    """``load(file, …)`` that notices damage, and whose refusals are put into words that say what to do."""

    @wraps(load)
    def explained(file: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_damage(file)
        try:
            return load(file, *args, **kwargs)
        except CheckpointError:
            raise
        except pickle.UnpicklingError as error:
            raise CheckpointError(_reason(file, str(error))) from error
        except (EOFError, RuntimeError) as error:
            if isinstance(error, EOFError) or "PytorchStreamReader" in str(error):
                raise CheckpointError(
                    f"{file}: this checkpoint is cut short; use another one. torch says: {error}"
                ) from error
            raise

    return explained


def _refuse_damage(file: Any) -> None:
    """Compare the check sums in the file, which ``torch.load`` does not: it would take a flipped bit for a weight."""
    if not isinstance(file, str | os.PathLike) or not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        damaged = str(error)
    if damaged is not None:
        raise CheckpointError(f"{file}: this checkpoint is damaged (at {damaged}); use another one")


def _reason(file: Any, message: str) -> str:
    if "operand 149" in message:  # the FRAME of pickle protocol 4, which only stock RecBole's trainer uses
        return (
            f"{file}: this checkpoint was written by RecBole without recbole_oov, in a format that torch can only read "
            f"by running code out of the file, so it is refused; where you trust it, load it with the RecBole that "
            f"wrote it and save its 'state_dict' again with torch.save"
        )
    _, found, rest = message.partition("GLOBAL ")
    what = rest.split()[0] if found and rest.split() else ""
    holds = f"refers to {what}, which could run code," if what else "cannot be read as plain data"
    return (
        f"{file}: this checkpoint {holds} so it is refused; if the class only keeps data and you trust the file, "
        f"name the class to recbole_oov.compat.allow_in_checkpoints first. torch says: {message.splitlines()[0]}"
    )


def _without_layers(state: Any) -> Any:
    """``state`` without layers among ``other_parameter`` whose weights are in ``state_dict`` as well.

    DIN, DIEN, FDSA, GRU4RecF and SASRecF list an embedding layer there, with which stock saves the whole data set.
    """
    if not isinstance(state, dict) or not isinstance(state.get("other_parameter"), dict):
        return state
    weights = state.get("state_dict")

    def saved(name: str, value: Any) -> bool:
        return (
            isinstance(weights, dict)
            and isinstance(value, torch.nn.Module)
            and all(f"{name}.{key}" in weights for key in value.state_dict())
        )

    kept = {name: value for name, value in state["other_parameter"].items() if not saved(name, value)}
    return {**state, "other_parameter": kept}


def _plain(value: Any) -> Any:
    """``value`` with what ``torch.load`` would refuse turned into what it reads, where nothing is lost by it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _StoredArray(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if _is_sparse(value):
        return _StoredSparse(value)
    if isinstance(value, dict):
        items = {_plain(key): _plain(item) for key, item in value.items()}
        return value if type(value) in (dict, OrderedDict, Counter) and _same(items, value) else items
    if isinstance(value, list | tuple | set | frozenset | range):
        entries = [_plain(entry) for entry in value]
        if type(value) in (list, tuple, set, torch.Size) and _same(dict(enumerate(entries)), dict(enumerate(value))):
            return value
        kind = tuple if isinstance(value, tuple) else set if isinstance(value, set | frozenset) else list
        return kind(entries)
    return value


def _same(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    """Whether two dictionaries hold the very same objects."""
    pairs = zip(one.items(), other.items(), strict=False)
    return len(one) == len(other) and all(a is c and b is d for (a, b), (c, d) in pairs)


def _is_sparse(value: Any) -> bool:
    scipy_sparse = sys.modules.get("scipy.sparse")
    return scipy_sparse is not None and bool(scipy_sparse.issparse(value))


class _StoredArray:
    """A numpy array on its way into a checkpoint: its numbers as a tensor, anything else as a list."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __reduce__(self) -> tuple[Any, ...]:
        array = self._array
        try:
            numbers = np.require(array, dtype=array.dtype.newbyteorder("="), requirements=["C", "W"])
            content: Any = torch.from_numpy(np.asarray(numbers))
        except TypeError:  # strings and objects
            content = _plain(array.tolist())
        return restore_array, (content, str(array.dtype), isinstance(array, np.matrix))


def restore_array(content: Any, dtype: str, matrix: bool = False) -> np.ndarray[Any, Any]:
    """A numpy array from a checkpoint. The function's name is part of the file format."""
    array = content.numpy() if isinstance(content, torch.Tensor) else np.array(content, dtype=dtype)
    return np.asmatrix(array) if matrix else np.asarray(array)


class _StoredSparse:
    """A sparse matrix of scipy's on its way into a checkpoint: the arrays that it is made of, or coordinates."""

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix

    def __reduce__(self) -> tuple[Any, ...]:
        matrix = self._matrix
        if matrix.format in _COMPRESSED:
            parts = (matrix.data, matrix.indices, matrix.indptr)
        else:
            coo = matrix.tocoo()
            parts = (coo.data, coo.row, coo.col)
        shape = tuple(int(size) for size in matrix.shape)
        return restore_sparse, (type(matrix).__name__, shape, *(_StoredArray(np.asarray(part)) for part in parts))


_COMPRESSED = ("csr", "csc")
_SPARSE_KINDS = {
    f"{form}_{kind}" for form in ("bsr", "coo", "csc", "csr", "dia", "dok", "lil") for kind in ("matrix", "array")
}


def restore_sparse(kind: str, shape: tuple[int, int], data: Any, *places: Any) -> Any:
    """A sparse matrix of scipy's from a checkpoint. The function's name is part of the file format.

    Args:
        kind: Name of its class.
        shape: Its shape.
        data: Its values, shape (N,).
        places: ``indices`` and ``indptr`` of compressed rows or columns, else the rows and the columns of the values.

    Raises:
        CheckpointError: ``kind`` is no class of scipy's sparse matrices.
        ValueError: The arrays do not make a matrix of this shape: the file is damaged or made up.
    """
    import scipy.sparse

    if kind not in _SPARSE_KINDS:
        raise CheckpointError(f"a checkpoint holds a sparse matrix of the unknown kind {kind!r}")
    form, _, flavour = kind.partition("_")
    if form in _COMPRESSED:
        matrix = getattr(scipy.sparse, kind)((data, *places), shape=shape)
        matrix.check_format(full_check=True)  # indices out of bounds would be a segfault later
        return matrix
    return getattr(scipy.sparse, f"coo_{flavour}")((data, places), shape=shape).asformat(form)
