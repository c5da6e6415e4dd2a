"""All that a training run remembers from one epoch to the next, beside the weights: found, taken out, put back.

RecBole's models and loaders keep such things where no ``state_dict`` looks: MultiVAE counts its steps in a plain
attribute, LINE walks through a shuffled array, a loader has a random generator of its own. What training changes is
found by comparison with what was there before the first epoch.
"""

from __future__ import annotations

import enum
import hashlib
import marshal
import random
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Attributes = dict[str, dict[str, Any]]
"""Changed attributes: of which object, which attribute, and ``{"value": …, "in_place": …}``."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module())) | {"logger", "config"}
_UNTRACKED = ("untracked",)
_REGISTERED = "parameter or buffer"
_NOT_SEARCHED = frozenset(
    [
        *("config", "dataset", "_dataset", "logger", "model", "eval_collector", "evaluator", "tensorboard"),
        *("wandblogger", "_modules", "_parameters", "_buffers"),
    ]
)
_DEEPEST = 5
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


class Watch:
    """The attributes of some objects as they were when the watch began.

    Args:
        owners: The objects by name.
        registered: Parameters and buffers by name, which ``state_dict`` holds. Attributes may refer to them, as a GRU
            has all its weights in a list; what is in them is not looked at.
    """

    def __init__(self, owners: Mapping[str, Any], registered: Mapping[str, Tensor]) -> None:
        self._owners = dict(owners)
        self._registered = {id(tensor): (name, tensor) for name, tensor in registered.items()}
        self._tensors: dict[int, weakref.ref[Tensor]] = {}
        self._marks = {name: {key: self._mark(v) for key, v in _attributes(o)} for name, o in self._owners.items()}

    def changed(self) -> Attributes:
        """The attributes that are other ones now, with their values.

        An object of a kind whose content cannot be compared counts as unchanged.
        """
        found: Attributes = {}
        for name, owner in self._owners.items():
            before = self._marks[name]
            for key, value in _attributes(owner):
                mark, old = self._mark(value, known=True), before.get(key)
                if mark in (old, _UNTRACKED):
                    continue
                in_place = old is not None and old[0] == mark[0] == "tensor" and old[1] == mark[1]
                found.setdefault(name, {})[key] = {"value": self._referring(value), "in_place": in_place}
        return found

    def _referring(self, value: Any) -> Any:
        """``value`` with parameters and buffers in it replaced by their names."""
        if isinstance(value, Tensor) and id(value) in self._registered:
            return {_REGISTERED: self._registered[id(value)][0]}
        if type(value) in (list, tuple):
            return type(value)(self._referring(item) for item in value)
        if type(value) is dict:
            return {key: self._referring(item) for key, item in value.items()}
        return value

    def _mark(self, value: Any, *, known: bool = False) -> tuple[Any, ...]:
        """What a value is compared by: a hash of its content; of a tensor its identity and how often it was written."""
        if isinstance(value, Tensor):
            if id(value) in self._registered:
                return ("registered", self._registered[id(value)][0])
            if known and (id(value) not in self._tensors or self._tensors[id(value)]() is not value):
                return ("tensor", None, None)
            self._tensors[id(value)] = weakref.ref(value)
            return ("tensor", id(value), _writes(value))
        if isinstance(value, enum.Enum):
            return ("enum", value.name)
        try:
            return ("plain", hashlib.blake2b(marshal.dumps(value, 2)).digest())
        except ValueError:  # something inside is not plain
            pass
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return ("array", value.dtype.str, value.shape, hashlib.blake2b(value.tobytes()).digest())
        if isinstance(value, dict):
            return ("dict", *((repr(key), self._mark(item, known=known)) for key, item in value.items()))
        if isinstance(value, list | tuple):
            return ("list", *(self._mark(item, known=known) for item in value))
        if type(value).__module__.startswith("scipy.sparse") and hasattr(value, "tocoo"):
            coo = value.tocoo()
            return ("matrix", value.shape, *(self._mark(part) for part in (coo.row, coo.col, coo.data)))
        return _UNTRACKED


def _writes(tensor: Tensor) -> int:
    try:
        return tensor._version
    except RuntimeError:  # made in inference mode, where nothing is counted
        return 0


def _attributes(owner: Any) -> Iterator[tuple[str, Any]]:
    for key, value in vars(owner).items():
        if key not in _OF_EVERY_MODULE and not (key.startswith("_") and not isinstance(owner, nn.Module)):
            yield key, value
    for key in getattr(owner, "_non_persistent_buffers_set", ()):
        yield key, owner._buffers[key]


def put_back(owners: Mapping[str, Any], registered: Mapping[str, Tensor], changed: Attributes) -> None:
    """Give objects the attributes that :meth:`Watch.changed` found.

    Args:
        owners: The objects by name, as for the watch.
        registered: Parameters and buffers by name.
        changed: The attributes.

    Raises:
        KeyError: There is no owner, parameter or buffer of that name.
    """
    for name, attributes in changed.items():
        for key, entry in attributes.items():
            value, current = _referred(entry["value"], registered), getattr(owners[name], key, None)
            same_place = entry["in_place"] and isinstance(current, Tensor) and current.shape == value.shape
            if same_place and isinstance(current, Tensor):
                current.detach().copy_(value)
            elif isinstance(current, np.ndarray) and _fits(current, value):
                current[...] = value  # others may hold the same array
            else:
                setattr(owners[name], key, value)


def _referred(value: Any, registered: Mapping[str, Tensor]) -> Any:
    if type(value) in (list, tuple):
        return type(value)(_referred(item, registered) for item in value)
    if type(value) is dict:
        if value.keys() == {_REGISTERED}:
            return registered[value[_REGISTERED]]
        return {key: _referred(item, registered) for key, item in value.items()}
    return value


def _fits(current: np.ndarray[Any, Any], value: Any) -> bool:
    return (
        type(current) is type(value)
        and current.shape == value.shape
        and current.dtype == value.dtype
        and current.ndim > 0
        and current.flags.writeable
    )


def generators(roots: Mapping[str, Any]) -> dict[str, Any]:
    """The random generators that objects have of their own, by the path that leads to them; each once."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, root in roots.items():
        for path, generator in _search(root, name, seen, 0):
            found[path] = generator
    return found


def _search(value: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if depth > _DEEPEST or id(value) in seen:
        return
    if isinstance(value, _GENERATORS):
        seen.add(id(value))
        yield path, value
        return
    if isinstance(value, list | tuple) and len(value) <= 100:
        children = [(str(at), item) for at, item in enumerate(value)]
    elif isinstance(value, dict) and len(value) <= 100:
        children = [(str(key), item) for key, item in value.items()]
    elif hasattr(value, "__dict__") and not isinstance(value, Tensor | type):
        children = list(vars(value).items())
    else:
        return
    seen.add(id(value))
    for key, child in children:
        if key not in _NOT_SEARCHED:
            yield from _search(child, f"{path}.{key}", seen, depth + 1)


def generator_state(generator: Any) -> Any:
    """The state of a random generator of torch's, numpy's or Python's."""
    if isinstance(generator, torch.Generator | np.random.RandomState):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.getstate()


def set_generator_state(generator: Any, state: Any) -> None:
    """Undo :func:`generator_state`."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.setstate(state)


def data_fingerprint(loaders: Mapping[str, Any]) -> str:
    """A hash of all that the data sets behind loaders hold: interactions, features, knowledge graph, ids' tokens."""
    digest = hashlib.blake2b(digest_size=16)
    for name, loader in loaders.items():
        dataset: Any = getattr(loader, "_dataset", None)
        for part in ("inter_feat", "user_feat", "item_feat", "kg_feat"):
            columns = getattr(getattr(dataset, part, None), "interaction", None)
            if not isinstance(columns, dict):
                continue
            for field in sorted(columns):
                column = columns[field]
                digest.update(f"{name} {part} {field} {column.dtype} {tuple(column.shape)}\n".encode())
                digest.update(column.cpu().contiguous().numpy().data)
        for field, texts in getattr(dataset, "interaction_texts", {}).items():
            lengths = np.array([len(text) for text in texts])
            words = "\n".join(map(str, dataset.text_words[field])).encode(errors="surrogatepass")
            digest.update(f"{name} {field} {len(texts)} {len(words)}\n".encode())
            digest.update(words)
            digest.update(lengths.data)
            digest.update(np.concatenate([np.zeros(0, dtype=np.int64), *texts]).astype(np.int64).data)
        tokens = getattr(dataset, "field2id_token", {})
        for field in (getattr(dataset, "uid_field", None), getattr(dataset, "iid_field", None)):
            if field in tokens:
                digest.update("\n".join(map(str, tokens[field])).encode(errors="surrogatepass"))
    return digest.hexdigest()
