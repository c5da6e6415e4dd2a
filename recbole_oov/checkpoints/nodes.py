"""What the names in a pickle of RecBole's stand for: notes of what was called with what, and their meaning.

Of the thing that a name leads to nothing is called while the pickle is read, and nothing of it is handed to the pickle.
A class of RecBole's, of torch's layers or of PyYAML's is only a name; an object of it is left out.
"""

from __future__ import annotations

import enum
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_oov.checkpoints.error import CheckpointError
from recbole_oov.checkpoints.tensors import available_device, dtype_named

LEFT_OUT = object()
"""The meaning of an object that is of no use."""


class Refused(Exception):
    """A pickle names something, or calls something, that no checkpoint of RecBole's needs."""


class _Locked(type):
    """The class of names of classes: calling one notes the call where its builder says so; nothing can be set on it."""

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        if not cls.may_be_called or keywords:  # type: ignore[attr-defined]
            raise Refused(f"a call of {cls.text}")  # type: ignore[attr-defined]
        return cls.__new__(cls, *arguments)  # type: ignore[arg-type]

    def __setattr__(cls, attribute: str, value: Any) -> None:
        raise Refused(f"a change of {cls.text}")  # type: ignore[attr-defined]


class Note(metaclass=_Locked):
    """The note that an object of the class ``text`` was made out of ``arguments`` and given a state and items."""

    __slots__ = ("arguments", "items", "state")

    text = "Note"
    may_be_called = False
    build: Callable[..., Any] | None = None
    arguments: tuple[Any, ...]
    items: list[tuple[Any, Any]]
    state: Any

    def __new__(cls, *arguments: Any) -> Note:
        note = object.__new__(cls)
        note.arguments, note.items, note.state = arguments, [], None
        return note

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))


def _name(text: str, build: Callable[..., Any] | None, *, may_be_called: bool) -> type[Note]:
    """A class that stands for the name ``text`` and means ``build(nodes, note)``; None for an object left out."""
    body = {"__slots__": (), "text": text, "build": build, "may_be_called": may_be_called}
    return type.__call__(_Locked, text.replace(".", "_"), (Note,), body)  # type: ignore[no-any-return]


class Nodes:
    """The meaning of notes, for one file.

    Args:
        read: The bytes of the storage with a given key.
        device: The device for all tensors, or None for the one that each was on.

    Attributes:
        left_out: Names of the classes of which objects were left out.
    """

    def __init__(self, read: Callable[[str], bytes], device: torch.device | None) -> None:
        self._read, self._device = read, device
        self._storages: dict[str, Tensor] = {}
        self._known: dict[int, tuple[Any, Any]] = {}
        self.left_out: set[str] = set()

    def storage(self, pid: Any) -> Note:
        """The note of a storage: ``("storage", kind, key, place, length)``."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[2], str):
            raise CheckpointError("it refers to something that is no storage of a tensor")
        return _STORAGE.__new__(_STORAGE, *pid[1:])

    def numbers(self, note: Note) -> Tensor:
        """The numbers of a storage, (length,), on their device; all tensors of one storage share them."""
        kind, key, place, length = note.arguments
        if key not in self._storages:
            dtype = _storage_dtype(kind)
            content = bytearray(self._read(key))
            if len(content) != length * dtype.itemsize:
                raise CheckpointError(f"the storage {key} has {len(content)} bytes and not {length} numbers of {dtype}")
            numbers = torch.frombuffer(content, dtype=dtype).clone() if length else torch.empty(0, dtype=dtype)
            self._storages[key] = numbers.to(self._device or available_device(place))
        return self._storages[key]

    def resolve(self, value: Any) -> Any:
        """The meaning of a value with notes in it; :data:`LEFT_OUT` for an object that is of no use."""
        if not isinstance(value, Note | dict | list | tuple | set | frozenset):
            if isinstance(value, type):
                return self._leave_out(value)
            return value
        if id(value) not in self._known:
            self._known[id(value)] = (value, self._meaning(value))
        return self._known[id(value)][1]

    def _meaning(self, value: Any) -> Any:
        if isinstance(value, dict):
            return self.mapping(list(value.items()), dict)
        if isinstance(value, Note):
            build = type(value).build
            return self._leave_out(type(value)) if build is None else build(self, value)
        items = [self.resolve(item) for item in value]
        return type(value)(None if item is LEFT_OUT else item for item in items)

    def _leave_out(self, kind: type) -> Any:
        self.left_out.add(getattr(kind, "text", kind.__name__))
        return LEFT_OUT

    def mapping(self, items: list[tuple[Any, Any]], kind: type) -> Any:
        """A mapping out of its items, without those that are left out."""
        resolved = [(self.resolve(key), self.resolve(item)) for key, item in items]
        return kind((key, item) for key, item in resolved if key is not LEFT_OUT and item is not LEFT_OUT)

    def arguments(self, note: Note) -> list[Any]:
        """The meaning of what a note was called with."""
        return [self.resolve(argument) for argument in note.arguments]


# ---- torch ----


def _storage_dtype(kind: Any) -> torch.dtype:
    name = getattr(kind, "text", "")
    if name not in _STORAGES:
        raise CheckpointError(f"{name or kind!r} is no kind of storage")
    return _STORAGES[name]


_STORAGES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexFloat": torch.complex64,
        "ComplexDouble": torch.complex128,
    }.items()
}


def _tensor(nodes: Nodes, note: Note) -> Tensor:
    storage, offset, size, stride, requires_grad, *_ = note.arguments
    if type(storage) is not _STORAGE:
        raise CheckpointError("a tensor has no storage")
    size, stride = nodes.resolve(size), nodes.resolve(stride)
    tensor = nodes.numbers(storage).as_strided(size, stride, offset)  # refuses what lies outside of the storage
    return tensor.requires_grad_() if requires_grad is True else tensor


def _parameter(nodes: Nodes, note: Note) -> Tensor:
    data, requires_grad, *_ = nodes.arguments(note)
    return torch.nn.Parameter(data, requires_grad=requires_grad is True)


def _sparse_tensor(nodes: Nodes, note: Note) -> Tensor:
    layout, data = nodes.arguments(note)
    indices, values, size, *_ = data
    if layout != "torch.sparse_coo":
        raise CheckpointError("a sparse tensor is of a layout that RecBole does not use")
    return torch.sparse_coo_tensor(indices, values, size, check_invariants=True)


def _device(nodes: Nodes, note: Note) -> torch.device:
    return torch.device(*nodes.arguments(note))


# ---- numpy and scipy ----

_DTYPE = re.compile(r"[<>|=]?(?:[biufcSU]\d+|O8?|b1|\?)")


def _dtype(nodes: Nodes, note: Note) -> np.dtype[Any]:
    code: Any = note.arguments[0]
    order: Any = note.state[1] if isinstance(note.state, tuple) else "|"
    if not isinstance(code, str) or not _DTYPE.fullmatch(code) or order not in ("<", ">", "|", "="):
        raise CheckpointError(f"an array is of the type {code!r}, which RecBole does not save")
    dtype = np.dtype(code)
    return dtype.newbyteorder(order) if order in "<>" else dtype


def _array(nodes: Nodes, note: Note) -> np.ndarray[Any, Any]:
    _, shape, dtype, fortran, content = (nodes.resolve(part) for part in note.state)
    array: np.ndarray[Any, Any]
    if dtype.kind == "O":
        array = np.empty(len(content), dtype=object)
        array[:] = [None if item is LEFT_OUT else item for item in content]
    else:
        array = np.frombuffer(content, dtype=dtype).copy()
    array = array.reshape(shape, order="F" if fortran else "C")
    matrix = note.arguments and note.arguments[0] is _names["numpy.matrix"]
    return np.asmatrix(array) if matrix else array


def _scalar(nodes: Nodes, note: Note) -> Any:
    dtype, content = nodes.arguments(note)
    if dtype.kind == "O":
        raise CheckpointError("a number is an object")
    return np.frombuffer(content, dtype=dtype, count=1)[0].item()


def _matrix(nodes: Nodes, note: Note) -> Any:
    from recbole_oov.compat.checkpoints import restore_sparse

    kind = type(note).text.rpartition(".")[2]
    state = nodes.resolve(note.state)
    first, second = (int(size) for size in state["_shape"])
    if kind.startswith("coo"):
        places = state["coords"] if "coords" in state else (state["row"], state["col"])
    elif kind.startswith("lil"):  # a list of columns and one of values for each row
        columns = state["rows"].tolist()
        rows = np.repeat(np.arange(len(columns)), [len(of_row) for of_row in columns])
        values = np.array([value for of_row in state["data"].tolist() for value in of_row], dtype=state["dtype"])
        flat = np.array([column for of_row in columns for column in of_row], dtype=np.int64)
        return restore_sparse(kind, (first, second), values, rows, flat)
    else:
        places = (state["indices"], state["indptr"])
    return restore_sparse(kind, (first, second), state["data"], *places)


# ---- RecBole ----


def _config(nodes: Nodes, note: Note) -> Any:
    from recbole.config import Config

    state = nodes.resolve(note.state)
    config = object.__new__(Config)
    # Only what a Config keeps: an entry named as a method would hide it.
    config.__setstate__({key: value for key, value in state.items() if not hasattr(Config, key)})
    return config


def _enum(nodes: Nodes, note: Note) -> Any:
    from recbole.utils import enum_type

    kind = vars(enum_type).get(type(note).text.rpartition(".")[2])
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)) or len(note.arguments) != 1:
        raise CheckpointError(f"{type(note).text} is no enumeration of RecBole's")
    return kind(note.arguments[0])


def _member(nodes: Nodes, note: Note) -> Any:
    """``getattr(ModelType, "GENERAL")``, which is how some releases of Python pickle a member."""
    owner, name = note.arguments
    text = getattr(owner, "text", "")
    if not text.startswith(_ENUMS):
        raise Refused("builtins.getattr")
    from recbole.utils import enum_type

    return vars(enum_type)[text.removeprefix(_ENUMS)][name]


# ---- Python ----


def _ordered(nodes: Nodes, note: Note) -> OrderedDict[Any, Any]:
    pairs = nodes.arguments(note)[0] if note.arguments else []
    result: Any = nodes.mapping([*(tuple(pair) for pair in pairs), *note.items], OrderedDict)
    if isinstance(note.state, dict) and "_metadata" in note.state:
        result._metadata = nodes.resolve(note.state["_metadata"])
    return result  # type: ignore[no-any-return]


def _encoded(nodes: Nodes, note: Note) -> bytes:
    text, encoding = note.arguments
    if encoding not in ("latin1", "latin-1"):
        raise CheckpointError(f"bytes are encoded as {encoding!r}")
    return str(text).encode("latin-1")


_ENUMS = "recbole.utils.enum_type."
_STORAGE = _name("a storage", None, may_be_called=False)

_CALLED: dict[str, Callable[[Nodes, Note], Any]] = {
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_sparse_tensor": _sparse_tensor,
    "torch.device": _device,
    "torch.Size": lambda nodes, note: torch.Size(nodes.arguments(note)[0]),
    "torch.serialization._get_layout": lambda nodes, note: nodes.arguments(note)[0],
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _array,
    "numpy.core.multiarray.scalar": _scalar,
    "collections.OrderedDict": _ordered,
    "collections.defaultdict": lambda nodes, note: nodes.mapping(note.items, dict),
    "collections.Counter": lambda nodes, note: Counter(*nodes.arguments(note)),
    "builtins.set": lambda nodes, note: set(nodes.arguments(note)[0]),
    "builtins.frozenset": lambda nodes, note: frozenset(nodes.arguments(note)[0]),
    "builtins.complex": lambda nodes, note: complex(*nodes.arguments(note)),
    "builtins.getattr": _member,
    "_codecs.encode": _encoded,
}
_SPARSE = ("csr", "csc", "coo", "lil")
_MADE: dict[str, Callable[[Nodes, Note], Any]] = {
    "recbole.config.configurator.Config": _config,
    **{f"scipy.sparse.{kind}_{flavour}": _matrix for kind in _SPARSE for flavour in ("matrix", "array")},
}
_NAMED = ("numpy.ndarray", "numpy.matrix", "builtins.list", "builtins.int", "builtins.float")
_IGNORED = ("logging.getLogger",)
"""What is called in the pickle of a layer or a data set that is left out."""

_names: dict[str, type[Note]] = {
    **{text: _name(text, None, may_be_called=True) for text in _IGNORED},
    **{text: _name(text, build, may_be_called=True) for text, build in _CALLED.items()},
    **{text: _name(text, build, may_be_called=False) for text, build in _MADE.items()},
    **{text: _name(text, None, may_be_called=False) for text in (*_NAMED, *_STORAGES)},
}

_INERT = re.compile(
    r"(?:recbole\.(?:model|data)|torch\.nn\.modules)(?:\.\w+)+\.[A-Z]\w*"
    r"|(?:yaml|recbole_oov\.compat)\.\w+\.\w*Loader"
)
"""Classes that checkpoints of RecBole's name: the model's, PyYAML's loader, and layers in ``other_parameter``."""
_MOVED = {"numpy._core.": "numpy.core.", "__builtin__.": "builtins."}
_DTYPES = re.compile(r"torch\.(?:u?int\d+|float\d+|bfloat16|complex\d+|bool)")


def known_name(module: str, name: str) -> Any:
    """What stands for a name in a pickle.

    Raises:
        Refused: No checkpoint of RecBole's has it.
    """
    text = f"{module}.{name}"
    for new, old in _MOVED.items():
        text = text.replace(new, old) if text.startswith(new) else text
    text = re.sub(r"^scipy\.sparse\._?\w+\.(\w+)$", r"scipy.sparse.\1", text)
    if text in _names:
        return _names[text]
    if _DTYPES.fullmatch(text):
        return dtype_named(name)
    if text.startswith(_ENUMS) and name.isidentifier():
        return _name(text, _enum, may_be_called=True)
    if _INERT.fullmatch(text):
        return _name(text, None, may_be_called=False)
    raise Refused(text)
