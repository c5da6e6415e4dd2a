"""RecBole's checkpoints, written and read without running code out of a file.

Since torch 2.6 ``torch.load`` reads tensors and plain values, and refuses what RecBole saves: pickle protocol
4, numpy and scipy objects, and a Config that refers to classes by name. Telling torch to trust the file would
let anyone who shares a checkpoint run code on the reader's machine. Here the files change instead: a name that
ends in ``.json`` gets the format of :mod:`recbole_oov.checkpoints`, any other a file that plain ``torch.load``
reads. What stock RecBole wrote is read by :mod:`recbole_oov.checkpoints.legacy`.
"""

from __future__ import annotations

import contextlib
import copy
import enum
import os
import pickle
import sys
import tempfile
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

from recbole_oov.checkpoints import CheckpointError, legacy, store
from recbole_oov.compat.mending import Overlay, Put, fix

__all__ = [
    "CheckpointError",
    "allow_in_checkpoints",
    "load_checkpoint",
    "never_unpickle",
    "restore_array",
    "restore_sparse",
    "save_checkpoint",
    "sparse_parts",
]


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
        _put_on_a_device(self)
        self.compatibility_settings()
        self.yaml_loader = self._build_yaml_loader()
        with contextlib.suppress(ImportError, ValueError, AttributeError):  # a model of a plugin that is not here
            if self.model.isidentifier():  # it becomes a module's name
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

    What they call ``torch.save`` becomes :func:`save_checkpoint`, and ``torch.load`` becomes
    :func:`load_checkpoint`.
    """

    def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(f, str | os.PathLike):
            save_checkpoint(obj, f)
        else:
            torch.save(obj, f, *args, **kwargs)

    allow_in_checkpoints(restore_array, restore_sparse)
    put(trainer, "torch", Overlay(trainer.torch, save=save, load=load_checkpoint))


@fix(
    "recbole.quick_start.quick_start",
    symptom="UnpicklingError: Weights only load failed ... Unsupported operand 149, with no word on what to do",
    since="torch 2.6",
)
def checkpoint_reasons(quick_start: Any, put: Put) -> None:
    """``load_data_and_model`` reads what :func:`load_checkpoint` reads, and says why where that refuses a file.

    RecBole's function imports torch itself, so it is handed a file that plain ``torch.load`` reads: the
    checkpoint if it is one, else a copy without what the function does not look at.
    """
    stock = quick_start.load_data_and_model

    @wraps(stock)
    def load_data_and_model(model_file: Any) -> Any:
        state = load_checkpoint(model_file)
        if not isinstance(state, dict) or "config" not in state or "state_dict" not in state:
            raise CheckpointError(f"{model_file}: this is no checkpoint of a model: it has no config or no state_dict")
        never_unpickle(state["config"])
        with tempfile.TemporaryDirectory(prefix="recbole_oov-") as folder:
            copied = os.path.join(folder, "model.pth")
            read = {name: state.get(name) for name in ("config", "state_dict", "other_parameter")}
            save_checkpoint(read, copied)
            config, model, dataset, train_data, valid_data, test_data = stock(copied)
        from recbole_oov.model.extended import extended_as_saved  # it imports RecBole, which is being mended here

        return config, extended_as_saved(config, model, train_data), dataset, train_data, valid_data, test_data

    put(quick_start, "load_data_and_model", load_data_and_model)


_NOWHERE = os.path.join(os.devnull, "none")
"""A path at which nothing can ever be: what it lies in is no folder."""


def never_unpickle(config: Any) -> None:
    """Let the configuration of a checkpoint name no data set and no loaders that were saved before.

    RecBole reads those by pickle, which runs what the file says, from where the configuration says; where it says
    nothing, from ``checkpoint_dir``, which it says as well. Both are made anew from the data's own files instead, and
    none are saved.
    """
    config["dataset_save_path"] = config["dataloaders_save_path"] = _NOWHERE
    config["save_dataset"] = config["save_dataloaders"] = False


def save_checkpoint(state: Any, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint, whole or not at all: in the plugin's format where the name ends in ``.json``.

    Any other name gets a file that plain ``torch.load`` reads.

    The file is written beside its destination, flushed to the disk, and then renamed: a crash or a full disk
    leaves the previous checkpoint as it was. Numpy and scipy values are stored as tensors and come back as what
    they were; a layer among ``other_parameter`` is left out where ``state_dict`` has its weights already.

    Args:
        state: What to save, as for ``torch.save``.
        path: The file.

    Raises:
        CheckpointError: A ``.json`` cannot be written.
        OSError: Another file cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.suffix == store.SUFFIX:
        store.save(_without_layers(state), target)
        return
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


def load_checkpoint(path: Any, map_location: Any = None, **options: Any) -> Any:
    """Read a checkpoint, the plugin's or RecBole's, of this release or of an earlier run without the plugin.

    No code is run out of the file.

    Args:
        path: The file; ``.json`` is the plugin's format.
        map_location: As for ``torch.load``; None puts each tensor where it was, and on the CPU where this machine has
            no GPU.
        options: Further ones for ``torch.load``, for files of torch's.

    Raises:
        CheckpointError: The file is missing or damaged, or holds code.
    """
    if not isinstance(path, str | os.PathLike):
        return torch.load(path, map_location, **options)
    if Path(path).suffix == store.SUFFIX:
        return store.load(path, map_location)
    if map_location is None and not torch.cuda.is_available():
        map_location = "cpu"
    _refuse_damage(path)
    if _pickle_protocol(path) == 4:  # plain torch.load reads 2, and warns before it refuses others
        return legacy.load(path, map_location)
    try:
        return torch.load(path, map_location, **options)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if "GLOBAL recbole.model." in str(error) or "GLOBAL yaml." in str(error):  # what stock pickles a Config with
            return legacy.load(path, map_location)
        raise CheckpointError(_reason(path, str(error))) from error
    except (EOFError, RuntimeError, OSError) as error:
        if isinstance(error, RuntimeError) and "PytorchStreamReader" not in str(error):
            raise
        if isinstance(error, OSError):
            raise CheckpointError(f"{path}: this checkpoint cannot be read ({error.strerror or error})") from error
        raise CheckpointError(f"{path}: this checkpoint is cut short; use another one. torch says: {error}") from error


def _pickle_protocol(path: str | os.PathLike[str]) -> int | None:
    """The protocol of the pickle in a file of torch's; stock RecBole's trainers write 4. None for other files."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/data.pkl"):
                with archive.open(name) as file:
                    start = file.read(2)
                return start[1] if start[:1] == b"\x80" else None
    return None


def _put_on_a_device(config: Any) -> None:
    """A Config of a run on a GPU names that as its device, which this machine may not have."""
    final = vars(config).get("final_config_dict", {})
    device = final.get("device") if isinstance(final, dict) else None
    if isinstance(device, torch.device) and device.type == "cuda" and not torch.cuda.is_available():
        final["device"] = torch.device("cpu")


def _refuse_damage(file: Any) -> None:
    """Compare the check sums in the file, which ``torch.load`` does not: it would take a flipped bit for a weight."""
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        damaged = str(error)
    if damaged is not None:
        raise CheckpointError(f"{file}: this checkpoint is damaged (at {damaged}); use another one")


def _reason(file: Any, message: str) -> str:
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
        kind, shape, *parts = sparse_parts(self._matrix)
        return restore_sparse, (kind, shape, *(_StoredArray(np.asarray(part)) for part in parts))


def sparse_parts(matrix: Any) -> tuple[Any, ...]:
    """What :func:`restore_sparse` makes a sparse matrix of scipy's of: its class's name, its shape, its arrays."""
    if matrix.format in _COMPRESSED:
        parts = (matrix.data, matrix.indices, matrix.indptr)
    else:
        coo = matrix.tocoo()
        parts = (coo.data, coo.row, coo.col)
    return type(matrix).__name__, tuple(int(size) for size in matrix.shape), *parts


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
